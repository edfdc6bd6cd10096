//! Requests of the peer, from their arrival to their one reply.
//!
//! ```text
//!  arrived ──hand──> with its handler ──reply, drop──> gone
//!     └──cancel, its time is over──> gone       └──cancel, its time is over──> told, then gone by its drop
//! ```
//!
//! A request reaches its handler at most once, also across connections: the flow it came on accepts each
//! number once. A handler that was told holds its place until it lets go, so that the bound is one of what
//! really runs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::flow::LANES;
use super::requests::RequestId;

/// What is to be done with a request that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// It waits for its handler.
    Wait,
    /// There are too many: it is answered as refused.
    Refuse,
    /// Its sender has given it up before: it is forgotten.
    Forget,
}

/// What is to be done with a request that is to be handed to its handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hand {
    /// It may run until then.
    Handle(Instant),
    /// It was cancelled, or handed over before.
    Forget,
    /// Its time is over: it is answered so.
    TooLate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Handled,
    /// Its handler was told that no reply is wanted.
    Told,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Handling {
    max: usize,
    early_cancels_max: usize,
    requests: BTreeMap<RequestId, (State, Instant)>,
    deadlines: BTreeSet<(Instant, RequestId)>,
    /// The last number that arrived on each lane.
    arrived: [u64; LANES],
    /// Cancels that came before their requests, the oldest first.
    early: VecDeque<RequestId>,
}

impl Handling {
    /// None yet, and at most so many at a time.
    pub(crate) fn new(max: usize, early_cancels_max: usize) -> Self {
        Self {
            max,
            early_cancels_max,
            requests: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            arrived: [0; LANES],
            early: VecDeque::new(),
        }
    }

    /// A request was accepted from its flow, with so much left of its time.
    pub(crate) fn arrived(&mut self, id: RequestId, left: Duration, now: Instant) -> Arrived {
        let early = self.early.contains(&id);
        self.passed(id.0, id.1);
        if early {
            return Arrived::Forget;
        }
        if self.requests.len() >= self.max {
            return Arrived::Refuse;
        }
        let deadline = now + left;
        self.requests.insert(id, (State::Waiting, deadline));
        self.deadlines.insert((deadline, id));
        Arrived::Wait
    }

    /// Frames up to this number were accepted from the lane's flow: what was cancelled among them was
    /// replaced by a void frame, or arrived.
    pub(crate) fn passed(&mut self, lane: u8, number: u64) {
        if let Some(arrived) = self.arrived.get_mut(usize::from(lane)) {
            *arrived = number.max(*arrived);
        }
        self.early.retain(|early| early.0 != lane || early.1 > number);
    }

    /// Whether one more that comes before its request makes another one be forgotten.
    pub(crate) fn is_full_of_cancels(&self) -> bool {
        self.early.len() >= self.early_cancels_max
    }

    /// The peer wants no reply any more. Whether its handler is to be told.
    pub(crate) fn cancel(&mut self, id: RequestId) -> bool {
        let Some(arrived) = self.arrived.get(usize::from(id.0)) else { return false };
        if id.1 > *arrived && !self.early.contains(&id) && self.early_cancels_max > 0 {
            if self.early.len() >= self.early_cancels_max {
                self.early.pop_front();
            }
            self.early.push_back(id);
        }
        self.stop(id)
    }

    /// The application takes it.
    pub(crate) fn hand(&mut self, id: RequestId, now: Instant) -> Hand {
        match self.requests.get_mut(&id) {
            Some((state @ State::Waiting, deadline)) if *deadline > now => {
                *state = State::Handled;
                Hand::Handle(*deadline)
            }
            Some((State::Waiting, _)) => {
                self.forget(id);
                Hand::TooLate
            }
            Some((State::Handled | State::Told, _)) | None => Hand::Forget,
        }
    }

    /// The handler answered or let go. Whether a reply is to be sent.
    pub(crate) fn finish(&mut self, id: RequestId) -> bool {
        matches!(self.forget(id), Some(State::Handled))
    }

    /// Those whose time is over: handlers that are to be told. What waits is found late when it is handed.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<RequestId> {
        let mut told = Vec::new();
        while let Some(due) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            self.deadlines.remove(&due);
            if let Some((state @ State::Handled, _)) = self.requests.get_mut(&due.1) {
                *state = State::Told;
                told.push(due.1);
            }
        }
        told
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// The session is over: handlers that are to be told.
    pub(crate) fn end(&mut self) -> Vec<RequestId> {
        let all: Vec<RequestId> = self.requests.keys().copied().collect();
        all.into_iter().filter(|id| self.stop(*id)).collect()
    }

    /// How many there are, waiting and handled.
    pub(crate) fn in_flight(&self) -> usize {
        self.requests.len()
    }

    /// No reply is wanted. Whether there is a handler to be told.
    fn stop(&mut self, id: RequestId) -> bool {
        match self.requests.get_mut(&id) {
            Some((State::Waiting, _)) => {
                self.forget(id);
                false
            }
            Some((state @ State::Handled, deadline)) => {
                *state = State::Told;
                self.deadlines.remove(&(*deadline, id));
                true
            }
            Some((State::Told, _)) | None => false,
        }
    }

    fn forget(&mut self, id: RequestId) -> Option<State> {
        let (state, deadline) = self.requests.remove(&id)?;
        self.deadlines.remove(&(deadline, id));
        Some(state)
    }
}
