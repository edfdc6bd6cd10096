//! Frames out: admission, handing over, outcomes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::ConnectionCore;
use crate::error::{CloseCode, CloseReason, LibraryError, Outcome, SendError};
use crate::frame::HEADER_BYTES;
use crate::lock::lock;
use crate::marks::mark;
use crate::never::never;
use crate::transport::counts::Limit;
use crate::transport::ffi;
use crate::transport::lane::{LaneCounts, Next};
use crate::transport::link::batch::Batch;
use crate::transport::link::lanes::Lane;
use crate::transport::link::outcome::{OUTCOME_BYTES, OutcomeSink, Rejected};
use crate::transport::link::outgoing::{Admission, Group};
use crate::transport::link::room::Cost;
use crate::transport::stream::OutStream;

/// Why a frame was not admitted.
#[derive(Debug)]
pub(crate) enum AdmitError {
    TimedOut(Duration),
    /// Other connections have the node's room for large frames.
    NodeFull(Duration),
    Shut,
}

/// After so many frames a sender spends one unit of its task's budget (128 units). A frame takes
/// 50 to 100 ns, so a task that only sends gives way within a millisecond.
const FRAMES_A_TURN: u64 = 16;

impl ConnectionCore {
    /// The error for a frame that `lane` refused because it is shut.
    fn closed_error(&self, lane: Lane, frame: Bytes) -> SendError {
        let reason = self.close_reason().or_else(|| self.lanes.get(lane).shut_reason());
        let reason = reason.unwrap_or_else(|| {
            never!("{:?} is shut without a reason", lane);
            self.look_for_marks();
            CloseReason::Local { code: CloseCode::INTERNAL }
        });
        SendError::Closed { reason, outcome: Outcome::NotSent(frame) }
    }

    /// Why no frame is accepted any more.
    fn shut_reason(&self) -> Option<CloseReason> {
        self.lanes.get(Lane::Data).shut_reason()
    }

    /// The largest payload that may go out on `lane`.
    pub(crate) fn frame_bytes_max(&self, lane: Lane) -> usize {
        match lane {
            Lane::Control => {
                self.limits().frame_bytes_max.min(self.limits().control_lane_bytes_max)
            }
            Lane::Data | Lane::Bulk => self.limits().frame_bytes_max,
        }
    }

    /// Bytes that `lane` holds at most.
    pub(crate) fn lane_bytes_max(&self, lane: Lane) -> usize {
        self.lanes.get(lane).bytes_max()
    }

    /// Bytes of each of [`Lane::ALL`] that were accepted and have not met their end.
    pub(crate) fn pending_by_lane(&self) -> [usize; 3] {
        Lane::ALL.map(|lane| self.lanes.get(lane).pending())
    }

    /// Of each of [`Lane::ALL`].
    pub(crate) fn counts_by_lane(&self) -> [LaneCounts; 3] {
        Lane::ALL.map(|lane| self.lanes.get(lane).counts())
    }

    pub(crate) fn check_length(&self, lane: Lane, frame: Bytes) -> Result<Bytes, SendError> {
        let length = frame.len();
        let fits = length <= self.frame_bytes_max(lane);
        if fits { Ok(frame) } else { Err(self.too_large(lane, length, frame)) }
    }

    /// Gives admission back that was not used.
    pub(crate) fn give_back(&self, lane: Lane, cost: Cost) {
        self.lanes.get(lane).give_back(cost);
        self.end_if_broken();
    }

    /// Takes over a frame for which `cost` was admitted.
    pub(crate) fn send_admitted(
        self: &Arc<Self>,
        lane: Lane,
        frame: Bytes,
        cost: Cost,
        sink: Option<OutcomeSink>,
    ) -> Result<(), SendError> {
        match self.lanes.get(lane).push(frame, cost, sink) {
            Ok(true) => self.pump(lane),
            Ok(false) => {}
            Err(rejected) => {
                let reason = self.close_reason().unwrap_or(rejected.reason);
                let outcome = Outcome::NotSent(rejected.frame);
                return Err(SendError::Closed { reason, outcome });
            }
        }
        Ok(())
    }

    /// Takes over `frames`, for which `room` was admitted together, from the front; `sink` is asked
    /// once for each. What the lane refuses stays.
    pub(crate) fn send_many_admitted(
        self: &Arc<Self>,
        lane: Lane,
        frames: &mut VecDeque<Bytes>,
        mut room: Cost,
        mut sink: impl FnMut() -> Option<OutcomeSink>,
    ) -> Result<(), CloseReason> {
        let (queue, length_max) = (self.lanes.get(lane), self.frame_bytes_max(lane));
        let mut result = Ok(());
        while let Some(frame) = frames.front() {
            // In groups, so that the lane's lock is never held for long.
            let group = match queue.group(frames, length_max) {
                Group { frames: 0, .. } => Group { frames: 1, cost: HEADER_BYTES + frame.len() },
                group => group,
            };
            let sinks: Vec<_> = (0..group.frames).map_while(|_| sink()).collect();
            let cost = room.split(group.cost + OUTCOME_BYTES * sinks.len());
            match queue.push_group(frames, group.frames, cost, sinks) {
                Ok(true) => self.pump(lane),
                Ok(false) => {}
                Err(reason) => {
                    result = Err(self.close_reason().unwrap_or(reason));
                    break;
                }
            }
        }
        queue.give_back(room);
        result
    }

    pub(crate) fn try_send(self: &Arc<Self>, lane: Lane, frame: Bytes) -> Result<(), SendError> {
        let frame = self.check_length(lane, frame)?;
        match self.lanes.get(lane).try_admit(frame.len()) {
            Admission::Granted(cost) => self.send_admitted(lane, frame, cost, None),
            Admission::Full => {
                self.had_no_room(lane, frame.len());
                Err(SendError::Full { frame })
            }
            Admission::Shut => Err(self.closed_error(lane, frame)),
        }
    }

    /// Admission of `length` bytes, or why there is none now.
    pub(crate) fn try_admit(&self, lane: Lane, length: usize) -> Result<Cost, SendError> {
        match self.lanes.get(lane).try_admit(length) {
            Admission::Granted(cost) => Ok(cost),
            Admission::Full => {
                self.had_no_room(lane, length);
                Err(SendError::Full { frame: Bytes::new() })
            }
            Admission::Shut => Err(self.closed_error(lane, Bytes::new())),
        }
    }

    /// Waits for admission of `length` bytes, within the limit for stream operations.
    pub(crate) async fn admit(&self, lane: Lane, length: usize) -> Result<Cost, AdmitError> {
        let admission = match self.lanes.get(lane).try_admit(length) {
            Admission::Full => {
                self.had_no_room(lane, length);
                self.wait_for_room(lane, length).await?
            }
            admission => admission,
        };
        match admission {
            Admission::Granted(cost) => Ok(cost),
            Admission::Full | Admission::Shut => Err(AdmitError::Shut),
        }
    }

    async fn wait_for_room(&self, lane: Lane, length: usize) -> Result<Admission, AdmitError> {
        let limit = self.limits().stream_op_timeout;
        let at_node = AtomicBool::new(false);
        let admit = self.lanes.get(lane).admit(length, || at_node.store(true, Ordering::Relaxed));
        tokio::time::timeout(limit, admit).await.map_err(|_| {
            self.reached(Limit::StreamOperation);
            if at_node.into_inner() {
                AdmitError::NodeFull(limit)
            } else {
                AdmitError::TimedOut(limit)
            }
        })
    }

    pub(crate) async fn send_with(
        self: &Arc<Self>,
        lane: Lane,
        frame: Bytes,
        sink: Option<OutcomeSink>,
    ) -> Result<(), SendError> {
        let frame = self.check_length(lane, frame)?;
        let remembered = if sink.is_some() { OUTCOME_BYTES } else { 0 };
        match self.admit(lane, frame.len() + remembered).await {
            Ok(cost) => self.send_admitted(lane, frame, cost, sink),
            Err(error) => Err(self.not_admitted(lane, error, frame)),
        }
    }

    pub(crate) async fn send(self: &Arc<Self>, lane: Lane, frame: Bytes) -> Result<(), SendError> {
        let frame = self.check_length(lane, frame)?;
        // A sender that never has to wait would keep its runtime's thread for itself. It gives way
        // before its frame is taken over: behind that nothing is awaited.
        if self.lanes.get(lane).accepted().is_multiple_of(FRAMES_A_TURN) {
            tokio::task::consume_budget().await;
        }
        match self.lanes.get(lane).offer(frame) {
            Ok(pump) => {
                if pump {
                    self.pump(lane);
                }
                Ok(())
            }
            Err(frame) => self.send_with(lane, frame, None).await,
        }
    }

    /// As [`ConnectionCore::send`], for a payload in two parts, of which the first is copied.
    pub(crate) async fn send_parts(
        self: &Arc<Self>,
        lane: Lane,
        head: &[u8],
        body: Bytes,
    ) -> Result<(), SendError> {
        // Only an error puts them together.
        let whole = |body: Bytes| Bytes::from([head, &body].concat());
        let length = head.len() + body.len();
        if length > self.frame_bytes_max(lane) {
            return Err(self.too_large(lane, length, whole(body)));
        }
        if self.lanes.get(lane).accepted().is_multiple_of(FRAMES_A_TURN) {
            tokio::task::consume_budget().await;
        }
        let cost = match self.admit(lane, length).await {
            Ok(cost) => cost,
            Err(error) => return Err(self.not_admitted(lane, error, whole(body))),
        };
        match self.lanes.get(lane).push_behind(head, body, cost, None) {
            Ok(true) => self.pump(lane),
            Ok(false) => {}
            Err(Rejected { frame, reason }) => {
                let reason = self.close_reason().unwrap_or(reason);
                let outcome = Outcome::NotSent(whole(frame));
                return Err(SendError::Closed { reason, outcome });
            }
        }
        Ok(())
    }

    /// Takes frames over from the front; what is not taken over stays.
    pub(crate) async fn send_many(
        self: &Arc<Self>,
        lane: Lane,
        frames: &mut VecDeque<Bytes>,
    ) -> Result<(), SendError> {
        let (queue, length_max) = (self.lanes.get(lane), self.frame_bytes_max(lane));
        while let Some(first) = frames.front() {
            let length = first.len();
            // Before anything is taken over, also of the next group.
            tokio::task::consume_budget().await;
            let group = queue.group(frames, length_max);
            if group.frames > 1 && queue.try_admit_group(group.cost) {
                let cost = Cost::usual(group.cost);
                match queue.push_group(frames, group.frames, cost, Vec::new()) {
                    Ok(true) => self.pump(lane),
                    Ok(false) => {}
                    // Told below, with the frame at the front.
                    Err(_) => continue,
                }
            } else {
                let admitted = match length > length_max {
                    true => Ok(Cost::usual(0)),
                    false => self.admit(lane, length).await,
                };
                // Only now: until here the caller may give up.
                let Some(frame) = frames.pop_front() else {
                    never!("a frame is gone that nobody else can take");
                    self.look_for_marks();
                    break;
                };
                let frame = self.check_length(lane, frame)?;
                match admitted {
                    Ok(cost) => self.send_admitted(lane, frame, cost, None)?,
                    Err(error) => return Err(self.not_admitted(lane, error, frame)),
                }
            }
        }
        Ok(())
    }

    pub(crate) fn not_admitted(&self, lane: Lane, error: AdmitError, frame: Bytes) -> SendError {
        match error {
            AdmitError::TimedOut(after) => {
                SendError::TimedOut { after, outcome: Outcome::NotSent(frame) }
            }
            AdmitError::NodeFull(after) => SendError::NodeFull { after, frame },
            AdmitError::Shut => self.closed_error(lane, frame),
        }
    }

    /// Sends and waits for the outcome, within the limit for stream operations.
    pub(crate) async fn send_acked(
        self: &Arc<Self>,
        lane: Lane,
        frame: Bytes,
    ) -> Result<(), SendError> {
        let (tell, told) = tokio::sync::oneshot::channel();
        let sink: OutcomeSink = Box::new(move |outcome| drop(tell.send(outcome)));
        self.send_with(lane, frame, Some(sink)).await?;
        let after = self.limits().stream_op_timeout;
        match tokio::time::timeout(after, told).await {
            Ok(Ok(Outcome::Completed)) => Ok(()),
            Ok(Ok(outcome)) => Err(self.not_completed(outcome)),
            Ok(Err(_)) | Err(_) => {
                self.reached(Limit::StreamOperation);
                Err(SendError::TimedOut { after, outcome: Outcome::MaybeSent })
            }
        }
    }

    /// The error for a frame with another outcome than `Completed`.
    pub(crate) fn not_completed(&self, outcome: Outcome) -> SendError {
        match self.close_reason().or_else(|| self.shut_reason()) {
            Some(reason) => SendError::Closed { reason, outcome },
            None => SendError::StreamLost { outcome },
        }
    }

    /// Hands over what the lane has ready, if nobody else is at it.
    pub(crate) fn pump(self: &Arc<Self>, lane: Lane) {
        let narrow = self.narrow(lane);
        let next = self.lanes.get(lane).next(narrow);
        self.hand_over(lane, next, narrow);
        self.end_if_broken();
    }

    /// Whether the lane gives way to others now.
    pub(in crate::transport) fn narrow(&self, lane: Lane) -> bool {
        self.giving_way.narrow(lane, || self.age_ms())
    }

    /// Does what is next on the lane, until there is nothing.
    pub(in crate::transport) fn hand_over(
        self: &Arc<Self>,
        lane: Lane,
        mut next: Next<Arc<OutStream<Self>>>,
        narrow: bool,
    ) {
        let queue = self.lanes.get(lane);
        // One retry on another stream. If that fails as well the connection is ending, or the library has no
        // memory for a stream: then who watches the lanes tries again, until they stand still for too long.
        let mut retry = true;
        loop {
            next = match next {
                Next::Nothing => return,
                Next::Finish => match self.send_stream(lane, false) {
                    Ok(stream) => {
                        stream.finish();
                        queue.next(narrow)
                    }
                    Err(_) => return,
                },
                Next::Submit(batch, stream) => match self.submit(lane, batch, stream) {
                    Ok(()) => {
                        let next = queue.submitted(narrow);
                        self.lane_is_busy();
                        next
                    }
                    Err(batch) => {
                        queue.came_back(batch);
                        if self.is_over() || !std::mem::take(&mut retry) {
                            return self.lane_is_busy();
                        }
                        mark!("a submission is tried again on another stream");
                        queue.next(narrow)
                    }
                },
            }
        }
    }

    #[expect(clippy::result_large_err, reason = "it goes back where it came from, without a box")]
    fn submit(
        self: &Arc<Self>,
        lane: Lane,
        batch: Batch,
        stream: Option<Arc<OutStream<Self>>>,
    ) -> Result<(), Batch> {
        match stream.map_or_else(|| self.send_stream(lane, false), Ok) {
            // Given up for good: left open, the peer would wait for its end.
            Ok(stream) => stream.send(batch).inspect_err(|_| stream.discard(CloseCode::INTERNAL)),
            Err(_) => Err(batch),
        }
    }

    /// The stream that the frames of `lane` go out on; opens one if there is none. Its number tells the
    /// peer its lane, so numbers of other lanes may have to be passed over.
    pub(in crate::transport) fn send_stream(
        self: &Arc<Self>,
        lane: Lane,
        announce: bool,
    ) -> Result<Arc<OutStream<Self>>, LibraryError> {
        if let Some(stream) = self.lanes.get(lane).stream() {
            return Ok(stream);
        }
        // Held over the opening: numbers are given in its order.
        let mut ordinal = lock(&self.next_ordinal);
        loop {
            if let Some(stream) = self.lanes.get(lane).stream() {
                return Ok(stream);
            }
            let next = Lane::of_ordinal(*ordinal);
            let live = self.live_handle().ok_or(ffi::CLOSED)?;
            let stream = OutStream::open(self, &self.slot, live, next, announce && next == lane)?;
            *ordinal += 1;
            let wanted = next == lane || next == Lane::Data;
            if wanted && self.lanes.get(next).stream().is_none() {
                self.lanes.get(next).keep_stream(stream);
            } else {
                mark!("a stream of another lane is passed over");
                stream.pass_over();
            }
        }
    }

    /// Opens the stream of data at once, so that the peer learns that it was accepted. If that fails the
    /// connection is ending, or the first frame tries again.
    pub(crate) fn announce(self: &Arc<Self>) {
        drop(self.send_stream(Lane::Data, true));
    }

    /// Gives up the stream that the frames of `lane` go out on.
    #[cfg(test)]
    pub(in crate::transport) fn give_up_stream(&self, lane: Lane) {
        if let Some(stream) = self.lanes.get(lane).stream() {
            stream.discard(CloseCode::NORMAL);
        }
    }
}
