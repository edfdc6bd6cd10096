//! Room in a lane: admission in bytes, in the order of asking.
//!
//! The limit moves: a lane begins with little, grows with what its peer acknowledges up to its
//! share of the node's budget, and falls back when it is idle and nobody had to wait; if somebody
//! had, it keeps its room until it is used again, when its share may be less. A large frame widens it
//! at once.
//!
//! Invariants: permits in circulation and bytes admitted add up to the limit; the limit never
//! falls below the largest frame that waited, so that everybody who waits is admitted at last.

use tokio::sync::{Semaphore, TryAcquireError};

use crate::transport::bounds::Share;

/// The answer to a request for admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::transport) enum Admission {
    /// So many bytes are reserved.
    Granted(usize),
    Full,
    Shut,
}

/// The permits of a lane. How many there are is decided under the lane's lock ([`Limit`]).
pub(super) struct Room(Semaphore);

/// How many permits a room has, taken or free.
pub(super) struct Limit {
    now: usize,
    floor: usize,
    /// Somebody had to wait since the lane was idle.
    short: bool,
    share: Share,
}

impl Room {
    pub(super) fn new(share: Share) -> (Self, Limit) {
        let floor = share.floor();
        (Self(Semaphore::new(floor)), Limit { now: floor, floor, short: false, share })
    }

    pub(super) fn try_take(&self, bytes: usize) -> Admission {
        match self.0.try_acquire_many(u32::try_from(bytes).unwrap_or(u32::MAX)) {
            Ok(permit) => {
                permit.forget();
                Admission::Granted(bytes)
            }
            Err(TryAcquireError::NoPermits) => Admission::Full,
            Err(TryAcquireError::Closed) => Admission::Shut,
        }
    }

    /// Cancel safe.
    pub(super) async fn take(&self, bytes: usize) -> Admission {
        match self.0.acquire_many(u32::try_from(bytes).unwrap_or(u32::MAX)).await {
            Ok(permit) => {
                permit.forget();
                Admission::Granted(bytes)
            }
            Err(_) => Admission::Shut,
        }
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.0.add_permits(bytes);
    }

    pub(super) fn close(&self) {
        self.0.close();
    }

    /// Makes room for one frame that needs `bytes`; returns whether anything changed.
    pub(super) fn widen(&self, limit: &mut Limit, bytes: usize) -> bool {
        limit.floor = limit.floor.max(bytes);
        let more = limit.floor.saturating_sub(limit.now);
        limit.now += more;
        self.0.add_permits(more);
        more > 0
    }

    /// Something is admitted: the lane takes part in the budget. What it kept of its room from a time
    /// when fewer did goes back to its share.
    pub(super) fn begin(&self, limit: &mut Limit) {
        if limit.share.set_busy(true) {
            let more = limit.now.saturating_sub(limit.target());
            limit.now -= self.0.forget_permits(more);
        }
    }

    /// Nothing is admitted any more but `freed` bytes, which are to be given back: fewer, so that
    /// the limit is at its least again, unless the room was too small. (A burst that filled it and
    /// was acknowledged as a whole leaves the lane idle as well, for a moment.)
    pub(super) fn rest(&self, limit: &mut Limit, freed: usize) -> usize {
        limit.end();
        if std::mem::take(&mut limit.short) {
            return limit.settle(freed);
        }
        let less = freed.min(limit.now - limit.floor);
        limit.now -= less;
        limit.now -= self.0.forget_permits(limit.now - limit.floor);
        freed - less
    }
}

impl Limit {
    pub(super) fn now(&self) -> usize {
        self.now
    }

    /// Somebody has to wait.
    pub(super) fn was_short(&mut self) {
        self.short = true;
    }

    /// Nothing is admitted: who holds nothing takes no part in the budget.
    pub(super) fn end(&mut self) {
        self.share.set_busy(false);
    }

    /// What the lane may hold now.
    fn target(&self) -> usize {
        self.share.bytes().max(self.floor)
    }

    /// `freed` bytes were acknowledged or lost: how many permits to give back, so that the limit
    /// moves towards the share.
    pub(super) fn settle(&mut self, freed: usize) -> usize {
        let target = self.target();
        if self.now > target {
            let less = freed.min(self.now - target);
            self.now -= less;
            freed - less
        } else {
            let more = freed.min(target - self.now);
            self.now += more;
            freed + more
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::transport::bounds::{Budget, FLOOR};

    fn take(room: &Room, bytes: usize) {
        assert_eq!(room.try_take(bytes), Admission::Granted(bytes));
    }

    #[test]
    fn the_limit_grows_with_what_is_acknowledged_and_falls_back_at_rest() {
        let (room, mut limit) = Room::new(Share::alone(4 * FLOOR));
        take(&room, FLOOR);
        assert_eq!(room.try_take(1), Admission::Full);
        room.give_back(limit.settle(FLOOR));
        assert_eq!(limit.now(), 2 * FLOOR);
        take(&room, 2 * FLOOR);
        room.give_back(limit.settle(2 * FLOOR));
        take(&room, 4 * FLOOR);
        limit.was_short();
        room.give_back(room.rest(&mut limit, 4 * FLOOR));
        assert_eq!(limit.now(), 4 * FLOOR, "it was used up; never beyond the bound");
        take(&room, FLOOR);
        room.give_back(room.rest(&mut limit, FLOOR));
        assert_eq!(limit.now(), FLOOR);
        take(&room, FLOOR);
        assert_eq!(room.try_take(1), Admission::Full);
    }

    #[test]
    fn room_that_was_kept_goes_back_when_many_begin() {
        let budget = Arc::new(Budget::new(8 * FLOOR));
        let mut lanes: Vec<_> = (0..8).map(|_| Room::new(Share::new(&budget, 4 * FLOOR))).collect();
        // One after the other each is alone, grows and falls idle as somebody waits.
        for (room, limit) in &mut lanes {
            room.begin(limit);
            for round in 0..2 {
                take(room, FLOOR << round);
                room.give_back(limit.settle(FLOOR << round));
            }
            limit.was_short();
            assert_eq!(room.rest(limit, 0), 0);
            assert_eq!(limit.now(), 4 * FLOOR);
        }
        for (room, limit) in &mut lanes {
            room.begin(limit);
        }
        let held = lanes.iter().map(|(_, limit)| limit.now()).collect::<Vec<_>>();
        let expected = [4.0, 4.0, 8.0 / 3.0, 2.0, 1.6, 8.0 / 6.0, 8.0 / 7.0, 1.0];
        assert_eq!(held, expected.map(|share| (share * FLOOR as f64) as usize));
        let (room, _) = &lanes[7];
        take(room, FLOOR);
        assert_eq!(room.try_take(1), Admission::Full);
    }

    #[test]
    fn a_large_frame_widens_the_room_for_good() {
        let (room, mut limit) = Room::new(Share::alone(4 * FLOOR));
        assert_eq!(room.try_take(3 * FLOOR), Admission::Full);
        assert!(room.widen(&mut limit, 3 * FLOOR));
        take(&room, 3 * FLOOR);
        room.give_back(limit.settle(3 * FLOOR));
        assert_eq!(room.rest(&mut limit, 0), 0);
        assert_eq!(limit.now(), 3 * FLOOR);
        take(&room, 3 * FLOOR);
    }
}
