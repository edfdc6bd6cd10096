//! What a node is told at its start: every number with its unit and its reason, validated once.

mod congestion;
mod error;
mod sessions;

use std::time::Duration;

pub(crate) use self::congestion::Algorithm;
pub use self::congestion::Congestion;
pub use self::error::ConfigError;
pub(crate) use self::sessions::FLOW_GRANT_MIN;
pub use self::sessions::SessionLimits;
use crate::identity::NetCredential;
use crate::restart::{BackoffSettings, RestartPolicy};

/// The default deadline of every stream operation: open, send, and a frame's first byte to its
/// last. Longer than any sane round trip and pause, short enough for a person to wait.
pub const STREAM_OP_TIMEOUT: Duration = Duration::from_secs(12);

/// The default ALPN: frames on unidirectional streams and nothing else (`docs/wire-format.md`).
pub const DEFAULT_ALPN: &str = "moorline/0";

/// Bounds on everything that a peer or a caller could make grow, and every deadline.
///
/// All of them are checked before memory is spent.
///
/// With the Cargo feature `serde`, what is left out of a text keeps its default; times are
/// `{ "secs": 1, "nanos": 500000000 }`. [`validate`](Self::validate) judges the result.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct Limits {
    /// Largest payload of one frame, in bytes (default 16 MiB). The receive buffer grows as bytes
    /// arrive, never by the announced length.
    pub frame_bytes_max: usize,
    /// Longest time that a frame may stay unfinished without progress (default 12 s): a peer that
    /// stops inside a frame is closed with `FRAME_TIMEOUT`. Time in which this side had no room for
    /// more does not count, and every byte that arrives on the connection, on whatever lane, puts time
    /// back by `frame_rate_min`: a slow link is waited for, and so is a frame behind busier lanes. On a
    /// connection that carries a session that is noticed up to a second later, and the session stays.
    pub frame_time_max: Duration,
    /// Bytes a second that a connection must bring while a frame is unfinished (default 1 KiB/s): what
    /// is slower for long enough to use up `frame_time_max` is taken for a peer that stopped.
    pub frame_rate_min: usize,
    /// How long one stream operation may take: opening, admission of a send, an outcome that is
    /// waited for (default [`STREAM_OP_TIMEOUT`]).
    pub stream_op_timeout: Duration,
    /// Bytes that a lane holds for callers, admitted and unfinished (default 4 MiB): more than a
    /// bandwidth-delay product of 10 Gbit/s × 3 ms. A lane starts with 128 KiB and grows up to this
    /// as the peer acknowledges. Beside that one frame is admitted that is larger than the lane's share,
    /// if `node_large_bytes_max` has room for it.
    pub lane_bytes_max: usize,
    /// Bytes that all lanes of a node hold together (default 10 MiB): those that are busy get equal
    /// shares, none less than 128 KiB.
    pub node_send_bytes_max: usize,
    /// Bytes that the control lane of a connection holds, and its largest frame (default 64 KiB):
    /// its own, beside what the other lanes of the node hold.
    pub control_lane_bytes_max: usize,
    /// Bytes that wait for `recv` on one connection (default 4 MiB), with what it costs to remember
    /// them; each stream may hold a thirty-second of it beside that, so that no lane waits for the
    /// reader of another. One frame larger than the connection's share is received where a reader
    /// waits, if `node_large_bytes_max` has room for it.
    pub inbound_bytes_max: usize,
    /// Bytes that wait for `recv` on all connections of a node together (default 64 MiB), shared as
    /// `node_send_bytes_max` is.
    pub node_receive_bytes_max: usize,
    /// Bytes that frames may take beyond the share of their queue, and as many beyond the share of their
    /// lane, on all connections of a node together (default 128 MiB; where `frame_bytes_max` is more, that
    /// counts). Where it is used up, such frames wait for each other.
    pub node_large_bytes_max: usize,
    /// Bytes that a peer may have on their way to this end of one connection, on all its streams
    /// together (default 16 MiB): each of `peer_streams_max` streams has an equal part, at least
    /// 64 KiB, so that no stream waits for another. The library holds them where nobody reads.
    pub window_bytes_max: usize,
    /// The same for all connections of a node (default 64 MiB): a connection gets its window when it
    /// begins, and there are smaller ones where there are many.
    pub node_window_bytes_max: usize,
    /// Longest dial, from the credential and the name to the peer's acceptance, whatever number of
    /// addresses it has, and longest inbound handshake since the peer asked (default 10 s).
    pub handshake_time_max: Duration,
    /// Longest time until a peer that asks for a connection shows its certificate (default 3 s, and never
    /// more than `handshake_time_max`): who asks and says no more keeps a place of
    /// `handshakes_pending_max` so long.
    pub handshake_answer_max: Duration,
    /// Interval of keep-alives on a silent connection (default 500 ms).
    pub keep_alive_interval: Duration,
    /// Silence after which a connection is over (default 3 s).
    pub idle_time_max: Duration,
    /// Time without an acknowledgement after which a connected peer is taken for gone (default 1 s,
    /// at most 10 min); with the keep-alive this makes a killed peer known in about 1.5 s.
    pub disconnect_time_max: Duration,
    /// The largest packets that this side sends, with their IP and UDP headers, in bytes (default
    /// 1,500; 1,248 to 1,500). Up to this the path is tried out, and what it once carried is taken for
    /// granted: if its MTU falls below that, the connection ends with
    /// [`CloseReason::TimedOut`](crate::CloseReason), and the next one fits itself to the path. Where
    /// that happens (tunnels that come and go) set it to what every path carries, at both ends: 1,280
    /// is what IPv6 promises. Smaller packets cost CPU.
    pub path_mtu_max: u16,
    /// Which congestion control connections send by (default [`Congestion::Automatic`]).
    pub congestion: Congestion,
    /// Unidirectional streams a peer may have open at once (default 8: one for each lane, and others in
    /// their place after an error). Bidirectional ones: none.
    pub peer_streams_max: u16,
    /// Connections of one node, in both directions (default 1,024: with it
    /// [`worst_case_memory`](Self::worst_case_memory) is below 4 GiB).
    pub connections_max: usize,
    /// Connections of one peer, in both directions (default 4: each side dials once, and a connection
    /// whose end is not known yet is left of each). One more is closed with `TOO_MANY_OF_PEER`, so that
    /// nobody who is trusted takes the places of the others.
    pub connections_per_peer_max: usize,
    /// Inbound connections of one listener that are not accepted yet (default 256). A stranger's
    /// next one is refused before a certificate is read. The last quarter is for addresses from which a
    /// peer was connected within the last day. From a quarter on, of all handshakes of the process, the
    /// library lets who asks prove his address first, which costs a round trip; the lowest limit of all
    /// listeners of the process counts.
    pub handshakes_pending_max: usize,
    /// Inbound handshakes of one IPv4 address, or one IPv6 network of 64 bits, from which nobody was
    /// connected within the last day, that are not done (default 8). More are refused until one of them
    /// is done: then the address is known.
    pub handshakes_per_address_max: usize,
    /// Connections that such an address may ask for in a minute (default 600), behind a burst: a handshake
    /// costs about 2 ms of a processor, so that one address gets no more than a fiftieth of one.
    pub connections_per_minute_max: usize,
    /// How many of them it may ask for at once (default 256, as many as have places): processes of one
    /// host that all start again.
    pub connections_burst_max: usize,
    /// How long a lane with frames on their way may stand still, without one of them being
    /// acknowledged, before the connection is closed with `LANE_STALLED` (default 30 s): longer
    /// than any frame takes, and than a sender waits. Noticed up to a quarter of it later.
    pub lane_stall_time_max: Duration,
    /// How long a close may drain before it is cut (default 5 s).
    pub close_time_max: Duration,
    /// Bounds of peers that outlive connections.
    pub sessions: SessionLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes_max: 16 << 20,
            frame_time_max: STREAM_OP_TIMEOUT,
            frame_rate_min: 1 << 10,
            stream_op_timeout: STREAM_OP_TIMEOUT,
            lane_bytes_max: 4 << 20,
            node_send_bytes_max: 10 << 20,
            control_lane_bytes_max: 64 << 10,
            inbound_bytes_max: 4 << 20,
            node_receive_bytes_max: 64 << 20,
            node_large_bytes_max: 128 << 20,
            window_bytes_max: 16 << 20,
            node_window_bytes_max: 64 << 20,
            handshake_time_max: Duration::from_secs(10),
            handshake_answer_max: Duration::from_secs(3),
            keep_alive_interval: Duration::from_millis(500),
            idle_time_max: Duration::from_secs(3),
            disconnect_time_max: Duration::from_secs(1),
            path_mtu_max: 1500,
            congestion: Congestion::default(),
            peer_streams_max: 8,
            connections_max: 1_024,
            connections_per_peer_max: 4,
            handshakes_pending_max: 256,
            handshakes_per_address_max: 8,
            connections_per_minute_max: 600,
            connections_burst_max: 256,
            lane_stall_time_max: Duration::from_secs(30),
            close_time_max: Duration::from_secs(5),
            sessions: SessionLimits::default(),
        }
    }
}

impl Limits {
    /// Checks every number once, so that nothing behind it has to.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the first field that cannot work, and its bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let bytes = [
            ("frame_bytes_max", self.frame_bytes_max, 1, 1 << 30),
            ("lane_bytes_max", self.lane_bytes_max, 1 << 10, 1 << 30),
            ("node_send_bytes_max", self.node_send_bytes_max, 1 << 10, 1 << 40),
            ("control_lane_bytes_max", self.control_lane_bytes_max, 1 << 10, 1 << 30),
            ("inbound_bytes_max", self.inbound_bytes_max, 1 << 10, 1 << 30),
            ("node_receive_bytes_max", self.node_receive_bytes_max, 1 << 10, 1 << 40),
            ("frame_rate_min", self.frame_rate_min, 1, 1 << 30),
            ("node_large_bytes_max", self.node_large_bytes_max, 1 << 10, 1 << 40),
            ("window_bytes_max", self.window_bytes_max, 1 << 10, 1 << 30),
            ("node_window_bytes_max", self.node_window_bytes_max, 1 << 10, 1 << 40),
            // The library begins with 1,248 and knows no more than 1,500.
            ("path_mtu_max", usize::from(self.path_mtu_max), 1248, 1500),
            ("peer_streams_max", usize::from(self.peer_streams_max), 1, 1 << 10),
            ("connections_max", self.connections_max, 1, 1 << 20),
            ("connections_per_peer_max", self.connections_per_peer_max, 1, 1 << 20),
            ("handshakes_pending_max", self.handshakes_pending_max, 1, 1 << 16),
            ("handshakes_per_address_max", self.handshakes_per_address_max, 1, 1 << 16),
            ("connections_per_minute_max", self.connections_per_minute_max, 1, 1 << 24),
            ("connections_burst_max", self.connections_burst_max, 1, 1 << 24),
        ];
        for (field, value, min, max) in bytes {
            ConfigError::check_number(field, value, min, max)?;
        }
        let day = Duration::from_secs(86_400);
        let times = [
            ("frame_time_max", self.frame_time_max, day),
            ("stream_op_timeout", self.stream_op_timeout, day),
            ("handshake_time_max", self.handshake_time_max, day),
            ("handshake_answer_max", self.handshake_answer_max, day),
            ("keep_alive_interval", self.keep_alive_interval, day),
            ("idle_time_max", self.idle_time_max, day),
            // The library takes no more.
            ("disconnect_time_max", self.disconnect_time_max, Duration::from_secs(600)),
            ("lane_stall_time_max", self.lane_stall_time_max, day),
            ("close_time_max", self.close_time_max, day),
        ];
        for (field, value, max) in times {
            ConfigError::check_time(field, value, Duration::from_millis(1), max)?;
        }
        self.sessions.validate()?;
        if self.keep_alive_interval >= self.idle_time_max {
            let problem = format!(
                "is {:?}, must be below idle_time_max ({:?}), or idle connections end",
                self.keep_alive_interval, self.idle_time_max
            );
            return Err(ConfigError::new("keep_alive_interval", problem));
        }
        Ok(())
    }
}

/// How long MsQuic's workers look for work before they sleep.
///
/// A sleeping worker costs nothing and has to be woken: 30 to 60 µs on an ordinary machine, up to
/// four times a round trip. One that looks for work gives the processor to any other thread that
/// wants it. It is a setting of the process: the first node decides (or whoever else uses MsQuic
/// before), and what later ones say changes nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Latency {
    /// [`BALANCED_IDLE_US`](Self::BALANCED_IDLE_US): long enough for the next frame of a busy
    /// peer. Round trips on one machine take half as long as with [`Saving`](Self::Saving). Costs
    /// up to 100 µs of one core behind each burst, and behind each keep-alive: nothing that shows
    /// with a few silent connections, a quarter more CPU with a thousand.
    #[default]
    Balanced,
    /// They sleep at once: the least CPU, and a wake-up for each frame that comes out of silence.
    Saving,
    /// They look this long: frames that follow each other within that time wake nobody. Costs up
    /// to that time of CPU, on one core for each worker, after every burst.
    Polling {
        /// 1 to 10,000 µs; 200 covers the round trips of a local network.
        idle_us: u32,
    },
}

impl Latency {
    /// How long workers look for work by default, in microseconds.
    pub const BALANCED_IDLE_US: u32 = 100;

    /// How long workers look for work, in microseconds; 0: not at all.
    #[must_use]
    pub fn idle_us(self) -> u32 {
        match self {
            Self::Balanced => Self::BALANCED_IDLE_US,
            Self::Saving => 0,
            Self::Polling { idle_us } => idle_us,
        }
    }
}

/// Everything a [`Node`](crate::Node) is started with.
///
/// # Examples
///
/// ```
/// use moorline::{NetCredential, NodeConfig};
///
/// let credential = NetCredential::generate_self_signed(&["node-a"], &[])?;
/// let mut config = NodeConfig::new(credential);
/// config.limits.frame_bytes_max = 1 << 20;
/// config.validate()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NodeConfig {
    /// Who this node is, and whom it trusts.
    pub credential: NetCredential,
    /// Application protocols, preferred first (default [`DEFAULT_ALPN`]); 1 to 255 bytes each.
    pub alpns: Vec<String>,
    /// Bounds and deadlines.
    pub limits: Limits,
    /// How connectors wait between dials.
    pub backoff: BackoffSettings,
    /// How often listeners and connectors are restarted before the node gives up.
    pub restart: RestartPolicy,
    /// How long MsQuic's workers look for work before they sleep.
    pub latency: Latency,
}

impl NodeConfig {
    /// The defaults for `credential`.
    #[must_use]
    pub fn new(credential: NetCredential) -> Self {
        Self {
            credential,
            alpns: vec![DEFAULT_ALPN.to_owned()],
            limits: Limits::default(),
            backoff: BackoffSettings::default(),
            restart: RestartPolicy::default(),
            latency: Latency::default(),
        }
    }

    /// Checks everything that can be checked without a socket.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the field and what it must be.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.limits.validate()?;
        validate_alpns(&self.alpns)?;
        if let Latency::Polling { idle_us } = self.latency {
            ConfigError::check_number("latency.idle_us", idle_us as usize, 1, 10_000)?;
        }
        self.backoff.validate().map_err(|error| ConfigError::new("backoff", error.to_string()))?;
        self.restart.validate().map_err(|error| ConfigError::new("restart", error.to_string()))
    }
}

/// Protocols that a listener or a dial offers at most.
pub(crate) const ALPNS_MAX: usize = 16;

/// RFC 7301, section 3.1: a protocol name has 1 to 255 bytes.
pub(crate) fn validate_alpns<S: AsRef<str>>(alpns: &[S]) -> Result<(), ConfigError> {
    let fits = |alpn: &S| (1..=255).contains(&alpn.as_ref().len());
    if alpns.is_empty() || alpns.len() > ALPNS_MAX || !alpns.iter().all(fits) {
        let problem = "must be 1 to 16 names of 1 to 255 bytes each".to_owned();
        return Err(ConfigError::new("alpns", problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        Limits::default().validate().unwrap();
    }

    #[test]
    fn a_number_out_of_bounds_is_named() {
        let limits = Limits { frame_bytes_max: 0, ..Limits::default() };
        assert_eq!(limits.validate().unwrap_err().field(), "frame_bytes_max");
        let limits = Limits { idle_time_max: Duration::ZERO, ..Limits::default() };
        assert_eq!(limits.validate().unwrap_err().field(), "idle_time_max");
    }

    #[test]
    fn a_keep_alive_slower_than_the_idle_time_is_refused() {
        let limits = Limits { keep_alive_interval: Duration::from_secs(4), ..Limits::default() };
        let error = limits.validate().unwrap_err();
        assert_eq!(error.field(), "keep_alive_interval");
    }

    #[test]
    fn an_empty_or_oversized_alpn_is_refused() {
        validate_alpns(&["a"]).unwrap();
        validate_alpns::<&str>(&[]).unwrap_err();
        validate_alpns(&[""]).unwrap_err();
        validate_alpns(&["x".repeat(256)]).unwrap_err();
    }
}
