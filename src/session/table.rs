//! All sessions of a node: which link each has, and how each ends.
//!
//! ```text
//!  link:    Meeting ──Attach──> Attached ──Ended──> Leaving        any ──lost, closed──> gone
//!              └──Refused──────────────────────────────^
//!  session: opened, or begun by the peer ──Attach──> up <──> without a link ──ends──> tombstone
//! ```
//!
//! Who dials says Hello first, who accepts answers it once it knows which session is meant. Of the two,
//! one decides which link a session has ([`super::election`]) and says Attach; both ends of a session
//! follow it. A Hello that names what this side no longer has is answered by Ended. A Hello of another
//! incarnation replaces the one that is known only when it echoes the nonce of this very link.
//!
//! Invariants: a session has at most one link; a link carries at most one session; each session ends
//! once, and is a tombstone from there on; of a peer, all sessions are with one incarnation.

mod attach;
mod ending;
mod links;
mod meeting;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;

use self::state::{Due, Link, Session};
use super::away::Away;
use super::effect::{Admission, At, Effect, EndReason, LinkId, OpenError, Origin};
use super::flow::{FlowState, PerFlow};
use super::incarnations::Incarnations;
use super::message::{Incarnation, Message, PROTOCOL_BYTES_MAX, Refused, SessionId};
use super::tombstones::Tombstones;
use crate::config::Limits;
use crate::error::CloseCode;
use crate::identity::CertHash;

/// See the module.
#[derive(Debug)]
pub(crate) struct Table {
    me: CertHash,
    incarnation: Incarnation,
    limits: Limits,
    random: StdRng,
    /// What peers may begin sessions for.
    accepted: BTreeSet<String>,
    /// Dials of this node.
    attempts: u64,
    sessions: BTreeMap<SessionId, Session>,
    by_key: BTreeMap<(CertHash, String), SessionId>,
    links: BTreeMap<LinkId, Link>,
    by_peer: BTreeMap<CertHash, BTreeSet<LinkId>>,
    tombstones: Tombstones,
    incarnations: Incarnations,
    away: Away,
    deadlines: BTreeSet<(Instant, Due)>,
    /// The node stops: what it tells its peers.
    going_away: Option<Duration>,
    effects: Vec<Effect>,
    /// Peers whose links may be further on, since a session with them began or ended.
    again: BTreeSet<CertHash>,
}

impl Table {
    /// Of a node without sessions. `random` draws ids and nonces: it must not be guessed.
    pub(crate) fn new(
        me: CertHash,
        incarnation: Incarnation,
        limits: Limits,
        random: StdRng,
    ) -> Self {
        let sessions = &limits.sessions;
        Self {
            me,
            incarnation,
            tombstones: Tombstones::new(sessions.tombstones_max, 2 * sessions.session_time_max),
            incarnations: Incarnations::new(sessions.incarnations_max, sessions.identities_max),
            away: Away::new(sessions.identities_max),
            limits,
            random,
            accepted: BTreeSet::new(),
            attempts: 0,
            sessions: BTreeMap::new(),
            by_key: BTreeMap::new(),
            links: BTreeMap::new(),
            by_peer: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            going_away: None,
            effects: Vec::new(),
            again: BTreeSet::new(),
        }
    }

    /// Peers may begin sessions for this protocol from here on, or no more.
    pub(crate) fn accept(&mut self, protocol: &str, accepts: bool) {
        if accepts {
            self.accepted.insert(protocol.to_owned());
        } else {
            self.accepted.remove(protocol);
        }
    }

    /// The session with this peer for this protocol: the one there is, or another one, which is dialled.
    ///
    /// # Errors
    ///
    /// [`OpenError`]: there is none.
    pub(crate) fn open(
        &mut self,
        at: At<'_>,
        peer: CertHash,
        protocol: &str,
    ) -> Result<(SessionId, Vec<Effect>), OpenError> {
        if protocol.is_empty() || protocol.len() > PROTOCOL_BYTES_MAX {
            return Err(OpenError::Name(protocol.len()));
        }
        let id = match self.by_key.get(&(peer, protocol.to_owned())) {
            Some(id) => *id,
            None if self.going_away.is_some() => return Err(OpenError::GoingAway),
            None if self.sessions.len() >= self.limits.sessions.sessions_max => {
                return Err(OpenError::Full(self.limits.sessions.sessions_max));
            }
            None => self.begin(peer, protocol.to_owned(), true),
        };
        if let Some(session) = self.sessions.get_mut(&id) {
            session.opened = true;
        }
        self.again.insert(peer);
        self.settle_links(at);
        self.need_link(at.now, id);
        Ok((id, self.done(at)))
    }

    /// A connection stands. An accepted one says nothing before its dialler did.
    pub(crate) fn link_up(
        &mut self,
        at: At<'_>,
        link: LinkId,
        peer: CertHash,
        origin: Origin,
    ) -> Vec<Effect> {
        self.add_link(at, link, peer, origin);
        self.done(at)
    }

    /// A connection is gone, by the peer with this code or otherwise.
    pub(crate) fn link_lost(
        &mut self,
        at: At<'_>,
        link: LinkId,
        code: Option<CloseCode>,
    ) -> Vec<Effect> {
        if let Some(code) = code.filter(|code| code.is_final()) {
            let text = String::new();
            let refused = Refused { code, is_final: true, yours: None, generation: 0, text };
            self.refused_for_good(at, link, refused);
        }
        self.forget_link(at, link);
        self.done(at)
    }

    /// A link's session stream brought this.
    pub(crate) fn message(&mut self, at: At<'_>, link: LinkId, message: Message) -> Vec<Effect> {
        match message {
            Message::Hello(hello) => self.heard_hello(at, link, *hello),
            Message::Attach(attach) => self.heard_attach(at, link, attach),
            Message::Refused(refused) => self.heard_refused(at, link, refused),
            Message::Ended(ended) => self.heard_ended(at, link, &ended),
            Message::Taken(taken) => {
                self.heard_in_session(link, |session| Effect::Taken(session, taken));
            }
            Message::Cancel(cancel) => {
                self.heard_in_session(link, |session| Effect::Cancel(session, cancel));
            }
            Message::Close(close) => self.heard_close(at, link, close),
            Message::Closed(closed) => self.heard_closed(at, link, closed),
            Message::GoAway(go_away) => self.heard_go_away(at, link, go_away),
        }
        self.done(at)
    }

    /// The peer broke the protocol on this link: its session ends.
    pub(crate) fn violated(&mut self, at: At<'_>, link: LinkId) -> Vec<Effect> {
        self.broken(at, link);
        self.done(at)
    }

    /// The application answers [`Effect::AskAdmit`].
    pub(crate) fn admitted(
        &mut self,
        at: At<'_>,
        link: LinkId,
        admission: Admission,
    ) -> Vec<Effect> {
        self.answer_admit(at, link, admission);
        self.done(at)
    }

    /// The session ends once the peer's application took everything, or the time for it is over.
    /// Nothing may be accepted for sending any more.
    pub(crate) fn close(&mut self, at: At<'_>, session: SessionId, code: CloseCode) -> Vec<Effect> {
        self.begin_close(at, session, code);
        self.done(at)
    }

    /// The application took what the peer sent up to its last numbers, or will never take more: answers
    /// [`Effect::PeerClosing`].
    pub(crate) fn drained(&mut self, at: At<'_>, session: SessionId) -> Vec<Effect> {
        self.all_taken(at, session);
        self.done(at)
    }

    /// The peer wants none of what is dialled for the session, for good.
    pub(crate) fn dial_refused(
        &mut self,
        at: At<'_>,
        session: SessionId,
        code: CloseCode,
    ) -> Vec<Effect> {
        let text = String::new();
        let refused = Refused { code, is_final: true, yours: None, generation: 0, text };
        self.end_quietly(at, session, EndReason::Refused(refused));
        self.done(at)
    }

    /// The session ends at once.
    pub(crate) fn give_up(&mut self, at: At<'_>, session: SessionId) -> Vec<Effect> {
        self.end(at, session, EndReason::GivenUp, None);
        self.done(at)
    }

    /// Of a session that ended, the application took more of what it had received.
    pub(crate) fn taken_late(&mut self, session: SessionId, flows: PerFlow<FlowState>) {
        self.tombstones.update(session, flows);
    }

    /// The node stops: its peers are told, and no session begins any more. What the flows in have
    /// received must not grow from here on.
    pub(crate) fn go_away(&mut self, at: At<'_>, delay: Duration) -> Vec<Effect> {
        self.going_away = Some(delay);
        let attached: Vec<_> =
            self.sessions.iter().filter_map(|(id, of)| Some((*id, of.link?))).collect();
        for (session, link) in attached {
            self.say_go_away(at, session, link, delay);
        }
        self.done(at)
    }

    /// All links go.
    pub(crate) fn close_links(&mut self, at: At<'_>, code: CloseCode) -> Vec<Effect> {
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        for link in links {
            self.close_link(at, link, code);
        }
        self.done(at)
    }

    /// Does what is due.
    pub(crate) fn time(&mut self, at: At<'_>) -> Vec<Effect> {
        while let Some((_, due)) = self.deadlines.first().copied().filter(|(due, _)| *due <= at.now)
        {
            match due {
                Due::Link(link) => self.link_due(at, link),
                Due::Session(session) => self.session_due(at, session),
            }
        }
        self.tombstones.expire(at.now);
        self.done(at)
    }

    /// When [`time`](Self::time) has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let due = self.deadlines.first().map(|(due, _)| *due);
        due.into_iter().chain(self.tombstones.next_deadline()).min()
    }

    /// Sessions at present.
    pub(crate) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Sessions that ended and are remembered.
    pub(crate) fn remembered(&self) -> usize {
        self.tombstones.len()
    }

    /// The link that a session has, and its generation.
    pub(crate) fn attached(&self, session: SessionId) -> Option<(LinkId, u64)> {
        let session = self.sessions.get(&session)?;
        Some((session.link?, session.generation))
    }

    fn done(&mut self, at: At<'_>) -> Vec<Effect> {
        self.settle_links(at);
        std::mem::take(&mut self.effects)
    }

    fn settle_links(&mut self, at: At<'_>) {
        while let Some(peer) = self.again.pop_first() {
            let links: Vec<LinkId> = self.links_with(peer).collect();
            for link in links {
                self.consider(at, link);
            }
        }
    }
}
