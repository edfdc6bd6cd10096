//! What cannot happen.
//!
//! Where debug assertions are on, [`never!`] panics. In a release it logs an error, once for each place in
//! the code, and leaves a mark on its thread. Whoever does what the state said takes the mark (the lock
//! around the state of a connection, the guard around a callback), counts it, and closes the connection that
//! it happened to with `INTERNAL`: a plausible value that stands in for a broken one lives no longer.
//!
//! It is for what only a fault of this library can bring about. What a peer, a caller or the system can bring
//! about has an error of its own, and what a value is clamped to on purpose is no fault.

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::error;

thread_local! {
    /// What happened on this thread that cannot, and that nobody has looked at.
    static MARKS: Cell<u64> = const { Cell::new(0) };
}

/// Says that something happened that cannot: with a condition, if it is true, which it returns.
macro_rules! never {
    ($message:literal $(, $argument:expr)* $(,)?) => {{
        static PLACE: $crate::never::Place = $crate::never::Place::new();
        PLACE.happened(format_args!($message $(, $argument)*));
    }};
    ($condition:expr, $message:literal $(, $argument:expr)* $(,)?) => {{
        let happened = $condition;
        if happened {
            $crate::never::never!($message $(, $argument)*);
        }
        happened
    }};
}

/// Takes a part off a sum that it is part of.
macro_rules! take_off {
    ($sum:expr, $part:expr, $what:literal) => {{
        let part = $part;
        let sum = &mut $sum;
        match sum.checked_sub(part) {
            Some(left) => *sum = left,
            None => {
                $crate::never::never!("{} of {} {}", part, *sum, $what);
                *sum = 0;
            }
        }
    }};
}

pub(crate) use {never, take_off};

/// A place in the code that is never reached.
pub(crate) struct Place {
    logged: AtomicBool,
}

impl Place {
    pub(crate) const fn new() -> Self {
        Self { logged: AtomicBool::new(false) }
    }

    /// It was reached.
    #[cold]
    #[inline(never)]
    #[track_caller]
    pub(crate) fn happened(&self, what: fmt::Arguments<'_>) {
        assert!(!panics(), "this cannot happen: {what}");
        if !self.logged.swap(true, Ordering::Relaxed) {
            let at = std::panic::Location::caller();
            error!(%what, %at, "a fault of this library; the connection it happened to is closed");
        }
        MARKS.set(MARKS.get() + 1);
    }
}

/// Whether something happened on this thread that cannot, and nobody has looked at it.
pub(crate) fn is_marked() -> bool {
    MARKS.get() > 0
}

/// How often; the marks are gone with it.
pub(crate) fn take_marks() -> u64 {
    MARKS.take()
}

/// Runs `body`, which belongs to somebody else: what was marked before is not taken for its doing.
pub(crate) fn apart<R>(body: impl FnOnce() -> R) -> R {
    let before = take_marks();
    let done = body();
    MARKS.set(MARKS.get() + before);
    done
}

#[cfg(not(test))]
fn panics() -> bool {
    cfg!(debug_assertions)
}

#[cfg(test)]
pub(crate) use released::as_released;
#[cfg(test)]
use released::panics;

#[cfg(test)]
mod released {
    use std::cell::Cell;

    thread_local! {
        static RELEASED: Cell<bool> = const { Cell::new(false) };
    }

    pub(super) fn panics() -> bool {
        cfg!(debug_assertions) && !RELEASED.get()
    }

    /// On this thread nothing panics, as in a release, for as long as that lives.
    pub(crate) fn as_released() -> AsReleased {
        RELEASED.set(true);
        AsReleased(())
    }

    pub(crate) struct AsReleased(());

    impl Drop for AsReleased {
        fn drop(&mut self) {
            RELEASED.set(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn halve(number: u32) -> u32 {
        if never!(!number.is_multiple_of(2), "{number} is odd") { 0 } else { number / 2 }
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic = "this cannot happen: 3 is odd"]
    fn a_test_panics() {
        halve(3);
    }

    #[test]
    fn a_release_goes_on_and_leaves_a_mark() {
        let _released = as_released();
        assert_eq!((halve(4), is_marked()), (2, false));
        assert_eq!((halve(3), halve(5)), (0, 0));
        assert!(is_marked());
        assert_eq!((take_marks(), take_marks()), (2, 0));
    }

    #[test]
    fn what_happened_before_is_not_the_doing_of_others() {
        let _released = as_released();
        halve(3);
        assert!(apart(|| !is_marked()));
        assert_eq!(take_marks(), 1);
    }

    #[test]
    fn a_part_that_is_none_leaves_nothing_and_a_mark() {
        let _released = as_released();
        let mut sum = 5_usize;
        take_off!(sum, 3, "apples");
        assert_eq!((sum, take_marks()), (2, 0));
        take_off!(sum, 3, "apples");
        assert_eq!((sum, take_marks()), (0, 1));
    }
}
