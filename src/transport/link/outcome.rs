//! How frames end, and what is told of it.

use bytes::Bytes;

use crate::error::{CloseReason, Outcome};

/// What it costs to remember who waits for the outcome of a frame, in bytes: counted as its payload is.
pub(crate) const OUTCOME_BYTES: usize = 128;

/// How many frames met which end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutcomeCounts {
    /// Frames taken over. Once the connection is closed this is the sum of the other three.
    pub accepted: u64,
    /// Frames the peer's transport acknowledged.
    pub completed: u64,
    /// Frames that were not handed to the transport whole: the peer cannot have them.
    pub not_sent: u64,
    /// Frames handed to the transport whole and never acknowledged.
    pub maybe_sent: u64,
}

impl std::ops::AddAssign for OutcomeCounts {
    fn add_assign(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.completed += other.completed;
        self.not_sent += other.not_sent;
        self.maybe_sent += other.maybe_sent;
    }
}

/// Told once what became of a frame.
pub(crate) type OutcomeSink = Box<dyn FnOnce(Outcome) + Send>;

/// A frame that was not taken over.
pub(crate) struct Rejected {
    pub(crate) frame: Bytes,
    pub(crate) reason: CloseReason,
}
