//! The library's errors of sending and receiving, and why connections end; the others name what is not
//! here.

#[path = "../../src/error/close.rs"]
mod close;
#[path = "../../src/error/stream.rs"]
mod stream;

pub(crate) use close::{CloseCode, CloseReason};
pub(crate) use stream::{Outcome, RecvError};

/// As the library's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    Retry,
    Never,
    Unknown,
}

/// As the library's, in short.
fn in_words(status: u32) -> String {
    format!(": {status}")
}
