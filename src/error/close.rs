//! Close codes, and why a connection ended.

use super::ErrorKind;
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
    /// Of a stream, never of a connection: it carries nothing, only its number was needed.
    UNUSED = 0x10, "a stream that carries nothing";
}

impl CloseCode {
    /// The first code that is the application's.
    pub const APPLICATION: Self = Self(0x100);

    /// The largest code QUIC can carry (62 bits).
    const MAX: u64 = (1 << 62) - 1;

    /// A code of the application: `code` must be at least 0x100 and fit 62 bits.
    #[must_use]
    pub const fn application(code: u64) -> Option<Self> {
        if code >= Self::APPLICATION.0 && code <= Self::MAX { Some(Self(code)) } else { None }
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
    /// No protocol in common.
    AlpnMismatch,
    /// Nothing listens at the address (ICMP port unreachable).
    Unreachable,
    /// The peer's listener refused the connection: it is full, or stopping.
    Refused,
    /// The handshake did not end in time, or nothing ever answered.
    HandshakeTimedOut,
    /// The peer stopped answering: it died, or the network did.
    TimedOut,
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
            Self::Peer { .. } | Self::Refused | Self::AlpnMismatch => Some(Side::Peer),
            Self::Certificate(refused) => Some(refused.side()),
            Self::Unreachable
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
            _ => None,
        }
    }

    /// Whether dialling again can help.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Certificate(_) | Self::AlpnMismatch => ErrorKind::Never,
            _ => ErrorKind::Retry,
        }
    }
}

impl std::fmt::Display for CloseReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local { code } => write!(f, "closed by this side: {code}"),
            Self::Peer { code } => write!(f, "closed by the peer: {code}"),
            Self::Certificate(refused) => refused.fmt(f),
            Self::AlpnMismatch => f.write_str("the peer speaks none of the offered ALPNs"),
            Self::Unreachable => f.write_str("nothing listens at that address"),
            Self::Refused => f.write_str("the peer's listener refused the connection"),
            Self::HandshakeTimedOut => f.write_str("the handshake got no answer in time"),
            Self::TimedOut => f.write_str("the peer stopped answering"),
            Self::Transport { status, error_code } => {
                // On POSIX the library's local failures are error numbers of the system.
                let system =
                    i32::try_from(*status).ok().filter(|number| (1..4096).contains(number));
                match system.map(std::io::Error::from_raw_os_error) {
                    Some(system) => write!(f, "transport error {error_code:#x}: {system}"),
                    None => write!(f, "transport error {error_code:#x} (status {status:#x})"),
                }
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
}
