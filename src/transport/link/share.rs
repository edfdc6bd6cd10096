//! What those who are busy may hold together.
//!
//! Each lane and each inbound queue has a bound of its own. Beside that all of a kind share a
//! budget: one that is busy alone may use its whole bound, and many that are busy together get
//! equal shares, none less than [`FLOOR`].

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a lane or queue may always hold: two reads of a socket. MsQuic asks its peer for one
/// acknowledgement of a whole burst, so that with less on its way a sender waits for a late one:
/// 64 KiB cost a fifth of what 64 senders reach, 128 KiB no more than the spread.
pub(crate) const FLOOR: usize = 128 * 1024;

/// What a flow of a session always may keep: a few small frames. There are many sessions, and those that
/// are busy at the same time on a path that is long have more.
pub(crate) const FLOW_KEPT_MIN: usize = 4 * 1024;

/// Bytes that are shared among those who are busy.
#[derive(Debug)]
pub(crate) struct Budget {
    pub(crate) bytes: usize,
    /// Of them, what others have for now.
    lent: AtomicUsize,
    busy: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { bytes, lent: AtomicUsize::new(0), busy: AtomicUsize::new(0) }
    }

    /// What each of those who are busy may hold.
    fn share(&self) -> usize {
        let left = self.bytes.saturating_sub(self.lent.load(Ordering::Relaxed));
        left / self.busy.load(Ordering::Relaxed).max(1)
    }

    /// So much of it others have from here on.
    pub(crate) fn lend(&self, bytes: usize) {
        self.lent.store(bytes, Ordering::Relaxed);
    }
}

/// One lane's or queue's part in a budget.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    floor: usize,
    bytes_max: usize,
    busy: bool,
}

impl Share {
    pub(crate) fn new(budget: &Arc<Budget>, bytes_max: usize) -> Self {
        Self::with_floor(budget, FLOOR, bytes_max)
    }

    pub(crate) fn with_floor(budget: &Arc<Budget>, floor: usize, bytes_max: usize) -> Self {
        let floor = floor.min(bytes_max);
        Self { budget: Arc::clone(budget), floor, bytes_max, busy: false }
    }

    /// What may be held at least.
    pub(crate) fn floor(&self) -> usize {
        self.floor
    }

    /// What may be held now.
    pub(crate) fn bytes(&self) -> usize {
        self.budget.share().clamp(self.floor(), self.bytes_max)
    }

    pub(crate) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Takes part in another budget from here on.
    pub(crate) fn move_to(&mut self, budget: &Arc<Budget>) {
        let was_busy = self.busy;
        self.set_busy(false);
        self.budget = Arc::clone(budget);
        self.set_busy(was_busy);
    }

    /// Whether others who are busy keep it below its bound.
    pub(crate) fn is_reduced(&self) -> bool {
        self.bytes() < self.bytes_max
    }

    /// Whether anything is held: who holds nothing takes no part. Returns whether that is new.
    pub(crate) fn set_busy(&mut self, busy: bool) -> bool {
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
    pub(crate) fn alone(bytes_max: usize) -> Self {
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
    fn who_goes_over_to_another_budget_leaves_the_first_one_to_the_others() {
        let [first, second] = [4, 2].map(|parts| Arc::new(Budget::new(parts * FLOOR)));
        let mut shares = [0; 2].map(|_| Share::new(&first, 8 * FLOOR));
        shares.iter_mut().for_each(|share| assert!(share.set_busy(true)));
        assert_eq!(shares[0].bytes(), 2 * FLOOR);
        shares[1].move_to(&second);
        assert_eq!(shares.each_ref().map(Share::bytes), [4 * FLOOR, 2 * FLOOR]);
        first.lend(3 * FLOOR);
        assert_eq!(shares[0].bytes(), FLOOR);
        first.lend(9 * FLOOR);
        assert_eq!(shares[0].bytes(), FLOOR, "the floor stays");
        first.lend(0);
        shares[1].move_to(&first);
        assert_eq!(shares[0].bytes(), 2 * FLOOR);
    }

    #[test]
    fn a_bound_below_the_floor_counts() {
        assert_eq!((Share::alone(1024).floor(), Share::alone(1024).bytes()), (1024, 1024));
    }
}
