//! Sending on a lane of one's choice.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::{ConnectionHandle, Credit};
use crate::error::SendError;
use crate::frame::HEADER_BYTES;
use crate::transport::Lane;
use crate::transport::core::ConnectionCore;
use crate::transport::lane::OUTCOME_BYTES;

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

impl Credit {
    /// Waits for the room.
    pub(in crate::actors) async fn reserve(
        core: &Arc<ConnectionCore>,
        lane: Lane,
        frames: usize,
        length: usize,
    ) -> Result<Self, SendError> {
        match core.admit(lane, check_reserved(core, lane, frames, length)?).await {
            Ok(cost) => Ok(Self { core: Arc::clone(core), lane, frames, length, cost }),
            Err(error) => Err(core.not_admitted(error, Bytes::new())),
        }
    }

    /// Without waiting.
    pub(in crate::actors) fn try_reserve(
        core: &Arc<ConnectionCore>,
        lane: Lane,
        frames: usize,
        length: usize,
    ) -> Result<Self, SendError> {
        let cost = core.try_admit(lane, check_reserved(core, lane, frames, length)?)?;
        Ok(Self { core: Arc::clone(core), lane, frames, length, cost })
    }
}

/// The length of one frame that needs as much room.
fn check_reserved(
    core: &ConnectionCore,
    lane: Lane,
    frames: usize,
    length: usize,
) -> Result<usize, SendError> {
    let more = frames.saturating_sub(1);
    let remembered = OUTCOME_BYTES.saturating_mul(frames);
    let needed =
        length.saturating_add(HEADER_BYTES.saturating_mul(more)).saturating_add(remembered);
    let (wanted, limit) = match more {
        0 => (length, core.frame_bytes_max(lane)),
        _ => (needed, core.lane(lane).bytes_max() - HEADER_BYTES),
    };
    if wanted > limit {
        return Err(SendError::TooLarge { length: wanted, limit, frame: Bytes::new() });
    }
    Ok(needed)
}
