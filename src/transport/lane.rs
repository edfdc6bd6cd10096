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
//! stream in the order of admission; no callback of a caller runs under the lock.

mod batch;
mod room;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::bounds::Share;
use super::ffi::SendRequest;
use super::lock;
use super::stream::SendStream;
use crate::error::{CloseReason, Outcome};
use crate::frame::HEADER_BYTES;
use batch::Batch;
pub(super) use batch::Sent;
pub(super) use room::Admission;
use room::{Limit, Room};

/// Admission that is taken ahead for small frames.
const POCKET_BYTES: usize = 8 * 1024;

/// Frames that are admitted together: less than the least room of a lane.
const GROUP_BYTES: usize = 64 * 1024;

/// Submissions in flight while there is enough on its way.
const SUBMISSIONS: usize = 8;

/// Below this many unacknowledged bytes a frame never waits for an acknowledgement: fewer than
/// three packets may be acknowledged late (RFC 9000, section 13.2.1).
const PROMPT_BYTES: usize = 3 * 1200;

/// The fastest path that is kept busy: 1 GiB/s. With a round trip of 50 ms that are 50 MiB in flight,
/// so that the limits of the lane decide.
const BYTES_PER_MICROSECOND: usize = 1074;

/// What a narrow lane keeps in flight besides one batch: 0.2 ms at 1 GiB/s.
const NARROW_BYTES: usize = 64 * 1024;

/// Submissions in flight at most: MsQuic walks a list of those it has not taken over yet.
const SUBMISSIONS_MAX: usize = 64;

/// How many frames met which end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutcomeCounts {
    /// Frames taken over. Once the connection is closed this is the sum of the other three.
    pub accepted: u64,
    /// Frames the peer's transport acknowledged.
    pub completed: u64,
    /// Frames of which nothing was handed to the transport.
    pub not_sent: u64,
    /// Frames handed to the transport and never acknowledged.
    pub maybe_sent: u64,
}

impl std::ops::AddAssign for OutcomeCounts {
    fn add_assign(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.completed += other.completed;
        self.not_sent += other.not_sent;
        self.maybe_sent += other.maybe_sent;
    }
}

/// Told once what became of a frame.
pub(crate) type OutcomeSink = Box<dyn FnOnce(Outcome) + Send>;

/// A frame that was not taken over.
pub(crate) struct Rejected {
    pub(crate) frame: Bytes,
    pub(crate) reason: CloseReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finish {
    No,
    Wanted,
    Asked,
    Done,
}

struct State {
    queue: VecDeque<Batch>,
    stream: Option<Arc<SendStream>>,
    in_flight: usize,
    in_flight_bytes: usize,
    /// Bytes in flight up to which a full batch never waits.
    enough: usize,
    /// The same without what queues on the path add.
    enough_at_least: usize,
    /// The lane gives way to others: what is on its way delays them.
    narrow: bool,
    limit: Limit,
    /// Admission that was taken ahead for small frames, so that most of them cost one lock.
    pocket: usize,
    /// Admission of finished frames, given back in larger steps so that waiting senders wake
    /// seldom.
    freed: usize,
    /// Somebody is between taking a batch and having handed it over.
    submitting: bool,
    shut: Option<CloseReason>,
    /// What was not handed over was given up.
    abandoned: bool,
    finish: Finish,
    counts: OutcomeCounts,
    bytes_sent: u64,
}

/// See the module.
pub(crate) struct SendLane {
    state: Mutex<State>,
    room: Room,
    bytes_max: usize,
}

/// What to do next, decided under the lock and done outside it.
pub(super) enum Step {
    Nothing,
    /// Hand this over; [`SendLane::submitted`] must follow.
    Submit(Box<SendRequest<Sent>>),
    /// Everything was handed over: end the stream.
    Finish,
}

impl SendLane {
    pub(super) fn new(share: Share) -> Self {
        let bytes_max = share.bytes_max();
        let (room, limit) = Room::new(share);
        Self {
            state: Mutex::new(State {
                queue: VecDeque::new(),
                stream: None,
                in_flight: 0,
                in_flight_bytes: 0,
                enough: 0,
                enough_at_least: 0,
                narrow: false,
                limit,
                pocket: 0,
                freed: 0,
                submitting: false,
                shut: None,
                abandoned: false,
                finish: Finish::No,
                counts: OutcomeCounts::default(),
                bytes_sent: 0,
            }),
            room,
            bytes_max,
        }
    }

    /// Bytes that the lane holds at most.
    pub(crate) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Bytes of admission a frame of `length` costs.
    fn cost(&self, length: usize) -> usize {
        (HEADER_BYTES + length).min(self.bytes_max)
    }

    /// Reserves admission for one frame of `length` bytes without waiting.
    pub(super) fn try_admit(&self, length: usize) -> Admission {
        let cost = self.cost(length);
        match self.room.try_take(cost) {
            Admission::Full if self.room.widen(&mut lock(&self.state).limit, cost) => {
                self.room.try_take(cost)
            }
            admission => admission,
        }
    }

    /// Reserves admission for one frame, in the order of asking. Cancel safe.
    pub(super) async fn admit(&self, length: usize) -> Admission {
        let cost = self.cost(length);
        {
            let mut state = lock(&self.state);
            let limit = &mut state.limit;
            limit.was_short();
            self.room.widen(limit, cost);
            let pocket = std::mem::take(&mut state.pocket);
            drop(state);
            self.give_back(pocket);
        }
        self.room.take(cost).await
    }

    /// Gives admission back that was not used.
    pub(super) fn give_back(&self, cost: usize) {
        self.room.give_back(cost);
    }

    /// Takes over a frame for which `cost` was admitted. Returns whether the caller is to hand over
    /// what is ready: whoever is at it sees this frame as well, and so does the next completion.
    pub(super) fn push(
        &self,
        frame: Bytes,
        cost: usize,
        sink: Option<OutcomeSink>,
    ) -> Result<bool, Rejected> {
        let mut state = lock(&self.state);
        if let Some(reason) = state.shut.clone() {
            drop(state);
            self.give_back(cost);
            return Err(Rejected { frame, reason });
        }
        state.push(frame, cost, sink, &self.room);
        Ok(!state.submitting && state.may_submit())
    }

    /// As [`SendLane::try_admit`] and [`SendLane::push`] in one. `Ok` tells whether the caller is to hand
    /// over what is ready, and how many frames were taken over so far.
    pub(super) fn offer(&self, frame: Bytes) -> Result<(bool, u64), Bytes> {
        let cost = self.cost(frame.len());
        let mut state = lock(&self.state);
        if state.shut.is_some() || !state.pay(cost, &self.room) {
            return Err(frame);
        }
        state.push(frame, cost, None, &self.room);
        Ok((!state.submitting && state.may_submit(), state.counts.accepted))
    }

    /// How many of the first frames may be admitted together, and what they cost.
    pub(super) fn group(&self, frames: &VecDeque<Bytes>, length_max: usize) -> (usize, usize) {
        let (mut count, mut total) = (0, 0);
        for frame in frames {
            let cost = self.cost(frame.len());
            if frame.len() > length_max || total + cost > GROUP_BYTES.min(self.bytes_max) {
                break;
            }
            count += 1;
            total += cost;
        }
        (count, total)
    }

    /// Reserves `cost` bytes without waiting.
    pub(super) fn try_admit_group(&self, cost: usize) -> bool {
        matches!(self.room.try_take(cost), Admission::Granted(_))
    }

    /// As [`SendLane::push`] for the first `count` of `frames`, which cost `cost` together; `sink` is
    /// asked once for each. They stay where they are if the lane is shut.
    pub(super) fn push_group(
        &self,
        frames: &mut VecDeque<Bytes>,
        count: usize,
        cost: usize,
        mut sink: impl FnMut() -> Option<OutcomeSink>,
    ) -> Result<bool, CloseReason> {
        let mut state = lock(&self.state);
        if let Some(reason) = state.shut.clone() {
            drop(state);
            self.give_back(cost);
            return Err(reason);
        }
        for frame in frames.drain(..count) {
            let cost = self.cost(frame.len());
            state.push(frame, cost, sink(), &self.room);
        }
        Ok(!state.submitting && state.may_submit())
    }

    /// The next thing to do, if this caller is the one to do it.
    pub(super) fn next(&self) -> Step {
        let mut state = lock(&self.state);
        if state.submitting {
            return Step::Nothing;
        }
        if let Some(batch) = state.may_submit().then(|| state.queue.pop_front()).flatten() {
            state.submitting = true;
            state.in_flight += 1;
            state.in_flight_bytes += batch.sent.bytes;
            return Step::Submit(batch.into_request());
        }
        if state.finish == Finish::Wanted && state.queue.is_empty() {
            state.finish = Finish::Asked;
            return Step::Finish;
        }
        Step::Nothing
    }

    /// The submission of [`Step::Submit`] was accepted, or came back.
    pub(super) fn submitted(&self, result: Result<(), Box<SendRequest<Sent>>>) {
        let mut state = lock(&self.state);
        state.submitting = false;
        if let Err(request) = result {
            let batch = Batch::from_request(*request);
            state.in_flight -= 1;
            state.in_flight_bytes -= batch.sent.bytes;
            state.queue.push_front(batch);
            if state.abandoned {
                drop(state);
                self.abandon();
            }
        }
    }

    /// A submission met its end.
    pub(super) fn completed(&self, sent: Sent, acknowledged: bool) {
        let mut state = lock(&self.state);
        state.in_flight -= 1;
        state.in_flight_bytes -= sent.bytes;
        if acknowledged {
            state.counts.completed += sent.frames;
            state.bytes_sent += sent.bytes as u64 - sent.frames * HEADER_BYTES as u64;
        } else {
            state.counts.maybe_sent += sent.frames;
        }
        let freed = state.free(sent.cost, &self.room);
        drop(state);
        self.give_back(freed);
        for (_, sink) in sent.sinks {
            sink(if acknowledged { Outcome::Completed } else { Outcome::MaybeSent });
        }
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
    pub(super) fn stream(&self) -> Option<Arc<SendStream>> {
        lock(&self.state).stream.clone()
    }

    /// Keeps `stream` for the next sends unless there is one; returns the one that is kept.
    pub(super) fn keep_stream(&self, stream: Arc<SendStream>) -> Arc<SendStream> {
        Arc::clone(lock(&self.state).stream.get_or_insert(stream))
    }

    /// Forgets a stream that failed or ended; the next send opens another one.
    pub(super) fn discard_stream(&self, stream: &SendStream) {
        let mut state = lock(&self.state);
        if state.stream.as_deref().is_some_and(|kept| std::ptr::eq(kept, stream)) {
            state.stream = None;
        }
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
        state.limit.end();
        state.counts.not_sent += queue.iter().map(|batch| batch.sent.frames).sum::<u64>();
        drop(state);
        for (frame, sink) in queue.into_iter().flat_map(|batch| batch.sent.sinks) {
            sink(Outcome::NotSent(frame));
        }
    }

    pub(crate) fn counts(&self) -> (OutcomeCounts, u64) {
        let state = lock(&self.state);
        (state.counts, state.bytes_sent)
    }

    /// Whether anything is on its way, and how many frames have met their end so far.
    pub(super) fn progress(&self) -> (bool, u64) {
        let state = lock(&self.state);
        (state.in_flight > 0, state.counts.completed + state.counts.maybe_sent)
    }
}

impl State {
    /// Takes `cost` out of the pocket or the room.
    fn pay(&mut self, cost: usize, room: &Room) -> bool {
        if self.pocket < cost {
            let ahead = cost <= POCKET_BYTES / 4
                && room.try_take(POCKET_BYTES) == Admission::Granted(POCKET_BYTES);
            if !ahead {
                return room.try_take(cost) == Admission::Granted(cost);
            }
            self.pocket += POCKET_BYTES;
        }
        self.pocket -= cost;
        true
    }

    fn push(&mut self, frame: Bytes, cost: usize, sink: Option<OutcomeSink>, room: &Room) {
        self.counts.accepted += 1;
        room.begin(&mut self.limit);
        match self.queue.back_mut() {
            Some(batch) if !batch.is_full() => batch.push(frame, cost, sink),
            _ => {
                let mut batch = Batch::default();
                batch.push(frame, cost, sink);
                self.queue.push_back(batch);
            }
        }
    }

    fn may_submit(&self) -> bool {
        if self.narrow {
            return self.in_flight_bytes < NARROW_BYTES.max(self.enough_at_least);
        }
        let full = || self.queue.front().is_some_and(Batch::is_full);
        self.in_flight < SUBMISSIONS
            || (self.in_flight < SUBMISSIONS_MAX
                && (self.in_flight_bytes < PROMPT_BYTES
                    || (self.in_flight_bytes < self.enough && full())))
    }

    /// Collects freed admission; returns what is to be given back by now.
    fn free(&mut self, cost: usize, room: &Room) -> usize {
        self.freed += cost;
        if self.in_flight == 0 && self.queue.is_empty() {
            let freed = std::mem::take(&mut self.freed) + std::mem::take(&mut self.pocket);
            room.rest(&mut self.limit, freed)
        } else if self.freed >= self.limit.now() / 8 {
            self.limit.settle(std::mem::take(&mut self.freed))
        } else {
            0
        }
    }
}

impl std::fmt::Debug for SendLane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = lock(&self.state);
        f.debug_struct("SendLane")
            .field("queued", &state.queue.len())
            .field("in_flight", &state.in_flight)
            .field("counts", &state.counts)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::batch::BATCH_BYTES;
    use super::*;
    use crate::error::CloseCode;

    const REASON: CloseReason = CloseReason::Local { code: CloseCode::NORMAL };

    fn push(lane: &SendLane, length: usize) {
        let Admission::Granted(cost) = lane.try_admit(length) else { panic!("not admitted") };
        assert!(lane.push(Bytes::from(vec![1; length]), cost, None).is_ok());
    }

    fn submit(lane: &SendLane) -> Option<SendRequest<Sent>> {
        match lane.next() {
            Step::Submit(request) => {
                lane.submitted(Ok(()));
                Some(*request)
            }
            Step::Finish | Step::Nothing => None,
        }
    }

    #[test]
    fn a_lone_frame_is_submitted_at_once() {
        let lane = SendLane::new(Share::alone(1 << 20));
        push(&lane, 10);
        assert_eq!(submit(&lane).unwrap().batch.frames, 1);
    }

    #[test]
    fn frames_that_wait_become_one_submission() {
        let lane = SendLane::new(Share::alone(1 << 20));
        for _ in 0..SUBMISSIONS {
            push(&lane, 1200);
            assert!(submit(&lane).is_some());
        }
        for _ in 0..5 {
            push(&lane, 100);
            assert!(submit(&lane).is_none(), "enough is in flight");
        }
        lane.completed(Sent { frames: 1, bytes: 1204, cost: 1204, sinks: vec![] }, true);
        assert_eq!(submit(&lane).unwrap().batch.frames, 5);
    }

    #[test]
    fn a_few_small_frames_never_wait_for_an_acknowledgement() {
        let lane = SendLane::new(Share::alone(1 << 20));
        for _ in 0..20 {
            push(&lane, 100);
            assert!(submit(&lane).is_some());
        }
    }

    #[test]
    fn admission_is_bounded_in_bytes_and_comes_back_with_completion() {
        let lane = SendLane::new(Share::alone(1024));
        push(&lane, 1000);
        assert_eq!(lane.try_admit(100), Admission::Full);
        let request = submit(&lane).unwrap();
        lane.completed(request.into_parts().2, true);
        assert!(matches!(lane.try_admit(1000), Admission::Granted(_)));
    }

    #[test]
    fn a_frame_larger_than_the_lane_is_admitted_alone() {
        let lane = SendLane::new(Share::alone(1024));
        push(&lane, 5000);
        assert_eq!(lane.try_admit(0), Admission::Full);
    }

    #[test]
    fn outcomes_balance_whatever_happens() {
        let lane = SendLane::new(Share::alone(1 << 20));
        // Wide enough for all of them.
        let Admission::Granted(all) = lane.try_admit(1 << 20) else { panic!() };
        lane.give_back(all);
        let told = Arc::new(AtomicUsize::new(0));
        for _ in 0..4 {
            let Admission::Granted(cost) = lane.try_admit(BATCH_BYTES) else { panic!() };
            let told = Arc::clone(&told);
            let sink: OutcomeSink = Box::new(move |outcome| {
                let weight = match outcome {
                    Outcome::Completed => 1,
                    Outcome::MaybeSent => 10,
                    Outcome::NotSent(frame) => frame.len() / BATCH_BYTES * 100,
                };
                told.fetch_add(weight, Ordering::Relaxed);
            });
            assert!(lane.push(Bytes::from(vec![0; BATCH_BYTES]), cost, Some(sink)).is_ok());
        }
        let first = submit(&lane).unwrap();
        let second = submit(&lane).unwrap();
        lane.completed(first.into_parts().2, true);
        lane.completed(second.into_parts().2, false);
        lane.shut(&REASON);
        lane.abandon();
        let (counts, _) = lane.counts();
        let expected = OutcomeCounts { accepted: 4, completed: 1, not_sent: 2, maybe_sent: 1 };
        assert_eq!(counts, expected);
        assert_eq!(told.load(Ordering::Relaxed), 211);
    }

    #[test]
    fn a_submission_that_was_not_accepted_goes_first_again() {
        let lane = SendLane::new(Share::alone(1 << 20));
        push(&lane, 10);
        let Step::Submit(request) = lane.next() else { panic!("nothing to submit") };
        push(&lane, 20);
        lane.submitted(Err(request));
        assert_eq!(submit(&lane).unwrap().batch.bytes, 14);
        assert_eq!(submit(&lane).unwrap().batch.bytes, 24);
    }

    #[test]
    fn a_shut_lane_hands_frames_back_with_the_reason() {
        let lane = SendLane::new(Share::alone(1024));
        let Admission::Granted(cost) = lane.try_admit(3) else { panic!() };
        lane.shut(&REASON);
        assert_eq!(lane.try_admit(3), Admission::Shut);
        let rejected = lane.push(Bytes::from_static(b"abc"), cost, None).err().unwrap();
        assert_eq!((rejected.frame.as_ref(), rejected.reason), (&b"abc"[..], REASON));
    }

    #[test]
    fn the_end_is_sent_after_everything_accepted() {
        let lane = SendLane::new(Share::alone(1 << 20));
        push(&lane, 10);
        lane.finish();
        assert!(submit(&lane).is_some());
        assert!(matches!(lane.next(), Step::Finish));
        assert!(matches!(lane.next(), Step::Nothing), "the end is sent once");
    }
}
