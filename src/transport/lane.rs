//! The sending half of a connection: frames of many callers on one stream, in order.
//!
//! ```text
//! admit (bytes) ─> queue: batches ─> in flight (MsQuic) ─> Completed | MaybeSent
//!                     └── closed before it left ─────────> NotSent
//! ```
//!
//! Whoever finds nobody submitting submits; each completion submits the next. Small frames that
//! wait are copied behind each other into one buffer, large payloads travel as they are. There is
//! no timer: an idle lane sends at once, a busy one gathers while it waits for acknowledgements.
//!
//! Invariants: bytes admitted and unfinished never pass the limit (one larger frame alone is
//! admitted by itself); every accepted frame is counted by exactly one outcome; batches reach the
//! stream in the order of admission; the pieces of a large frame go out on one stream or not at all;
//! nothing of a caller's runs under the lock, not even the drop of a payload.

mod admission;
mod batch;
mod outcome;
mod room;
mod state;
mod submitting;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::bounds::Share;
use super::fault::{Fault, planted};
use super::ffi::SendRequest;
use super::link::stall::Progress;
use crate::error::{CloseReason, Outcome};
use crate::frame::HEADER_BYTES;
use crate::lock::lock;
use batch::Payload;
pub(super) use batch::Sent;
pub use outcome::OutcomeCounts;
pub(crate) use outcome::{OUTCOME_BYTES, OutcomeSink, Rejected};
pub(crate) use room::Cost;
use room::Room;
pub(super) use room::{Admission, LargeSending};
use state::{BYTES_PER_MICROSECOND, Finish, State};

/// See the module. `S` is what frames go out on.
pub(crate) struct SendLane<S> {
    state: Mutex<State<S>>,
    room: Room,
    bytes_max: usize,
    /// Frames taken over so far, for those who do not hold the lock.
    accepted: AtomicU64,
}

/// What to do next, decided under the lock and done outside it.
pub(super) enum Step {
    Nothing,
    /// Hand this over; [`SendLane::submitted`] must follow.
    Submit(Box<SendRequest<Sent>>),
    /// The stream that had the beginning of a frame is lost: tell these that it was not sent.
    Lost(Vec<(Bytes, OutcomeSink)>),
    /// Everything was handed over: end the stream.
    Finish,
}

impl<S: Clone> SendLane<S> {
    pub(super) fn new(share: Share, large: LargeSending) -> Self {
        let bytes_max = share.bytes_max();
        let (room, limit) = Room::new(share, large);
        Self { state: Mutex::new(State::new(limit)), room, bytes_max, accepted: AtomicU64::new(0) }
    }

    /// Frames taken over so far.
    pub(super) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Bytes that the lane holds at most.
    pub(crate) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Takes over a frame for which `cost` was admitted. Returns whether the caller is to hand over
    /// what is ready: whoever is at it sees this frame as well, and so does the next completion.
    pub(super) fn push(
        &self,
        frame: Bytes,
        cost: Cost,
        sink: Option<OutcomeSink>,
    ) -> Result<bool, Rejected> {
        self.push_behind(&[], frame, cost, sink)
    }

    /// As [`SendLane::push`], for a payload that begins with `head`.
    pub(super) fn push_behind(
        &self,
        head: &[u8],
        frame: Bytes,
        cost: Cost,
        sink: Option<OutcomeSink>,
    ) -> Result<bool, Rejected> {
        let mut state = lock(&self.state);
        if let Some(reason) = state.shut.clone() {
            drop(state);
            self.give_back(cost);
            return Err(Rejected { frame, reason });
        }
        let copied = self.accept(&mut state, Payload::Behind(head, frame), cost, sink);
        let pump = state.wants_pump();
        drop(state);
        drop(copied);
        Ok(pump)
    }

    /// As [`SendLane::try_admit`] and [`SendLane::push`] in one.
    pub(super) fn offer(&self, frame: Bytes) -> Result<bool, Bytes> {
        let bytes = HEADER_BYTES + frame.len();
        let mut state = lock(&self.state);
        if state.shut.is_some() || !state.pay(bytes, &self.room) {
            return Err(frame);
        }
        let cost = Cost::usual(bytes);
        let copied = self.accept(&mut state, Payload::Given(frame), cost, None);
        let pump = state.wants_pump();
        drop(state);
        drop(copied);
        Ok(pump)
    }

    /// Takes a frame over; a payload that is needed no more comes back.
    fn accept(
        &self,
        state: &mut State<S>,
        frame: Payload<'_>,
        cost: Cost,
        sink: Option<OutcomeSink>,
    ) -> Option<Bytes> {
        let copied = state.push(frame, cost, sink, &self.room);
        self.accepted.store(state.counts.accepted, Ordering::Relaxed);
        copied
    }

    /// As [`SendLane::push`] for the first `count` of `frames`, which cost `cost` together; each has one
    /// of `sinks`, if there are any. They stay where they are if the lane is shut.
    pub(super) fn push_group(
        &self,
        frames: &mut VecDeque<Bytes>,
        count: usize,
        mut cost: Cost,
        sinks: Vec<OutcomeSink>,
    ) -> Result<bool, CloseReason> {
        let mut sinks = sinks.into_iter();
        let mut state = lock(&self.state);
        if let Some(reason) = state.shut.clone() {
            drop(state);
            self.give_back(cost);
            return Err(reason);
        }
        for frame in frames.iter().take(count) {
            let sink = sinks.next();
            let remembered = if sink.is_some() { OUTCOME_BYTES } else { 0 };
            let cost = cost.split(HEADER_BYTES + frame.len() + remembered);
            // The payload stays in `frames` meanwhile, so nothing of the caller's is dropped here.
            drop(self.accept(&mut state, Payload::Lent(frame), cost, sink));
        }
        let pump = state.wants_pump();
        drop(state);
        drop(frames.drain(..count));
        Ok(pump)
    }

    /// On a long path more batches are in flight. `least` is the round trip of an empty path.
    pub(super) fn set_round_trip(&self, microseconds: u32, least: u32) {
        let mut state = lock(&self.state);
        state.enough = microseconds as usize * BYTES_PER_MICROSECOND;
        state.enough_at_least = least as usize * BYTES_PER_MICROSECOND;
    }

    /// Whether to keep no more on its way than keeps the path busy.
    pub(super) fn set_narrow(&self, narrow: bool) {
        lock(&self.state).narrow = narrow;
    }

    /// The stream to send on, if there is one.
    pub(super) fn stream(&self) -> Option<S> {
        lock(&self.state).stream.clone()
    }

    /// Keeps `stream` for the next sends unless there is one; returns the one that is kept.
    pub(super) fn keep_stream(&self, stream: S) -> S {
        let state = &mut *lock(&self.state);
        let kept = state.stream.get_or_insert_with(|| {
            state.streams += 1;
            stream
        });
        kept.clone()
    }

    /// Forgets a stream that failed or ended; the next send opens another one. Returns whether it was
    /// this lane's.
    pub(super) fn discard_stream(&self, is_it: impl FnOnce(&S) -> bool) -> bool {
        let mut state = lock(&self.state);
        let discarded = state.stream.take_if(|stream| is_it(stream));
        let lost = planted(Fault::EndIsLost);
        if discarded.is_some() && state.finish == Finish::Asked && !lost {
            // Its end is lost with it: the next one is to say it.
            state.finish = Finish::Wanted;
        }
        drop(state);
        discarded.is_some()
    }

    /// Refuses frames from here on; those waiting for admission are told at once.
    pub(super) fn shut(&self, reason: &CloseReason) {
        lock(&self.state).shut.get_or_insert_with(|| reason.clone());
        self.room.close();
    }

    /// Why no frame is accepted any more.
    pub(super) fn shut_reason(&self) -> Option<CloseReason> {
        lock(&self.state).shut.clone()
    }

    /// Ends the stream once everything accepted was handed over.
    pub(super) fn finish(&self) {
        let mut state = lock(&self.state);
        if state.finish == Finish::No {
            state.finish = Finish::Wanted;
        }
    }

    /// As [`SendLane::finish`] for a lane that nothing was sent on: it has finished.
    pub(super) fn finish_unused(&self) {
        let mut state = lock(&self.state);
        if state.stream.is_none() && state.counts.accepted == 0 {
            state.finish = Finish::Done;
        }
    }

    /// The end of the stream was acknowledged, or will never be.
    pub(super) fn finished(&self) {
        lock(&self.state).finish = Finish::Done;
    }

    /// Whether [`SendLane::finish`] was asked for and has come true.
    pub(crate) fn is_finished(&self) -> bool {
        lock(&self.state).finish == Finish::Done
    }

    /// Nothing more will be sent: what was not handed over is told so.
    pub(super) fn abandon(&self) {
        let mut state = lock(&self.state);
        state.abandoned = true;
        let queue = std::mem::take(&mut state.queue);
        state.queued_bytes = 0;
        state.limit.end();
        state.counts.not_sent += queue.iter().map(|batch| batch.sent.frames).sum::<u64>();
        // The lane's own room is closed; other lanes wait for the node's.
        let large = queue.iter().map(|batch| batch.sent.large).sum();
        let is_last = large > 0 && state.limit.give_back_large(large);
        drop(state);
        self.room.give_back_large(large, is_last);
        for (frame, sink) in queue.into_iter().flat_map(|batch| batch.sent.sinks) {
            sink(Outcome::NotSent(frame));
        }
    }

    /// Bytes that were accepted and have not met their end.
    pub(crate) fn pending(&self) -> usize {
        let state = lock(&self.state);
        state.queued_bytes + state.in_flight_bytes
    }

    pub(crate) fn counts(&self) -> (OutcomeCounts, u64) {
        let state = lock(&self.state);
        (state.counts, state.bytes_sent)
    }

    /// Whether anything is on its way, and how many submissions have met their end so far.
    pub(super) fn progress(&self) -> Progress {
        let state = lock(&self.state);
        Progress { busy: state.in_flight > 0, ended: state.ended }
    }
}

impl<S> std::fmt::Debug for SendLane<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = lock(&self.state);
        f.debug_struct("SendLane")
            .field("queued", &state.queue.len())
            .field("in_flight", &state.in_flight)
            .field("counts", &state.counts)
            .finish_non_exhaustive()
    }
}
