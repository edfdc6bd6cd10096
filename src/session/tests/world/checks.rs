//! What must hold, at each moment and in the end.

use super::World;
use crate::session::flow::PerFlow;
use crate::session::message::SessionId;
use crate::session::tests::data::Data;

impl World {
    /// Every session there ever was at a node, with its data.
    pub(in crate::session::tests) fn all(&self) -> impl Iterator<Item = (usize, SessionId, &Data)> {
        let living = self.nodes.iter().enumerate().map(|(node, of)| (node, &of.data));
        let buried = self.buried.iter().map(|(node, data)| (*node, data));
        living
            .chain(buried)
            .flat_map(|(node, data)| data.iter().map(move |(id, of)| (node, *id, of)))
    }

    /// The other side of a session: the one that it was attached with, or the one that was with it.
    pub(in crate::session::tests) fn other(
        &self,
        session: SessionId,
        data: &Data,
    ) -> Option<&Data> {
        let named = self.all().find(|(_, id, _)| data.theirs == Some(*id));
        let names = || self.all().find(|(.., other)| other.theirs == Some(session));
        named.or_else(names).map(|(.., other)| other)
    }

    /// Frames are taken once, in order, and no other than were sent.
    pub(in crate::session::tests) fn check_taken(&self) -> Result<(), String> {
        for (node, session, data) in self.all() {
            let other = self.other(session, data);
            for (flow, taken) in data.taken.iter() {
                let sent = other.map_or(&[][..], |other| &other.sent[flow]);
                if !sent.starts_with(taken) {
                    return Err(format!("node {node} took {taken:?} of {sent:?}"));
                }
            }
        }
        self.trouble.clone().map_or(Ok(()), Err)
    }

    /// Nobody who took something relies on a word that nobody will say.
    pub(in crate::session::tests) fn check_told(&self) -> Result<(), String> {
        let forgotten = self.all().find(|(.., data)| data.is_forgotten());
        forgotten.map_or(Ok(()), |(node, session, _)| {
            Err(format!("node {node} {session:?} tells nothing of what was taken"))
        })
    }

    /// A side that lost its link has another one, whatever its peer believes: who dials comes through.
    pub(in crate::session::tests) fn check_corpses(&self) -> Result<(), String> {
        for (node, session) in self.living() {
            let of = &self.nodes[node];
            if of.opened.contains(&session) && of.data[&session].attached.is_none() {
                return Err(format!("node {node} {session:?} cannot get past a dead link"));
            }
        }
        Ok(())
    }

    /// Sessions are up on both sides over the same link, each with everything delivered, or over with
    /// true outcomes.
    pub(in crate::session::tests) fn check_quiet(&self) -> Result<(), String> {
        let nothing = PerFlow::of(|_| Vec::new());
        for (node, session, data) in self.all() {
            let other = self.other(session, data);
            let died = !self.nodes[node].data.contains_key(&session);
            if data.ended.is_some() {
                let taken = other.map_or(&nothing, |other| &other.taken);
                data.check_outcomes(taken).map_err(|e| format!("node {node} {session:?}: {e}"))?;
            } else if !died {
                let other = other.filter(|other| other.ended.is_none());
                let same = other.is_some_and(|other| other.attached == data.attached);
                if data.attached.is_none() || !same {
                    return Err(format!("node {node} {session:?} stays alone"));
                }
                for (flow, sent) in data.sent.iter() {
                    let outcomes = data.out[flow].outcomes();
                    if outcomes.delivered + outcomes.not_sent != sent.len() as u64 {
                        return Err(format!("node {node} {flow:?}: {outcomes:?}"));
                    }
                }
            }
        }
        let up = self.links.values().filter(|link| !link.dead).count();
        let sessions = self.living().len();
        if 2 * up == sessions { Ok(()) } else { Err(format!("{up} links, {sessions} ends")) }
    }

    /// A node waits for something that only time brings.
    pub(in crate::session::tests) fn is_waiting(&mut self) -> bool {
        self.forget_gone();
        let is_up = |data: &Data| {
            data.attached
                .is_some_and(|(link, _)| self.links.get(&link).is_some_and(|link| !link.dead))
        };
        let living = self.living();
        self.links.values().any(|link| link.dead)
            || 2 * self.links.len() != living.len()
            || !living.iter().all(|(node, session)| is_up(&self.nodes[*node].data[session]))
            || self.nodes.iter().any(|node| !node.dials.is_empty() || !node.later.is_empty())
    }
}
