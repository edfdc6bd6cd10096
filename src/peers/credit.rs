//! Room for the frames of one message to a session.

use std::sync::Arc;

use bytes::Bytes;

use super::core::{PeerCore, flow_of};
use super::error::PeerSendError;
use super::out_flow::{NotAccepted, OUTCOME_BYTES, OutFlow};
use crate::session::frame_head::{FRAME_HEAD_BYTES_MAX, FrameHead};
use crate::transport::Lane;

/// What each frame takes beside its own bytes: its head, and what is remembered until its outcome.
const BESIDE: usize = FRAME_HEAD_BYTES_MAX + OUTCOME_BYTES;

/// Room for the frames of one message: what makes them bounded. Made by [`Peer::reserve`](crate::Peer::reserve)
/// and [`reserve_many`](crate::Peer::reserve_many); unused, it gives the room back. It outlives connections,
/// as its session does.
#[derive(Debug)]
pub struct PeerCredit {
    core: Arc<PeerCore>,
    lane: Lane,
    frames: usize,
    length: usize,
    /// What is left of it.
    cost: usize,
}

impl PeerCredit {
    /// Waits for the room. Cancel safe.
    pub(crate) async fn reserve(
        core: &Arc<PeerCore>,
        lane: Lane,
        frames: usize,
        length: usize,
    ) -> Result<Self, PeerSendError> {
        let cost = check(core, frames, length)?;
        match core.out(lane, false).admit(cost).await {
            Ok(()) => Ok(Self { core: Arc::clone(core), lane, frames, length, cost }),
            Err(NotAccepted::Full(_) | NotAccepted::Shut) => Err(core.not_accepted(Bytes::new())),
        }
    }

    /// Without waiting.
    pub(crate) fn try_reserve(
        core: &Arc<PeerCore>,
        lane: Lane,
        frames: usize,
        length: usize,
    ) -> Result<Self, PeerSendError> {
        let cost = check(core, frames, length)?;
        match core.out(lane, false).try_admit(cost) {
            Ok(()) => Ok(Self { core: Arc::clone(core), lane, frames, length, cost }),
            Err(NotAccepted::Full(limit)) => {
                core.reached(limit);
                Err(PeerSendError::Full { frame: Bytes::new() })
            }
            Err(NotAccepted::Shut) => Err(core.not_accepted(Bytes::new())),
        }
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

    /// Uses it up for `frames`, all of them or none, if it covers them and is for `core`; tells the number of
    /// the last one. `remembered`: what becomes of that one is told, and the room for that is kept.
    pub(in crate::peers) fn spend(
        mut self,
        core: &Arc<PeerCore>,
        frames: Vec<Bytes>,
        remembered: bool,
    ) -> Result<u64, (Vec<Bytes>, PeerSendError)> {
        let length: usize = frames.iter().map(Bytes::len).sum();
        let covers =
            frames.len() <= self.frames && length <= self.length && Arc::ptr_eq(core, &self.core);
        if !covers || frames.is_empty() {
            let frame = frames.first().cloned().unwrap_or_default();
            return Err((frames, PeerSendError::Credit { frame }));
        }
        let limit = core.frame_bytes_max();
        if let Some(frame) = frames.iter().find(|frame| frame.len() > limit).cloned() {
            return Err((frames, PeerSendError::TooLarge { length: frame.len(), limit, frame }));
        }
        let flow = flow_of(self.lane, false);
        let mut last = 0;
        let mut frames = frames.into_iter();
        while let Some(frame) = frames.next() {
            self.cost -= OutFlow::cost(frame.len());
            match core.push(flow, FrameHead::Message, frame, |_| {}) {
                Ok(number) => last = number,
                // The session shuts meanwhile: those before it have their outcomes.
                Err(frame) => {
                    let error = core.not_accepted(frame.clone());
                    return Err((std::iter::once(frame).chain(frames).collect(), error));
                }
            }
        }
        if remembered {
            self.cost -= OUTCOME_BYTES;
        }
        Ok(last)
    }
}

impl Drop for PeerCredit {
    fn drop(&mut self) {
        if self.cost > 0 {
            self.core.out(self.lane, false).give_back(self.cost);
        }
    }
}

/// The room that frames of so many bytes together need.
fn check(core: &PeerCore, frames: usize, length: usize) -> Result<usize, PeerSendError> {
    let too_large = |limit| PeerSendError::TooLarge { length, limit, frame: Bytes::new() };
    let needed = BESIDE.saturating_mul(frames).saturating_add(length);
    let limit = core.frame_bytes_max();
    let kept = core.flow_bytes_max();
    match frames {
        0 | 1 if length > limit => Err(too_large(limit)),
        2.. if needed > kept => Err(too_large(kept)),
        _ => Ok(needed),
    }
}
