//! What the connections of one node may hold together.
//!
//! Each lane and each inbound queue has a bound of its own. Beside that all of a kind share a
//! budget: one that is busy alone may use its whole bound, and many that are busy together get
//! equal shares, none less than [`FLOOR`].

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::admission::Arrivals;
use super::link::large::{Granted, LargeRoom, Ticket};
use crate::config::Limits;
use crate::frame::HEADER_BYTES;
use crate::lock::lock;

use tokio::sync::Semaphore;

/// What a lane or queue may always hold: two reads of a socket. MsQuic asks its peer for one
/// acknowledgement of a whole burst, so that with less on its way a sender waits for a late one:
/// 64 KiB cost a fifth of what 64 senders reach, 128 KiB no more than the spread.
pub(super) const FLOOR: usize = 128 * 1024;

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
    pub(super) large_sending: Arc<Semaphore>,
    /// Who asked for a connection, and from where peers were connected.
    pub(super) arrivals: Arc<Arrivals>,
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
            large_sending: Arc::new(Semaphore::new(large_bytes(&limits))),
            arrivals: Arc::default(),
            limits: Arc::new(limits),
        }
    }
}

#[cfg(test)]
impl Bounds {
    /// Whether nobody has any of the room for large frames.
    pub(super) fn large_is_free(&self) -> bool {
        let all = large_bytes(&self.limits);
        lock(&self.large.0).left() == all && self.large_sending.available_permits() == all
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

/// Who waits for room for a large frame.
pub(super) trait WaitsForRoom: Send + Sync {
    /// `bytes` are its own from here on; returns how many of them it does not need.
    fn granted(&self, bytes: usize) -> usize;
}

/// Room for large frames that all connections of a node have together.
pub(super) struct NodeRoom(Mutex<LargeRoom<Weak<dyn WaitsForRoom>>>);

impl NodeRoom {
    fn new(bytes: usize) -> Self {
        Self(Mutex::new(LargeRoom::new(bytes)))
    }

    /// Takes `bytes`; if there are not so many, `waiter` is told when they are its own.
    pub(super) fn take(&self, bytes: usize, waiter: Weak<dyn WaitsForRoom>) -> Result<(), Ticket> {
        lock(&self.0).take(bytes, waiter)
    }

    pub(super) fn give_back(&self, bytes: usize) {
        let granted = lock(&self.0).give_back(bytes);
        self.pass_on(granted);
    }

    /// Nobody waits with this ticket any more.
    pub(super) fn forget(&self, ticket: Ticket) {
        let granted = lock(&self.0).forget(ticket);
        self.pass_on(granted);
    }

    /// Tells them, outside the lock; what they do not need goes to the next.
    fn pass_on(&self, mut granted: Granted<Weak<dyn WaitsForRoom>>) {
        while !granted.is_empty() {
            let unused = granted
                .drain(..)
                .map(|(_, bytes, waiter)| waiter.upgrade().map_or(bytes, |it| it.granted(bytes)))
                .sum();
            granted = lock(&self.0).give_back(unused);
        }
    }
}

impl std::fmt::Debug for NodeRoom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeRoom")
    }
}

/// Bytes that are shared among those who are busy.
#[derive(Debug)]
pub(super) struct Budget {
    bytes: usize,
    busy: AtomicUsize,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        Self { bytes, busy: AtomicUsize::new(0) }
    }

    /// What each of those who are busy may hold.
    fn share(&self) -> usize {
        self.bytes / self.busy.load(Ordering::Relaxed).max(1)
    }
}

/// One lane's or queue's part in a budget.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    floor: usize,
    bytes_max: usize,
    busy: bool,
}

impl Share {
    pub(super) fn new(budget: &Arc<Budget>, bytes_max: usize) -> Self {
        Self::with_floor(budget, FLOOR, bytes_max)
    }

    pub(super) fn with_floor(budget: &Arc<Budget>, floor: usize, bytes_max: usize) -> Self {
        let floor = floor.min(bytes_max);
        Self { budget: Arc::clone(budget), floor, bytes_max, busy: false }
    }

    /// What may be held at least.
    pub(super) fn floor(&self) -> usize {
        self.floor
    }

    /// What may be held now.
    pub(super) fn bytes(&self) -> usize {
        self.budget.share().clamp(self.floor(), self.bytes_max)
    }

    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Whether anything is held: who holds nothing takes no part. Returns whether that is new.
    pub(super) fn set_busy(&mut self, busy: bool) -> bool {
        let is_new = std::mem::replace(&mut self.busy, busy) != busy;
        if is_new && busy {
            self.budget.busy.fetch_add(1, Ordering::Relaxed);
        } else if is_new {
            self.budget.busy.fetch_sub(1, Ordering::Relaxed);
        }
        is_new
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set_busy(false);
    }
}

impl Share {
    /// Alone in a budget that is always enough.
    pub(super) fn alone(bytes_max: usize) -> Self {
        Self::new(&Arc::new(Budget::new(usize::MAX)), bytes_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_busy_alone_has_its_bound_and_many_share() {
        let budget = Arc::new(Budget::new(16 * FLOOR));
        let mut shares: Vec<Share> = (0..32).map(|_| Share::new(&budget, 8 * FLOOR)).collect();
        shares[0].set_busy(true);
        assert_eq!(shares[0].bytes(), 8 * FLOOR);
        shares[1..4].iter_mut().for_each(|share| assert!(share.set_busy(true)));
        assert_eq!(shares[0].bytes(), 4 * FLOOR);
        let new = shares.iter_mut().filter_map(|share| share.set_busy(true).then_some(())).count();
        assert_eq!(new, 28, "four were busy");
        assert_eq!(shares[0].bytes(), FLOOR, "never less than the floor");
        shares.truncate(1);
        assert_eq!(shares[0].bytes(), 8 * FLOOR, "who is gone takes no part");
    }

    #[test]
    fn the_default_has_the_budgets_of_the_default_limits() {
        let (bounds, limits) = (Bounds::default(), Limits::default());
        let budgets = (bounds.sending.bytes, bounds.receiving.bytes);
        assert_eq!(budgets, (limits.node_send_bytes_max, limits.node_receive_bytes_max));
    }

    #[test]
    fn a_bound_below_the_floor_counts() {
        assert_eq!((Share::alone(1024).floor(), Share::alone(1024).bytes()), (1024, 1024));
    }
}
