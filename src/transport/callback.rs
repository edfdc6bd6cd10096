//! The one guard around every callback: a panic in Rust never unwinds into C.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tracing::error;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_none() {
        assert_eq!(guard("quiet", || 7), Some(7));
        assert_eq!(guard("panics", || -> u8 { panic!("in a callback") }), None);
    }
}
