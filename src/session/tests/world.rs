//! Nodes, and links between them that break at any moment: noticed by one side earlier than by the other.

mod applications;
mod checks;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU64;
use std::time::Instant;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::data::Data;
use crate::config::Limits;
use crate::error::CloseCode;
use crate::identity::CertHash;
use crate::session::effect::{At, Effect, LinkId, Origin};
use crate::session::flow::{FlowId, PerFlow};
use crate::session::flow_fault::Planted;
use crate::session::message::{Incarnation, Message, SessionId};
use crate::session::table::Table;

pub(super) const PROTOCOL: &str = "test/1";

/// What a link carries: messages on one stream, frames on one stream a flow.
#[derive(Debug, Clone)]
pub(super) enum Packet {
    Message(Vec<u8>),
    Head { generation: u64, first: u64 },
    Frame { frame: u64, bytes: u64 },
}

/// What one end of a link is to the node that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Believes {
    /// The node was not told of it yet.
    Coming,
    Up,
    Gone,
}

#[derive(Debug)]
struct End {
    node: usize,
    believes: Believes,
    /// The peer closed the link with this.
    code: Option<CloseCode>,
    /// What comes to this end: the session stream, and each flow's.
    session: VecDeque<Packet>,
    flows: PerFlow<VecDeque<Packet>>,
    /// The generation that the flow's stream began with.
    generation: PerFlow<u64>,
    /// Words of this end that the other one has, of which this one does not know yet.
    words_there: u32,
}

#[derive(Debug)]
struct Link {
    ends: [End; 2],
    /// Nothing passes any more.
    dead: bool,
}

pub(super) struct Node {
    pub(super) table: Table,
    pub(super) data: BTreeMap<SessionId, Data>,
    /// Sessions that need a link, and whom with.
    pub(super) dials: BTreeSet<SessionId>,
    /// The same, after some time.
    later: BTreeSet<SessionId>,
    /// It told its peers that it stops.
    is_away: bool,
    peers: BTreeMap<SessionId, usize>,
    asked: Vec<LinkId>,
    /// What the application opened.
    opened: BTreeSet<SessionId>,
    /// Whom the application wants a session with.
    pub(super) wants: BTreeSet<usize>,
}

pub(super) struct World {
    pub(super) nodes: Vec<Node>,
    links: BTreeMap<LinkId, Link>,
    pub(super) now: Instant,
    drawn: u64,
    frames: u64,
    /// What the flows of all sessions have.
    fault: Planted,
    pub(super) dialled: u64,
    /// What nodes took that are no more.
    buried: Vec<(usize, BTreeMap<SessionId, Data>)>,
    pub(super) trouble: Option<String>,
    /// Who has a dead link that the other end has given up does not notice.
    pub(super) corpses: bool,
    /// Tells what happens, to find out why a case fails.
    pub(super) traced: bool,
}

fn identity(node: usize) -> CertHash {
    CertHash::from_bytes([node as u8 + 1; 32])
}

impl World {
    pub(super) fn new(nodes: usize, fault: Planted) -> Self {
        let mut world = Self {
            nodes: Vec::new(),
            links: BTreeMap::new(),
            now: Instant::now(),
            drawn: 0,
            frames: 0,
            fault,
            dialled: 0,
            buried: Vec::new(),
            trouble: None,
            corpses: false,
            traced: std::env::var_os("SESSION_TRACE").is_some(),
        };
        for node in 0..nodes {
            let node = world.start(node);
            world.nodes.push(node);
        }
        world
    }

    fn draw(&mut self) -> u64 {
        self.drawn += 1;
        // Neither rising nor falling, so that either side of two decides.
        self.drawn.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn start(&mut self, node: usize) -> Node {
        let incarnation = Incarnation(NonZeroU64::new(self.draw()).expect("odd times not zero"));
        let random = StdRng::seed_from_u64(self.draw());
        let mut table = Table::new(identity(node), incarnation, Limits::default(), random);
        table.accept(PROTOCOL, true);
        Node {
            table,
            data: BTreeMap::new(),
            dials: BTreeSet::new(),
            later: BTreeSet::new(),
            is_away: false,
            peers: BTreeMap::new(),
            asked: Vec::new(),
            opened: BTreeSet::new(),
            wants: BTreeSet::new(),
        }
    }

    fn failed(&mut self, what: String) {
        self.trouble.get_or_insert(what);
    }

    /// Lets a node's table do something, and does what it wants.
    fn with(&mut self, node: usize, act: impl FnOnce(&mut Table, At<'_>) -> Vec<Effect>) {
        let Node { table, data, .. } = &mut self.nodes[node];
        let effects = act(table, At { now: self.now, counters: data });
        for effect in effects {
            self.apply(node, effect);
        }
    }

    fn apply(&mut self, node: usize, effect: Effect) {
        if self.traced {
            println!("    node {node}: {effect:?}");
        }
        let of = &mut self.nodes[node];
        match effect {
            Effect::Send(link, message) => {
                let mut bytes = Vec::new();
                message.encode(&mut bytes);
                self.put(node, link, None, Packet::Message(bytes));
            }
            Effect::CloseLink(link, code) => {
                if code == CloseCode::PROTOCOL_ERROR {
                    self.failed(format!("node {node} calls {link:?} broken"));
                }
                self.close(node, link, code);
            }
            Effect::AskAdmit { link, .. } => of.asked.push(link),
            Effect::Began { session, peer, .. } => self.began(node, session, peer),
            Effect::Attach { session, theirs, link, generation, flows, .. } => {
                of.dials.remove(&session);
                of.later.remove(&session);
                let data = of.data.get_mut(&session).expect("a session that began");
                data.theirs = Some(theirs);
                if let Err(violation) = data.attach(link, generation, flows) {
                    self.failed(format!("node {node} resumes: {violation}"));
                }
            }
            Effect::Detach { session, .. } => {
                of.data.get_mut(&session).expect("a session that began").detach();
            }
            Effect::NeedLink { session, not_before } => {
                if not_before.is_some() || of.later.contains(&session) {
                    of.later.insert(session);
                } else {
                    of.dials.insert(session);
                }
            }
            Effect::Taken(session, taken) => {
                let data = of.data.get_mut(&session).expect("a session that began");
                if let Err(violation) = data.heard_taken(&taken) {
                    self.failed(format!("node {node} hears what was taken: {violation}"));
                }
            }
            Effect::PeerClosing { session, finals, .. } => {
                of.data.get_mut(&session).expect("a session that began").peer_finals = Some(finals);
                self.drain(node, session);
            }
            Effect::GoingAway { session, last, .. } => {
                let data = of.data.get_mut(&session).expect("a session that began");
                if let Err(violation) = data.cut(last) {
                    self.failed(format!("node {node} hears that the peer goes: {violation}"));
                }
            }
            Effect::Refused(session, _) => {
                of.later.insert(session);
            }
            Effect::Cancel(..) | Effect::Limited(_) => {}
            Effect::Ended { session, reason, flows } => {
                of.dials.remove(&session);
                of.later.remove(&session);
                of.data.get_mut(&session).expect("a session that began").end(reason, flows);
            }
        }
    }

    fn began(&mut self, node: usize, session: SessionId, peer: CertHash) {
        let of = &mut self.nodes[node];
        of.data.insert(session, Data::new(self.fault));
        of.peers.insert(session, usize::from(peer.as_bytes()[0]) - 1);
    }

    // ---- links -----------------------------------------------------------------------------------

    fn put(&mut self, from: usize, link: LinkId, flow: Option<FlowId>, packet: Packet) {
        let Some(link) = self.links.get_mut(&link).filter(|link| !link.dead) else { return };
        let to = link.ends.iter_mut().find(|end| end.node != from).expect("two ends");
        match flow {
            None => to.session.push_back(packet),
            Some(flow) => to.flows[flow].push_back(packet),
        }
    }

    /// A node closes a link: what was on its way may not arrive, as with QUIC.
    fn close(&mut self, node: usize, id: LinkId, code: CloseCode) {
        let Some(link) = self.links.get_mut(&id) else { return };
        for end in &mut link.ends {
            if end.node == node {
                end.believes = Believes::Gone;
            } else if !link.dead {
                end.code = Some(code);
            }
        }
        self.cut(id);
    }

    /// Nothing passes a link any more; who has it may notice later.
    fn cut(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.dead = true;
        for end in &mut link.ends {
            end.session.clear();
            end.words_there = 0;
            end.flows = PerFlow::of(|_| VecDeque::new());
            // A link whose acceptor never heard of it was never there for it.
            if end.believes == Believes::Coming {
                end.believes = Believes::Gone;
            }
        }
    }

    pub(super) fn cut_one(&mut self, choice: u16) {
        let alive: Vec<LinkId> =
            self.links.iter().filter(|(_, link)| !link.dead).map(|(id, _)| *id).collect();
        if let Some(id) = pick(&alive, choice) {
            self.cut(id);
        }
    }

    /// A link that nobody believes in any more needs no place.
    fn forget_gone(&mut self) {
        self.links.retain(|_, link| {
            !link.dead || link.ends.iter().any(|end| end.believes != Believes::Gone)
        });
    }

    /// One end of a dead link is noticed, or of an accepted one that it came.
    pub(super) fn notice_one(&mut self, choice: u16) -> bool {
        self.forget_gone();
        let mut all = Vec::new();
        for (id, link) in &self.links {
            for (index, end) in link.ends.iter().enumerate() {
                let corpse = self.corpses && link.ends[1 - index].believes == Believes::Gone;
                let up = end.believes == Believes::Up && !corpse;
                if link.dead && up || !link.dead && end.believes == Believes::Coming {
                    all.push((*id, index));
                }
            }
        }
        let Some((id, index)) = pick(&all, choice) else { return false };
        let link = self.links.get_mut(&id).expect("it was just there");
        let other = link.ends[1 - index].node;
        let end = &mut link.ends[index];
        let (node, code) = (end.node, end.code);
        if link.dead {
            end.believes = Believes::Gone;
            self.with(node, |table, at| table.link_lost(at, id, code));
        } else {
            end.believes = Believes::Up;
            self.with(node, |table, at| table.link_up(at, id, identity(other), Origin::Accepted));
        }
        true
    }

    pub(super) fn dial_one(&mut self, choice: u16) -> bool {
        let all: Vec<(usize, SessionId)> = (0..self.nodes.len())
            .flat_map(|node| self.nodes[node].dials.iter().map(move |session| (node, *session)))
            .collect();
        let Some((node, session)) = pick(&all, choice) else { return false };
        self.nodes[node].dials.remove(&session);
        let peer = self.nodes[node].peers[&session];
        self.dialled += 1;
        let id = LinkId(self.dialled);
        let end = |node, believes| End {
            node,
            believes,
            code: None,
            session: VecDeque::new(),
            flows: PerFlow::of(|_| VecDeque::new()),
            generation: PerFlow::of(|_| 0),
            words_there: 0,
        };
        let ends = [end(node, Believes::Up), end(peer, Believes::Coming)];
        self.links.insert(id, Link { ends, dead: false });
        self.with(node, |table, at| {
            table.link_up(at, id, identity(peer), Origin::Dialled(session))
        });
        true
    }

    /// The next of one stream arrives.
    pub(super) fn deliver_one(&mut self, choice: u16) -> bool {
        let mut all = Vec::new();
        for (id, link) in &self.links {
            for (index, end) in link.ends.iter().enumerate() {
                if end.believes != Believes::Up {
                    continue;
                }
                all.extend((!end.session.is_empty()).then_some((*id, index, None)));
                let flows = end.flows.iter().filter(|(_, packets)| !packets.is_empty());
                all.extend(
                    flows
                        .filter(|(flow, _)| self.is_ready(*id, end, *flow))
                        .map(|(flow, _)| (*id, index, Some(flow))),
                );
            }
        }
        let Some((id, index, flow)) = pick(&all, choice) else { return false };
        let end = &mut self.links.get_mut(&id).expect("it was just there").ends[index];
        let node = end.node;
        let packets = flow.map_or(&mut end.session, |flow| &mut end.flows[flow]);
        match (packets.pop_front().expect("one of those that have some"), flow) {
            (Packet::Message(bytes), _) => self.heard(node, id, &bytes),
            (packet, Some(flow)) => self.frame(node, id, index, flow, &packet),
            (packet, None) => self.failed(format!("{packet:?} on a session stream")),
        }
        true
    }

    /// A stream that came before its link was attached waits for that.
    fn is_ready(&self, id: LinkId, end: &End, flow: FlowId) -> bool {
        match end.flows[flow].front() {
            Some(Packet::Head { generation, .. }) => {
                let node = &self.nodes[end.node];
                node.data.values().any(|data| data.attached == Some((id, *generation)))
            }
            _ => true,
        }
    }

    fn heard(&mut self, node: usize, link: LinkId, bytes: &[u8]) {
        let mut messages = Vec::new();
        let fed = crate::session::message::Decoder::default()
            .feed(bytes, &mut |message| messages.push(message));
        if fed.is_err() || messages.len() != 1 {
            return self.failed(format!("{bytes:?} is no message"));
        }
        for message in messages {
            if matches!(message, Message::Taken(_)) {
                let ends = &mut self.links.get_mut(&link).expect("it brought that").ends;
                ends.iter_mut().find(|end| end.node != node).expect("two ends").words_there += 1;
            }
            self.with(node, |table, at| table.message(at, link, message));
        }
    }

    fn frame(&mut self, node: usize, id: LinkId, index: usize, flow: FlowId, packet: &Packet) {
        let link = self.links.get_mut(&id).expect("it was just there");
        let generation = &mut link.ends[index].generation[flow];
        if let Packet::Head { generation: of, .. } = packet {
            *generation = *of;
        }
        let on = (id, *generation);
        let mut sessions = self.nodes[node].data.values_mut();
        // A link that its session left brings nothing more.
        let Some(data) = sessions.find(|data| data.attached == Some(on)) else { return };
        let result = match packet {
            Packet::Message(_) => return,
            Packet::Head { first, .. } => data.inn[flow].begin_stream(*first),
            Packet::Frame { frame, bytes } => data.arrived(flow, *frame, *bytes),
        };
        if let Err(violation) = result {
            self.failed(format!("node {node} receives: {violation}"));
        }
    }
}

/// Two flows are enough to have them overtake each other.
fn flow(choice: u16) -> FlowId {
    FlowId::new((choice / 8 % 2) as u8, false).expect("there is this lane")
}

fn pick<T: Copy>(all: &[T], choice: u16) -> Option<T> {
    let index = usize::from(choice).checked_rem(all.len())?;
    Some(all[index])
}

fn rotated<T: Copy>(all: &[T], choice: u16) -> Vec<T> {
    let mut all = all.to_vec();
    let by = usize::from(choice).checked_rem(all.len()).unwrap_or(0);
    all.rotate_left(by);
    all
}
