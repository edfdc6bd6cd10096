//! What a session is told, and what it answers.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::ConnectError;
use crate::session::effect::EndReason;
use crate::session::message::Refused;
use crate::transport::link::share::Budget;

/// What each session may keep and take.
#[derive(Debug, Clone)]
pub(crate) struct PeerBounds {
    /// Bytes that one flow keeps at most, accepted and not taken; one larger frame beside that.
    pub(crate) flow_bytes_max: usize,
    /// Bytes of each flow that the peer may send ahead of what the application takes.
    pub(crate) granted: u64,
    pub(crate) frame_bytes_max: usize,
    pub(crate) requests_max: usize,
    pub(crate) early_cancels_max: usize,
    /// What all sessions keep together.
    pub(crate) kept: Arc<Budget>,
}

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
