//! Frames out: admission, handing over, outcomes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::ConnectionCore;
use crate::error::{CloseCode, CloseReason, LibraryError, Outcome, SendError};
use crate::transport::lane::{Admission, OutcomeSink, Step};
use crate::transport::stream::SendStream;

/// Why a frame was not admitted.
#[derive(Debug)]
pub(crate) enum AdmitError {
    TimedOut(Duration),
    Shut,
}

/// After so many frames a sender spends one unit of its task's budget (128 units). A frame takes
/// 50 to 100 ns, so a task that only sends gives way within a millisecond.
const FRAMES_A_TURN: u64 = 16;

impl ConnectionCore {
    pub(crate) fn closed_error(&self, frame: Bytes) -> SendError {
        let reason = self.close_reason().or_else(|| self.lane.shut_reason());
        let reason = reason.unwrap_or(CloseReason::Local { code: CloseCode::NORMAL });
        SendError::Closed { reason, outcome: Outcome::NotSent(frame) }
    }

    fn check_length(&self, frame: Bytes) -> Result<Bytes, SendError> {
        let (length, limit) = (frame.len(), self.limits.frame_bytes_max);
        if length > limit { Err(SendError::TooLarge { length, limit, frame }) } else { Ok(frame) }
    }

    /// Gives admission back that was not used.
    pub(crate) fn give_back(&self, cost: usize) {
        self.lane.give_back(cost);
    }

    /// Takes over a frame for which `cost` was admitted.
    pub(crate) fn send_admitted(
        self: &Arc<Self>,
        frame: Bytes,
        cost: usize,
        sink: Option<OutcomeSink>,
    ) -> Result<(), SendError> {
        match self.lane.push(frame, cost, sink) {
            Ok(true) => self.pump(),
            Ok(false) => {}
            Err(rejected) => {
                let reason = self.close_reason().unwrap_or(rejected.reason);
                let outcome = Outcome::NotSent(rejected.frame);
                return Err(SendError::Closed { reason, outcome });
            }
        }
        Ok(())
    }

    pub(crate) fn try_send(
        self: &Arc<Self>,
        frame: Bytes,
        sink: Option<OutcomeSink>,
    ) -> Result<(), SendError> {
        let frame = self.check_length(frame)?;
        match self.lane.try_admit(frame.len()) {
            Admission::Granted(cost) => self.send_admitted(frame, cost, sink),
            Admission::Full => Err(SendError::Full { frame }),
            Admission::Shut => Err(self.closed_error(frame)),
        }
    }

    /// Waits for admission of `length` bytes, within the limit for stream operations.
    pub(crate) async fn admit(&self, length: usize) -> Result<usize, AdmitError> {
        let admission = match self.lane.try_admit(length) {
            Admission::Full => {
                let limit = self.limits.stream_op_timeout;
                match tokio::time::timeout(limit, self.lane.admit(length)).await {
                    Ok(admission) => admission,
                    Err(_) => return Err(AdmitError::TimedOut(limit)),
                }
            }
            admission => admission,
        };
        match admission {
            Admission::Granted(cost) => Ok(cost),
            Admission::Full | Admission::Shut => Err(AdmitError::Shut),
        }
    }

    pub(crate) async fn send_with(
        self: &Arc<Self>,
        frame: Bytes,
        sink: Option<OutcomeSink>,
    ) -> Result<(), SendError> {
        let frame = self.check_length(frame)?;
        match self.admit(frame.len()).await {
            Ok(cost) => self.send_admitted(frame, cost, sink),
            Err(error) => Err(self.not_admitted(error, frame)),
        }
    }

    pub(crate) async fn send(self: &Arc<Self>, frame: Bytes) -> Result<(), SendError> {
        let frame = self.check_length(frame)?;
        match self.lane.offer(frame) {
            Ok((pump, accepted)) => {
                if pump {
                    self.pump();
                }
                // A sender that never has to wait would keep its runtime's thread for itself.
                if accepted.is_multiple_of(FRAMES_A_TURN) {
                    tokio::task::consume_budget().await;
                }
                Ok(())
            }
            Err(frame) => self.send_with(frame, None).await,
        }
    }

    /// Takes frames over from the front; what is not taken over stays.
    pub(crate) async fn send_many(
        self: &Arc<Self>,
        frames: &mut VecDeque<Bytes>,
    ) -> Result<(), SendError> {
        loop {
            let (count, cost) = self.lane.group(frames, self.limits.frame_bytes_max);
            if count > 1 && self.lane.try_admit_group(cost) {
                match self.lane.push_group(frames, count, cost) {
                    Ok(true) => self.pump(),
                    Ok(false) => {}
                    // Told below, with the frame at the front.
                    Err(_) => continue,
                }
            } else if let Some(frame) = frames.front() {
                let admitted = match frame.len() > self.limits.frame_bytes_max {
                    true => Ok(0),
                    false => self.admit(frame.len()).await,
                };
                // Only now: until here the caller may give up.
                let frame = self.check_length(frames.pop_front().unwrap_or_default())?;
                match admitted {
                    Ok(cost) => self.send_admitted(frame, cost, None)?,
                    Err(error) => return Err(self.not_admitted(error, frame)),
                }
            } else {
                return Ok(());
            }
            tokio::task::consume_budget().await;
        }
    }

    fn not_admitted(&self, error: AdmitError, frame: Bytes) -> SendError {
        match error {
            AdmitError::TimedOut(after) => {
                SendError::TimedOut { after, outcome: Outcome::NotSent(frame) }
            }
            AdmitError::Shut => self.closed_error(frame),
        }
    }

    /// Sends and waits for the outcome, within the limit for stream operations.
    pub(crate) async fn send_acked(self: &Arc<Self>, frame: Bytes) -> Result<(), SendError> {
        let (tell, told) = tokio::sync::oneshot::channel();
        let sink: OutcomeSink = Box::new(move |outcome| drop(tell.send(outcome)));
        self.send_with(frame, Some(sink)).await?;
        let after = self.limits.stream_op_timeout;
        match tokio::time::timeout(after, told).await {
            Ok(Ok(Outcome::Completed)) => Ok(()),
            Ok(Ok(outcome)) => Err(self.not_completed(outcome)),
            Ok(Err(_)) | Err(_) => Err(SendError::TimedOut { after, outcome: Outcome::MaybeSent }),
        }
    }

    /// The error for a frame with another outcome than `Completed`.
    pub(crate) fn not_completed(&self, outcome: Outcome) -> SendError {
        match self.close_reason().or_else(|| self.lane.shut_reason()) {
            Some(reason) => SendError::Closed { reason, outcome },
            None => SendError::StreamLost { outcome },
        }
    }

    /// Hands over what the lane has ready, if nobody else is at it.
    pub(crate) fn pump(self: &Arc<Self>) {
        // One retry on another stream: if that fails as well, the connection is ending.
        let mut retry = true;
        loop {
            match self.lane.next() {
                Step::Nothing => return,
                Step::Finish => match self.send_stream(false) {
                    Ok(stream) => stream.finish(),
                    Err(_) => return,
                },
                Step::Submit(request) => {
                    let result = match self.send_stream(false) {
                        Ok(stream) => stream.send(request).inspect_err(|_| {
                            self.lane.discard_stream(&stream);
                        }),
                        Err(_) => Err(request),
                    };
                    let failed = result.is_err();
                    self.lane.submitted(result);
                    if failed && (self.is_over() || !std::mem::take(&mut retry)) {
                        return;
                    }
                }
            }
        }
    }

    /// The stream frames go out on; opens one if there is none.
    pub(crate) fn send_stream(
        self: &Arc<Self>,
        announce: bool,
    ) -> Result<Arc<SendStream>, LibraryError> {
        if let Some(stream) = self.lane.stream() {
            return Ok(stream);
        }
        let stream = SendStream::open(self, announce)?;
        Ok(self.lane.keep_stream(stream))
    }
}
