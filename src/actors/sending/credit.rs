//! Room in a lane for the frames of one message.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::SendError;
use crate::frame::HEADER_BYTES;
use crate::transport::Lane;
use crate::transport::core::ConnectionCore;
use crate::transport::link::outcome::OUTCOME_BYTES;
use crate::transport::link::room::Cost;

/// Room in a lane for the frames of one message: what makes them bounded. Made by
/// [`ConnectionHandle::reserve`](crate::ConnectionHandle::reserve) and [`reserve_many`](crate::ConnectionHandle::reserve_many); unused, it gives the room
/// back.
#[derive(Debug)]
pub struct Credit {
    core: Arc<ConnectionCore>,
    lane: Lane,
    frames: usize,
    length: usize,
    cost: Cost,
}

/// A frame that a credit covers, and the room that it takes.
pub(in crate::actors) struct Covered {
    pub(in crate::actors) frame: Bytes,
    pub(in crate::actors) cost: Cost,
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
            Err(error) => Err(core.not_admitted(lane, error, Bytes::new())),
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

    /// The payload it covers, in bytes: that of all its frames together.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// The lane it is for.
    #[must_use]
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// How many frames it covers.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Uses it up for `frame`, if it covers it and is for `core`.
    pub(in crate::actors) fn spend(
        self,
        core: &Arc<ConnectionCore>,
        frame: Bytes,
    ) -> Result<Covered, SendError> {
        if !self.covers(core, 1, frame.len()) {
            return Err(SendError::Credit { frame });
        }
        let frame = core.check_length(self.lane, frame)?;
        Ok(Covered { frame, cost: self.take() })
    }

    /// As [`Credit::spend`] for all of `frames` together, or for none.
    pub(in crate::actors) fn spend_many(
        self,
        core: &Arc<ConnectionCore>,
        frames: &VecDeque<Bytes>,
    ) -> Result<Cost, SendError> {
        if !self.covers(core, frames.len(), frames.iter().map(Bytes::len).sum()) {
            let frame = frames.front().cloned().unwrap_or_default();
            return Err(SendError::Credit { frame });
        }
        let limit = core.frame_bytes_max(self.lane);
        if let Some(frame) = frames.iter().find(|frame| frame.len() > limit) {
            core.check_length(self.lane, frame.clone())?;
        }
        Ok(self.take())
    }

    fn covers(&self, core: &Arc<ConnectionCore>, frames: usize, length: usize) -> bool {
        frames <= self.frames && length <= self.length && Arc::ptr_eq(core, &self.core)
    }

    fn take(mut self) -> Cost {
        self.cost.split(usize::MAX)
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        if self.cost.bytes > 0 {
            self.core.give_back(self.lane, self.cost);
        }
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
    let of_lane = core.lane_bytes_max(lane) - HEADER_BYTES;
    match more {
        0 if length > core.frame_bytes_max(lane) => Err(core.too_large(lane, length, Bytes::new())),
        1.. if needed > of_lane => Err(core.too_many(lane, needed, of_lane)),
        _ => Ok(needed),
    }
}
