//! The library's errors of sending and receiving, over close reasons in short: what the models do not
//! look into.

#[path = "../../src/error/stream.rs"]
mod stream;

pub(crate) use stream::{Outcome, RecvError};

/// As the library's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    Retry,
    Never,
    Unknown,
}

/// The code of a close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CloseCode(pub u64);

/// Why a connection is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{self:?}")]
pub enum CloseReason {
    Local { code: CloseCode },
    TimedOut,
}

impl CloseReason {
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Never
    }
}
