//! What a node may take on in memory, added up from its limits.
//!
//! Nothing is enforced here: `bounds.rs`, the lanes, the queues and the library's windows do that.

use super::admission::KNOWN_BYTES;
use super::bounds::{large_bytes, window_floor};
use super::link::inbound::GUARANTEED_PART;
use super::link::share::{FLOOR, FLOW_KEPT_MIN};
use crate::config::{FLOW_GRANT_MIN, Limits, SessionLimits};
use crate::frame::HEADER_BYTES;
use crate::session::frame_head::FRAME_HEAD_BYTES_MAX;

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

/// Lanes of a session: each has a flow of messages and one of replies each way.
const SESSION_LANES: usize = 3;

/// A session without frames: its state in the table, its flows, its handle. Rounded up.
const SESSION_BYTES: u64 = 8 << 10;

/// What is remembered of a session that ended, with the maps that find it.
const TOMBSTONE_BYTES: u64 = 300;

/// What is remembered of a peer: that it is away, and the starts that were replaced without their numbers.
const IDENTITY_BYTES: u64 = 200;

/// A number of a start, or of a request: with its place in a list.
const NUMBER_BYTES: u64 = 32;

/// A request in flight, at either side: its deadline, its place in two maps, and who waits or is told.
const REQUEST_BYTES: u64 = 320;

/// Shares that are added up one by one; the others are estimated from above.
const COUNTED_MAX: usize = 4_096;

/// The most resident memory, in bytes, that a node takes on beside what its process has anyway:
/// made by [`Limits::worst_case_memory`].
///
/// Each term is what it would be if all peers did their worst at the same time, and all are bounds
/// that are kept. It counts what is kept of frames and streams, and what connections cost by
/// themselves. Not in it:
///
/// - the kernel's socket buffers;
/// - frames that the application has taken, or waits with for admission, and what it keeps of them;
///   and those sent with more than one [`Credit`](crate::Credit) a lane that was kept unused;
/// - frames of a [`Peer`](crate::Peer) that are larger than the share of their lane, one of each lane, if the
///   application sends such;
/// - datagrams that the library has read and not decrypted: little, unless a peer ignores congestion
///   control (then up to one for each KiB of a stream's window);
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
    /// `Limits::node_receive_bytes_max`, if they begin one after the other and nobody reads, and
    /// what every stream may hold beside that.
    pub queues: u64,
    /// What frames take beyond the share of their lane or queue: `Limits::node_large_bytes_max` in
    /// each direction, or one frame for each connection that receives and for each lane, if that is
    /// less.
    pub large_frames: u64,
    /// What the library holds of the peers' streams behind a full queue: the windows of the
    /// connections, out of `Limits::node_window_bytes_max`, if they begin one after the other.
    pub windows: u64,
    /// Connections themselves: 128 KiB each.
    pub connections: u64,
    /// Handshakes that are not done, `Limits::handshakes_pending_max` of one listener: 192 KiB
    /// each. More listeners have as many each. And 1 MiB for addresses.
    pub handshakes: u64,
    /// Frames for peers that outlive connections, accepted and not taken there: what flows of sessions with a
    /// connection may keep of `SessionLimits::kept_bytes_max` if they begin one after the other and lose
    /// their connections behind that, and those without one of `SessionLimits::absent_bytes_max`. All of it
    /// twice, as for lanes.
    pub kept: u64,
    /// Frames of such peers that nobody took: 16 KiB for each lane of each session, twice for those with a
    /// connection, whose next frame may be on its way; `SessionLimits::node_granted_bytes_max` twice for the
    /// same reason; and large ones within `SessionLimits::large_bytes_max`, of messages and of replies.
    pub received: u64,
    /// Sessions themselves, 8 KiB each, with requests in flight both ways, and what is remembered of those
    /// that ended and of peers.
    pub sessions: u64,
    /// What the library keeps for the next burst, 24 MiB for each processor. Nodes of one process
    /// share it.
    pub pools: u64,
}

impl WorstCaseMemory {
    /// All of it together.
    #[must_use]
    pub fn total(&self) -> u64 {
        let Self { lanes, queues, large_frames, windows, connections, handshakes, .. } = *self;
        let Self { kept, received, sessions, pools, .. } = *self;
        let of_connections = [lanes, queues, large_frames, windows, connections, handshakes];
        let others = [kept, received, sessions, pools];
        of_connections.into_iter().chain(others).fold(0, u64::saturating_add)
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
    /// let limits = Limits::default();
    /// let few = limits.worst_case_memory(20);
    /// assert!(few.total() < 2 << 30);
    /// let all = limits.worst_case_memory(limits.connections_max);
    /// assert!(all.total() < 4 << 30);
    ///
    /// let mut small = Limits::default();
    /// small.frame_bytes_max = 64 << 10;
    /// let memory = small.worst_case_memory(100);
    /// assert_eq!(memory.large_frames, 100 * 3 * (4 + (64 << 10)));
    /// ```
    #[must_use]
    pub fn worst_case_memory(&self, connections: usize) -> WorstCaseMemory {
        let connections = connections.min(self.connections_max);
        let count = connections as u64;
        let each = |bytes: u64| count.saturating_mul(bytes);
        let lanes = shares(
            self.node_send_bytes_max,
            self.lane_bytes_max,
            FLOOR,
            connections.saturating_mul(LANES),
        );
        let control = each(self.control_lane_bytes_max as u64);
        let queued =
            shares(self.node_receive_bytes_max, self.inbound_bytes_max, FLOOR, connections);
        // Once for every stream that is open, and once more for those a reader waits for.
        let guaranteed = queued.saturating_mul(2 * u64::from(self.peer_streams_max));
        let frame = (self.frame_bytes_max as u64).saturating_add(HEADER_BYTES as u64);
        let large = large_bytes(self) as u64;
        let large_in = each(frame).min(large);
        let large_out = each(frame.saturating_mul(LANES as u64)).min(large);
        let processors = std::thread::available_parallelism().map_or(1, usize::from) as u64;
        WorstCaseMemory {
            lanes: lanes.saturating_add(control).saturating_mul(2),
            queues: queued.saturating_add(guaranteed / GUARANTEED_PART as u64),
            large_frames: large_in.saturating_add(large_out),
            windows: shares(
                self.node_window_bytes_max,
                self.window_bytes_max,
                window_floor(self),
                connections,
            ),
            connections: each(CONNECTION_BYTES),
            handshakes: (self.handshakes_pending_max as u64)
                .saturating_mul(HANDSHAKE_BYTES)
                .saturating_add(KNOWN_BYTES),
            kept: kept(&self.sessions, connections),
            received: received(self, connections),
            sessions: sessions(&self.sessions),
            pools: processors.saturating_mul(PROCESSOR_BYTES),
        }
    }
}

/// What flows out keep: of sessions with a connection, those that lost theirs, and those without.
fn kept(limits: &SessionLimits, connections: usize) -> u64 {
    let flows = |sessions: usize| sessions.saturating_mul(2 * SESSION_LANES);
    let of = |budget, count| shares(budget, limits.flow_bytes_max, FLOW_KEPT_MIN, count);
    let present = of(limits.kept_bytes_max, flows(connections.min(limits.sessions_max)));
    // Behind so many bytes that were carried over there is nothing left to keep but the least.
    let carried = [limits.absent_bytes_max, limits.kept_bytes_max, limits.flow_bytes_max];
    let carried = carried.iter().fold(0_u64, |sum, bytes| sum.saturating_add(*bytes as u64));
    let absent = of(limits.absent_bytes_max, flows(limits.sessions_max));
    present.saturating_add(carried).saturating_add(absent).saturating_mul(2)
}

/// What came and was not taken.
fn received(limits: &Limits, connections: usize) -> u64 {
    let of = &limits.sessions;
    let lanes = (of.sessions_max as u64)
        .saturating_add(connections.min(of.sessions_max) as u64)
        .saturating_mul(SESSION_LANES as u64);
    let first = lanes.saturating_mul(FLOW_GRANT_MIN as u64);
    let more = (of.node_granted_bytes_max as u64).saturating_mul(2);
    let largest = limits.frame_bytes_max.saturating_add(FRAME_HEAD_BYTES_MAX);
    let large = (of.large_bytes_max.max(largest) as u64).saturating_mul(2);
    first.saturating_add(more).saturating_add(large)
}

fn sessions(limits: &SessionLimits) -> u64 {
    let of = |count: usize, bytes: u64| (count as u64).saturating_mul(bytes);
    let numbers = of(limits.incarnations_max, NUMBER_BYTES);
    let each = SESSION_BYTES.saturating_add(of(limits.early_cancels_max, NUMBER_BYTES));
    of(limits.sessions_max, each)
        .saturating_add(of(limits.node_requests_max, 2 * REQUEST_BYTES))
        .saturating_add(of(limits.tombstones_max, TOMBSTONE_BYTES))
        .saturating_add(of(limits.identities_max, IDENTITY_BYTES.saturating_add(numbers)))
}

/// What `count` of them hold of `budget` that are filled one after the other: each has the share that
/// was its own when it began, at least `floor`, and nothing is taken back.
fn shares(budget: usize, bytes_max: usize, floor: usize, count: usize) -> u64 {
    let floor = floor.min(bytes_max);
    let share = |place: usize| (budget / place.max(1)).clamp(floor, bytes_max) as u64;
    let counted: u64 = (1..=count.min(COUNTED_MAX)).map(share).fold(0, u64::saturating_add);
    let rest = count.saturating_sub(COUNTED_MAX);
    if rest == 0 {
        return counted;
    }
    // The sum of 1/n is below the integral from one place before.
    let (from, to) = (COUNTED_MAX as f64, count as f64);
    let shared = (budget as f64 * (to / from).ln()).ceil().min(bytes_max as f64 * rest as f64);
    let least = (floor as u64).saturating_mul(rest as u64);
    counted.saturating_add((shared as u64).saturating_add(least))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_that_fill_one_after_the_other_hold_more_than_the_budget() {
        let (budget, bytes_max) = (16 * FLOOR, 8 * FLOOR);
        assert_eq!(shares(budget, bytes_max, FLOOR, 0), 0);
        let units = |count| shares(budget, bytes_max, FLOOR, count) as f64 / FLOOR as f64;
        assert_eq!(units(2), 16.0);
        // The third finds two that are busy.
        assert!((units(3) - (16.0 + 16.0 / 3.0)).abs() < 0.001, "{}", units(3));
        assert_eq!(units(117) - units(17), 100.0, "the others have their floor");
    }

    #[test]
    fn what_is_estimated_is_never_below_what_would_be_counted() {
        for (budget, bytes_max, floor) in [(1 << 30, 4 << 20, FLOOR), (1 << 36, 1 << 30, 1)] {
            let count = 4 * COUNTED_MAX;
            let share = |place: usize| (budget / place).clamp(floor, bytes_max) as u64;
            let exact: u64 = (1..=count).map(share).sum();
            let estimated = shares(budget, bytes_max, floor, count);
            assert!(exact <= estimated && estimated < exact * 2, "{exact} {estimated}");
        }
    }

    #[test]
    fn the_sum_never_overflows_and_is_there_at_once() {
        let limits = Limits {
            connections_max: usize::MAX,
            frame_bytes_max: usize::MAX,
            lane_bytes_max: usize::MAX,
            node_send_bytes_max: usize::MAX,
            control_lane_bytes_max: usize::MAX,
            inbound_bytes_max: usize::MAX,
            node_receive_bytes_max: usize::MAX,
            node_large_bytes_max: usize::MAX,
            window_bytes_max: usize::MAX,
            node_window_bytes_max: usize::MAX,
            handshakes_pending_max: usize::MAX,
            peer_streams_max: u16::MAX,
            ..Limits::default()
        };
        for connections in [1, 5_000, usize::MAX] {
            assert_eq!(limits.worst_case_memory(connections).total(), u64::MAX);
        }
    }

    #[test]
    fn a_node_has_no_more_connections_than_it_may_have() {
        let limits = Limits { connections_max: 10, ..Limits::default() };
        assert_eq!(limits.worst_case_memory(11), limits.worst_case_memory(10));
    }
}
