//! Looks whether the lanes move, while anything is on its way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{ConnectionCore, Deadline, Notice};
use crate::error::CloseCode;
use crate::lock::lock;
use crate::transport::clock;
use crate::transport::link::lanes::Lane;

/// Looks within the time that a lane may stand still.
const LOOKS: u32 = 4;

impl ConnectionCore {
    fn is_lane_busy(&self) -> bool {
        self.lanes.iter().any(|lane| lane.progress().busy)
    }

    /// A submission was handed over, or not taken. The owner is told once per watch.
    pub(super) fn lane_is_busy(&self) {
        if self.has_owner() && self.lane_watch.begin() {
            self.notify(Notice::Began(Deadline::Lanes));
        }
    }

    /// Ends the connection if a lane stands still for too long; otherwise tells when to look
    /// again, if anything is on its way.
    pub(super) fn check_lanes(self: &Arc<Self>) -> Option<Instant> {
        if !self.lane_watch.look(|| self.is_lane_busy()) {
            lock(&self.still).rest();
            return None;
        }
        let (now, limit) = (clock::now(), self.limits().lane_stall_time_max);
        if self.is_a_lane_still(now, limit) {
            self.cut(CloseCode::LANE_STALLED);
            return None;
        }
        // What the library did not take is nobody's to hand over.
        Lane::ALL.into_iter().for_each(|lane| self.pump(lane));
        Some(now + limit / LOOKS)
    }

    fn is_a_lane_still(&self, now: Instant, limit: Duration) -> bool {
        let lanes = Lane::ALL.map(|lane| self.lanes.get(lane).progress());
        lock(&self.still).look(lanes, now, limit)
    }
}
