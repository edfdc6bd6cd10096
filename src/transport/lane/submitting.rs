//! Handing over: what goes to the transport next, and how it comes back.

use std::sync::MutexGuard;

use super::batch::Batch;
use super::state::{Finish, State, Submitting};
use super::{SendLane, Sent, Step};
use crate::error::Outcome;
use crate::lock::lock;
use crate::transport::fault::{Fault, planted};
use crate::transport::ffi::SendRequest;

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
        let cost = if planted(Fault::RoomDoesNotComeBack) { 0 } else { sent.cost };
        self.free(state, cost, sent.large);
        for (_, sink) in sent.sinks {
            sink(if acknowledged { Outcome::Completed } else { Outcome::MaybeSent });
        }
    }
}
