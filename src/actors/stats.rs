//! How a connection is doing.

use std::time::Duration;

use crate::transport::OutcomeCounts;
use crate::transport::core::ConnectionCore;

/// How a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionStats {
    /// What became of the frames that were accepted for sending.
    pub sent: OutcomeCounts,
    /// The same, for each of [`Lane::ALL`](crate::Lane::ALL).
    pub sent_by_lane: [OutcomeCounts; 3],
    /// Bytes that were accepted for sending and are neither acknowledged nor lost, for each of
    /// [`Lane::ALL`](crate::Lane::ALL), headers included.
    pub bytes_pending_by_lane: [usize; 3],
    /// Bytes of the payloads of acknowledged frames.
    pub bytes_sent: u64,
    /// Frames that readers took.
    pub frames_received: u64,
    /// Bytes of the payloads of those frames.
    pub bytes_received: u64,
    /// Bytes that wait for readers here, headers and what it costs to remember them included.
    pub bytes_waiting: usize,
    /// Streams that the peer gave up: each may have taken a frame with it that was not whole.
    pub streams_reset: u64,
    /// The smoothed round trip as last looked at, at most ten times a second.
    pub rtt: Duration,
    /// Packets sent, as last looked at.
    pub packets_sent: u64,
    /// Those of them that were lost on the way.
    pub packets_lost: u64,
    /// Time since the connection was begun.
    pub up_for: Duration,
}

pub(super) fn stats(core: &ConnectionCore) -> ConnectionStats {
    let by_lane = core.counts_by_lane();
    let mut sent = OutcomeCounts::default();
    by_lane.iter().for_each(|lane| sent += lane.frames);
    let received = core.inbound_counts();
    let packets = core.packets();
    ConnectionStats {
        sent,
        sent_by_lane: by_lane.map(|lane| lane.frames),
        bytes_pending_by_lane: core.pending_by_lane(),
        bytes_sent: by_lane.iter().map(|lane| lane.bytes_sent).sum(),
        frames_received: received.frames,
        bytes_received: received.bytes,
        bytes_waiting: received.waiting,
        streams_reset: received.resets,
        rtt: core.rtt(),
        packets_sent: packets.sent,
        packets_lost: packets.lost,
        up_for: core.started().elapsed(),
    }
}
