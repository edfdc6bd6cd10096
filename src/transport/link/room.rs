//! Room in a lane: admission in bytes, in the order of asking.
//!
//! The size moves: a lane begins with little, grows with what its peer acknowledges up to its
//! share of the node's budget, and falls back when it is idle and nobody had to wait; if somebody
//! had, it keeps its room until it is used again, when its share may be less. A frame that fits the
//! share and not the room widens it at once.
//!
//! Invariant: the room is never smaller than the largest frame that waits, so that everybody who
//! waits is admitted at last.

use std::sync::Arc;

use super::fair::{FairRoom, Granted, Ticket, Turn};
use super::share::{Budget, Share};
use crate::marks::mark;
use crate::never::never;

/// What is reserved, or used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) bytes: usize,
    /// Out of the node's room for large frames, not of the lane's.
    pub(in crate::transport) is_large: bool,
}

impl Cost {
    pub(crate) fn usual(bytes: usize) -> Self {
        Self { bytes, is_large: false }
    }

    /// Takes up to `bytes` out of it.
    pub(crate) fn split(&mut self, bytes: usize) -> Self {
        let taken = bytes.min(self.bytes);
        self.bytes -= taken;
        Self { bytes: taken, is_large: self.is_large }
    }
}

/// Why there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::transport) enum Short {
    /// The own bound is used up.
    Bound,
    /// The share of the node's budget is, which is less.
    Share,
    /// The node's room for large frames is.
    Beside,
}

/// See the module.
pub(crate) struct Room<W> {
    fair: FairRoom<W>,
    floor: usize,
    share: Share,
    /// All of the share is there from the beginning.
    is_wide: bool,
    /// Somebody had to wait since the lane was idle.
    short: bool,
    /// The most that one of those who wait needs.
    largest: usize,
    /// What is to be given back, in larger steps so that waiting senders wake seldom.
    freed: usize,
}

impl<W> Room<W> {
    pub(crate) fn new(share: Share) -> Self {
        let floor = share.floor();
        let fair = FairRoom::new(floor);
        Self { fair, floor, share, is_wide: false, short: false, largest: 0, freed: 0 }
    }

    /// Has all of its share from the beginning: where what is in it waits for more than the path.
    pub(crate) fn wide(share: Share) -> Self {
        Self { is_wide: true, ..Self::new(share) }
    }

    /// What is taken.
    pub(crate) fn used(&self) -> usize {
        self.fair.used()
    }

    /// Takes part in another budget from here on: somebody may have room by that.
    pub(crate) fn move_to(&mut self, budget: &Arc<Budget>) -> Granted<W> {
        self.share.move_to(budget);
        self.settle()
    }

    /// Whether others keep it below its own bound.
    pub(crate) fn is_reduced(&self) -> bool {
        self.share.is_reduced()
    }

    /// Whether `bytes` are to be had here, and not beside it.
    pub(crate) fn fits(&self, bytes: usize) -> bool {
        bytes <= self.target()
    }

    /// Why there is nothing left.
    pub(in crate::transport) fn short(&self) -> Short {
        if self.share.is_reduced() { Short::Share } else { Short::Bound }
    }

    /// Takes `bytes` without waiting.
    #[inline]
    pub(crate) fn try_take(&mut self, bytes: usize) -> bool {
        self.fair.try_take(bytes) || self.try_take_wider(bytes)
    }

    /// As [`Room::try_take`] where the room as it is has not enough.
    fn try_take_wider(&mut self, bytes: usize) -> bool {
        if self.is_wide && !self.fair.is_waited_for() {
            let nobody = self.fair.change(0, self.target().max(bytes.min(self.share.bytes_max())));
            return nobody.is_empty() && self.fair.try_take(bytes);
        }
        let may_widen = !self.fair.is_waited_for() && bytes > self.fair.size() && self.fits(bytes);
        let widened = may_widen && self.widen(bytes).is_empty() && self.fair.try_take(bytes);
        if widened {
            mark!("the room is widened for one frame");
        }
        widened
    }

    /// `waiter` waits for `bytes`, unless they are there. Others may have room by what it needs.
    pub(crate) fn take(&mut self, bytes: usize, waiter: W) -> (Result<(), Ticket>, Granted<W>) {
        if self.try_take(bytes) {
            return (Ok(()), Vec::new());
        }
        self.short = true;
        self.largest = self.largest.max(bytes);
        let ticket = self.fair.wait(bytes, waiter);
        // It may be served by that itself, behind those before it.
        let granted = self.widen(bytes);
        debug_assert!(self.is_enough());
        (Err(ticket), granted)
    }

    pub(crate) fn turn(&self, ticket: Ticket) -> Turn {
        self.fair.turn(ticket)
    }

    pub(crate) fn renew(&mut self, ticket: Ticket, waiter: W) {
        self.fair.renew(ticket, waiter);
    }

    /// The asker goes: `bytes` come back if it had them.
    pub(crate) fn forget(&mut self, ticket: Ticket, bytes: usize) -> Granted<W> {
        let granted = match self.fair.turn(ticket) {
            Turn::Waiting | Turn::Shut => self.fair.forget(ticket),
            Turn::Granted => self.fair.give_back(bytes),
        };
        self.nobody_may_wait();
        debug_assert!(self.is_enough());
        granted
    }

    /// Gives back what was not used.
    pub(crate) fn give_back(&mut self, bytes: usize) -> Granted<W> {
        never!(
            bytes + self.freed > self.fair.used(),
            "{} bytes come back, {} were freed, {} are used",
            bytes,
            self.freed,
            self.fair.used()
        );
        let granted = self.fair.give_back(bytes);
        self.nobody_may_wait();
        debug_assert!(self.is_enough());
        granted
    }

    /// Something is admitted: the lane takes part in the budget. What it kept of its room from a time
    /// when fewer did goes back to its share.
    #[inline]
    pub(crate) fn begin(&mut self) {
        if self.share.set_busy(true) {
            let size = self.fair.size().min(self.target());
            let nobody = self.fair.change(0, size);
            never!(!nobody.is_empty(), "{} are served by a smaller room", nobody.len());
        }
    }

    /// Nothing is admitted: who holds nothing takes no part in the budget.
    pub(crate) fn end(&mut self) {
        self.share.set_busy(false);
    }

    /// `bytes` were acknowledged or lost. `at_rest`: nothing else is on its way.
    pub(crate) fn free(&mut self, bytes: usize, at_rest: bool) -> Granted<W> {
        self.freed += bytes;
        let used = self.fair.used();
        if never!(self.freed > used, "{} bytes were freed of {}", self.freed, used) {
            self.freed = used;
        }
        if at_rest {
            return self.rest();
        }
        if self.fair.is_waited_for() && self.freed < self.fair.size() / 8 {
            mark!("what is freed is gathered before anybody is woken");
            return Vec::new();
        }
        self.settle()
    }

    pub(crate) fn shut(&mut self) -> Vec<W> {
        self.fair.shut()
    }

    /// The room goes back to its least, unless it was too small. (A burst that filled it and was
    /// acknowledged as a whole leaves the lane idle as well, for a moment.)
    fn rest(&mut self) -> Granted<W> {
        self.end();
        if std::mem::take(&mut self.short) || self.fair.is_waited_for() {
            mark!("a lane at rest keeps the room that was too small");
            return self.settle();
        }
        let freed = std::mem::take(&mut self.freed);
        self.fair.change(freed, self.least())
    }

    /// What was freed comes back, and the size moves by as much towards the share.
    fn settle(&mut self) -> Granted<W> {
        let freed = std::mem::take(&mut self.freed);
        let (size, target) = (self.fair.size(), self.target());
        let size = if self.is_wide {
            target
        } else if size > target {
            size - freed.min(size - target)
        } else {
            size + freed.min(target - size)
        };
        let granted = self.fair.change(freed, size);
        self.nobody_may_wait();
        debug_assert!(self.is_enough());
        granted
    }

    /// Makes room for one frame that needs `bytes`.
    fn widen(&mut self, bytes: usize) -> Granted<W> {
        self.fair.change(0, self.fair.size().max(bytes))
    }

    /// Whoever waits is admitted at last.
    fn is_enough(&self) -> bool {
        !self.fair.is_waited_for() || self.fair.size() >= self.largest
    }

    fn nobody_may_wait(&mut self) {
        if !self.fair.is_waited_for() {
            self.largest = 0;
        }
    }

    /// What a lane always has.
    fn least(&self) -> usize {
        self.floor.max(self.largest)
    }

    /// What the lane may hold now.
    fn target(&self) -> usize {
        self.share.bytes().max(self.least())
    }
}

#[cfg(test)]
mod tests {
    use super::super::share::FLOOR;
    use super::*;
    use crate::marks::covers;

    fn take(room: &mut Room<u8>, bytes: usize) {
        assert!(room.try_take(bytes), "{bytes} of {}", room.fair.size());
    }

    fn waits(room: &mut Room<u8>, bytes: usize) -> Ticket {
        let (taken, granted) = room.take(bytes, 0);
        assert_eq!(granted, []);
        taken.expect_err("it waits")
    }

    #[test]
    fn the_room_grows_with_what_is_acknowledged_and_falls_back_at_rest() {
        covers!("a lane at rest keeps the room that was too small");
        let mut room = Room::new(Share::alone(4 * FLOOR));
        take(&mut room, FLOOR);
        assert!(!room.try_take(1));
        assert_eq!(room.free(FLOOR, false), []);
        assert_eq!(room.fair.size(), 2 * FLOOR);
        take(&mut room, 2 * FLOOR);
        assert_eq!(room.free(2 * FLOOR, false), []);
        take(&mut room, 4 * FLOOR);
        let ticket = waits(&mut room, 1);
        assert_eq!(room.forget(ticket, 1), []);
        assert_eq!(room.free(4 * FLOOR, true), []);
        assert_eq!(room.fair.size(), 4 * FLOOR, "it was used up; never beyond the bound");
        take(&mut room, FLOOR);
        assert_eq!(room.free(FLOOR, true), []);
        assert_eq!(room.fair.size(), FLOOR);
        take(&mut room, FLOOR);
        assert!(!room.try_take(1));
    }

    #[test]
    fn room_that_was_kept_goes_back_when_many_begin() {
        let budget = Arc::new(Budget::new(8 * FLOOR));
        let mut lanes: Vec<Room<u8>> =
            (0..8).map(|_| Room::new(Share::new(&budget, 4 * FLOOR))).collect();
        // One after the other each is alone, grows and falls idle as somebody waits.
        for room in &mut lanes {
            room.begin();
            for round in 0..2 {
                take(room, FLOOR << round);
                assert_eq!(room.free(FLOOR << round, false), []);
            }
            take(room, 4 * FLOOR);
            let ticket = waits(room, 1);
            assert_eq!(room.forget(ticket, 1), []);
            assert_eq!(room.free(4 * FLOOR, true), []);
            assert_eq!(room.fair.size(), 4 * FLOOR);
        }
        lanes.iter_mut().for_each(Room::begin);
        let held = lanes.iter().map(|room| room.fair.size()).collect::<Vec<_>>();
        let expected = [4.0, 4.0, 8.0 / 3.0, 2.0, 1.6, 8.0 / 6.0, 8.0 / 7.0, 1.0];
        assert_eq!(held, expected.map(|share| (share * FLOOR as f64) as usize));
        take(&mut lanes[7], FLOOR);
        assert!(!lanes[7].try_take(1));
    }

    #[test]
    fn a_frame_within_the_share_widens_the_room_until_the_lane_rests() {
        covers!("the room is widened for one frame");
        let mut room = Room::<u8>::new(Share::alone(4 * FLOOR));
        take(&mut room, 3 * FLOOR);
        assert_eq!(room.free(3 * FLOOR, true), []);
        assert_eq!(room.fair.size(), FLOOR);
        take(&mut room, 1);
        assert!(!room.try_take(3 * FLOOR), "what is used comes beside it");
        assert!(!room.try_take(5 * FLOOR), "beyond the share");
    }

    #[test]
    fn the_room_stays_wide_for_whoever_waits_although_the_share_shrinks() {
        let budget = Arc::new(Budget::new(4 * FLOOR));
        let mut room = Room::new(Share::new(&budget, 4 * FLOOR));
        room.begin();
        take(&mut room, FLOOR);
        let ticket = waits(&mut room, 3 * FLOOR);
        let mut others: Vec<Share> = (0..7).map(|_| Share::new(&budget, FLOOR)).collect();
        for share in &mut others {
            share.set_busy(true);
        }
        assert_eq!(room.free(FLOOR, false).len(), 1);
        assert_eq!(room.turn(ticket), Turn::Granted);
        assert_eq!(room.free(3 * FLOOR, false), []);
        assert_eq!(room.fair.size(), FLOOR, "nobody waits any more");
    }

    #[test]
    fn a_wide_room_has_all_of_its_share_and_gives_up_what_is_no_longer_of_it() {
        let budget = Arc::new(Budget::new(8 * FLOOR));
        let mut room = Room::wide(Share::new(&budget, 4 * FLOOR));
        take(&mut room, 3 * FLOOR);
        take(&mut room, FLOOR);
        assert!(!room.try_take(1));
        let ticket = waits(&mut room, FLOOR);
        let mut others: Vec<Share> = (0..4).map(|_| Share::new(&budget, 4 * FLOOR)).collect();
        for share in &mut others {
            share.set_busy(true);
        }
        assert_eq!(room.free(FLOOR, false), [], "two shares are all that it may have now");
        assert_eq!(room.free(2 * FLOOR, false).len(), 1);
        assert_eq!(room.turn(ticket), Turn::Granted);
    }

    #[test]
    fn those_who_wait_are_woken_in_larger_steps_and_the_last_time_in_any_case() {
        covers!("what is freed is gathered before anybody is woken");
        let mut room = Room::new(Share::alone(FLOOR));
        take(&mut room, FLOOR);
        let ticket = waits(&mut room, 10);
        assert_eq!(room.free(100, false), [], "an eighth of the room at a time");
        assert_eq!(room.free(FLOOR / 8, false).len(), 1);
        assert_eq!(room.turn(ticket), Turn::Granted);
        let ticket = waits(&mut room, FLOOR);
        assert_eq!(room.free(FLOOR - 100 - FLOOR / 8 + 10, true).len(), 1);
        assert_eq!(room.forget(ticket, FLOOR), []);
        assert_eq!(room.fair.used(), 0);
    }
}
