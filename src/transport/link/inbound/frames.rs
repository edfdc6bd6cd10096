//! What readers take, borrow, and give back.

use std::time::Duration;

use bytes::Bytes;

use crate::transport::link::lanes::Lane;

/// A frame that a reader took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) frame: Bytes,
    pub(crate) lane: Lane,
    /// Its place among those taken from the lane.
    pub(crate) number: u64,
    /// From its first byte to its last.
    pub(crate) took: Duration,
}

impl Taken {
    /// As something lent that counts for nothing.
    pub(crate) fn into_lent(self) -> Lent {
        let Self { frame, lane, number, .. } = self;
        Lent { frames: vec![frame], lane, first: number, cost: 0, tries: 0 }
    }
}

/// Frames of one lane that a subscriber has borrowed; they count until they are returned.
#[derive(Debug)]
pub(crate) struct Lent {
    pub(crate) frames: Vec<Bytes>,
    pub(crate) lane: Lane,
    /// The number of the first; the others follow.
    pub(crate) first: u64,
    /// What they count for.
    pub(crate) cost: usize,
    /// How often they came back before.
    pub(crate) tries: u8,
}

/// A frame that came back.
#[derive(Debug)]
pub(super) struct Returned {
    pub(super) frame: Bytes,
    pub(super) tries: u8,
}
