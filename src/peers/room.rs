//! What all sessions of a node may hold together: of frames on their way out, and of what came.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use crate::config::{FLOW_GRANT_MIN, Limits};
use crate::lock::lock;
use crate::session::frame_head::FRAME_HEAD_BYTES_MAX;
use crate::transport::link::share::{Budget, FLOW_KEPT_MIN, Share};
use crate::transport::session_streams::Paused;
use crate::transport::{Counts, Limit};

/// What flows out keep: of sessions with a connection, and of those without.
#[derive(Debug)]
pub(crate) struct Keeping {
    present: Arc<Budget>,
    absent: Arc<Budget>,
    /// What sessions kept when they lost their connections, of those that have none.
    carried: AtomicUsize,
}

impl Keeping {
    fn new(limits: &Limits) -> Self {
        Self {
            present: Arc::new(Budget::new(limits.sessions.kept_bytes_max)),
            absent: Arc::new(Budget::new(limits.sessions.absent_bytes_max)),
            carried: AtomicUsize::new(0),
        }
    }

    /// A part for one flow, of up to `bytes_max`: of those without a connection.
    pub(super) fn share(&self, bytes_max: usize) -> Share {
        Share::with_floor(&self.absent, FLOW_KEPT_MIN, bytes_max)
    }

    pub(super) fn budget(&self, present: bool) -> &Arc<Budget> {
        if present { &self.present } else { &self.absent }
    }

    /// A flow lost its connection, or has one again (or needs none): what it kept then counts no more
    /// as `before`, but as `after`. What is beyond the bound of those without a connection is lent by the
    /// others, so that there is no more of both together.
    pub(super) fn carry(&self, before: usize, after: usize) {
        self.carried.fetch_add(after, Ordering::AcqRel);
        let carried = self.carried.fetch_sub(before, Ordering::AcqRel) - before;
        self.present.lend(carried.saturating_sub(self.absent.bytes));
    }
}

/// What flows in may be granted beyond their first bytes.
#[derive(Debug)]
pub(crate) struct Grants {
    left: AtomicUsize,
}

/// What one flow is granted of it; comes back when this is dropped.
#[derive(Debug)]
pub(super) struct Grant {
    all: Arc<Received>,
    more: usize,
}

impl Grant {
    pub(super) fn first(all: &Arc<Received>) -> Self {
        Self { all: Arc::clone(all), more: 0 }
    }

    pub(super) fn bytes(&self) -> u64 {
        (FLOW_GRANT_MIN + self.more) as u64
    }

    /// As much again, up to the flow's bound, if the node has it left.
    pub(super) fn double(&mut self) {
        let now = FLOW_GRANT_MIN + self.more;
        let wanted = now.min(self.all.granted_bytes_max.saturating_sub(now));
        if wanted == 0 {
            return;
        }
        let take = |left: usize| left.checked_sub(wanted);
        let taken = self.all.grants.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, take);
        match taken {
            Ok(_) => {
                self.more += wanted;
                if now + wanted >= self.all.granted_bytes_max {
                    self.all.counts.reached(Limit::GrantedBytes);
                }
            }
            Err(_) => self.all.counts.reached(Limit::NodeGrantedBytes),
        }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.all.grants.left.fetch_add(self.more, Ordering::AcqRel);
    }
}

/// Room for frames that are larger than what their flows are granted.
struct LargeRoom(Mutex<Waiting>);

struct Waiting {
    left: usize,
    streams: Vec<Weak<dyn Paused>>,
}

/// The room of one frame; free when this is dropped.
pub(super) struct Large {
    all: Arc<Received>,
    replies: bool,
    bytes: usize,
}

impl Drop for Large {
    fn drop(&mut self) {
        let streams = {
            let mut waiting = lock(&self.all.large[usize::from(self.replies)].0);
            waiting.left += self.bytes;
            std::mem::take(&mut waiting.streams)
        };
        for stream in streams {
            if let Some(stream) = stream.upgrade() {
                stream.resume();
            }
        }
    }
}

/// What came and was not taken, of all sessions of a node.
pub(crate) struct Received {
    grants: Grants,
    granted_bytes_max: usize,
    /// Of messages, and of replies, which must not wait for who takes messages.
    large: [LargeRoom; 2],
    counts: Arc<Counts>,
}

impl Received {
    fn new(limits: &Limits, counts: &Arc<Counts>) -> Self {
        let largest = limits.frame_bytes_max.saturating_add(FRAME_HEAD_BYTES_MAX);
        let left = limits.sessions.large_bytes_max.max(largest);
        let large = || LargeRoom(Mutex::new(Waiting { left, streams: Vec::new() }));
        Self {
            grants: Grants { left: AtomicUsize::new(limits.sessions.node_granted_bytes_max) },
            granted_bytes_max: limits.sessions.granted_bytes_max,
            large: [large(), large()],
            counts: Arc::clone(counts),
        }
    }

    /// Room for a large frame; none: `stream` is resumed when there may be.
    pub(super) fn large(
        self: &Arc<Self>,
        replies: bool,
        bytes: usize,
        stream: &Arc<dyn Paused>,
    ) -> Option<Large> {
        let mut waiting = lock(&self.large[usize::from(replies)].0);
        if let Some(left) = waiting.left.checked_sub(bytes) {
            waiting.left = left;
            return Some(Large { all: Arc::clone(self), replies, bytes });
        }
        // Those of connections that are gone, so that there are no more than streams.
        waiting.streams.retain(|stream| stream.strong_count() > 0);
        let myself = Arc::downgrade(stream);
        if !waiting.streams.iter().any(|it| it.ptr_eq(&myself)) {
            waiting.streams.push(myself);
            self.counts.reached(Limit::LargeBytes);
        }
        None
    }
}

impl std::fmt::Debug for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Received")
    }
}

/// How many requests all sessions of a node have in flight one way.
#[derive(Debug)]
pub(crate) struct Places {
    max: usize,
    taken: AtomicUsize,
}

impl Places {
    fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, taken: AtomicUsize::new(0) })
    }

    fn are_taken(&self) -> bool {
        self.taken.load(Ordering::Acquire) >= self.max
    }
}

/// How many of them one session has; they come back when this is dropped.
#[derive(Debug)]
pub(super) struct PlacesTaken {
    all: Arc<Places>,
    own: usize,
}

impl PlacesTaken {
    pub(super) fn none(all: &Arc<Places>) -> Self {
        Self { all: Arc::clone(all), own: 0 }
    }

    /// The session has so many from here on.
    pub(super) fn are(&mut self, own: usize) {
        let before = std::mem::replace(&mut self.own, own);
        if own > before {
            self.all.taken.fetch_add(own - before, Ordering::AcqRel);
        } else {
            self.all.taken.fetch_sub(before - own, Ordering::AcqRel);
        }
    }

    pub(super) fn are_all_taken(&self) -> bool {
        self.all.are_taken()
    }
}

impl Drop for PlacesTaken {
    fn drop(&mut self) {
        self.are(0);
    }
}

/// What each session may keep and take, and what all may together.
#[derive(Debug, Clone)]
pub(crate) struct PeerBounds {
    /// Bytes that one flow keeps at most, accepted and not taken; one larger frame beside that.
    pub(super) flow_bytes_max: usize,
    pub(super) frame_bytes_max: usize,
    pub(super) requests_max: usize,
    pub(super) early_cancels_max: usize,
    /// Of this side's requests, and of the peers'.
    pub(super) asking: Arc<Places>,
    pub(super) handling: Arc<Places>,
    pub(super) keeping: Arc<Keeping>,
    received: Arc<Received>,
    pub(super) counts: Arc<Counts>,
}

impl PeerBounds {
    pub(super) fn received(&self) -> &Arc<Received> {
        &self.received
    }

    pub(crate) fn new(limits: &Limits, counts: &Arc<Counts>) -> Self {
        Self {
            flow_bytes_max: limits.sessions.flow_bytes_max,
            frame_bytes_max: limits.frame_bytes_max,
            requests_max: limits.sessions.requests_max,
            early_cancels_max: limits.sessions.early_cancels_max,
            asking: Places::new(limits.sessions.node_requests_max),
            handling: Places::new(limits.sessions.node_requests_max),
            keeping: Arc::new(Keeping::new(limits)),
            received: Arc::new(Received::new(limits, counts)),
            counts: Arc::clone(counts),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::out_flow::OutFlow;
    use crate::session::flow::FlowState;

    const FRAME: usize = 1_000;

    fn fill(flow: &OutFlow) -> usize {
        (0..).take_while(|_| flow.try_admit(FRAME).is_ok()).count() * FRAME
    }

    fn limits() -> Limits {
        let mut limits = Limits::default();
        limits.sessions.flow_bytes_max = 100 * FRAME;
        limits.sessions.kept_bytes_max = 100 * FRAME;
        limits.sessions.absent_bytes_max = 50 * FRAME;
        limits
    }

    #[test]
    fn the_absent_do_not_take_the_room_of_those_that_have_a_connection() {
        let keeping = Arc::new(Keeping::new(&limits()));
        let flows = [(); 3].map(|()| OutFlow::new(&keeping, 100 * FRAME));
        let state = FlowState { received: 0, taken: 0, credit: 0 };
        assert_eq!(fill(&flows[0]), 50 * FRAME, "it never had a connection");
        flows[1].attach(1, state).expect("nothing was sent");
        assert_eq!(fill(&flows[1]), 100 * FRAME, "all of what those that have one may keep");
        assert_eq!(fill(&flows[0]), 0);
        // What it carries is over the bound of the absent, and counts for the others until it went.
        flows[1].detach();
        flows[2].attach(1, state).expect("nothing was sent");
        assert_eq!(fill(&flows[2]), 50 * FRAME);
        flows[1].attach(2, state).expect("nothing was sent");
        assert_eq!(fill(&flows[2]), 50 * FRAME, "the other one has a connection again");
    }

    #[test]
    fn grants_double_up_to_a_flows_bound_and_the_nodes_and_come_back() {
        let mut limits = Limits::default();
        limits.sessions.granted_bytes_max = 5 * FLOW_GRANT_MIN;
        limits.sessions.node_granted_bytes_max = 6 * FLOW_GRANT_MIN;
        let counts = Arc::default();
        let received = Arc::new(Received::new(&limits, &counts));
        let mut grants = [(); 2].map(|()| Grant::first(&received));
        let units = |grant: &Grant| grant.bytes() / FLOW_GRANT_MIN as u64;
        let mut steps = Vec::new();
        for _ in 0..4 {
            grants[0].double();
            steps.push(units(&grants[0]));
        }
        assert_eq!(steps, [2, 4, 5, 5]);
        (0..3).for_each(|_| grants[1].double());
        assert_eq!(units(&grants[1]), 2, "the node has one left, and that would be two");
        let [first, mut second] = grants;
        drop(first);
        (0..3).for_each(|_| second.double());
        assert_eq!(units(&second), 5);
        let limits = counts.stats().limits;
        assert_eq!((limits.granted_bytes_max, limits.node_granted_bytes_max), (2, 2));
    }
}
