//! What a session is told, and what it answers.

use bytes::Bytes;

use crate::error::ConnectError;
use crate::session::effect::EndReason;
use crate::session::message::Refused;

/// Why a session has no link.
#[derive(Debug, Clone)]
pub(crate) enum NoLink {
    Dial(ConnectError),
    Refused(Refused),
    Ended(EndReason),
}

/// Why a request was not issued.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotAsked {
    TooMany(usize, Bytes),
    Ended(Bytes),
}
