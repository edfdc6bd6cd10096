//! The bounds: how much each stream may bring, and who goes on when there is room again.

use std::collections::{BTreeMap, VecDeque};

use super::queue::GUARANTEED_PART;
use super::reading::cost_of;
use super::{Beyond, Effects, HEADER_BYTES, Inbound, Mark, Position, Queue, StreamId, lookup};
use crate::marks::mark;
use crate::never::{never, take_off};
use crate::transport::fault::{Fault, planted};

impl<S: Clone> Inbound<S> {
    pub(super) fn total(&self) -> usize {
        self.queued + self.lent + self.held
    }

    /// What one stream may hold: a flood on one leaves room for the others, if there are any.
    pub(super) fn share_of_one(&self) -> usize {
        let share = self.share.bytes();
        if self.open > 1 { share / (self.busy.max(1) + 1) } else { share }
    }

    /// What every stream may hold, whatever the others do.
    pub(super) fn guaranteed(&self) -> usize {
        if planted(Fault::OneQueueForAll) {
            return 0;
        }
        (self.share.bytes() / GUARANTEED_PART).max(HEADER_BYTES)
    }

    /// How many more bytes the stream may take over, within the share.
    pub(super) fn room(&self, queue: &Queue<S>) -> usize {
        let (share, total) = (self.share.bytes(), self.total());
        let own = self.share_of_one().saturating_sub(queue.cost());
        let guaranteed = self.guaranteed();
        // What streams that ended have left behind is bounded too, unless a reader waits for this one.
        let all = if self.is_wanted(queue) { usize::MAX } else { share + self.open * guaranteed };
        let reserved = guaranteed.saturating_sub(queue.cost()).min(all.saturating_sub(total));
        share.saturating_sub(total).min(own).max(reserved)
    }

    /// A reader waits for what this stream brings.
    pub(super) fn is_wanted(&self, queue: &Queue<S>) -> bool {
        queue.hungry
            || self.hungry.lanes[queue.lane as usize]
            || (self.hungry.all && self.queued == 0)
    }

    pub(super) fn is_owner(&self, queue: &Queue<S>) -> bool {
        matches!(self.beyond, Beyond::Owner(id) if id.serial == queue.serial)
    }

    /// What follows from any change: streams that may go on, room to ask for or to give back, a frame
    /// to watch, the end of all.
    pub(super) fn settle(&mut self, effects: &mut Effects<S>) {
        self.share.set_busy(self.total() > 0);
        if !self.paused.is_empty() {
            self.open_up(effects);
        }
        // Also while more is asked for: it may be just this that is waited for.
        let kept = planted(Fault::RoomIsKept) && self.beyond != Beyond::Nobody;
        if self.extra > 0 && !matches!(self.beyond, Beyond::Owner(_)) && !kept {
            let unused = self.extra.saturating_sub(self.excess());
            if unused > 0 && matches!(self.beyond, Beyond::Asked(_)) {
                mark!("room beside the share goes back while more is asked for");
            }
            self.extra -= unused;
            effects.give_back += unused;
        }
        if self.unfinished > 0 && self.watch.begin() {
            effects.watch = true;
        }
        if self.finished && !self.end_taken && self.is_end_reached() {
            self.end_taken = true;
            effects.end_taken = true;
        }
        debug_assert!(self.adds_up());
    }

    /// Resumes streams for which there is room again. If there is none although a reader waits, one
    /// frame may pass the share.
    fn open_up(&mut self, effects: &mut Effects<S>) {
        let (half, guaranteed) = (self.share_of_one() / 2, self.guaranteed());
        let mut still = VecDeque::with_capacity(self.paused.len());
        while let Some(id) = self.paused.pop_front() {
            let Some(queue) = self.queue(id) else {
                never!("a stream is paused that is not there");
                continue;
            };
            // Not for a few bytes each time a small frame was taken.
            let enough = match queue.rest() {
                0 if queue.queued == 0 => half.min(guaranteed / 2),
                0 => half,
                rest => half.min(rest),
            };
            if self.room(queue) >= enough.max(1) || self.may_pass(id, effects) {
                self.resume(id, effects);
            } else {
                still.push_back(id);
            }
        }
        self.paused = still;
    }

    /// Whether the frame of this stream may pass the share: a reader waits for it and nothing stands
    /// before it.
    fn may_pass(&mut self, id: StreamId, effects: &mut Effects<S>) -> bool {
        let Some(queue) = self.queue(id) else {
            never!("a stream is paused that is not there");
            return false;
        };
        let Position::InBody { .. } = queue.position else {
            return queue.rest() > 0;
        };
        let rest = queue.rest();
        let refused = planted(Fault::OneQueueForAll) && self.open > 1;
        if refused || self.beyond != Beyond::Nobody || !self.is_wanted(queue) || queue.queued > 0 {
            return false;
        }
        let free = self.extra.saturating_sub(self.excess());
        if free >= rest {
            mark!("a frame passes the share");
            self.beyond = Beyond::Owner(id);
            return true;
        }
        // All of it at once: who waits for some of the room holds none of it in vain.
        self.extra -= free;
        effects.give_back += free;
        self.beyond = Beyond::Asked(rest);
        effects.ask = Some(rest);
        false
    }

    fn resume(&mut self, id: StreamId, effects: &mut Effects<S>) {
        let Some(queue) = lookup(&mut self.queues, id) else {
            never!("a stream goes on that is not there");
            return;
        };
        let mark = queue.mark();
        never!(!queue.paused, "a stream goes on that is not paused");
        queue.paused = false;
        effects.resume.extend(queue.stream.clone());
        self.account(id, mark);
        mark!("a deadline begins anew behind a pause");
        // Its sender learns only then that it may go on.
        if !planted(Fault::DeadlineOutlivesPause) {
            self.patience.rest();
        }
    }

    /// Bytes that are only there because of the node's room: beyond the share, and beyond what every
    /// stream may hold in any case. (Room that was kept for those could be just what is asked for.)
    pub(super) fn excess(&self) -> usize {
        self.total().saturating_sub(self.share.bytes() + self.open * self.guaranteed())
    }

    /// Brings the sums up to date behind a change of one queue.
    pub(super) fn account(&mut self, id: StreamId, before: Mark) {
        let Some(after) = self.queue(id).map(Queue::mark) else {
            never!("a stream changed that is not there");
            return;
        };
        take_off!(self.queued, before.queued, "bytes that wait");
        take_off!(self.held, before.held, "bytes that are not whole");
        take_off!(self.busy, usize::from(before.busy), "busy streams");
        take_off!(self.unfinished, usize::from(before.unfinished), "unfinished streams");
        self.queued += after.queued;
        self.held += after.held;
        self.busy += usize::from(after.busy);
        self.unfinished += usize::from(after.unfinished);
    }

    /// What is told of it all is the sum of its parts.
    fn adds_up(&self) -> bool {
        let mut sum = Mark::default();
        let (mut open, mut busy, mut unfinished) = (0, 0, 0);
        for (slot, queue) in &self.queues {
            let Mark { queued, held, busy: is_busy, unfinished: is_unfinished } = queue.mark();
            (sum.queued, sum.held) = (sum.queued + queued, sum.held + held);
            open += usize::from(queue.open);
            busy += usize::from(is_busy);
            unfinished += usize::from(is_unfinished);
            if queue.in_ring != self.rings[queue.lane as usize].contains(&slot) {
                return false;
            }
        }
        let returned = self.returned.iter().flat_map(BTreeMap::values);
        let returned: usize = returned.map(|it| cost_of(&it.frame)).sum();
        (self.queued, self.held) == (sum.queued + returned, sum.held)
            && (self.open, self.busy, self.unfinished) == (open, busy, unfinished)
    }
}
