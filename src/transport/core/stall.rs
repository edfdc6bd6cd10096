//! Whether the lanes move.
//!
//! Invariant: a lane ends its connection only if no frame of it, nor of a lane that goes before it,
//! met its end for the whole limit while it had some on their way.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{ConnectionCore, Notice};
use crate::error::CloseCode;
use crate::transport::lock;

/// Looks within the time that a lane may stand still.
const LOOKS: u32 = 4;

/// Since when each lane stands still, and how many of its frames had met their end then.
pub(super) type Still = [Option<(Instant, u64)>; 3];

impl ConnectionCore {
    pub(super) fn is_lane_busy(&self) -> bool {
        self.lanes.iter().any(|lane| lane.progress().0)
    }

    /// A submission was handed over. The owner is told once per watch.
    pub(super) fn lane_is_busy(&self) {
        if !self.lanes_watched.load(Ordering::Relaxed)
            && self.hook.get().is_some()
            && !self.lanes_watched.swap(true, Ordering::AcqRel)
        {
            self.notify(Notice::LaneBusy);
        }
    }

    /// Ends the connection if a lane stands still for too long; otherwise tells when to look
    /// again, if anything is on its way.
    pub(crate) fn check_lanes(&self) -> Option<Instant> {
        if !self.is_lane_busy() {
            // From here on the next submission is told again; one may have been made just now.
            self.lanes_watched.store(false, Ordering::Release);
            *lock(&self.still) = Still::default();
            if !self.is_lane_busy() {
                return None;
            }
        }
        let (now, limit) = (Instant::now(), self.limits().lane_stall_time_max);
        if self.is_a_lane_still(now, limit) {
            self.cut(CloseCode::LANE_STALLED);
            return None;
        }
        Some(now + limit / LOOKS)
    }

    fn is_a_lane_still(&self, now: Instant, limit: std::time::Duration) -> bool {
        let mut still = lock(&self.still);
        let (mut moved, mut stalled) = (false, false);
        for (lane, last) in self.lanes.iter().zip(still.iter_mut()) {
            let (busy, ended) = lane.progress();
            moved |= last.is_some_and(|(_, before)| before != ended);
            let since = last.filter(|_| busy && !moved).map_or(now, |(since, _)| since);
            stalled |= now.duration_since(since) >= limit;
            *last = Some((since, ended));
        }
        stalled
    }
}
