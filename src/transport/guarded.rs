//! The state of a connection behind its lock, and who is told if something happens to it that cannot.
//!
//! Invariant: what happens under the lock of a connection's state is never taken for another one's: the
//! marks are taken where the lock is released.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use super::counts::Counts;
use crate::lock::lock;
use crate::never;
use crate::sync::{Mutex, MutexGuard};

/// Ends the connection. It is called with locks held, and must only ask for it.
type Bell = Box<dyn Fn() + Send + Sync>;

/// Of one connection.
#[derive(Default)]
pub(super) struct Alarm {
    counts: Arc<Counts>,
    raised: AtomicBool,
    bell: OnceLock<Bell>,
}

impl Alarm {
    pub(super) fn new(counts: &Arc<Counts>) -> Arc<Self> {
        Arc::new(Self { counts: Arc::clone(counts), ..Self::default() })
    }

    /// Once.
    pub(super) fn set_bell(&self, bell: Bell) {
        let _ = self.bell.set(bell);
    }

    /// Something happened to the connection that cannot.
    pub(super) fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Acquire)
    }

    /// Takes what was marked on this thread, which happened to this connection.
    pub(super) fn look(&self) {
        if never::is_marked() {
            self.raise(never::take_marks());
        }
    }

    /// So much happened to it.
    #[cold]
    pub(super) fn raise(&self, times: u64) {
        self.counts.impossible(times);
        if !self.raised.swap(true, Ordering::AcqRel)
            && let Some(bell) = self.bell.get()
        {
            bell();
        }
    }
}

/// State of a connection.
pub(super) struct Guarded<T> {
    state: Mutex<T>,
    alarm: Arc<Alarm>,
}

impl<T> Guarded<T> {
    pub(super) fn new(state: T, alarm: &Arc<Alarm>) -> Self {
        Self { state: Mutex::new(state), alarm: Arc::clone(alarm) }
    }

    pub(super) fn lock(&self) -> Locked<'_, T> {
        Locked { state: lock(&self.state), _behind: Behind(&self.alarm) }
    }

    pub(super) fn alarm(&self) -> &Alarm {
        &self.alarm
    }
}

/// The state while it is locked.
pub(super) struct Locked<'a, T> {
    // Released before what is behind it: fields are dropped in their order.
    state: MutexGuard<'a, T>,
    _behind: Behind<'a>,
}

struct Behind<'a>(&'a Alarm);

impl Drop for Behind<'_> {
    fn drop(&mut self) {
        self.0.look();
    }
}

impl<T> Deref for Locked<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.state
    }
}

impl<T> DerefMut for Locked<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.state
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::never::{as_released, never};

    #[test]
    fn what_happens_under_a_lock_is_told_behind_it_and_to_nobody_else() {
        let _released = as_released();
        let counts = Arc::default();
        let [here, there] = [1, 2].map(|_| Arc::new(Guarded::new(0, &Alarm::new(&counts))));
        let rung = Arc::new(AtomicUsize::new(0));
        let (weak, ringing) = (Arc::downgrade(&here), Arc::clone(&rung));
        here.alarm().set_bell(Box::new(move || {
            // It would wait for ever under the lock.
            let value = weak.upgrade().map(|state| *state.lock());
            ringing.fetch_add(value.unwrap_or(100), Ordering::Relaxed);
        }));
        for value in 1..=3 {
            let mut state = here.lock();
            *state = value;
            never!("{value} was stored");
            assert_eq!(here.alarm().is_raised(), value > 1, "behind the lock");
        }
        drop(there.lock());
        assert!(here.alarm().is_raised() && !there.alarm().is_raised());
        assert_eq!((rung.load(Ordering::Relaxed), counts.stats().impossible), (1, 3));
    }
}
