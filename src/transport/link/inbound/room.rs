//! The bounds: how much each stream may bring, and who goes on when there is room again.

use std::collections::VecDeque;

use super::queue::GUARANTEED_PART;
use super::{Beyond, Effects, HEADER_BYTES, Inbound, Mark, Position, Queue, StreamId, lookup};
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
    }

    /// Resumes streams for which there is room again. If there is none although a reader waits, one
    /// frame may pass the share.
    fn open_up(&mut self, effects: &mut Effects<S>) {
        let (half, guaranteed) = (self.share_of_one() / 2, self.guaranteed());
        let mut still = VecDeque::with_capacity(self.paused.len());
        while let Some(id) = self.paused.pop_front() {
            let Some(queue) = self.queue(id) else { continue };
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
        let Some(queue) = self.queue(id) else { return false };
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
        let Some(queue) = lookup(&mut self.queues, id) else { return };
        let mark = queue.mark();
        queue.paused = false;
        effects.resume.extend(queue.stream.clone());
        self.account(id, mark);
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
        let Some(after) = self.queue(id).map(Queue::mark) else { return };
        self.queued = self.queued - before.queued + after.queued;
        self.held = self.held - before.held + after.held;
        self.busy = self.busy + usize::from(after.busy) - usize::from(before.busy);
        self.unfinished =
            self.unfinished + usize::from(after.unfinished) - usize::from(before.unfinished);
    }
}
