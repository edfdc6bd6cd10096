//! Room in a lane: admission in bytes, in the order of asking.
//!
//! The limit moves: a lane begins with little, grows with what its peer acknowledges up to its
//! share of the node's budget, and falls back when it is idle and nobody had to wait; if somebody
//! had, it keeps its room until it is used again, when its share may be less. A frame that fits the
//! share and not the limit widens it at once. A frame beyond the share is admitted beside all that, one
//! at a time, out of room that the node's lanes have together.
//!
//! Invariants: permits in circulation and bytes admitted add up to the limit; the limit never
//! falls below the largest frame that waits, so that everybody who waits is admitted at last.

use std::sync::Arc;

use tokio::sync::{Notify, Semaphore, TryAcquireError};

use crate::transport::bounds::Share;

/// The answer to a request for admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::transport) enum Admission {
    /// So much is reserved.
    Granted(Cost),
    Full,
    Shut,
}

/// What is reserved, or used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) bytes: usize,
    /// Out of the node's room for large frames, not of the lane's.
    pub(in crate::transport) is_large: bool,
}

impl Cost {
    pub(in crate::transport) fn usual(bytes: usize) -> Self {
        Self { bytes, is_large: false }
    }

    /// Takes up to `bytes` out of it.
    pub(crate) fn split(&mut self, bytes: usize) -> Self {
        let taken = bytes.min(self.bytes);
        self.bytes -= taken;
        Self { bytes: taken, is_large: self.is_large }
    }
}

/// Room that the lanes of a node have together for frames beyond their shares.
pub(in crate::transport) type LargeSending = Arc<Semaphore>;

/// The permits of a lane. How many there are is decided under the lane's lock ([`Limit`]).
pub(super) struct Room {
    usual: Semaphore,
    /// One permit: a frame beyond the share is alone.
    large_turn: Semaphore,
    large: LargeSending,
    closed: Notify,
}

/// How many permits a room has, taken or free.
pub(super) struct Limit {
    now: usize,
    floor: usize,
    /// Somebody had to wait since the lane was idle.
    short: bool,
    /// Those who wait, and the most that one of them needs.
    waiting: (usize, usize),
    /// Bytes of the node's room that this lane has.
    large: usize,
    share: Share,
}

impl Room {
    pub(super) fn new(share: Share, large: LargeSending) -> (Self, Limit) {
        let floor = share.floor();
        let (usual, large_turn) = (Semaphore::new(floor), Semaphore::new(1));
        let room = Self { usual, large_turn, large, closed: Notify::new() };
        let limit = Limit { now: floor, floor, short: false, waiting: (0, 0), large: 0, share };
        (room, limit)
    }

    pub(super) fn try_take(&self, bytes: usize) -> Admission {
        match self.usual.try_acquire_many(permits(bytes)) {
            Ok(permit) => {
                permit.forget();
                Admission::Granted(Cost::usual(bytes))
            }
            Err(TryAcquireError::NoPermits) => Admission::Full,
            Err(TryAcquireError::Closed) => Admission::Shut,
        }
    }

    /// Cancel safe.
    pub(super) async fn take(&self, bytes: usize) -> Admission {
        match self.usual.acquire_many(permits(bytes)).await {
            Ok(permit) => {
                permit.forget();
                Admission::Granted(Cost::usual(bytes))
            }
            Err(_) => Admission::Shut,
        }
    }

    /// As [`Room::try_take`], beside the lane's own room. [`Limit::has_large`] must follow.
    pub(super) fn try_take_large(&self, bytes: usize) -> Admission {
        match self.large_turn.try_acquire() {
            Err(TryAcquireError::Closed) => Admission::Shut,
            Err(TryAcquireError::NoPermits) => Admission::Full,
            Ok(turn) => match self.large.try_acquire_many(permits(bytes)) {
                Ok(permit) => {
                    permit.forget();
                    turn.forget();
                    Admission::Granted(Cost { bytes, is_large: true })
                }
                Err(_) => Admission::Full,
            },
        }
    }

    /// As [`Room::take`], beside the lane's own room; `at_node` is called when it is the node's that is
    /// waited for. [`Limit::has_large`] must follow. Cancel safe.
    pub(super) async fn take_large(&self, bytes: usize, at_node: impl FnOnce()) -> Admission {
        let Ok(turn) = self.large_turn.acquire().await else { return Admission::Shut };
        let closed = self.closed.notified();
        tokio::pin!(closed);
        closed.as_mut().enable();
        if self.usual.is_closed() {
            return Admission::Shut;
        }
        at_node();
        tokio::select! {
            biased;
            () = closed => Admission::Shut,
            permit = self.large.acquire_many(permits(bytes)) => match permit {
                Ok(permit) => {
                    permit.forget();
                    turn.forget();
                    Admission::Granted(Cost { bytes, is_large: true })
                }
                Err(_) => Admission::Shut,
            },
        }
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.usual.add_permits(bytes);
    }

    /// Gives back what [`Limit::give_back_large`] allows.
    pub(super) fn give_back_large(&self, bytes: usize, is_last: bool) {
        self.large.add_permits(bytes);
        if is_last {
            self.large_turn.add_permits(1);
        }
    }

    pub(super) fn close(&self) {
        self.usual.close();
        self.large_turn.close();
        self.closed.notify_waiters();
    }

    /// Makes room for one frame that needs `bytes`; returns whether anything changed.
    pub(super) fn widen(&self, limit: &mut Limit, bytes: usize) -> bool {
        let more = bytes.saturating_sub(limit.now);
        limit.now += more;
        self.usual.add_permits(more);
        more > 0
    }

    /// Something is admitted: the lane takes part in the budget. What it kept of its room from a time
    /// when fewer did goes back to its share.
    pub(super) fn begin(&self, limit: &mut Limit) {
        if limit.share.set_busy(true) {
            let more = limit.now.saturating_sub(limit.target());
            limit.now -= self.usual.forget_permits(more);
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
        let least = limit.least();
        let less = freed.min(limit.now.saturating_sub(least));
        limit.now -= less;
        limit.now -= self.usual.forget_permits(limit.now.saturating_sub(least));
        freed - less
    }
}

/// Frames are far below 4 GiB.
fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

impl Limit {
    pub(super) fn now(&self) -> usize {
        self.now
    }

    /// Somebody has to wait for `bytes`.
    pub(super) fn wait(&mut self, bytes: usize) {
        self.short = true;
        self.waiting = (self.waiting.0 + 1, self.waiting.1.max(bytes));
    }

    /// Somebody waits no more.
    pub(super) fn waited(&mut self) {
        self.waiting.0 -= 1;
        if self.waiting.0 == 0 {
            self.waiting.1 = 0;
        }
    }

    /// Nothing is admitted: who holds nothing takes no part in the budget.
    pub(super) fn end(&mut self) {
        self.share.set_busy(false);
    }

    /// Whether `bytes` are to be admitted out of the lane's own room.
    pub(super) fn fits(&self, bytes: usize) -> bool {
        bytes <= self.target()
    }

    /// `bytes` of the node's room are this lane's.
    pub(super) fn has_large(&mut self, bytes: usize) {
        self.large += bytes;
    }

    /// `bytes` of the node's room are given back; whether they were the last.
    pub(super) fn give_back_large(&mut self, bytes: usize) -> bool {
        self.large -= bytes;
        self.large == 0
    }

    /// What a lane always has.
    fn least(&self) -> usize {
        self.floor.max(self.waiting.1)
    }

    /// What the lane may hold now.
    fn target(&self) -> usize {
        self.share.bytes().max(self.least())
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
    use super::*;
    use crate::transport::bounds::{Budget, FLOOR};

    fn take(room: &Room, bytes: usize) {
        assert_eq!(room.try_take(bytes), Admission::Granted(Cost::usual(bytes)));
    }

    fn room(share: Share) -> (Room, Limit) {
        Room::new(share, Arc::new(Semaphore::new(1 << 30)))
    }

    #[test]
    fn the_limit_grows_with_what_is_acknowledged_and_falls_back_at_rest() {
        let (room, mut limit) = room(Share::alone(4 * FLOOR));
        take(&room, FLOOR);
        assert_eq!(room.try_take(1), Admission::Full);
        room.give_back(limit.settle(FLOOR));
        assert_eq!(limit.now(), 2 * FLOOR);
        take(&room, 2 * FLOOR);
        room.give_back(limit.settle(2 * FLOOR));
        take(&room, 4 * FLOOR);
        limit.wait(1);
        limit.waited();
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
        let mut lanes: Vec<_> = (0..8).map(|_| room(Share::new(&budget, 4 * FLOOR))).collect();
        // One after the other each is alone, grows and falls idle as somebody waits.
        for (room, limit) in &mut lanes {
            room.begin(limit);
            for round in 0..2 {
                take(room, FLOOR << round);
                room.give_back(limit.settle(FLOOR << round));
            }
            limit.wait(1);
            limit.waited();
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
    fn a_frame_within_the_share_widens_the_room_until_the_lane_rests() {
        let (room, mut limit) = room(Share::alone(4 * FLOOR));
        assert_eq!(room.try_take(3 * FLOOR), Admission::Full);
        assert!(limit.fits(3 * FLOOR) && room.widen(&mut limit, 3 * FLOOR));
        take(&room, 3 * FLOOR);
        room.give_back(limit.settle(3 * FLOOR));
        assert_eq!(room.rest(&mut limit, 0), 0);
        assert_eq!(limit.now(), FLOOR);
        assert_eq!(room.try_take(3 * FLOOR), Admission::Full);
    }

    #[test]
    fn the_limit_stays_wide_for_whoever_waits_although_the_share_shrinks() {
        let budget = Arc::new(Budget::new(4 * FLOOR));
        let (room, mut limit) = room(Share::new(&budget, 4 * FLOOR));
        room.begin(&mut limit);
        take(&room, FLOOR);
        limit.wait(3 * FLOOR);
        room.widen(&mut limit, 3 * FLOOR);
        let mut others: Vec<Share> = (0..7).map(|_| Share::new(&budget, FLOOR)).collect();
        for share in &mut others {
            share.set_busy(true);
        }
        room.give_back(limit.settle(FLOOR));
        take(&room, 3 * FLOOR);
        limit.waited();
        room.give_back(limit.settle(3 * FLOOR));
        assert_eq!(limit.now(), FLOOR, "nobody waits any more");
    }

    #[test]
    fn frames_beyond_the_share_are_admitted_one_at_a_time_from_the_nodes_room() {
        let large = Arc::new(Semaphore::new(10 * FLOOR));
        let lanes = [1, 2].map(|_| Room::new(Share::alone(FLOOR), Arc::clone(&large)));
        let [(first, mut first_limit), (second, mut second_limit)] = lanes;
        assert!(!first_limit.fits(6 * FLOOR));
        let granted = first.try_take_large(6 * FLOOR);
        assert_eq!(granted, Admission::Granted(Cost { bytes: 6 * FLOOR, is_large: true }));
        first_limit.has_large(6 * FLOOR);
        assert_eq!(first.try_take_large(FLOOR), Admission::Full, "one at a time");
        take(&first, FLOOR);
        assert_eq!(second.try_take_large(6 * FLOOR), Admission::Full, "the node's room is taken");
        let is_last = first_limit.give_back_large(FLOOR);
        first.give_back_large(FLOOR, is_last);
        assert_eq!(first.try_take_large(FLOOR), Admission::Full, "some of it is still there");
        let is_last = first_limit.give_back_large(5 * FLOOR);
        first.give_back_large(5 * FLOOR, is_last);
        assert!(matches!(second.try_take_large(10 * FLOOR), Admission::Granted(_)));
        second_limit.has_large(10 * FLOOR);
    }
}
