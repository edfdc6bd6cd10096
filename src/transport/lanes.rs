//! The sending halves of a connection, one a lane.

use std::sync::Arc;

use super::bounds::Bounds;
use super::guarded::Alarm;
use super::lane::SendLane;
use super::link::lanes::Lane;
use super::link::share::Share;

/// The lanes of one connection.
pub(super) struct Lanes<S>([SendLane<S>; 3]);

impl<S: Clone> Lanes<S> {
    pub(super) fn new(bounds: &Bounds, alarm: &Arc<Alarm>) -> Self {
        let limits = &bounds.limits;
        Self(Lane::ALL.map(|lane| {
            let share = match lane {
                Lane::Control => Share::alone(limits.control_lane_bytes_max),
                Lane::Data | Lane::Bulk => Share::new(&bounds.sending, limits.lane_bytes_max),
            };
            SendLane::new(share, Arc::clone(&bounds.large_sending), alarm)
        }))
    }

    pub(super) fn get(&self, lane: Lane) -> &SendLane<S> {
        &self.0[lane as usize]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &SendLane<S>> {
        self.0.iter()
    }
}
