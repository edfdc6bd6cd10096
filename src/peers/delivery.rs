//! What became of frames.

/// What became of a frame that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// The peer's application took it.
    Delivered,
    /// The peer's application did not take it, and never will: [`Peer::take_unsent`](crate::Peer::take_unsent) has it.
    NotSent,
    /// It was on a connection; nobody can say.
    MaybeSent,
}

/// How many frames met which end. `accepted` is the sum of the others once the session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DeliveryCounts {
    /// Frames taken over.
    pub accepted: u64,
    /// See [`Delivery::Delivered`].
    pub delivered: u64,
    /// See [`Delivery::NotSent`].
    pub not_sent: u64,
    /// See [`Delivery::MaybeSent`].
    pub maybe_sent: u64,
}
