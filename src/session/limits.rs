//! Every bound of sessions, with its unit and reason.

use std::time::Duration;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SessionLimits {
    /// Sessions at a time, with a connection or without: about 1 KiB each here, and what is kept for them.
    pub(crate) sessions_max: usize,
    /// Sessions that ended and are remembered: about 300 bytes each. The oldest goes first; its other
    /// side then learns less of what became of its frames.
    pub(crate) tombstones_max: usize,
    /// Incarnations of one identity that were replaced and are refused: 72 bytes together. A node that is
    /// copied oftener than that while all copies run can fight with itself.
    pub(crate) incarnations_max: usize,
    /// Identities of which replaced incarnations are remembered.
    pub(crate) identities_max: usize,
    /// How long a session may be without a connection. Tombstones stay for twice as long, since both sides
    /// do not notice a loss at the same time.
    pub(crate) session_time_max: Duration,
    /// From a connection's beginning to its first Hello, from there to Attach, and how long an application
    /// may think about whom it admits: round trips, and some for a busy machine.
    pub(crate) hello_time_max: Duration,
    /// How long a close waits for the peer's application to take what was sent.
    pub(crate) close_time_max: Duration,
    /// Bytes of a frame's payload that this side takes.
    pub(crate) frame_bytes_max: u64,
    /// Requests of one session in flight at most, each way.
    pub(crate) requests_max: usize,
    /// Messages of one session stream a second: the word of what was taken goes at most once a round trip,
    /// and at quarters of a grant.
    pub(crate) control_messages_max: u32,
    /// Bytes of one session stream a second: that many of the usual length.
    pub(crate) control_bytes_max: u32,
    /// Cancels of one session that came before their requests. More forget the oldest, whose request is
    /// then handled for nothing.
    pub(crate) early_cancels_max: usize,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            sessions_max: 16_384,
            tombstones_max: 16_384,
            incarnations_max: 8,
            identities_max: 16_384,
            session_time_max: Duration::from_secs(60),
            hello_time_max: Duration::from_secs(3),
            close_time_max: Duration::from_secs(10),
            frame_bytes_max: 16 << 20,
            requests_max: 1_024,
            control_messages_max: 50_000,
            control_bytes_max: 8 << 20,
            early_cancels_max: 64,
        }
    }
}
