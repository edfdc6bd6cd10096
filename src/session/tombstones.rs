//! Sessions that ended, so that their other sides can be told what they came to.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::flow::{FlowState, PerFlow};
use super::message::{Ended, EndedReason, SessionId};
use crate::error::CloseCode;
use crate::identity::CertHash;

/// What is left of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tombstone {
    pub(super) peer: CertHash,
    /// None: this side never learned it, and received nothing.
    pub(super) theirs: Option<SessionId>,
    pub(super) reason: EndedReason,
    pub(super) code: CloseCode,
    /// What was received and taken.
    pub(super) flows: PerFlow<FlowState>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Tombstones {
    max: usize,
    time_max: Duration,
    /// By this side's id.
    all: BTreeMap<SessionId, Tombstone>,
    /// This side's id by the peer's.
    by_theirs: BTreeMap<(CertHash, SessionId), SessionId>,
    /// Until when, the oldest first: all stay for the same time.
    until: VecDeque<(Instant, SessionId)>,
}

impl Tombstones {
    pub(super) fn new(max: usize, time_max: Duration) -> Self {
        Self {
            max,
            time_max,
            all: BTreeMap::new(),
            by_theirs: BTreeMap::new(),
            until: VecDeque::new(),
        }
    }

    /// Whether an earlier one had to be forgotten for it.
    pub(super) fn bury(&mut self, now: Instant, session: SessionId, tombstone: Tombstone) -> bool {
        if let Some(theirs) = tombstone.theirs {
            self.by_theirs.insert((tombstone.peer, theirs), session);
        }
        self.all.insert(session, tombstone);
        self.until.push_back((now + self.time_max, session));
        let forgets = self.until.len() > self.max;
        while self.until.len() > self.max {
            self.forget_oldest();
        }
        forgets
    }

    /// Forgets those whose time is over.
    pub(super) fn expire(&mut self, now: Instant) {
        while self.until.front().is_some_and(|(until, _)| *until <= now) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((_, session)) = self.until.pop_front() else { return };
        let Some(tombstone) = self.all.remove(&session) else { return };
        if let Some(theirs) = tombstone.theirs {
            self.by_theirs.remove(&(tombstone.peer, theirs));
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.until.front().map(|(until, _)| *until)
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// The application took more of what the session had received.
    pub(super) fn update(&mut self, session: SessionId, flows: PerFlow<FlowState>) {
        if let Some(tombstone) = self.all.get_mut(&session) {
            tombstone.flows = flows;
        }
    }

    /// This side's id of a session that the peer names by its own.
    pub(super) fn named(&self, peer: CertHash, theirs: SessionId) -> Option<SessionId> {
        self.by_theirs.get(&(peer, theirs)).copied()
    }

    /// What a peer is told that names a session which is not there.
    pub(super) fn tell(&self, peer: CertHash, mine: SessionId, yours: SessionId) -> Ended {
        let tombstone = self.all.get(&mine).filter(|tombstone| {
            tombstone.peer == peer && tombstone.theirs.is_none_or(|theirs| theirs == yours)
        });
        Ended {
            mine,
            yours,
            reason: tombstone.map_or(EndedReason::Unknown, |tombstone| tombstone.reason),
            code: tombstone.map_or(CloseCode::NORMAL, |tombstone| tombstone.code),
            flows: tombstone.map(|tombstone| tombstone.flows),
        }
    }
}
