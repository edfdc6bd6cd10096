//! What a peer must not do on a flow.

use super::flow::FlowState;

/// The peer said of a flow what cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FlowViolation {
    /// It took what was never sent, or what it did not receive.
    #[error("the peer received {received} and took {taken} of {submitted} frames")]
    NeverSent {
        /// What it says to have received.
        received: u64,
        /// What it says to have taken.
        taken: u64,
        /// What was submitted.
        submitted: u64,
    },
    /// Its counters, or what it grants, went back on one connection.
    #[error("the peer's counters went back from {before:?} to {after:?}")]
    WentBack {
        /// What it said before.
        before: FlowState,
        /// What it says.
        after: FlowState,
    },
    /// Its frames leave one out.
    #[error("frame {number} came where {expected} was expected")]
    Gap {
        /// What came.
        number: u64,
        /// What was to come.
        expected: u64,
    },
    /// It has two streams for one flow on one connection.
    #[error("a second stream of one flow")]
    SecondStream,
    /// It sent more than was granted.
    #[error("{untaken} bytes are not taken, {granted} were granted")]
    OverCredit {
        /// What would be there with the frame that came.
        untaken: u64,
        /// What was granted.
        granted: u64,
    },
}
