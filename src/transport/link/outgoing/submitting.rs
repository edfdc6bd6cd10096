//! What goes out next, and how it comes back.

use super::effects::{Ended, Freed, Step, Submitting};
use super::{Finish, Outgoing};
use crate::marks::mark;
use crate::never::{never, take_off};
use crate::transport::fault::{Fault, planted};
use crate::transport::link::batch::{Batch, Sent};

/// What a narrow lane keeps in flight besides one batch: 0.2 ms at 1 GiB/s.
const NARROW_BYTES: usize = 64 * 1024;

impl<S: Clone, W> Outgoing<S, W> {
    /// Whether whoever made a batch is to hand it over: nobody else is at it.
    pub(in crate::transport) fn wants_pump(&self) -> bool {
        self.submitting.is_none() && self.may_submit()
    }

    /// The next thing to do, if this caller is the one to do it. `narrow`: no more is kept on its way
    /// than keeps the path busy.
    pub(in crate::transport) fn next(&mut self, narrow: bool) -> Step<S, W> {
        self.narrow = narrow;
        if self.submitting.is_some() {
            return Step::Nothing;
        }
        if let Some(lost) = self.take_lost_rest() {
            return Step::Lost(lost);
        }
        if let Some(mut batch) = self.may_submit().then(|| self.queue.pop_front()).flatten() {
            batch.close();
            // One that is opened for it has the next number.
            let stream = self.streams + u64::from(self.stream.is_none());
            self.submitting = Some(Submitting { stream, splits: batch.sent.splits });
            self.in_flight += 1;
            self.in_flight_bytes += batch.sent.bytes;
            take_off!(self.queued_bytes, batch.sent.bytes, "bytes that wait");
            debug_assert!(self.adds_up());
            return Step::Submit(batch, self.stream.clone());
        }
        if self.finish == Finish::Wanted && self.queue.is_empty() {
            self.finish = Finish::Asked;
            return Step::Finish;
        }
        Step::Nothing
    }

    /// The batch of [`Step::Submit`] was handed over.
    pub(in crate::transport) fn submitted(&mut self) {
        let was = self.submitting.take();
        never!(was.is_none(), "what nobody took was handed over");
        debug_assert!(self.adds_up());
        self.begun_on = was.filter(|was| was.splits).map(|was| was.stream);
    }

    /// The batch of [`Step::Submit`] could not be handed over: it is the first one again.
    pub(in crate::transport) fn came_back(&mut self, batch: Batch) -> Ended<W> {
        let was = self.submitting.take();
        never!(was.is_none(), "what nobody took came back");
        self.leaves_flight(batch.sent.bytes);
        self.queued_bytes += batch.sent.bytes;
        self.queue.push_front(batch);
        debug_assert!(self.adds_up());
        if self.abandoned {
            mark!("a submission comes back to a lane that was given up");
            return self.abandon();
        }
        Ended::default()
    }

    /// A submission met its end.
    pub(in crate::transport) fn completed(&mut self, sent: &Sent, acknowledged: bool) -> Freed<W> {
        self.leaves_flight(sent.bytes);
        self.ended += 1;
        if acknowledged {
            self.counts.completed += sent.frames;
            self.bytes_sent += sent.payload as u64;
        } else {
            self.counts.maybe_sent += sent.frames;
        }
        let cost = match sent.cost {
            _ if planted(Fault::RoomDoesNotComeBack) => 0,
            cost if planted(Fault::RoomComesBackTwice) => 2 * cost,
            cost => cost,
        };
        let freed = self.free(cost, sent.large);
        debug_assert!(self.adds_up());
        freed
    }

    /// A submission of `bytes` is no longer on its way.
    fn leaves_flight(&mut self, bytes: usize) {
        take_off!(self.in_flight, 1, "submissions in flight");
        take_off!(self.in_flight_bytes, bytes, "bytes in flight");
    }

    fn may_submit(&self) -> bool {
        if self.narrow {
            return self.in_flight_bytes < NARROW_BYTES.max(self.path.least_bytes());
        }
        let is_full = || self.queue.front().is_some_and(Batch::is_full);
        self.path.may_submit(self.in_flight, self.in_flight_bytes, is_full)
    }

    /// Takes the rest of a frame out of the queue whose beginning went out on a stream that is lost.
    fn take_lost_rest(&mut self) -> Option<Ended<W>> {
        let on = self.stream.as_ref().map(|_| self.streams);
        if !self.queue.front().is_some_and(|front| front.sent.continues) || self.begun_on == on {
            return None;
        }
        mark!("the rest of a frame is lost with its stream");
        let (mut not_sent, mut cost, mut large) = (Vec::new(), 0, 0);
        while self.queue.front().is_some_and(|front| front.sent.continues)
            && let Some(batch) = self.queue.pop_front()
        {
            take_off!(self.queued_bytes, batch.sent.bytes, "bytes that wait");
            self.counts.not_sent += batch.sent.frames;
            cost += batch.sent.cost;
            large += batch.sent.large;
            let goes_on = batch.sent.splits;
            not_sent.push(batch);
            if !goes_on {
                break;
            }
        }
        let freed = self.free(cost, large);
        debug_assert!(self.adds_up());
        Some(Ended { not_sent, freed })
    }

    /// Admission met its end.
    fn free(&mut self, cost: usize, large: usize) -> Freed<W> {
        let at_rest = self.in_flight == 0 && self.queue.is_empty();
        let usual = Freed::wake(self.room.free(cost, at_rest));
        let mut freed = self.free_large(large);
        freed.wake.extend(usual.wake);
        freed
    }
}
