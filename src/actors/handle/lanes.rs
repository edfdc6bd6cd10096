//! Sending on a lane of one's choice.

use std::collections::VecDeque;

use bytes::Bytes;

use super::ConnectionHandle;
use crate::actors::sending::credit::Credit;
use crate::error::SendError;
use crate::transport::Lane;

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

    /// As [`send_on`](Self::send_on), for a frame in two parts: `head` is copied, `body` is not (if it has
    /// more than 8 KiB), so that a header and a payload need not be put together first. The peer gets one
    /// frame.
    ///
    /// # Errors
    ///
    /// As for [`send_on`](Self::send_on). The frame that is handed back has both parts, copied.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the frame is taken over whole or not at all.
    pub async fn send_parts_on(
        &self,
        lane: Lane,
        head: &[u8],
        body: impl Into<Bytes>,
    ) -> Result<(), SendError> {
        self.core.send_parts(lane, head, body.into()).await
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

    /// As [`reserve_many`](Self::reserve_many), on `lane`.
    ///
    /// # Errors
    ///
    /// As for [`reserve_many`](Self::reserve_many), with the limits of `lane`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn reserve_on(
        &self,
        lane: Lane,
        frames: usize,
        length: usize,
    ) -> Result<Credit, SendError> {
        Credit::reserve(&self.core, lane, frames, length).await
    }

    /// As [`try_reserve_many`](Self::try_reserve_many), on `lane`.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] if the lane has no room for all of it.
    pub fn try_reserve_on(
        &self,
        lane: Lane,
        frames: usize,
        length: usize,
    ) -> Result<Credit, SendError> {
        Credit::try_reserve(&self.core, lane, frames, length)
    }
}
