//! Room for large frames that all connections of a node have together.

use std::sync::Weak;

use super::link::fair::{FairRoom, Grant, Granted, Ticket};
use crate::lock::lock;
use crate::never;
use crate::sync::Mutex;

/// Who waits for room for a large frame.
pub(super) trait WaitsForRoom: Send + Sync {
    /// `bytes` are its own from here on; returns how many of them it does not need.
    fn granted(&self, bytes: usize) -> usize;
}

/// See the module.
pub(super) struct NodeRoom(Mutex<FairRoom<Weak<dyn WaitsForRoom>>>);

impl NodeRoom {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Mutex::new(FairRoom::new(bytes)))
    }

    /// Takes `bytes`, if there are so many and nobody waits.
    pub(super) fn try_take(&self, bytes: usize) -> bool {
        lock(&self.0).try_take(bytes)
    }

    /// As [`NodeRoom::try_take`]; otherwise `waiter` is told when they are its own.
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
        let tell = |it: Grant<Weak<dyn WaitsForRoom>>| {
            it.waiter.upgrade().map_or(it.bytes, |waiter| waiter.granted(it.bytes))
        };
        while !granted.is_empty() {
            let unused = never::apart(|| granted.drain(..).map(tell).sum());
            granted = lock(&self.0).give_back(unused);
        }
    }

    #[cfg(test)]
    pub(super) fn is_free(&self) -> bool {
        lock(&self.0).used() == 0
    }
}

impl std::fmt::Debug for NodeRoom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeRoom")
    }
}
