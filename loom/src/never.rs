//! What cannot happen, in short: no order may bring it about.

macro_rules! never {
    ($message:literal $(, $argument:expr)* $(,)?) => {
        panic!($message $(, $argument)*)
    };
    ($condition:expr, $message:literal $(, $argument:expr)* $(,)?) => {{
        if $condition {
            panic!($message $(, $argument)*)
        }
        false
    }};
}

macro_rules! take_off {
    ($sum:expr, $part:expr, $what:literal) => {{
        let part = $part;
        let sum = &mut $sum;
        *sum = sum.checked_sub(part).unwrap_or_else(|| panic!("{part} of less {}", $what));
    }};
}

pub(crate) use {never, take_off};

pub(crate) fn is_marked() -> bool {
    false
}

pub(crate) fn take_marks() -> u64 {
    0
}

pub(crate) fn apart<R>(body: impl FnOnce() -> R) -> R {
    body()
}
