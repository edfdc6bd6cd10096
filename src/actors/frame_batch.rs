//! What readers by message get: frames that come back to the connection if nobody takes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::handle::ConnectionHandle;
use crate::identity::CertHash;
use crate::never::never;
use crate::transport::Lane;
use crate::transport::core::{ConnectionCore, IsGone, Lent, Received};

/// How often frames that nobody looked at are given again, if their subscriber lives.
const TRIES_MAX: u8 = 2;

/// The answer to a [`ConnectionMessage::Recv`](crate::ConnectionMessage::Recv): one frame.
///
/// Dropped before [`into_bytes`](Self::into_bytes), because whoever asked has given up meanwhile, the
/// frame goes back and is the next one that a reader gets.
pub struct ReceivedFrame {
    core: Arc<ConnectionCore>,
    received: Option<Received>,
    lane: Lane,
}

impl ReceivedFrame {
    pub(super) fn new(core: Arc<ConnectionCore>, received: Received) -> Self {
        Self { core, lane: received.lane, received: Some(received) }
    }

    /// The lane it came on.
    #[must_use]
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// Takes it.
    #[must_use = "it is taken"]
    pub fn into_bytes(mut self) -> Bytes {
        let received = self.received.take();
        if never!(received.is_none(), "a frame is gone that nobody else can take") {
            self.core.look_for_marks();
        }
        received.map(|received| received.frame).unwrap_or_default()
    }

    /// Nobody gets it: the one who calls puts it back.
    pub(super) fn refuse(mut self) -> Option<Received> {
        self.received.take()
    }
}

impl From<ReceivedFrame> for Bytes {
    fn from(frame: ReceivedFrame) -> Self {
        frame.into_bytes()
    }
}

impl Drop for ReceivedFrame {
    fn drop(&mut self) {
        if let Some(received) = self.received.take() {
            self.core.put_back(received.into_lent());
        }
    }
}

impl std::fmt::Debug for ReceivedFrame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = self.received.as_ref().map(|received| received.frame.len());
        f.debug_struct("ReceivedFrame").field("lane", &self.lane).field("bytes", &bytes).finish()
    }
}

/// Frames for a subscriber, all of one lane. While it is held the peer's window stays closed by as
/// much; dropping it tells the connection that they are dealt with.
///
/// It is an iterator over the frames. Those that were neither looked at nor taken when it is dropped
/// go back if their subscriber is gone: they are the next ones that a reader gets. From a subscriber
/// that lives they come once or twice more.
pub struct FrameBatch {
    connection: ConnectionHandle,
    is_gone: IsGone,
    frames: std::vec::IntoIter<Bytes>,
    lane: Lane,
    /// The number of the first frame that is left.
    first: u64,
    cost: usize,
    tries: u8,
    seen: AtomicBool,
}

impl FrameBatch {
    pub(super) fn new(connection: ConnectionHandle, is_gone: IsGone, lent: Lent) -> Self {
        let Lent { frames, lane, first, cost, tries } = lent;
        let (frames, seen) = (frames.into_iter(), AtomicBool::new(false));
        Self { connection, is_gone, frames, lane, first, cost, tries, seen }
    }

    /// The connection they came on.
    #[must_use]
    pub fn connection(&self) -> &ConnectionHandle {
        &self.connection
    }

    /// Who sent them.
    #[must_use]
    pub fn peer(&self) -> CertHash {
        self.connection.peer()
    }

    /// The number of the connection they came on.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.connection.epoch()
    }

    /// The lane they came on.
    #[must_use]
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// The frames that were not taken, in order. Who looks at them has them all.
    #[must_use]
    pub fn frames(&self) -> &[Bytes] {
        self.seen.store(true, Ordering::Relaxed);
        self.frames.as_slice()
    }

    /// Takes the frames out; the window opens when the batch is dropped.
    #[must_use = "they are taken"]
    pub fn take_frames(&mut self) -> Vec<Bytes> {
        self.by_ref().collect()
    }

    /// Nobody got it: what is returned goes back.
    pub(super) fn refuse(mut self) -> Lent {
        self.take_lent()
    }

    fn take_lent(&mut self) -> Lent {
        Lent {
            frames: std::mem::take(&mut self.frames).collect(),
            lane: self.lane,
            first: self.first,
            cost: std::mem::take(&mut self.cost),
            tries: self.tries,
        }
    }

    fn goes_back(&self) -> bool {
        let unseen = self.frames.len() > 0 && !self.seen.load(Ordering::Relaxed);
        unseen && (self.tries < TRIES_MAX || std::thread::panicking() || (self.is_gone)())
    }
}

impl Iterator for FrameBatch {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let frame = self.frames.next()?;
        self.first += 1;
        Some(frame)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.frames.size_hint()
    }
}

impl ExactSizeIterator for FrameBatch {}

impl Drop for FrameBatch {
    fn drop(&mut self) {
        let goes_back = self.goes_back();
        let lent = self.take_lent();
        if lent.cost == 0 {
            // It was refused.
        } else if goes_back {
            self.connection.core().put_back(lent);
        } else {
            self.connection.core().return_lent(lent.cost);
        }
    }
}

impl std::fmt::Debug for FrameBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameBatch")
            .field("connection", &self.connection)
            .field("lane", &self.lane)
            .field("frames", &self.frames.len())
            .finish_non_exhaustive()
    }
}
