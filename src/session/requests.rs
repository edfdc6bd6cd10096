//! Requests of this side, from their issue to their one end.
//!
//! A request is a frame of its lane's flow, and has that frame's number. Its place here is the room for
//! its reply: replies are taken as they come, and wait for nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::flow::LANES;
use super::flow_out::Fate;
use super::frame_head::ReplyStatus;

/// A request: its lane and its number there.
pub(crate) type RequestId = (u8, u64);

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestEnd {
    /// The handler answered.
    Reply,
    /// The peer did not hand it to a handler.
    Refused,
    /// The handler dropped it.
    NoReply,
    /// Its time was over.
    DeadlineExceeded {
        /// The handler may have run.
        may_have_run: bool,
    },
    /// It was given up here.
    Cancelled {
        /// The handler may have run.
        may_have_run: bool,
    },
    /// The peer never received it.
    NotSent,
    /// The session ended before a reply.
    SessionLost,
}

impl RequestEnd {
    /// Whether the peer's handler may have run.
    pub(crate) fn may_have_run(self) -> bool {
        match self {
            Self::Reply | Self::NoReply | Self::SessionLost => true,
            Self::Refused | Self::NotSent => false,
            Self::DeadlineExceeded { may_have_run } | Self::Cancelled { may_have_run } => {
                may_have_run
            }
        }
    }
}

/// Why a request is not issued, or a reply is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestError {
    /// There are as many in flight as may be.
    #[error("{0} requests are in flight, as many as may be")]
    TooMany(usize),
    /// A reply to what was never asked.
    #[error("a reply to what was never asked: lane {lane}, number {number}")]
    NeverAsked {
        /// The lane that it names.
        lane: u8,
        /// The number that it names.
        number: u64,
    },
}

/// What a reply is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The end of its request.
    End(RequestEnd),
    /// Of no use: its request has ended.
    Late,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Requests {
    /// What this side allows itself.
    own_max: usize,
    /// The smaller of that and what the peer takes.
    max: usize,
    in_flight: BTreeMap<RequestId, Instant>,
    deadlines: BTreeSet<(Instant, RequestId)>,
    /// The last number issued on each lane.
    issued: [u64; LANES],
}

impl Requests {
    /// None yet, and at most so many in flight.
    pub(crate) fn new(own_max: usize) -> Self {
        Self {
            own_max,
            max: own_max,
            in_flight: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            issued: [0; LANES],
        }
    }

    /// What the peer takes at a time, by its Hello.
    pub(crate) fn peer_takes(&mut self, requests: u64) {
        self.max = usize::try_from(requests).unwrap_or(usize::MAX).min(self.own_max);
    }

    /// How many may be in flight.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// Whether another one may be issued: to be asked before its frame is accepted, under the same lock.
    ///
    /// # Errors
    ///
    /// [`RequestError::TooMany`].
    pub(crate) fn check_room(&self) -> Result<(), RequestError> {
        let in_flight = self.in_flight.len();
        if in_flight < self.max { Ok(()) } else { Err(RequestError::TooMany(in_flight)) }
    }

    /// Its frame was accepted with this number.
    pub(crate) fn issue(&mut self, id: RequestId, deadline: Instant) {
        self.in_flight.insert(id, deadline);
        self.deadlines.insert((deadline, id));
        if let Some(issued) = self.issued.get_mut(usize::from(id.0)) {
            *issued = id.1.max(*issued);
        }
    }

    /// What is left of its time, to be written at each submission; none: nobody waits for it, and the
    /// peer need not handle it.
    pub(crate) fn left(&self, id: RequestId, now: Instant) -> Option<Duration> {
        let deadline = self.in_flight.get(&id)?;
        let left = deadline.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// A reply came. `submitted` is the last number of the lane's flow that any connection had.
    ///
    /// # Errors
    ///
    /// [`RequestError::NeverAsked`]: the peer broke the protocol.
    pub(crate) fn replied(
        &mut self,
        id: RequestId,
        status: ReplyStatus,
        submitted: u64,
    ) -> Result<Reply, RequestError> {
        let (lane, number) = id;
        let issued = self.issued.get(usize::from(lane)).copied().unwrap_or(0);
        if number == 0 || number > issued.min(submitted) {
            return Err(RequestError::NeverAsked { lane, number });
        }
        if !self.forget(id) {
            return Ok(Reply::Late);
        }
        Ok(Reply::End(match status {
            ReplyStatus::Reply => RequestEnd::Reply,
            ReplyStatus::NoReply => RequestEnd::NoReply,
            ReplyStatus::Refused => RequestEnd::Refused,
            ReplyStatus::DeadlineExceeded => RequestEnd::DeadlineExceeded { may_have_run: false },
        }))
    }

    /// Nobody waits for it any more. If its frame was submitted, which `submitted` of its lane tells,
    /// the peer is told so (`Cancel`). None if it has ended.
    pub(crate) fn cancel(&mut self, id: RequestId, submitted: u64) -> Option<RequestEnd> {
        let may_have_run = id.1 <= submitted;
        self.forget(id).then_some(RequestEnd::Cancelled { may_have_run })
    }

    /// Ends those whose time is over. `submitted` tells of a lane the last number that any connection had.
    pub(crate) fn expire(
        &mut self,
        now: Instant,
        submitted: impl Fn(u8) -> u64,
    ) -> Vec<(RequestId, RequestEnd)> {
        let mut ended = Vec::new();
        while let Some((_, id)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            self.forget(id);
            let may_have_run = id.1 <= submitted(id.0);
            ended.push((id, RequestEnd::DeadlineExceeded { may_have_run }));
        }
        ended
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// The session is over. `fate` tells what became of a request's frame.
    pub(crate) fn end(&mut self, fate: impl Fn(RequestId) -> Fate) -> Vec<(RequestId, RequestEnd)> {
        self.deadlines.clear();
        let ended = std::mem::take(&mut self.in_flight).into_keys().map(|id| {
            let end = match fate(id) {
                Fate::NotSent => RequestEnd::NotSent,
                Fate::Delivered | Fate::MaybeSent => RequestEnd::SessionLost,
            };
            (id, end)
        });
        ended.collect()
    }

    /// How many wait for their end.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    fn forget(&mut self, id: RequestId) -> bool {
        let Some(deadline) = self.in_flight.remove(&id) else { return false };
        self.deadlines.remove(&(deadline, id));
        true
    }
}
