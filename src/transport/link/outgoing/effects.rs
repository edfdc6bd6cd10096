//! What a lane answers, and what comes of a change: done outside its lock.

use crate::error::Outcome;
use crate::transport::link::batch::Batch;
use crate::transport::link::fair::Granted;
use crate::transport::link::room::Cost;

/// The answer to a request for admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::transport) enum Admission {
    /// So much is reserved.
    Granted(Cost),
    Full,
    Shut,
}

/// The first frames of a queue, which are admitted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::transport) struct Group {
    pub(in crate::transport) frames: usize,
    pub(in crate::transport) cost: usize,
}

/// What comes of room that is free again: done outside the lock.
#[must_use = "they have been given what they waited for"]
#[derive(Debug)]
pub(in crate::transport) struct Freed<W> {
    /// Their turn has come, or will never come.
    pub(in crate::transport) wake: Vec<W>,
    /// So many bytes go back to the node's room.
    pub(in crate::transport) large: usize,
}

impl<W> Freed<W> {
    pub(super) fn wake(granted: Granted<W>) -> Self {
        Self { wake: granted.into_iter().map(|it| it.waiter).collect(), large: 0 }
    }
}

/// What will not be sent: told, and dropped, outside the lock.
#[must_use = "they are to be told"]
pub(in crate::transport) struct Ended<W> {
    pub(super) not_sent: Vec<Batch>,
    pub(super) freed: Freed<W>,
}

impl<W> Default for Ended<W> {
    fn default() -> Self {
        Self { not_sent: Vec::new(), freed: Freed { wake: Vec::new(), large: 0 } }
    }
}

impl<W> Ended<W> {
    /// Tells those who wait for outcomes; what is left is for those who wait for room.
    pub(in crate::transport) fn tell(self) -> Freed<W> {
        for (frame, sink) in self.not_sent.into_iter().flat_map(|batch| batch.sent.sinks) {
            sink(Outcome::NotSent(frame));
        }
        self.freed
    }
}

/// A batch between its taking and its handing over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Submitting {
    /// The number of the stream it is meant for.
    pub(super) stream: u64,
    pub(super) splits: bool,
}

/// What to do next.
#[expect(clippy::large_enum_variant, reason = "moved once or twice a submission, never stored")]
pub(in crate::transport) enum Step<S, W> {
    Nothing,
    /// Hand this over, on a new stream if there is none; [`Outgoing::submitted`] or
    /// [`Outgoing::came_back`] must follow.
    Submit(Batch, Option<S>),
    /// The stream that had the beginning of a frame is lost: tell these that it was not sent.
    Lost(Ended<W>),
    /// Everything was handed over: end the stream.
    Finish,
}
