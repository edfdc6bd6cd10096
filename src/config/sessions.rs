//! The bounds of sessions, which outlive connections: part of a node's [`Limits`](super::Limits).

use std::time::Duration;

use super::error::ConfigError;

/// What each flow is granted at least, in bytes: what a submission of several frames may have.
pub(crate) const FLOW_GRANT_MIN: usize = 16 << 10;

/// Bounds on what peers that outlive connections ([`Peer`](crate::Peer)) and those who use them could make
/// grow, and every deadline of theirs.
///
/// A *flow* is what a session has of frames one way: on each lane one of messages and requests, and one of
/// replies.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct SessionLimits {
    /// Sessions of a node at a time, with a connection or without (default 4,096: four for each of
    /// [`Limits::connections_max`](super::Limits::connections_max)). One more is refused with `NODE_FULL`.
    pub sessions_max: usize,
    /// Sessions that peers began and nobody has taken yet, of one protocol (default 1,024). One more ends at
    /// once.
    pub begun_max: usize,
    /// Sessions that ended and are remembered, so that their other sides learn what became of their frames
    /// (default 16,384; about 300 bytes each). Of more the oldest is forgotten.
    pub tombstones_max: usize,
    /// Peers of which replaced starts are remembered, or that they are away for a while (default 16,384; about
    /// 200 bytes each). Of more those who came first are forgotten.
    pub identities_max: usize,
    /// Starts of one peer that were replaced by later ones and are refused for good (default 8). A node
    /// that is copied oftener than that while all copies run can fight with itself.
    pub incarnations_max: usize,
    /// How long a session may be without a connection before it is over (default 60 s: a restart of a
    /// machine, a switch that is replaced). Sessions that ended are remembered for twice as long.
    pub session_time_max: Duration,
    /// How long a connection may take to its first Hello, from there to Attach, and for three
    /// quarters of it, how long an application may think about whom it admits (default 3 s: round trips, and
    /// some for a busy machine). It ends with `HELLO_TIMEOUT`.
    pub hello_time_max: Duration,
    /// For how long peers are not to dial a node that stops, if it does not come to them before (default 1 s:
    /// what a restart takes).
    pub away_time: Duration,
    /// Bytes that one flow keeps, accepted and not taken by the peer's application (default 4 MiB, more than a
    /// bandwidth-delay product of 10 Gbit/s × 3 ms; where one frame of
    /// [`Limits::frame_bytes_max`](super::Limits::frame_bytes_max) takes more, as by default, that counts).
    /// Who sends waits behind that.
    pub flow_bytes_max: usize,
    /// Bytes that the flows of all sessions with a connection keep together (default 10 MiB): those that
    /// keep something get equal shares, none less than 4 KiB.
    pub kept_bytes_max: usize,
    /// The same of all sessions without a connection (default 16 MiB), so that they do not take the room of
    /// those that have one. What they keep beyond that, from when they had one, is taken off
    /// `kept_bytes_max` until it went.
    pub absent_bytes_max: usize,
    /// Bytes that a peer may send on one flow ahead of what the application takes (default 4 MiB:
    /// two frames of up to 2 MiB, one of which is taken as the other comes). A flow begins with 16 KiB and is
    /// granted more as it uses them up.
    pub granted_bytes_max: usize,
    /// What all flows of a node may be granted together beyond their first 16 KiB (default 64 MiB).
    pub node_granted_bytes_max: usize,
    /// Bytes that frames take that are larger than what their flow is granted, on all sessions of a node
    /// together, and as many for replies (default 64 MiB; where the largest frame is more, that counts).
    /// Where it is used up such frames wait until others are taken.
    pub large_bytes_max: usize,
    /// Requests of one session in flight, each way (default 1,024).
    pub requests_max: usize,
    /// Requests of all sessions of a node in flight, each way (default 65,536).
    pub node_requests_max: usize,
    /// Requests of one session that a peer may give up before they came (default 64; 16 bytes each). Of more
    /// the oldest is forgotten, and its request handled for nothing.
    pub early_cancels_max: usize,
    /// Messages that the session stream of a connection may bring in a second (default 50,000: what was
    /// taken is said at most once a round trip, and at quarters of a grant). More end the session with
    /// `PROTOCOL_ERROR`.
    pub control_messages_max: u32,
    /// Bytes of them (default 8 MiB: that many of the usual length).
    pub control_bytes_max: u32,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            sessions_max: 4_096,
            begun_max: 1_024,
            tombstones_max: 16_384,
            identities_max: 16_384,
            incarnations_max: 8,
            session_time_max: Duration::from_secs(60),
            hello_time_max: Duration::from_secs(3),
            away_time: Duration::from_secs(1),
            flow_bytes_max: 4 << 20,
            kept_bytes_max: 10 << 20,
            absent_bytes_max: 16 << 20,
            granted_bytes_max: 4 << 20,
            node_granted_bytes_max: 64 << 20,
            large_bytes_max: 64 << 20,
            requests_max: 1_024,
            node_requests_max: 65_536,
            early_cancels_max: 64,
            control_messages_max: 50_000,
            control_bytes_max: 8 << 20,
        }
    }
}

impl SessionLimits {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let wide = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        let numbers = [
            ("sessions.sessions_max", self.sessions_max, 1, 1 << 24),
            ("sessions.begun_max", self.begun_max, 1, 1 << 24),
            ("sessions.tombstones_max", self.tombstones_max, 1, 1 << 24),
            ("sessions.identities_max", self.identities_max, 1, 1 << 24),
            ("sessions.incarnations_max", self.incarnations_max, 1, 1 << 10),
            ("sessions.flow_bytes_max", self.flow_bytes_max, 1 << 10, 1 << 30),
            ("sessions.kept_bytes_max", self.kept_bytes_max, 1 << 10, 1 << 40),
            ("sessions.absent_bytes_max", self.absent_bytes_max, 1 << 10, 1 << 40),
            ("sessions.granted_bytes_max", self.granted_bytes_max, FLOW_GRANT_MIN, 1 << 30),
            ("sessions.node_granted_bytes_max", self.node_granted_bytes_max, 0, 1 << 40),
            ("sessions.large_bytes_max", self.large_bytes_max, 1 << 10, 1 << 40),
            ("sessions.requests_max", self.requests_max, 1, 1 << 20),
            ("sessions.node_requests_max", self.node_requests_max, 1, 1 << 24),
            ("sessions.early_cancels_max", self.early_cancels_max, 0, 1 << 20),
            ("sessions.control_messages_max", wide(self.control_messages_max), 100, 1 << 30),
            // A Hello alone may have 1 KiB.
            ("sessions.control_bytes_max", wide(self.control_bytes_max), 64 << 10, 1 << 30),
        ];
        for (field, value, min, max) in numbers {
            ConfigError::check_number(field, value, min, max)?;
        }
        let day = Duration::from_secs(86_400);
        let least = Duration::from_millis(1);
        let times = [
            ("sessions.session_time_max", self.session_time_max, least, day),
            ("sessions.hello_time_max", self.hello_time_max, least, day),
            ("sessions.away_time", self.away_time, Duration::ZERO, day),
        ];
        for (field, value, min, max) in times {
            ConfigError::check_time(field, value, min, max)?;
        }
        Ok(())
    }
}
