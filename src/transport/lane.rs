//! The sending half of a connection, as many threads use it: a lane ([`Outgoing`]) behind a lock.
//!
//! Whoever finds nobody submitting submits; each completion submits the next. What a change brings
//! with it (who is woken, what goes back to the node, whom outcomes are told) is done outside the lock:
//! nothing of a caller's runs under it, not even the drop of a payload.

mod admission;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;

use bytes::Bytes;

use super::guarded::{Alarm, Guarded};
use super::link::batch::{Batch, Payload, Sent};
use super::link::flight::Path;
use super::link::outcome::{OUTCOME_BYTES, OutcomeCounts, OutcomeSink, Rejected};
use super::link::outgoing::{Admission, Ended, Freed, Outgoing, Step};
use super::link::room::Cost;
use super::link::share::Share;
use super::link::stall::Progress;
use super::node_room::NodeRoom;
use crate::error::{CloseReason, Outcome};
use crate::frame::HEADER_BYTES;
use crate::sync::AtomicU64;

/// See the module. `S` is what frames go out on.
pub(crate) struct SendLane<S> {
    state: Guarded<Outgoing<S, Waker>>,
    /// For frames beyond the lane's share.
    node: Arc<NodeRoom>,
    bytes_max: usize,
    /// Frames taken over so far, for those who do not hold the lock.
    accepted: AtomicU64,
}

/// What became of a lane's frames.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaneCounts {
    pub(crate) frames: OutcomeCounts,
    /// Bytes of payload that the peer acknowledged.
    pub(crate) bytes_sent: u64,
}

/// What to do next.
#[expect(clippy::large_enum_variant, reason = "moved once or twice a submission, never stored")]
pub(super) enum Next<S> {
    Nothing,
    /// Hand this over, on a new stream if there is none; [`SendLane::submitted`] or
    /// [`SendLane::came_back`] must follow.
    Submit(Batch, Option<S>),
    /// Everything was handed over: end the stream.
    Finish,
}

impl<S: Clone> SendLane<S> {
    /// `alarm` is told of what cannot happen.
    pub(super) fn new(share: Share, node: Arc<NodeRoom>, alarm: &Arc<Alarm>) -> Self {
        let bytes_max = share.bytes_max();
        let state = Guarded::new(Outgoing::new(share), alarm);
        Self { state, node, bytes_max, accepted: AtomicU64::new(0) }
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
        let mut state = self.state.lock();
        if let Some(reason) = state.shut_reason().cloned() {
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

    /// As [`SendLane::try_admit`] and [`SendLane::push`] in one, in the lane's own room.
    pub(super) fn offer(&self, frame: Bytes) -> Result<bool, Bytes> {
        let mut state = self.state.lock();
        let Admission::Granted(cost) = state.try_take(HEADER_BYTES + frame.len()) else {
            return Err(frame);
        };
        let copied = self.accept(&mut state, Payload::Given(frame), cost, None);
        let pump = state.wants_pump();
        drop(state);
        drop(copied);
        Ok(pump)
    }

    /// Takes a frame over; a payload that is needed no more comes back.
    #[inline]
    fn accept(
        &self,
        state: &mut Outgoing<S, Waker>,
        frame: Payload<'_>,
        cost: Cost,
        sink: Option<OutcomeSink>,
    ) -> Option<Bytes> {
        let copied = state.push(frame, cost, sink);
        self.accepted.store(state.counts().accepted, Ordering::Relaxed);
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
        let mut state = self.state.lock();
        if let Some(reason) = state.shut_reason().cloned() {
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

    // ---- handing over

    /// The next thing to do, if this caller is the one to do it. `narrow`: the lane gives way to others.
    pub(super) fn next(&self, narrow: bool) -> Next<S> {
        let step = self.state.lock().next(narrow);
        self.look_at(step, narrow)
    }

    /// The batch of [`Next::Submit`] was handed over: what is next?
    pub(super) fn submitted(&self, narrow: bool) -> Next<S> {
        let mut state = self.state.lock();
        state.submitted();
        let step = state.next(narrow);
        drop(state);
        self.look_at(step, narrow)
    }

    /// The batch of [`Next::Submit`] could not be handed over.
    pub(super) fn came_back(&self, batch: Batch) {
        let ended = self.state.lock().came_back(batch);
        self.ended(ended);
    }

    /// A submission met its end: what is next?
    pub(super) fn completed(&self, sent: Sent, acknowledged: bool, narrow: bool) -> Next<S> {
        let mut state = self.state.lock();
        let freed = state.completed(&sent, acknowledged);
        let step = state.next(narrow);
        drop(state);
        self.freed(freed);
        for (_, sink) in sent.sinks {
            sink(if acknowledged { Outcome::Completed } else { Outcome::MaybeSent });
        }
        self.look_at(step, narrow)
    }

    /// Tells those whose frame was lost with its stream, and goes on behind it.
    fn look_at(&self, mut step: Step<S, Waker>, narrow: bool) -> Next<S> {
        loop {
            match step {
                Step::Nothing => return Next::Nothing,
                Step::Submit(batch, stream) => return Next::Submit(batch, stream),
                Step::Finish => return Next::Finish,
                Step::Lost(lost) => {
                    self.ended(lost);
                    step = self.state.lock().next(narrow);
                }
            }
        }
    }

    /// Does what comes of room that is free again.
    fn freed(&self, freed: Freed<Waker>) {
        if freed.large > 0 {
            self.node.give_back(freed.large);
            self.state.alarm().look();
        }
        freed.wake.into_iter().for_each(Waker::wake);
    }

    fn ended(&self, ended: Ended<Waker>) {
        let freed = ended.tell();
        self.freed(freed);
    }

    // ---- its stream

    /// The stream to send on, if there is one.
    pub(super) fn stream(&self) -> Option<S> {
        self.state.lock().stream().cloned()
    }

    /// Keeps `stream` for the next sends unless there is one; returns the one that is kept.
    pub(super) fn keep_stream(&self, stream: S) -> S {
        self.state.lock().keep_stream(stream).clone()
    }

    /// Forgets a stream that failed or ended; the next send opens another one. Returns whether it was
    /// this lane's.
    pub(super) fn discard_stream(&self, is_it: impl FnOnce(&S) -> bool) -> bool {
        let discarded = self.state.lock().discard_stream(is_it);
        discarded.is_some()
    }

    /// On a long path more batches are in flight.
    pub(super) fn set_path(&self, path: Path) {
        self.state.lock().set_path(path);
    }

    // ---- its end

    /// Refuses frames from here on; those waiting for admission are told at once.
    pub(super) fn shut(&self, reason: &CloseReason) {
        let freed = self.state.lock().shut(reason);
        self.freed(freed);
    }

    /// Why no frame is accepted any more.
    pub(super) fn shut_reason(&self) -> Option<CloseReason> {
        self.state.lock().shut_reason().cloned()
    }

    /// Ends the stream once everything accepted was handed over.
    pub(super) fn finish(&self) {
        self.state.lock().finish();
    }

    /// As [`SendLane::finish`] for a lane that nothing was sent on: it has finished.
    pub(super) fn finish_unused(&self) {
        self.state.lock().finish_unused();
    }

    /// The end of the stream was acknowledged, or will never be.
    pub(super) fn finished(&self) {
        self.state.lock().finished();
    }

    /// Whether [`SendLane::finish`] was asked for and has come true.
    pub(crate) fn is_finished(&self) -> bool {
        self.state.lock().is_finished()
    }

    /// Nothing more will be sent: what was not handed over is told so.
    pub(super) fn abandon(&self) {
        let ended = self.state.lock().abandon();
        self.ended(ended);
    }

    // ---- facts

    /// Bytes that were accepted and have not met their end.
    pub(crate) fn pending(&self) -> usize {
        self.state.lock().pending()
    }

    pub(crate) fn counts(&self) -> LaneCounts {
        let state = self.state.lock();
        LaneCounts { frames: state.counts(), bytes_sent: state.bytes_sent() }
    }

    /// Whether anything is on its way or wants to be, and how many submissions have met their end so far.
    pub(super) fn progress(&self) -> Progress {
        self.state.lock().progress()
    }
}

impl<S> std::fmt::Debug for SendLane<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state.lock();
        f.debug_struct("SendLane")
            .field("pending", &state.pending())
            .field("counts", &state.counts())
            .finish_non_exhaustive()
    }
}
