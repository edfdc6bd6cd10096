//! What applications do, and what moves frames for them.

use std::time::Duration;

use super::{Believes, Link, Node, PROTOCOL, Packet, World, flow, identity, pick, rotated};
use crate::error::CloseCode;
use crate::session::effect::{Admission, At, LinkId};
use crate::session::flow::FlowId;
use crate::session::message::{Message, SessionId};
use crate::session::table::Table;
use crate::session::tests::data::{Data, GRANT};

impl World {
    /// Sessions that are not over, with their nodes.
    pub(in crate::session::tests) fn living(&self) -> Vec<(usize, SessionId)> {
        let of =
            |node: usize| self.nodes[node].data.iter().map(move |(id, data)| (node, *id, data));
        let all = (0..self.nodes.len()).flat_map(of);
        all.filter(|(.., data)| data.ended.is_none()).map(|(node, id, _)| (node, id)).collect()
    }

    pub(in crate::session::tests) fn open(&mut self, node: usize, peer: usize) {
        self.nodes[node].wants.insert(peer);
        let Node { table, data, .. } = &mut self.nodes[node];
        let at = At { now: self.now, counters: data };
        let opened = table.open(at, identity(peer), PROTOCOL);
        let Ok((session, effects)) = opened else {
            assert!(self.nodes[node].is_away, "{opened:?}");
            return;
        };
        self.nodes[node].opened.insert(session);
        if !self.nodes[node].data.contains_key(&session) {
            self.began(node, session, identity(peer));
        }
        for effect in effects {
            self.apply(node, effect);
        }
    }

    pub(in crate::session::tests) fn send_one(&mut self, choice: u16) {
        let Some((node, session)) = pick(&self.living(), choice / 64) else { return };
        let count = u64::from(choice % 3) + 1;
        // Now and then one that is over all that is granted.
        let is_over = choice.is_multiple_of(7) && count == 1;
        let bytes = if is_over { 2 * GRANT } else { GRANT / 400 * (10 + u64::from(choice % 90)) };
        let frames: Vec<(u64, u64)> =
            (0..count).map(|index| (self.frames + index + 1, bytes)).collect();
        self.frames += count;
        let data = self.data(node, session);
        data.send(flow(choice), &frames, choice % 5 < 2);
    }

    pub(in crate::session::tests) fn submit_one(&mut self, choice: u16) -> bool {
        for (node, session) in rotated(&self.living(), choice) {
            let data = self.data(node, session);
            for flow in [flow(choice), flow(choice ^ 8)] {
                let Some((begins, first, batch)) = data.submit(flow) else { continue };
                let (link, generation) = data.attached.expect("it submits");
                if begins {
                    self.put(node, link, Some(flow), Packet::Head { generation, first });
                }
                for (frame, bytes) in batch.0 {
                    self.put(node, link, Some(flow), Packet::Frame { frame, bytes });
                }
                return true;
            }
        }
        false
    }

    pub(in crate::session::tests) fn take_one(&mut self, choice: u16) -> bool {
        let of = |node: usize| self.nodes[node].data.keys().map(move |id| (node, *id));
        let all: Vec<_> = (0..self.nodes.len()).flat_map(of).collect();
        for (node, session) in rotated(&all, choice) {
            let Node { table, data, .. } = &mut self.nodes[node];
            let of = data.get_mut(&session).expect("one of all");
            let taken =
                of.take(flow(choice), choice.is_multiple_of(5)) || of.take(flow(choice ^ 8), false);
            if taken {
                if of.ended.is_some() {
                    table.taken_late(session, of.inbound());
                }
                self.drain(node, session);
                return true;
            }
        }
        false
    }

    pub(in crate::session::tests) fn drain(&mut self, node: usize, session: SessionId) {
        let data = &self.nodes[node].data[&session];
        if data.peer_finals.is_some_and(|finals| data.has_taken_to(finals)) {
            self.with(node, |table, at| table.drained(at, session));
        }
    }

    /// Somebody who is to tell what was taken does.
    pub(in crate::session::tests) fn tell_one(&mut self, choice: u16) -> bool {
        let is_called = |data: &Data| data.teller.is_called();
        let Some((node, session)) = pick(&self.living_that(is_called), choice) else {
            return false;
        };
        let now = self.now;
        let data = self.data(node, session);
        if let (Some(taken), Some((link, _))) = (data.tell(now), data.attached) {
            let mut bytes = Vec::new();
            Message::Taken(taken).encode(&mut bytes);
            self.put(node, link, None, Packet::Message(bytes));
        }
        true
    }

    /// A side is told that the other one has its word.
    pub(in crate::session::tests) fn word_came_one(&mut self, choice: u16) -> bool {
        let mut all = Vec::new();
        for (id, link) in &self.links {
            let ends = link.ends.iter().enumerate();
            let told = ends.filter(|(_, end)| end.words_there > 0);
            all.extend(told.map(|(index, _)| (*id, index)));
        }
        let Some((id, index)) = pick(&all, choice) else { return false };
        let end = &mut self.links.get_mut(&id).expect("it was just there").ends[index];
        end.words_there -= 1;
        let mut sessions = self.nodes[end.node].data.values_mut();
        let on_it = sessions.find(|data| data.attached.is_some_and(|(link, _)| link == id));
        on_it.into_iter().for_each(Data::word_came);
        true
    }

    /// It is looked at what gathers, once time has come to that.
    pub(in crate::session::tests) fn look_one(&mut self, choice: u16) -> bool {
        let gathers = |data: &Data| data.teller.look_at().is_some();
        let Some((node, session)) = pick(&self.living_that(gathers), choice) else { return false };
        let teller = &mut self.data(node, session).teller;
        let look_at = teller.look_at().expect("it gathers");
        teller.looked();
        self.now = self.now.max(look_at);
        true
    }

    fn living_that(&self, is_meant: impl Fn(&Data) -> bool) -> Vec<(usize, SessionId)> {
        let mut living = self.living();
        living.retain(|(node, session)| is_meant(&self.nodes[*node].data[session]));
        living
    }

    fn data(&mut self, node: usize, session: SessionId) -> &mut Data {
        self.nodes[node].data.get_mut(&session).expect("one of the living")
    }

    pub(in crate::session::tests) fn admit_one(&mut self, choice: u16) -> bool {
        let all: Vec<usize> =
            (0..self.nodes.len()).filter(|node| !self.nodes[*node].asked.is_empty()).collect();
        let Some(node) = pick(&all, choice) else { return false };
        let link = self.nodes[node].asked.remove(0);
        self.with(node, |table, at| table.admitted(at, link, Admission::Accept));
        true
    }

    pub(in crate::session::tests) fn close_one(&mut self, choice: u16) {
        let Some((node, session)) = pick(&self.living(), choice) else { return };
        self.data(node, session).closing = true;
        self.with(node, |table, at| table.close(at, session, CloseCode::NORMAL));
    }

    pub(in crate::session::tests) fn give_up_one(&mut self, choice: u16) {
        let Some((node, session)) = pick(&self.living(), choice) else { return };
        self.with(node, |table, at| table.give_up(at, session));
    }

    pub(in crate::session::tests) fn go_away(&mut self, node: usize) {
        for data in self.nodes[node].data.values_mut() {
            let messages = FlowId::all().filter(|flow| !flow.is_replies());
            messages.for_each(|flow| data.inn[flow].freeze());
        }
        self.nodes[node].is_away = true;
        self.with(node, |table, at| table.go_away(at, Duration::from_secs(1)));
    }

    /// Nodes that stop are gone, and come again.
    pub(in crate::session::tests) fn come_back(&mut self) {
        for node in 0..self.nodes.len() {
            if self.nodes[node].is_away {
                self.restart(node);
            }
        }
    }

    /// The process dies, and another one takes its place: the others notice when they do.
    pub(in crate::session::tests) fn restart(&mut self, node: usize) {
        let fresh = self.start(node);
        let wants = self.nodes[node].wants.clone();
        let old = std::mem::replace(&mut self.nodes[node], fresh);
        self.buried.push((node, old.data));
        let has = |link: &Link| link.ends.iter().any(|end| end.node == node);
        let links: Vec<LinkId> =
            self.links.iter().filter(|(_, link)| has(link)).map(|(id, _)| *id).collect();
        for id in links {
            self.cut(id);
            let link = self.links.get_mut(&id).expect("it was just there");
            let mut ends = link.ends.iter_mut();
            ends.find(|end| end.node == node).expect("it has it").believes = Believes::Gone;
        }
        wants.into_iter().for_each(|peer| self.open(node, peer));
    }

    pub(in crate::session::tests) fn pass(&mut self, time: Duration) {
        self.now += time;
        for node in 0..self.nodes.len() {
            self.with(node, Table::time);
            let of = &mut self.nodes[node];
            of.dials.append(&mut of.later);
        }
    }
}
