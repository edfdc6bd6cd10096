//! What the connections of one node may hold together.

use std::sync::Arc;

use super::admission::Arrivals;
use super::counts::{Counts, NodeStats};
use super::link::share::Budget;
use super::node_room::NodeRoom;
use crate::config::Limits;
use crate::frame::HEADER_BYTES;

/// The limits of a transport, and the budgets that come with them.
#[derive(Debug)]
pub(super) struct Bounds {
    pub(super) limits: Arc<Limits>,
    pub(super) sending: Arc<Budget>,
    pub(super) receiving: Arc<Budget>,
    pub(super) windows: Arc<Budget>,
    /// For frames in.
    pub(super) large: NodeRoom,
    /// For frames out.
    pub(super) large_sending: Arc<NodeRoom>,
    /// Who asked for a connection, and from where peers were connected.
    pub(super) arrivals: Arc<Arrivals>,
    pub(super) counts: Arc<Counts>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Bounds {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            sending: Arc::new(Budget::new(limits.node_send_bytes_max)),
            receiving: Arc::new(Budget::new(limits.node_receive_bytes_max)),
            windows: Arc::new(Budget::new(limits.node_window_bytes_max)),
            large: NodeRoom::new(large_bytes(&limits)),
            large_sending: Arc::new(NodeRoom::new(large_bytes(&limits))),
            arrivals: Arc::new(Arrivals::new(&limits)),
            counts: Arc::default(),
            limits: Arc::new(limits),
        }
    }
}

impl Bounds {
    pub(super) fn stats(&self) -> NodeStats {
        NodeStats { admissions: self.arrivals.counts(), ..self.counts.stats() }
    }
}

#[cfg(test)]
impl Bounds {
    /// Whether nobody has any of the room for large frames.
    pub(super) fn large_is_free(&self) -> bool {
        self.large.is_free() && self.large_sending.is_free()
    }
}

/// The least window of a stream, in bytes, where there are many connections: what the library would
/// begin with.
const STREAM_WINDOW_MIN: usize = 64 << 10;

/// The least window of a connection, in bytes, where there are many.
pub(super) fn window_floor(limits: &Limits) -> usize {
    STREAM_WINDOW_MIN.saturating_mul(usize::from(limits.peer_streams_max))
}

/// How much a peer may send ahead of what is taken, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Windows {
    /// On each of its streams.
    pub(super) stream: u32,
    /// On all of them together. It is no less than those of all streams: else one that waits for its
    /// reader would take it all, and no other could go on.
    pub(super) connection: u32,
}

impl Windows {
    /// Out of `bytes` for a connection. That of a stream is a power of two, as the library wants it.
    pub(super) fn out_of(limits: &Limits, bytes: usize) -> Self {
        let streams = limits.peer_streams_max.max(1);
        let power = (bytes / usize::from(streams)).max(1).ilog2();
        let stream = u32::try_from(1_usize << power).unwrap_or(1 << 31);
        Self { stream, connection: stream.saturating_mul(u32::from(streams)) }
    }

    /// Those of a node's only connection.
    pub(super) fn largest(limits: &Limits) -> Self {
        Self::out_of(limits, limits.window_bytes_max)
    }
}

/// The room for large frames, in each direction: the largest frame always has some.
pub(super) fn large_bytes(limits: &Limits) -> usize {
    limits.node_large_bytes_max.max(limits.frame_bytes_max.saturating_add(HEADER_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_has_the_budgets_of_the_default_limits() {
        let (bounds, limits) = (Bounds::default(), Limits::default());
        let budgets = (bounds.sending.bytes, bounds.receiving.bytes);
        assert_eq!(budgets, (limits.node_send_bytes_max, limits.node_receive_bytes_max));
    }
}
