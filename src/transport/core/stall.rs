//! Looks whether the lanes move, while anything is on its way.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{ConnectionCore, Notice};
use crate::error::CloseCode;
use crate::lock::lock;
use crate::transport::clock;
use crate::transport::link::lanes::Lane;

/// Looks within the time that a lane may stand still.
const LOOKS: u32 = 4;

impl ConnectionCore {
    pub(super) fn is_lane_busy(&self) -> bool {
        self.lanes.iter().any(|lane| lane.progress().busy)
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
            lock(&self.still).rest();
            if !self.is_lane_busy() {
                return None;
            }
        }
        let (now, limit) = (clock::now(), self.limits().lane_stall_time_max);
        if self.is_a_lane_still(now, limit) {
            self.cut(CloseCode::LANE_STALLED);
            return None;
        }
        Some(now + limit / LOOKS)
    }

    fn is_a_lane_still(&self, now: Instant, limit: Duration) -> bool {
        let lanes = Lane::ALL.map(|lane| self.lanes.get(lane).progress());
        lock(&self.still).look(lanes, now, limit)
    }
}
