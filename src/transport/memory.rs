//! What a node may take on in memory, added up from its limits.
//!
//! Nothing is enforced here: `bounds.rs`, the lanes, the queues and the library's windows do that.

use super::bounds::FLOOR;
use crate::config::Limits;
use crate::frame::HEADER_BYTES;

/// Lanes of one connection that share the node's budget: data and bulk.
const LANES: usize = 2;

/// One end of an idle connection, the one that dialled: MsQuic's and OpenSSL's state, the actor, the
/// handles. Rounded up: both ends together were measured with 134 to 160 KiB (docs/benchmarks.md).
const CONNECTION_BYTES: u64 = 128 << 10;

/// A handshake that is not done: as a connection, with the TLS state of the end that accepts, which
/// is freed behind it. An estimate from above.
const HANDSHAKE_BYTES: u64 = 192 << 10;

/// What the library keeps of each processor for the next burst: 256 receive blocks of 84 KiB, and
/// smaller pools.
const PROCESSOR_BYTES: u64 = 24 << 20;

/// The most resident memory, in bytes, that a node takes on beside what its process has anyway:
/// made by [`Limits::worst_case_memory`].
///
/// Each term is what it would be if all peers did their worst at the same time. It counts what is
/// kept of frames and streams, and what connections cost by themselves. Not in it:
///
/// - the kernel's socket buffers;
/// - frames that the application has taken, or waits with for admission, and what it keeps of them;
///   and those sent with more than one [`Credit`](crate::Credit) a lane that was kept unused;
/// - datagrams that the library has read and not decrypted: little, unless a peer ignores congestion
///   control (then up to one for each KiB of `Limits::inbound_bytes_max` a connection);
/// - what it costs to remember very small pieces, where a peer sends byte by byte;
/// - what the allocator keeps of what was freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorstCaseMemory {
    /// Frames that this node's callers handed over: what data and bulk lanes may hold of
    /// `Limits::node_send_bytes_max`, if they begin one after the other (the first has up to
    /// `Limits::lane_bytes_max`, the last its least share), and for each control lane its own limit.
    /// All of it twice, as small frames are gathered in buffers that grow by doubling.
    pub lanes: u64,
    /// Frames that wait for `recv`: what each connection may hold of
    /// `Limits::node_receive_bytes_max`, if they begin one after the other and nobody reads.
    pub queues: u64,
    /// What is allowed beyond that, so that one frame always gets through: of
    /// `Limits::frame_bytes_max` one in each data lane, one in each bulk lane, and one for each
    /// connection that is not received as a whole. With large frames this is most of it: set the
    /// limit to what is sent.
    pub large_frames: u64,
    /// What the library holds of the peers' streams behind a full queue. Each stream's buffer grows
    /// up to `Limits::inbound_bytes_max`, rounded up to a power of two, and stays as large as it
    /// once was: so it counts `Limits::peer_streams_max` times. (Another moorline node has a stream
    /// for each lane that it uses, three at most.)
    pub windows: u64,
    /// Connections themselves: 128 KiB each.
    pub connections: u64,
    /// Handshakes that are not done, `Limits::handshakes_pending_max` of one listener: 192 KiB
    /// each. More listeners have as many each.
    pub handshakes: u64,
    /// What the library keeps for the next burst, 24 MiB for each processor. Nodes of one process
    /// share it.
    pub pools: u64,
}

impl WorstCaseMemory {
    /// All of it together.
    #[must_use]
    pub fn total(&self) -> u64 {
        let Self { lanes, queues, large_frames, windows, connections, handshakes, pools } = *self;
        [lanes, queues, large_frames, windows, connections, handshakes, pools]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

impl Limits {
    /// The most memory that a node with these limits takes on for so many connections, in both
    /// directions; there are never more than `connections_max`.
    ///
    /// # Examples
    ///
    /// ```
    /// use moorline::Limits;
    ///
    /// let mut limits = Limits::default();
    /// limits.frame_bytes_max = 64 << 10;
    /// limits.lane_bytes_max = 256 << 10;
    /// limits.inbound_bytes_max = 256 << 10;
    /// limits.peer_streams_max = 1;
    /// let memory = limits.worst_case_memory(100);
    /// assert_eq!(memory.large_frames, 100 * 3 * (4 + (64 << 10)));
    /// assert_eq!(memory.windows, 100 * (256 << 10));
    /// let all = limits.worst_case_memory(limits.connections_max);
    /// assert!(all.total() > memory.total());
    /// ```
    #[must_use]
    pub fn worst_case_memory(&self, connections: usize) -> WorstCaseMemory {
        let connections = connections.min(self.connections_max);
        let count = connections as u64;
        let frame = (HEADER_BYTES + self.frame_bytes_max) as u64;
        let lanes = shares(
            self.node_send_bytes_max,
            self.lane_bytes_max,
            connections.saturating_mul(LANES),
        );
        let control = count.saturating_mul(self.control_lane_bytes_max as u64);
        let queued = shares(self.node_receive_bytes_max, self.inbound_bytes_max, connections);
        let stream = (self.inbound_bytes_max as u64).next_power_of_two();
        let processors = std::thread::available_parallelism().map_or(1, usize::from) as u64;
        WorstCaseMemory {
            lanes: lanes.saturating_add(control).saturating_mul(2),
            queues: queued,
            large_frames: count.saturating_mul(LANES as u64 + 1).saturating_mul(frame),
            windows: count.saturating_mul(u64::from(self.peer_streams_max)).saturating_mul(stream),
            connections: count.saturating_mul(CONNECTION_BYTES),
            handshakes: (self.handshakes_pending_max as u64).saturating_mul(HANDSHAKE_BYTES),
            pools: processors * PROCESSOR_BYTES,
        }
    }
}

/// What `count` lanes or queues hold of `budget` that are filled one after the other: each has the
/// share that was its own when it began, and nothing is taken back.
fn shares(budget: usize, bytes_max: usize, count: usize) -> u64 {
    let floor = FLOOR.min(bytes_max);
    let mut sum = 0_u64;
    for before in 0..count {
        let share = budget / before.max(1);
        if share <= floor {
            return sum.saturating_add(((count - before) as u64).saturating_mul(floor as u64));
        }
        sum = sum.saturating_add(share.min(bytes_max) as u64);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_that_fill_one_after_the_other_hold_more_than_the_budget() {
        let (budget, bytes_max) = (16 * FLOOR, 8 * FLOOR);
        assert_eq!(shares(budget, bytes_max, 0), 0);
        let units = |count| shares(budget, bytes_max, count) as f64 / FLOOR as f64;
        assert_eq!(units(3), 24.0);
        // The fourth finds three that are busy.
        assert!((units(4) - (24.0 + 16.0 / 3.0)).abs() < 0.001, "{}", units(4));
        assert_eq!(units(117) - units(17), 100.0, "the others have their floor");
    }

    #[test]
    fn the_sum_never_overflows() {
        let limits = Limits {
            connections_max: usize::MAX,
            inbound_bytes_max: 1 << 30,
            node_receive_bytes_max: 1,
            peer_streams_max: u16::MAX,
            ..Limits::default()
        };
        assert_eq!(limits.worst_case_memory(usize::MAX / 2).total(), u64::MAX);
    }

    #[test]
    fn a_node_has_no_more_connections_than_it_may_have() {
        let limits = Limits { connections_max: 10, ..Limits::default() };
        assert_eq!(limits.worst_case_memory(11), limits.worst_case_memory(10));
    }
}
