//! What became of the datagrams of one direction.

/// What a proxy did with the datagrams of one direction.
///
/// At any moment `entered + duplicated` is `left + dropped() + waiting`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Datagrams that came.
    pub entered: u64,
    /// Their bytes.
    pub entered_bytes: u64,
    /// Datagrams that were handed on.
    pub left: u64,
    /// Their bytes.
    pub left_bytes: u64,
    /// Datagrams that wait for their time.
    pub waiting: u64,
    /// Lost by chance, alone or in a burst.
    pub lost: u64,
    /// Lost in a black hole, a partition, or by a number of datagrams or bytes that was asked for.
    pub black_holed: u64,
    /// Lost because they were larger than the MTU.
    pub too_large: u64,
    /// Lost because the queue of the bottleneck was full.
    pub queue_full: u64,
    /// Lost because the proxy holds no more than [`HELD_BYTES_MAX`](super::HELD_BYTES_MAX).
    pub not_held: u64,
    /// Lost because the client they are for is not known (any more), or the system did not take them.
    pub undeliverable: u64,
    /// Handed on later than they came.
    pub delayed: u64,
    /// Held back so that others overtake them.
    pub reordered: u64,
    /// Copies that were made.
    pub duplicated: u64,
    /// Datagrams with a flipped bit.
    pub corrupted: u64,
}

impl Counters {
    /// All that came, or was made here, and did not leave.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.lost
            + self.black_holed
            + self.too_large
            + self.queue_full
            + self.not_held
            + self.undeliverable
    }

    /// Whether every datagram is accounted for.
    #[must_use]
    pub fn balance(&self) -> bool {
        self.entered + self.duplicated == self.left + self.waiting + self.dropped()
    }
}
