//! A request of a peer's, in the hands of its handler.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::Peer;
use crate::peers::core::{Cancelled, flow_of};
use crate::peers::error::PeerSendError;
use crate::peers::out_flow::OutFlow;
use crate::session::frame_head::{FrameHead, ReplyStatus};
use crate::session::requests::RequestId;
use crate::transport::{Lane, clock};

/// A request of a peer's. Dropped without an answer, the peer is told so.
#[derive(Debug)]
pub struct Request {
    peer: Peer,
    id: RequestId,
    deadline: Instant,
    cancelled: Arc<Cancelled>,
    frame: Option<Bytes>,
    /// Nobody has answered it.
    open: bool,
}

impl Request {
    pub(super) fn new(
        peer: Peer,
        id: RequestId,
        deadline: Instant,
        cancelled: Arc<Cancelled>,
        frame: Bytes,
    ) -> Self {
        Self { peer, id, deadline, cancelled, frame: Some(frame), open: true }
    }

    /// What is asked; empty once it was taken.
    #[must_use]
    pub fn frame(&self) -> &[u8] {
        self.frame.as_deref().unwrap_or_default()
    }

    /// Takes what is asked.
    pub fn take_frame(&mut self) -> Bytes {
        self.frame.take().unwrap_or_default()
    }

    /// When nobody waits for the answer any more.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Waits until nobody wants an answer any more.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only watches.
    pub async fn cancelled(&self) {
        drop(tokio::time::timeout_at(self.deadline.into(), self.cancelled.wait()).await);
    }

    /// Answers. Nobody is told of an answer that comes too late.
    ///
    /// # Errors
    ///
    /// [`PeerSendError`], with the answer.
    ///
    /// # Cancel safety
    ///
    /// Cancelled, the request was dropped without an answer.
    pub async fn reply(mut self, answer: impl Into<Bytes>) -> Result<(), PeerSendError> {
        let frame = self.peer.check(answer.into())?;
        let lane = Lane::try_from(self.id.0).unwrap_or(Lane::Data);
        let core = Arc::clone(self.peer.core());
        let out = core.out(lane, true);
        if out.admit(OutFlow::cost(frame.len())).await.is_err() {
            return Err(self.peer.core().not_accepted(frame));
        }
        self.open = false;
        let _answering = core.answering();
        if !core.handled(self.id) {
            out.give_back(OutFlow::cost(frame.len()));
            return Ok(());
        }
        let (lane_number, number) = self.id;
        let head = FrameHead::Reply { lane: lane_number, number, status: ReplyStatus::Reply };
        let pushed = core.push(flow_of(lane, true), head, frame, |_| {});
        pushed.map(drop).map_err(|frame| core.not_accepted(frame))
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if self.open && clock::now() < self.deadline {
            self.peer.core().not_handled(self.id);
        } else if self.open {
            // The caller knows by its own clock.
            self.peer.core().handled(self.id);
        }
    }
}
