//! Close codes, and why a connection ended.

use super::{ErrorKind, in_words};
use crate::identity::{KeyPrefixes, Refusal};

/// The code a connection is closed with (RFC 9000, section 19.19, application error codes).
///
/// Codes below 0x100 belong to this crate (`docs/close-codes.md`); applications start there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CloseCode(u64);

macro_rules! close_codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        impl CloseCode {
            $($(#[$doc])* pub const $name: Self = Self($code);)*

            /// The name of a code of this crate.
            #[must_use]
            pub fn name(self) -> Option<&'static str> {
                match self.0 { $($code => Some(stringify!($name)),)* _ => None }
            }

            fn text(self) -> Option<&'static str> {
                match self.0 { $($code => Some($text),)* _ => None }
            }
        }
    };
}

close_codes! {
    /// Nothing is wrong: the application is done.
    NORMAL = 0x00, "done";
    /// The node shuts down.
    GOING_AWAY = 0x01, "the node is shutting down";
    /// A length prefix announced more than the limit.
    FRAME_TOO_LARGE = 0x02, "a frame was announced that is over the limit";
    /// A frame took too long from its first byte to its last.
    FRAME_TIMEOUT = 0x03, "a frame took too long to arrive";
    /// A lane made no progress for too long.
    LANE_STALLED = 0x04, "a lane made no progress";
    /// The actor that owned the connection failed.
    ACTOR_FAILED = 0x05, "the actor that owned the connection failed";
    /// A defect in this crate; please report it.
    INTERNAL = 0x06, "an internal error";
    /// The node accepts no more connections.
    TOO_MANY_CONNECTIONS = 0x07, "the node has as many connections as it may";
    /// The application refused the connection before it was accepted.
    REFUSED = 0x08, "the connection was refused";
    /// A stream ended inside a frame.
    FRAME_TRUNCATED = 0x09, "a stream ended inside a frame";
    /// The connection was dropped without a close.
    DROPPED = 0x0a, "the connection was dropped without a close";
    /// The peer ended its frames, and did not close within `Limits::close_time_max`.
    HALF_CLOSED = 0x0d, "the peer ended its frames and did not close";
    /// The application does not want this peer: it is not to come back ([`CloseCode::is_final`]).
    FORBIDDEN = 0x0e, "the peer is not wanted here and is not to come back";
    /// The node accepts no more connections of this peer.
    TOO_MANY_OF_PEER = 0x0f, "the peer has as many connections as one may";
    /// Of a stream, never of a connection: it carries nothing, only its number was needed.
    UNUSED = 0x10, "a stream that carries nothing";
    /// The handshake took longer than `Limits::handshake_time_max` or `Limits::handshake_answer_max` of
    /// the side that closes.
    HANDSHAKE_TIMEOUT = 0x11, "the handshake took too long";
    /// The session has another connection.
    DUPLICATE = 0x20, "the session has another connection";
    /// A later start of the same node has taken its place: this one is not to come back.
    STALE_INCARNATION = 0x21, "a later start of this node has taken its place";
    /// A node dialled itself.
    SELF_DIALLED = 0x22, "the node dialled itself";
    /// The peer said what the protocol does not allow.
    PROTOCOL_ERROR = 0x23, "the peer broke the protocol";
    /// Nobody here speaks the application's protocol that was asked for.
    UNKNOWN_PROTOCOL = 0x24, "nobody here speaks this protocol";
    /// The two speak no version of sessions in common.
    VERSION = 0x25, "no version in common";
    /// What begins a session did not come in time.
    HELLO_TIMEOUT = 0x26, "the beginning of a session took too long";
    /// The node has as many sessions as it may.
    NODE_FULL = 0x27, "the node has as many sessions as it may";
}

impl CloseCode {
    /// The first code that is the application's.
    pub const APPLICATION: Self = Self(0x100);

    /// The first code of the application that is final ([`CloseCode::is_final`]).
    pub const APPLICATION_FINAL: Self = Self(0x1_0000);

    /// The largest code QUIC can carry (62 bits).
    const MAX: u64 = (1 << 62) - 1;

    /// A code of the application: `code` must be at least 0x100 and fit 62 bits. From 0x1_0000 on
    /// it is final ([`CloseCode::is_final`]).
    #[must_use]
    pub const fn application(code: u64) -> Option<Self> {
        if code >= Self::APPLICATION.0 && code <= Self::MAX { Some(Self(code)) } else { None }
    }

    /// Whether a peer that is closed with this code is not to come back: its connector dials no more.
    /// [`FORBIDDEN`](Self::FORBIDDEN), [`STALE_INCARNATION`](Self::STALE_INCARNATION) and
    /// [`SELF_DIALLED`](Self::SELF_DIALLED) are, and of the application's codes those from
    /// [`APPLICATION_FINAL`](Self::APPLICATION_FINAL) on. After any other code a connector that
    /// keeps the target dials again.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::FORBIDDEN | Self::STALE_INCARNATION | Self::SELF_DIALLED)
            || self.0 >= Self::APPLICATION_FINAL.0
    }

    /// As it came over the wire.
    pub(crate) const fn from_wire(code: u64) -> Self {
        Self(code)
    }

    /// The number on the wire.
    #[must_use]
    pub const fn value(self) -> u64 {
        self.0
    }
}

impl std::fmt::Display for CloseCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.name(), self.text()) {
            (Some(name), Some(text)) => write!(f, "{name}, {text}"),
            _ => write!(f, "code {:#x}", self.0),
        }
    }
}

/// Which side did something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// This process.
    Local,
    /// The peer.
    Peer,
}

/// A certificate was refused: who refused whom, and why as far as this side can know.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CertificateRefused {
    /// This side refused the peer's certificate.
    ByUs {
        /// What was wrong with it.
        refusal: Refusal,
        /// Keys of the peer's certificate, where it had one.
        keys: Option<KeyPrefixes>,
    },
    /// The peer refused our certificate. TLS tells only that, not why.
    ByPeer {
        /// Keys of our own certificate.
        keys: KeyPrefixes,
        /// What the peer's alert says.
        alert: CertificateAlert,
    },
}

/// What a peer's TLS alert says about our certificate (RFC 8446, section 6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CertificateAlert {
    /// `bad_certificate`: not trusted, or broken.
    Bad,
    /// `certificate_expired`.
    Expired,
    /// `unknown_ca`.
    UnknownAuthority,
    /// `certificate_required`: we sent none.
    Required,
    /// Another certificate alert, by its number.
    Other(u8),
}

impl CertificateRefused {
    /// Which side said no.
    #[must_use]
    pub fn side(&self) -> Side {
        match self {
            Self::ByUs { .. } => Side::Local,
            Self::ByPeer { .. } => Side::Peer,
        }
    }

    /// Whether dialling again can help: see [`ConnectError::kind`](crate::ConnectError::kind).
    pub(super) fn kind(&self) -> ErrorKind {
        match self {
            Self::ByUs {
                refusal: Refusal::Expired { .. } | Refusal::NotYetValid { .. }, ..
            } => ErrorKind::Retry,
            Self::ByUs { .. } | Self::ByPeer { alert: CertificateAlert::Expired, .. } => {
                ErrorKind::Never
            }
            Self::ByPeer { .. } => ErrorKind::Retry,
        }
    }
}

impl std::fmt::Display for CertificateRefused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ByUs { refusal, keys: Some(keys) } => {
                write!(f, "we refused the peer's certificate ({keys}): {refusal}")
            }
            Self::ByUs { refusal, keys: None } => write!(f, "we refused the peer: {refusal}"),
            Self::ByPeer { keys, alert } => {
                let why = match alert {
                    CertificateAlert::Bad => "it is not trusted there".to_owned(),
                    CertificateAlert::Expired => "it has expired".to_owned(),
                    CertificateAlert::UnknownAuthority => "its issuer is not known".to_owned(),
                    CertificateAlert::Required => "it asks for one and got none".to_owned(),
                    CertificateAlert::Other(number) => format!("TLS alert {number}"),
                };
                write!(f, "the peer refused our certificate ({keys}): {why}")
            }
        }
    }
}

/// Why a connection ended, which side ended it, and with which code.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// This side closed it.
    Local {
        /// The code that was sent.
        code: CloseCode,
    },
    /// The peer's application closed it.
    Peer {
        /// The code that was received.
        code: CloseCode,
    },
    /// A certificate was refused.
    Certificate(Box<CertificateRefused>),
    /// No protocol in common, or the peer listens on another address of its machine.
    AlpnMismatch,
    /// Nothing listens at the address (ICMP port unreachable).
    Unreachable,
    /// This machine has no way to the address: no route, or no address of that family.
    NoRoute,
    /// This machine's kernel has no IPv6, which MsQuic needs for its sockets, also for IPv4.
    NoIpv6,
    /// The peer's listener refused the connection: it is full, or stopping.
    Refused,
    /// The handshake did not end in time, or nothing ever answered.
    HandshakeTimedOut,
    /// The peer stopped answering: it died, or the network did, or the path's MTU shrank.
    TimedOut,
    /// The peer does not know the connection any more (a stateless reset, RFC 9000, section 10.3): it
    /// had given this side up, for example while this process was suspended.
    Forgotten,
    /// The transport gave up.
    Transport {
        /// MsQuic's `QUIC_STATUS`.
        status: u32,
        /// The QUIC transport error code (RFC 9000, section 20.1).
        error_code: u64,
    },
}

impl CloseReason {
    /// Which side ended it; `None` where nobody did (a time-out).
    #[must_use]
    pub fn side(&self) -> Option<Side> {
        match self {
            Self::Local { .. } => Some(Side::Local),
            Self::Peer { .. } | Self::Refused | Self::AlpnMismatch | Self::Forgotten => {
                Some(Side::Peer)
            }
            Self::Certificate(refused) => Some(refused.side()),
            Self::Unreachable
            | Self::NoRoute
            | Self::NoIpv6
            | Self::HandshakeTimedOut
            | Self::TimedOut
            | Self::Transport { .. } => None,
        }
    }

    /// The application's close code, where there is one.
    #[must_use]
    pub fn code(&self) -> Option<CloseCode> {
        match self {
            Self::Local { code } | Self::Peer { code } => Some(*code),
            Self::Certificate(_)
            | Self::AlpnMismatch
            | Self::Unreachable
            | Self::NoRoute
            | Self::NoIpv6
            | Self::Refused
            | Self::HandshakeTimedOut
            | Self::TimedOut
            | Self::Forgotten
            | Self::Transport { .. } => None,
        }
    }

    /// Whether dialling again can help: see [`ConnectError::kind`](crate::ConnectError::kind).
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Certificate(refused) => refused.kind(),
            Self::NoIpv6 => ErrorKind::Never,
            Self::Peer { code } if code.is_final() => ErrorKind::Never,
            Self::Local { .. }
            | Self::Peer { .. }
            | Self::AlpnMismatch
            | Self::Unreachable
            | Self::NoRoute
            | Self::Refused
            | Self::HandshakeTimedOut
            | Self::TimedOut
            | Self::Forgotten
            | Self::Transport { .. } => ErrorKind::Retry,
        }
    }

    /// Whether the peer said not to come back.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::Peer { code } if code.is_final())
    }
}

impl std::fmt::Display for CloseReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local { code } => write!(f, "closed by this side: {code}"),
            Self::Peer { code } => write!(f, "closed by the peer: {code}"),
            Self::Certificate(refused) => refused.fmt(f),
            Self::AlpnMismatch => f.write_str(
                "the peer speaks none of the offered ALPNs there, or listens on another address",
            ),
            Self::Unreachable => f.write_str("nothing listens at that address"),
            Self::NoRoute => f.write_str("this machine has no way to that address"),
            Self::NoIpv6 => f.write_str(
                "this machine's kernel has no IPv6, which MsQuic needs for its sockets, also for \
                 IPv4: boot it without ipv6.disable=1",
            ),
            Self::Refused => f.write_str("the peer's listener refused the connection"),
            Self::HandshakeTimedOut => f.write_str("the handshake got no answer in time"),
            Self::TimedOut => f.write_str("the peer stopped answering"),
            Self::Forgotten => f.write_str(
                "the peer does not know this connection any more: it had given this side up",
            ),
            Self::Transport { status, error_code } => {
                let words = in_words(*status);
                write!(f, "transport error {error_code:#x} (status {status:#x}{words})")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_code_names_itself() {
        assert_eq!(CloseCode::FRAME_TOO_LARGE.name(), Some("FRAME_TOO_LARGE"));
        assert_eq!(CloseCode::from_wire(0x123).to_string(), "code 0x123");
        assert!(CloseCode::NORMAL.to_string().starts_with("NORMAL"));
    }

    #[test]
    fn application_codes_keep_out_of_the_crates_own() {
        assert_eq!(CloseCode::application(0xff), None);
        assert_eq!(CloseCode::application(0x100), Some(CloseCode::APPLICATION));
        assert_eq!(CloseCode::application(1 << 62), None);
    }

    #[test]
    fn every_code_of_this_crate_is_in_the_document_with_its_number() {
        let document = include_str!("../../docs/close-codes.md");
        let mut rows = 0;
        for code in (0..CloseCode::APPLICATION.value()).map(CloseCode::from_wire) {
            let row = format!("| {:#04x} | `{}` |", code.value(), code.name().unwrap_or("none"));
            assert_eq!(document.contains(&row), code.name().is_some(), "{row}");
            rows += usize::from(code.name().is_some());
        }
        assert_eq!(document.matches("\n| 0x").count(), rows, "no row of a code that is none");
    }

    #[test]
    fn only_forbidden_and_the_final_range_of_applications_keep_a_dialler_away() {
        let application = |code| CloseCode::application(code).expect("an application's code");
        let last = application(0xffff);
        for code in [CloseCode::NORMAL, CloseCode::GOING_AWAY, CloseCode::REFUSED, last] {
            assert!(!code.is_final(), "{code}");
            assert_eq!(CloseReason::Peer { code }.kind(), ErrorKind::Retry);
        }
        for code in [CloseCode::FORBIDDEN, CloseCode::APPLICATION_FINAL, application(1 << 61)] {
            assert!(code.is_final(), "{code}");
            assert_eq!(CloseReason::Peer { code }.kind(), ErrorKind::Never);
            assert_eq!(CloseReason::Local { code }.kind(), ErrorKind::Retry, "our own wish");
        }
    }
}
