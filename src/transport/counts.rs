//! What the connections of a node count together.

use std::sync::atomic::{AtomicU64, Ordering};

use super::admission::AdmissionCounts;

/// How a node is doing, since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeStats {
    /// What became of the peers that asked for a connection.
    pub admissions: AdmissionCounts,
    /// What happened that cannot: each is a fault of this library. It is logged as an error, once for
    /// each place in the code, and the connection that it happened to is closed with
    /// [`CloseCode::INTERNAL`](crate::CloseCode::INTERNAL), so that it goes no further. In a build with
    /// debug assertions it panics instead.
    pub impossible: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Counts {
    impossible: AtomicU64,
}

impl Counts {
    pub(super) fn impossible(&self, times: u64) {
        self.impossible.fetch_add(times, Ordering::Relaxed);
    }

    /// Without what is counted elsewhere.
    pub(super) fn stats(&self) -> NodeStats {
        let impossible = self.impossible.load(Ordering::Relaxed);
        NodeStats { impossible, ..NodeStats::default() }
    }
}
