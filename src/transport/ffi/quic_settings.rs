//! `QUIC_SETTINGS`, filled field by field: the crate's own setters only switch things on.

use std::time::Duration;

use msquic::ffi::{
    QUIC_CONGESTION_CONTROL_ALGORITHM_QUIC_CONGESTION_CONTROL_ALGORITHM_BBR as BBR,
    QUIC_CONGESTION_CONTROL_ALGORITHM_QUIC_CONGESTION_CONTROL_ALGORITHM_CUBIC as CUBIC,
    QUIC_SETTINGS,
};

use crate::config::{Algorithm, Limits};
use crate::transport::bounds::Windows;

/// How late an acknowledgement may be (the library has 25, as RFC 9000, section 18.2). Whoever waits
/// for one, or has little on its way, waits that long on an otherwise silent path; so do the probes
/// that find a lost last packet. Many packets are acknowledged together whatever this is.
const ACK_DELAY_MS: u32 = 1;

/// The settings of a configuration.
pub(in crate::transport) struct QuicSettings(QUIC_SETTINGS);

/// Sets a number and its "is set" bit.
macro_rules! set {
    ($settings:expr, $field:ident, $is_set:ident, $value:expr) => {
        $settings.$field = $value;
        // SAFETY: the union's two views are a u64 and its bit fields; every bit pattern is valid.
        unsafe { $settings.__bindgen_anon_1.IsSet.$is_set(1) };
    };
}

impl QuicSettings {
    pub(super) const SIZE: u32 = size_of::<QUIC_SETTINGS>() as u32;

    /// Those of all connections, but for `windows`, which a connection may have smaller.
    pub(in crate::transport) fn new(
        limits: &Limits,
        windows: Windows,
        algorithm: Algorithm,
    ) -> Self {
        let Self(mut s) = Self::windows(windows);
        set!(
            s,
            HandshakeIdleTimeoutMs,
            set_HandshakeIdleTimeoutMs,
            milliseconds(limits.handshake_time_max)
        );
        set!(s, IdleTimeoutMs, set_IdleTimeoutMs, milliseconds(limits.idle_time_max));
        // Until it is connected: the library would give a handshake up after one lost packet.
        let patience = limits.handshake_time_max.max(limits.disconnect_time_max);
        set!(s, DisconnectTimeoutMs, set_DisconnectTimeoutMs, disconnect(patience));
        set!(s, KeepAliveIntervalMs, set_KeepAliveIntervalMs, short(limits.keep_alive_interval));
        set!(s, MaximumMtu, set_MaximumMtu, limits.path_mtu_max);
        let algorithm = match algorithm {
            Algorithm::Cubic => CUBIC,
            Algorithm::Bbr => BBR,
        };
        set!(s, CongestionControlAlgorithm, set_CongestionControlAlgorithm, algorithm as u16);
        set!(s, PeerUnidiStreamCount, set_PeerUnidiStreamCount, limits.peer_streams_max);
        set!(s, PeerBidiStreamCount, set_PeerBidiStreamCount, 0);
        set!(s, MaxAckDelayMs, set_MaxAckDelayMs, ACK_DELAY_MS);
        // A completed send means acknowledged, not copied.
        s.set_SendBufferingEnabled(0);
        // Tells peers not to migrate, in which the bundled library has a use-after-free.
        s.set_MigrationEnabled(0);
        // A resumed handshake shows no certificate.
        s.set_ServerResumptionLevel(0);
        // SAFETY: as in `set!`.
        let is_set = unsafe { &mut s.__bindgen_anon_1.IsSet };
        is_set.set_SendBufferingEnabled(1);
        is_set.set_MigrationEnabled(1);
        is_set.set_ServerResumptionLevel(1);
        Self(s)
    }

    /// What the library holds beside our queue when nobody reads.
    pub(super) fn windows(windows: Windows) -> Self {
        // SAFETY: a plain C struct of integers; all zero means "nothing set".
        let mut s: QUIC_SETTINGS = unsafe { std::mem::zeroed() };
        set!(s, ConnFlowControlWindow, set_ConnFlowControlWindow, windows.connection);
        set!(s, StreamRecvWindowUnidiDefault, set_StreamRecvWindowUnidiDefault, windows.stream);
        Self(s)
    }

    /// What changes once a connection stands.
    pub(super) fn connected(disconnect_time_max: Duration, stream_window: u32) -> Self {
        // SAFETY: as in `windows`.
        let mut s: QUIC_SETTINGS = unsafe { std::mem::zeroed() };
        // The library takes the window of the connection for the largest that a stream's may grow to,
        // and reads it for nothing else that counts once a connection stands.
        set!(s, ConnFlowControlWindow, set_ConnFlowControlWindow, stream_window);
        set!(s, DisconnectTimeoutMs, set_DisconnectTimeoutMs, disconnect(disconnect_time_max));
        Self(s)
    }

    pub(super) fn as_ptr(&self) -> *const QUIC_SETTINGS {
        &raw const self.0
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The library refuses more than ten minutes (`QUIC_MAX_DISCONNECT_TIMEOUT`).
fn disconnect(time: Duration) -> u32 {
    short(time.min(Duration::from_secs(600)))
}

fn short(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
