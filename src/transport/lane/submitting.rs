//! Handing over: what goes to the transport next, and how it comes back.

use std::sync::MutexGuard;

use super::batch::Batch;
use super::{Finish, SendLane, Sent, State, Step};
use crate::error::Outcome;
use crate::transport::ffi::SendRequest;
use crate::transport::lock;

/// Submissions in flight while there is enough on its way.
pub(super) const SUBMISSIONS: usize = 8;

/// Below this many unacknowledged bytes a frame never waits for an acknowledgement: fewer than
/// three packets may be acknowledged late (RFC 9000, section 13.2.1).
const PROMPT_BYTES: usize = 3 * 1200;

/// The fastest path that is kept busy: 1 GiB/s. With a round trip of 50 ms that are 50 MiB in flight,
/// so that the limits of the lane decide.
pub(super) const BYTES_PER_MICROSECOND: usize = 1074;

/// What a narrow lane keeps in flight besides one batch: 0.2 ms at 1 GiB/s.
const NARROW_BYTES: usize = 64 * 1024;

/// Submissions in flight at most: MsQuic walks a list of those it has not taken over yet.
const SUBMISSIONS_MAX: usize = 64;

/// A batch between its taking and its handing over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Submitting {
    /// The number of the stream it is meant for.
    stream: u64,
    continues: bool,
    splits: bool,
}

impl<S: Clone> SendLane<S> {
    /// The next thing to do, if this caller is the one to do it.
    pub(in crate::transport) fn next(&self) -> Step {
        let mut state = lock(&self.state);
        if state.submitting.is_some() {
            return Step::Nothing;
        }
        if let Some(lost) = state.take_lost_rest() {
            self.free(state, lost.cost, lost.large);
            return Step::Lost(lost.sinks);
        }
        if let Some(batch) = state.may_submit().then(|| state.queue.pop_front()).flatten() {
            let (continues, splits) = (batch.continues, batch.splits);
            // One that is opened for it has the next number.
            let stream = state.streams + u64::from(state.stream.is_none());
            state.submitting = Some(Submitting { stream, continues, splits });
            state.in_flight += 1;
            state.in_flight_bytes += batch.sent.bytes;
            state.queued_bytes -= batch.sent.bytes;
            return Step::Submit(batch.into_request());
        }
        if state.finish == Finish::Wanted && state.queue.is_empty() {
            state.finish = Finish::Asked;
            return Step::Finish;
        }
        Step::Nothing
    }

    /// The submission of [`Step::Submit`] was accepted, or came back.
    pub(in crate::transport) fn submitted(&self, result: Result<(), Box<SendRequest<Sent>>>) {
        let mut state = lock(&self.state);
        let Some(was) = state.submitting.take() else { return };
        match result {
            Ok(()) => state.begun_on = was.splits.then_some(was.stream),
            Err(request) => {
                let batch = Batch::from_request(*request, (was.continues, was.splits));
                state.in_flight -= 1;
                state.in_flight_bytes -= batch.sent.bytes;
                state.queued_bytes += batch.sent.bytes;
                state.queue.push_front(batch);
                if state.abandoned {
                    drop(state);
                    self.abandon();
                }
            }
        }
    }

    /// Gives admission back that met its end.
    fn free(&self, mut state: MutexGuard<'_, State<S>>, cost: usize, large: usize) {
        let freed = state.free(cost, &self.room);
        let is_last = large > 0 && state.limit.give_back_large(large);
        drop(state);
        self.room.give_back(freed);
        if large > 0 {
            self.room.give_back_large(large, is_last);
        }
    }

    /// A submission met its end.
    pub(in crate::transport) fn completed(&self, sent: Sent, acknowledged: bool) {
        let mut state = lock(&self.state);
        state.in_flight -= 1;
        state.in_flight_bytes -= sent.bytes;
        state.ended += 1;
        if acknowledged {
            state.counts.completed += sent.frames;
            state.bytes_sent += sent.payload as u64;
        } else {
            state.counts.maybe_sent += sent.frames;
        }
        self.free(state, sent.cost, sent.large);
        for (_, sink) in sent.sinks {
            sink(if acknowledged { Outcome::Completed } else { Outcome::MaybeSent });
        }
    }
}

impl<S> State<S> {
    pub(super) fn may_submit(&self) -> bool {
        if self.narrow {
            return self.in_flight_bytes < NARROW_BYTES.max(self.enough_at_least);
        }
        let full = || self.queue.front().is_some_and(Batch::is_full);
        self.in_flight < SUBMISSIONS
            || (self.in_flight < SUBMISSIONS_MAX
                && (self.in_flight_bytes < PROMPT_BYTES
                    || (self.in_flight_bytes < self.enough && full())))
    }

    /// Takes the rest of a frame out of the queue whose beginning went out on a stream that is lost:
    /// what was to be remembered of it.
    fn take_lost_rest(&mut self) -> Option<Sent> {
        let on = self.stream.as_ref().map(|_| self.streams);
        if !self.queue.front().is_some_and(|front| front.continues) || self.begun_on == on {
            return None;
        }
        let mut lost = Sent::default();
        while self.queue.front().is_some_and(|front| front.continues)
            && let Some(batch) = self.queue.pop_front()
        {
            self.queued_bytes -= batch.sent.bytes;
            lost.frames += batch.sent.frames;
            lost.cost += batch.sent.cost;
            lost.large += batch.sent.large;
            lost.sinks.extend(batch.sent.sinks);
            if !batch.splits {
                break;
            }
        }
        self.counts.not_sent += lost.frames;
        Some(lost)
    }
}
