//! What a subscriber gets: frames, and the credit that opens the peer's window again.

use std::sync::Arc;

use bytes::Bytes;

use crate::transport::core::ConnectionCore;

/// Frames for a subscriber. Dropping it tells the connection that they are dealt with.
#[derive(Debug)]
pub struct FrameBatch {
    frames: Vec<Bytes>,
    bytes: usize,
    core: Arc<ConnectionCore>,
}

impl FrameBatch {
    pub(super) fn new(frames: Vec<Bytes>, bytes: usize, core: Arc<ConnectionCore>) -> Self {
        Self { frames, bytes, core }
    }

    /// The frames, in order.
    #[must_use]
    pub fn frames(&self) -> &[Bytes] {
        &self.frames
    }

    /// Takes the frames out; the window opens when the batch is dropped.
    #[must_use]
    pub fn take_frames(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.frames)
    }

    /// Nobody got it: the frames go back, and nothing is returned.
    pub(super) fn refuse(mut self) -> Vec<Bytes> {
        self.bytes = 0;
        std::mem::take(&mut self.frames)
    }
}

impl Drop for FrameBatch {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.core.inbound().return_credit(self.bytes);
        }
    }
}
