//! How every mutex of this crate is locked.

use std::sync::PoisonError;

use crate::sync::{Mutex, MutexGuard};

/// Locks `mutex`. A panic under one of our locks leaves nothing half changed, so poisoning says
/// nothing: the connection of a panicked callback is closed anyway.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
