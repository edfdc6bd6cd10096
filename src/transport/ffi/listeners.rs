//! One at a time: whoever opens, stops, closes or shuts down listeners.

use std::sync::{Mutex, MutexGuard};

use crate::lock::lock;

static LISTENERS: Mutex<()> = Mutex::new(());

/// While this is held, nobody else opens, stops or closes a listener: a shutdown of their
/// registration does that as well, and the library looks after none of it. Not to be waited for in
/// a callback.
pub(super) fn listeners() -> MutexGuard<'static, ()> {
    lock(&LISTENERS)
}
