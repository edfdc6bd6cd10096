//! The one guard around every callback: a panic in Rust never unwinds into C.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tracing::error;

use crate::never;

/// Runs `body`; a panic is logged and becomes `None`.
pub(super) fn guard<R>(name: &'static str, body: impl FnOnce() -> R) -> Option<R> {
    // Every state that a callback touches is behind a lock that ignores poisoning and holds no
    // half-made change across a call that can panic.
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(value) => Some(value),
        Err(_) => {
            error!(callback = name, "a callback panicked; its connection is closed");
            None
        }
    }
}

/// As [`guard`], and runs `failed` where `body` panicked or something happened in it that cannot.
pub(super) fn guard_or<R>(
    name: &'static str,
    body: impl FnOnce() -> R,
    failed: impl FnOnce(),
) -> Option<R> {
    let done = guard(name, body);
    if done.is_none() || never::is_marked() {
        guard(name, failed);
    }
    done
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::never::{as_released, never, take_marks};

    #[test]
    fn a_panic_becomes_none() {
        assert_eq!(guard("quiet", || 7), Some(7));
        assert_eq!(guard("panics", || -> u8 { panic!("in a callback") }), None);
    }

    #[test]
    fn a_panic_and_what_cannot_happen_are_failures() {
        let _released = as_released();
        let failures = Cell::new(0);
        let failed = || failures.set(failures.get() + 1 + 10 * take_marks());
        assert_eq!(guard_or("quiet", || 7, failed), Some(7));
        assert_eq!(failures.get(), 0);
        assert_eq!(guard_or("panics", || -> u8 { panic!("in a callback") }, failed), None);
        assert_eq!(failures.get(), 1);
        let marks = || {
            never!("a test asked for it");
            7
        };
        assert_eq!(guard_or("marks", marks, failed), Some(7));
        assert_eq!(failures.get(), 12);
    }
}
