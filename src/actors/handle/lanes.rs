//! Sending on a lane of one's choice.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::{ConnectionHandle, Credit};
use crate::error::{Outcome, SendError};
use crate::transport::Lane;
use crate::transport::core::AdmitError;

impl ConnectionHandle {
    /// As [`send`](Self::send), on `lane`.
    ///
    /// The peer's `recv` gives the frames of all lanes; a lane that has many gives way to the
    /// others after 16 KiB or one frame.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send). On [`Lane::Control`] frames over
    /// `Limits::control_lane_bytes_max` are too large.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the frame is taken over whole or not at all.
    pub async fn send_on(&self, lane: Lane, frame: impl Into<Bytes>) -> Result<(), SendError> {
        self.core.send(lane, frame.into()).await
    }

    /// As [`send_many`](Self::send_many), on `lane`.
    ///
    /// # Errors
    ///
    /// As for [`send_on`](Self::send_on), for the frame at the front; those behind it are left in
    /// `frames`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what is still in `frames` was not taken over.
    pub async fn send_many_on(
        &self,
        lane: Lane,
        frames: &mut VecDeque<Bytes>,
    ) -> Result<(), SendError> {
        self.core.send_many(lane, frames).await
    }

    /// As [`try_send`](Self::try_send), on `lane`.
    ///
    /// # Errors
    ///
    /// As for [`try_send`](Self::try_send) and [`send_on`](Self::send_on).
    pub fn try_send_on(&self, lane: Lane, frame: impl Into<Bytes>) -> Result<(), SendError> {
        self.core.try_send(lane, frame.into())
    }

    /// As [`send_acked`](Self::send_acked), on `lane`.
    ///
    /// # Errors
    ///
    /// As for [`send_acked`](Self::send_acked) and [`send_on`](Self::send_on).
    ///
    /// # Cancel safety
    ///
    /// Cancelled while it waits for room, nothing is sent; later, the frame goes its way and is
    /// counted.
    pub async fn send_acked_on(
        &self,
        lane: Lane,
        frame: impl Into<Bytes>,
    ) -> Result<(), SendError> {
        self.core.send_acked(lane, frame.into()).await
    }

    /// As [`reserve`](Self::reserve), on `lane`.
    ///
    /// # Errors
    ///
    /// As for [`send_on`](Self::send_on), with an empty frame.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn reserve_on(&self, lane: Lane, length: usize) -> Result<Credit, SendError> {
        let (frame, limit) = (Bytes::new(), self.core.frame_bytes_max(lane));
        if length > limit {
            return Err(SendError::TooLarge { length, limit, frame });
        }
        match self.core.admit(lane, length).await {
            Ok(cost) => Ok(Credit { core: Arc::clone(&self.core), lane, length, cost }),
            Err(AdmitError::TimedOut(after)) => {
                Err(SendError::TimedOut { after, outcome: Outcome::NotSent(frame) })
            }
            Err(AdmitError::Shut) => Err(self.core.closed_error(frame)),
        }
    }
}
