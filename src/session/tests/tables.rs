//! The table's rules, one scenario each: two tables whose messages the test carries by hand.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::config::{Limits, SessionLimits};
use crate::error::CloseCode;
use crate::identity::CertHash;
use crate::session::effect::{
    Admission, At, Counters, Effect, EndReason, LinkId, OpenError, Origin,
};
use crate::session::election::{Candidate, Current, Dial, Verdict, judge};
use crate::session::flow::{FlowState, PerFlow};
use crate::session::message::{Attach, EndedReason, Incarnation, Message, SessionId};
use crate::session::table::Table;

pub(super) const PROTOCOL: &str = "test/1";
pub(super) const LOW: CertHash = CertHash::from_bytes([1; 32]);
pub(super) const HIGH: CertHash = CertHash::from_bytes([2; 32]);

/// Nothing was received, three frames were accepted.
struct Counted;

impl Counters for Counted {
    fn inbound(&self, _: SessionId) -> PerFlow<FlowState> {
        PerFlow::of(|_| FlowState { received: 2, taken: 1, credit: 100 })
    }

    fn accepted(&self, _: SessionId) -> PerFlow<u64> {
        PerFlow::of(|_| 3)
    }
}

pub(super) fn at(now: Instant) -> At<'static> {
    At { now, counters: &Counted }
}

pub(super) fn node(me: CertHash, incarnation: u64) -> Table {
    limited(me, incarnation, SessionLimits::default())
}

fn limited(me: CertHash, incarnation: u64, limits: SessionLimits) -> Table {
    let random = StdRng::seed_from_u64(incarnation);
    let incarnation = Incarnation(NonZeroU64::new(incarnation).expect("not 0"));
    let limits = Limits { sessions: limits, ..Limits::default() };
    let mut table = Table::new(me, incarnation, limits, random);
    table.accept(PROTOCOL, true);
    table
}

/// Two nodes that carry each other's messages at once, and everything else that they wanted.
struct Pair {
    nodes: [Table; 2],
    now: Instant,
    /// By node: what its table wanted, but for messages.
    wanted: [Vec<Effect>; 2],
    links: u64,
}

impl Pair {
    fn new(nodes: [Table; 2]) -> Self {
        Self { nodes, now: Instant::now(), wanted: [Vec::new(), Vec::new()], links: 0 }
    }

    fn run(&mut self, node: usize, effects: Vec<Effect>) {
        let mut left: VecDeque<(usize, Effect)> =
            effects.into_iter().map(|effect| (node, effect)).collect();
        while let Some((from, effect)) = left.pop_front() {
            let (to, effects) = match effect {
                Effect::Send(link, message) => {
                    let to = 1 - from;
                    (to, self.nodes[to].message(at(self.now), link, message))
                }
                Effect::AskAdmit { link, .. } => {
                    let table = &mut self.nodes[from];
                    (from, table.admitted(at(self.now), link, Admission::Accept))
                }
                effect => {
                    self.wanted[from].push(effect);
                    continue;
                }
            };
            left.extend(effects.into_iter().map(|effect| (to, effect)));
        }
    }

    fn open(&mut self, node: usize, peer: CertHash) -> SessionId {
        let opened = self.nodes[node].open(at(self.now), peer, PROTOCOL);
        let (session, effects) = opened.expect("there is room");
        self.run(node, effects);
        session
    }

    /// `node` dials the other one.
    fn dial(&mut self, node: usize, session: SessionId, identities: [CertHash; 2]) -> LinkId {
        self.links += 1;
        let (link, peer) = (LinkId(self.links), 1 - node);
        let origin = Origin::Accepted;
        let effects = self.nodes[peer].link_up(at(self.now), link, identities[node], origin);
        self.run(peer, effects);
        let origin = Origin::Dialled(session);
        let effects = self.nodes[node].link_up(at(self.now), link, identities[peer], origin);
        self.run(node, effects);
        link
    }

    fn lost(&mut self, node: usize, link: LinkId) {
        let effects = self.nodes[node].link_lost(at(self.now), link, None);
        self.run(node, effects);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        for node in 0..2 {
            let effects = self.nodes[node].time(at(self.now));
            self.run(node, effects);
        }
    }

    fn take(&mut self, node: usize) -> Vec<Effect> {
        std::mem::take(&mut self.wanted[node])
    }

    fn ends(&mut self, node: usize) -> Vec<EndReason> {
        let reason = |effect| match effect {
            Effect::Ended { reason, .. } => Some(reason),
            _ => None,
        };
        self.take(node).into_iter().filter_map(reason).collect()
    }

    fn closed(&mut self, node: usize) -> Vec<(LinkId, CloseCode)> {
        let code = |effect| match effect {
            Effect::CloseLink(link, code) => Some((link, code)),
            _ => None,
        };
        self.take(node).into_iter().filter_map(code).collect()
    }
}

/// The lower one has dialled; both have the session.
fn joined() -> (Pair, SessionId, LinkId) {
    let mut pair = Pair::new([node(LOW, 10), node(HIGH, 20)]);
    let session = pair.open(0, HIGH);
    let link = pair.dial(0, session, [LOW, HIGH]);
    assert_eq!(pair.nodes[0].attached(session), Some((link, 1)));
    (pair, session, link)
}

fn other_side(pair: &mut Pair, node: usize) -> SessionId {
    let began = |effect| match effect {
        Effect::Began { session, .. } => Some(session),
        _ => None,
    };
    pair.take(node).into_iter().find_map(began).expect("it began a session")
}

#[test]
fn either_side_may_dial_and_both_have_one_session() {
    for (dialler, identities) in [(0, [LOW, HIGH]), (1, [LOW, HIGH])] {
        let mut pair = Pair::new([node(LOW, 10), node(HIGH, 20)]);
        let session = pair.open(dialler, identities[1 - dialler]);
        let link = pair.dial(dialler, session, identities);
        let other = other_side(&mut pair, 1 - dialler);
        assert_eq!(pair.nodes[dialler].attached(session), Some((link, 1)));
        assert_eq!(pair.nodes[1 - dialler].attached(other), Some((link, 1)));
        assert_eq!(pair.nodes[1 - dialler].sessions(), 1);
    }
}

#[test]
fn who_redials_comes_through_to_a_peer_that_believes_in_the_dead_link() {
    let (mut pair, session, link) = joined();
    let other = other_side(&mut pair, 1);
    pair.lost(0, link);
    let next = pair.dial(0, session, [LOW, HIGH]);
    assert_eq!(pair.nodes[0].attached(session), Some((next, 2)));
    assert_eq!(pair.nodes[1].attached(other), Some((next, 2)));
    assert_eq!(pair.closed(1), [(link, CloseCode::DUPLICATE)]);
}

#[test]
fn the_side_that_decides_goes_by_what_the_other_one_holds() {
    use Dial::{Mine, Theirs};
    let current = Some(Current { generation: 5, dial: Theirs(3) });
    let candidate = |dial, known, held| judge(current, 5, Candidate { dial, known, held });
    assert_eq!(candidate(Mine(9), 5, 5), Verdict::Duplicate, "it holds the same");
    assert_eq!(candidate(Mine(1), 5, 0), Verdict::Attach, "it has lost that");
    assert_eq!(candidate(Mine(9), 4, 0), Verdict::Duplicate, "it may not have heard of it yet");
    assert_eq!(candidate(Theirs(4), 4, 0), Verdict::Attach, "it dialled again");
    assert_eq!(candidate(Theirs(2), 4, 0), Verdict::Duplicate, "an older dial");
    assert_eq!(candidate(Theirs(4), 6, 0), Verdict::Impossible);
    assert_eq!(candidate(Theirs(4), 4, 5), Verdict::Impossible);
    let nothing = Candidate { dial: Theirs(1), known: 5, held: 5 };
    assert_eq!(judge(None, 5, nothing), Verdict::Attach, "the peer believes in a dead one");
}

#[test]
fn an_attach_of_an_earlier_link_changes_nothing() {
    let (mut pair, session, link) = joined();
    let Message::Hello(hello) = last_hello(&mut pair, session) else { panic!("no Hello") };
    // The peer decides, and says Attach on a second link with a generation that was given before.
    let stale = LinkId(99);
    pair.lost(0, link);
    let effects = pair.nodes[0].link_up(at(pair.now), stale, HIGH, Origin::Dialled(session));
    let said = effects.into_iter().find_map(|effect| match effect {
        Effect::Send(_, Message::Hello(hello)) => Some(hello),
        _ => None,
    });
    let said = said.expect("a dialler says Hello");
    let answer = crate::session::message::Hello { echo: said.nonce, ..*hello };
    let effects = pair.nodes[0].message(at(pair.now), stale, Message::Hello(Box::new(answer)));
    assert_eq!(effects, []);
    let attach = Attach { generation: 1, echo: said.nonce, yours: session };
    let effects = pair.nodes[0].message(at(pair.now), stale, Message::Attach(attach));
    assert_eq!(effects.first(), Some(&Effect::CloseLink(stale, CloseCode::DUPLICATE)));
    assert_eq!(pair.nodes[0].attached(session), None);
}

/// What the peer of `session` answers to its dial.
fn last_hello(pair: &mut Pair, session: SessionId) -> Message {
    let other = other_side(pair, 1);
    let incarnation = Incarnation(NonZeroU64::new(20).expect("not 0"));
    let (limits, flows) = (Default::default(), PerFlow::default());
    Message::Hello(Box::new(crate::session::message::Hello {
        version_oldest: 1,
        version_newest: 1,
        incarnation,
        attempt: 0,
        nonce: 77,
        echo: 0,
        protocol: PROTOCOL.into(),
        mine: Some(other),
        yours: Some(session),
        known: 1,
        held: 1,
        limits,
        flows,
    }))
}

#[test]
fn an_ended_session_settles_its_other_side() {
    let (mut pair, _, link) = joined();
    let other = other_side(&mut pair, 1);
    // Here the link is lost at once, there much later: so time is over here first.
    pair.lost(0, link);
    pair.pass(Duration::from_secs(60));
    assert_eq!(pair.ends(0), [EndReason::Time]);
    let fresh = pair.open(0, HIGH);
    let next = pair.dial(0, fresh, [LOW, HIGH]);
    let ended = pair.take(1);
    let settled = ended.iter().find_map(|effect| match effect {
        Effect::Ended { session, reason, flows } => Some((*session, reason.clone(), *flows)),
        _ => None,
    });
    let flows = PerFlow::of(|_| FlowState { received: 2, taken: 1, credit: 0 });
    let reason = EndReason::Peer(EndedReason::Time, CloseCode::NORMAL);
    let told = settled.map(|(session, reason, flows)| {
        (
            session,
            reason,
            flows.map(|flows| PerFlow::of(|flow| FlowState { credit: 0, ..flows[flow] })),
        )
    });
    assert_eq!(told, Some((other, reason, Some(flows))));
    assert_eq!(pair.nodes[0].attached(fresh), Some((next, 1)), "the next one is up");
}

#[test]
fn a_restarted_peer_replaces_itself_and_the_old_process_is_refused_for_good() {
    let (mut pair, _, link) = joined();
    let old = std::mem::replace(&mut pair.nodes[0], node(LOW, 11));
    let session = pair.open(0, HIGH);
    let next = pair.dial(0, session, [LOW, HIGH]);
    assert_eq!(pair.nodes[0].attached(session), Some((next, 1)));
    let told = pair.take(1);
    let restarted =
        |effect: &Effect| matches!(effect, Effect::Ended { reason: EndReason::PeerRestarted, .. });
    assert!(told.iter().any(restarted), "{told:?}");
    assert!(told.contains(&Effect::CloseLink(link, CloseCode::STALE_INCARNATION)), "{told:?}");

    // The old process lives after all, and hears that it is replaced.
    let new = std::mem::replace(&mut pair.nodes[0], old);
    let effects = pair.nodes[0].link_lost(at(pair.now), link, Some(CloseCode::STALE_INCARNATION));
    pair.run(0, effects);
    assert!(matches!(&pair.ends(0)[..], [EndReason::Refused(refused)] if refused.is_final));
    let again = pair.open(0, HIGH);
    pair.dial(0, again, [LOW, HIGH]);
    assert!(matches!(&pair.ends(0)[..], [EndReason::Refused(refused)] if refused.is_final));
    pair.nodes[0] = new;
    assert_eq!(pair.nodes[0].attached(session), Some((next, 1)), "the later one stays");
}

#[test]
fn a_newcomer_that_does_not_echo_replaces_nobody() {
    let (mut pair, _, link) = joined();
    let other = other_side(&mut pair, 1);
    // A Hello of an incarnation that is dead by now, from the buffers of its connection.
    let mut corpse = node(LOW, 11);
    let (dead, _) = corpse.open(at(pair.now), HIGH, PROTOCOL).expect("there is room");
    let corpse_link = LinkId(50);
    let said = corpse.link_up(at(pair.now), corpse_link, HIGH, Origin::Dialled(dead));
    pair.nodes[1].link_up(at(pair.now), corpse_link, LOW, Origin::Accepted);
    for effect in said {
        let Effect::Send(link, message) = effect else { continue };
        pair.nodes[1].message(at(pair.now), link, message);
    }
    pair.take(1);
    pair.pass(Duration::from_secs(4));
    assert_eq!(pair.closed(1), [(corpse_link, CloseCode::HELLO_TIMEOUT)]);
    assert_eq!(pair.nodes[1].attached(other), Some((link, 1)));
}

#[test]
fn a_close_waits_for_what_was_sent_and_ends_both_sides() {
    let (mut pair, session, _) = joined();
    let other = other_side(&mut pair, 1);
    let code = CloseCode::from_wire(0x1234);
    let effects = pair.nodes[0].close(at(pair.now), session, code);
    pair.run(0, effects);
    let finals = PerFlow::of(|_| 3);
    let asked = Effect::PeerClosing { session: other, code, finals };
    assert!(pair.take(1).contains(&asked));
    assert_eq!(pair.nodes[0].sessions(), 1);
    let effects = pair.nodes[1].drained(at(pair.now), other);
    pair.run(1, effects);
    assert_eq!(pair.ends(0), [EndReason::Closed]);
    assert_eq!(pair.ends(1), [EndReason::Peer(EndedReason::Closed, code)]);
    assert_eq!((pair.nodes[0].sessions(), pair.nodes[1].sessions()), (0, 0));
}

#[test]
fn a_close_is_said_again_on_the_next_link() {
    let (mut pair, session, link) = joined();
    let other = other_side(&mut pair, 1);
    pair.lost(0, link);
    let effects = pair.nodes[0].close(at(pair.now), session, CloseCode::NORMAL);
    pair.run(0, effects);
    pair.dial(0, session, [LOW, HIGH]);
    let (code, finals) = (CloseCode::NORMAL, PerFlow::of(|_| 3));
    assert!(pair.take(1).contains(&Effect::PeerClosing { session: other, code, finals }));
    let effects = pair.nodes[1].drained(at(pair.now), other);
    pair.run(1, effects);
    assert_eq!(pair.ends(0), [EndReason::Closed]);
}

#[test]
fn a_close_that_nobody_answers_has_a_limit() {
    let (mut pair, session, link) = joined();
    pair.lost(1, link);
    let effects = pair.nodes[0].close(at(pair.now), session, CloseCode::NORMAL);
    // The link is dead: what is sent reaches nobody.
    drop(effects);
    let time = Limits::default().close_time_max;
    assert_eq!(pair.nodes[0].next_deadline(), Some(pair.now + time));
    pair.now += time;
    let effects = pair.nodes[0].time(at(pair.now));
    let timed_out =
        |effect: &Effect| matches!(effect, Effect::Ended { reason: EndReason::CloseTimedOut, .. });
    assert!(effects.iter().any(timed_out), "{effects:?}");
}

#[test]
fn nodes_that_stop_and_nodes_that_are_full_refuse_sessions() {
    let limits = SessionLimits { sessions_max: 1, ..SessionLimits::default() };
    let third = CertHash::from_bytes([3; 32]);
    let mut pair = Pair::new([node(LOW, 10), limited(HIGH, 20, limits)]);
    pair.open(1, third);
    let full = pair.nodes[1].open(at(pair.now), LOW, PROTOCOL);
    assert_eq!(full, Err(OpenError::Full(1)));
    let name = pair.nodes[1].open(at(pair.now), LOW, "");
    assert_eq!(name, Err(OpenError::Name(0)));
    let session = pair.open(0, HIGH);
    let refusal = |pair: &mut Pair| {
        pair.dial(0, session, [LOW, HIGH]);
        let refused = |effect| match effect {
            Effect::Refused(_, refused) => Some(refused.code),
            _ => None,
        };
        pair.take(0).into_iter().find_map(refused)
    };
    assert_eq!(refusal(&mut pair), Some(CloseCode::NODE_FULL));
    let effects = pair.nodes[1].go_away(at(pair.now), Duration::from_secs(5));
    pair.run(1, effects);
    assert_eq!(refusal(&mut pair), Some(CloseCode::GOING_AWAY));
    pair.nodes[1].accept(PROTOCOL, false);
    assert_eq!(refusal(&mut pair), Some(CloseCode::UNKNOWN_PROTOCOL));
    let stopped = pair.nodes[1].open(at(pair.now), LOW, PROTOCOL);
    assert_eq!(stopped, Err(OpenError::GoingAway));
}

#[test]
fn a_peer_that_stops_is_not_dialled_before_its_delay() {
    let (mut pair, session, link) = joined();
    let effects = pair.nodes[1].go_away(at(pair.now), Duration::from_secs(5));
    pair.run(1, effects);
    let last = PerFlow::of(|flow| if flow.is_replies() { 0 } else { 2 });
    let delay = Duration::from_secs(5);
    assert!(pair.take(0).contains(&Effect::GoingAway { session, delay, last }));
    pair.lost(0, link);
    let not_before = Some(pair.now + delay);
    assert!(pair.take(0).contains(&Effect::NeedLink { session, not_before }));
}

#[test]
fn an_application_that_refuses_for_good_ends_the_session_of_the_dialler() {
    let mut pair = Pair::new([node(LOW, 10), node(HIGH, 20)]);
    let (session, _) = pair.nodes[0].open(at(pair.now), HIGH, PROTOCOL).expect("there is room");
    let link = LinkId(1);
    pair.nodes[1].link_up(at(pair.now), link, LOW, Origin::Accepted);
    for effect in pair.nodes[0].link_up(at(pair.now), link, HIGH, Origin::Dialled(session)) {
        let Effect::Send(link, message) = effect else { continue };
        let asked = pair.nodes[1].message(at(pair.now), link, message);
        assert!(matches!(asked[..], [Effect::AskAdmit { .. }]), "{asked:?}");
    }
    let admission =
        Admission::Refuse { code: CloseCode::FORBIDDEN, is_final: true, text: "no".to_owned() };
    let effects = pair.nodes[1].admitted(at(pair.now), link, admission);
    pair.run(1, effects);
    let ends = pair.ends(0);
    assert!(matches!(&ends[..], [EndReason::Refused(refused)] if refused.text == "no"), "{ends:?}");
}

#[test]
fn a_node_that_dials_itself_is_told() {
    let now = Instant::now();
    let mut table = node(LOW, 10);
    let (session, _) = table.open(at(now), LOW, PROTOCOL).expect("there is room");
    let (there, here) = (LinkId(1), LinkId(2));
    table.link_up(at(now), here, LOW, Origin::Accepted);
    let mut effects = table.link_up(at(now), there, LOW, Origin::Dialled(session));
    let Effect::Send(_, hello) = effects.remove(0) else { panic!("no Hello: {effects:?}") };
    let answer = table.message(at(now), here, hello);
    let Effect::Send(_, Message::Refused(refused)) = &answer[0] else { panic!("{answer:?}") };
    assert_eq!((refused.code, refused.is_final), (CloseCode::SELF_DIALLED, true));
}

#[test]
fn a_peer_that_breaks_the_protocol_loses_link_and_session() {
    let (mut pair, session, link) = joined();
    let effects = pair.nodes[0].violated(at(pair.now), link);
    pair.run(0, effects);
    let wanted = pair.take(0);
    let broken =
        |effect: &Effect| matches!(effect, Effect::Ended { reason: EndReason::ProtocolError, .. });
    assert!(wanted.iter().any(broken), "{wanted:?}");
    assert!(wanted.contains(&Effect::CloseLink(link, CloseCode::PROTOCOL_ERROR)));
    assert_eq!(pair.nodes[0].attached(session), None);
    // Attach is for the side that does not decide alone.
    let (mut pair, _, link) = joined();
    let other = other_side(&mut pair, 1);
    let attach = Attach { generation: 9, echo: 1, yours: other };
    let effects = pair.nodes[1].message(at(pair.now), link, Message::Attach(attach));
    pair.run(1, effects);
    assert_eq!(pair.ends(1), [EndReason::ProtocolError]);
}

#[test]
fn what_is_remembered_is_bounded() {
    let limits = SessionLimits {
        tombstones_max: 2,
        incarnations_max: 2,
        identities_max: 1,
        ..SessionLimits::default()
    };
    let mut pair = Pair::new([node(LOW, 10), limited(HIGH, 20, limits)]);
    for incarnation in 30..36 {
        pair.nodes[0] = node(LOW, incarnation);
        let session = pair.open(0, HIGH);
        let link = pair.dial(0, session, [LOW, HIGH]);
        assert_eq!(pair.nodes[0].attached(session), Some((link, 1)));
    }
    assert_eq!((pair.nodes[1].sessions(), pair.nodes[1].remembered()), (1, 2));
    // Five were replaced; the last two of them are refused, an earlier one is not known any more.
    for (incarnation, known) in [(34, true), (33, true), (31, false)] {
        pair.nodes[0] = node(LOW, incarnation);
        let session = pair.open(0, HIGH);
        pair.take(0);
        pair.dial(0, session, [LOW, HIGH]);
        assert_eq!(pair.ends(0).len(), usize::from(known), "{incarnation}");
    }
}
