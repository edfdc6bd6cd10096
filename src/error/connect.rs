//! Opening a connection failed: at which address, why, and whether it is worth another try.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{CloseReason, ErrorKind, LibraryError};
use crate::config::ConfigError;
use crate::error::CertificateRefused;
use crate::identity::CredentialError;

/// A text that is no address, or an address that nobody can be reached at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} cannot be connected to: {problem}")]
#[non_exhaustive]
pub struct InvalidAddress {
    /// What was given.
    pub given: String,
    /// What is wrong with it, and what to give instead.
    pub problem: String,
}

/// Opening a connection failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address is not one, or nobody can be reached at it.
    #[error("cannot connect to {given:?}: {problem}")]
    Address {
        /// What was given.
        given: String,
        /// What is wrong with it, and what to give instead.
        problem: String,
    },
    /// The host name has no address, or the name service does not answer.
    #[error("cannot connect to {name}: the name does not resolve: {problem}")]
    Resolve {
        /// The name and port.
        name: String,
        /// What the name service said.
        problem: String,
    },
    /// Limits or ALPNs cannot work.
    #[error("cannot connect to {remote}: the configuration is wrong")]
    Config {
        /// What was to be dialled.
        remote: String,
        /// What is wrong.
        #[source]
        source: ConfigError,
    },
    /// The own credential could not be loaded.
    #[error("cannot connect to {remote}: the own credential cannot be used")]
    Credential {
        /// What was to be dialled.
        remote: String,
        /// What is wrong with it.
        #[source]
        source: Arc<CredentialError>,
    },
    /// MsQuic itself refused.
    #[error("cannot connect to {remote}: MsQuic could not {action}")]
    Library {
        /// What was dialled.
        remote: String,
        /// What was tried.
        action: &'static str,
        /// MsQuic's answer.
        #[source]
        source: LibraryError,
    },
    /// The system has no thread for this process.
    #[error("cannot connect to {remote}: no thread could be started to {action}")]
    NoThread {
        /// What was to be dialled.
        remote: String,
        /// What for.
        action: &'static str,
        /// What the system said.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// This process was not ready in time: the peer was not asked yet.
    #[error("cannot connect to {remote}: {doing} took longer than {after:?}")]
    Overdue {
        /// What was to be dialled.
        remote: String,
        /// What took so long.
        doing: &'static str,
        /// How long this waited.
        after: Duration,
    },
    /// A certificate was refused, by either side.
    #[error("cannot connect to {peer}: {refused}")]
    CertificateRefused {
        /// The peer's address.
        peer: SocketAddr,
        /// Who refused whom, and why.
        refused: Box<CertificateRefused>,
    },
    /// Nobody listens there for the offered protocols. A peer says the same where it listens on the
    /// port for another of its addresses.
    #[error(
        "cannot connect to {peer}: it speaks none of the offered ALPNs {offered:?} there, or \
         listens on another address"
    )]
    AlpnMismatch {
        /// The peer's address.
        peer: SocketAddr,
        /// What was offered.
        offered: Vec<String>,
    },
    /// Nothing listens there.
    #[error("cannot connect to {peer}: nothing listens there (port unreachable)")]
    Unreachable {
        /// The peer's address.
        peer: SocketAddr,
    },
    /// Nothing answered within the limit.
    #[error("cannot connect to {peer}: no answer within {after:?}")]
    TimedOut {
        /// The peer's address.
        peer: SocketAddr,
        /// How long it was asked: less than the limit where other things took a part of it.
        after: Duration,
    },
    /// It ended during the handshake for another reason.
    #[error("cannot connect to {peer}: {reason}")]
    Closed {
        /// The peer's address.
        peer: SocketAddr,
        /// Why.
        reason: CloseReason,
    },
    /// Several addresses were tried, and none led to the peer.
    #[error(fmt = each_address)]
    Addresses {
        /// What was dialled.
        remote: String,
        /// Why, for each address, in the order in which they failed.
        failures: Vec<Self>,
    },
    /// This node has as many connections as it may.
    #[error("cannot connect to {peer}: the node already has {limit} connections")]
    TooManyConnections {
        /// The peer's address.
        peer: SocketAddr,
        /// `Limits::connections_max`.
        limit: usize,
    },
    /// This node has as many connections with the peer as it may.
    #[error("cannot connect to {peer}: there are {limit} connections with that peer already")]
    TooManyOfPeer {
        /// The peer's address.
        peer: SocketAddr,
        /// `Limits::connections_per_peer_max`.
        limit: usize,
    },
    /// As many callers as may wait for this target wait already.
    #[error("cannot connect: {limit} callers wait for this target already")]
    TooManyCallers {
        /// How many may wait.
        limit: usize,
    },
    /// `Node::disconnect` was called for the target while this call waited.
    #[error("cannot connect: the target was disconnected meanwhile")]
    Disconnected,
    /// What dialled failed by a defect of this crate; please report it.
    #[error("cannot connect: the actor that dialled failed (look at the log, and report it)")]
    Internal,
    /// The node was stopped.
    #[error("cannot connect: the node is stopped")]
    Stopped,
}

/// `{address}: {reason}` for each: what every error says behind its first words.
fn each_address(
    remote: &str,
    failures: &[ConnectError],
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    write!(f, "cannot connect to {remote}")?;
    for (number, failure) in failures.iter().enumerate() {
        let text = failure.to_string();
        let text = text.strip_prefix("cannot connect to ").unwrap_or(&text);
        write!(f, "{} {text}", if number == 0 { ":" } else { ";" })?;
    }
    Ok(())
}

impl From<InvalidAddress> for ConnectError {
    fn from(InvalidAddress { given, problem }: InvalidAddress) -> Self {
        Self::Address { given, problem }
    }
}

impl ConnectError {
    pub(crate) fn from_close(
        peer: SocketAddr,
        reason: CloseReason,
        alpns: &[String],
        after: Duration,
    ) -> Self {
        match reason {
            CloseReason::Certificate(refused) => Self::CertificateRefused { peer, refused },
            CloseReason::AlpnMismatch => Self::AlpnMismatch { peer, offered: alpns.to_vec() },
            CloseReason::Unreachable => Self::Unreachable { peer },
            CloseReason::HandshakeTimedOut => Self::TimedOut { peer, after },
            reason @ (CloseReason::Local { .. }
            | CloseReason::Peer { .. }
            | CloseReason::NoRoute
            | CloseReason::NoIpv6
            | CloseReason::Refused
            | CloseReason::TimedOut
            | CloseReason::Forgotten
            | CloseReason::Transport { .. }) => Self::Closed { peer, reason },
        }
    }

    /// What a program can do about it.
    ///
    /// [`ErrorKind::Never`] is what this side alone can change: an address that is none, its own
    /// configuration or credential, a peer it does not trust or did not expect, and a peer that
    /// said not to come back ([`CloseCode::is_final`](crate::CloseCode::is_final)).
    ///
    /// What the other side or time may cure is worth another try: a peer that refused our
    /// certificate (its operator may be about to trust it), a certificate that is expired or not
    /// valid yet (it may be renewed, a clock set), a name that does not resolve yet, and "no common
    /// ALPN" (the peer may be about to be upgraded, or to listen on that address too). Of several
    /// addresses one that may pass is enough.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Address { .. }
            | Self::Config { .. }
            | Self::Credential { .. }
            | Self::Stopped => ErrorKind::Never,
            Self::CertificateRefused { refused, .. } => refused.kind(),
            Self::Closed { reason, .. } => reason.kind(),
            Self::Addresses { failures, .. } => {
                let may_pass = failures.iter().any(|failure| failure.kind() == ErrorKind::Retry);
                if may_pass { ErrorKind::Retry } else { ErrorKind::Never }
            }
            Self::Resolve { .. }
            | Self::Library { .. }
            | Self::NoThread { .. }
            | Self::Overdue { .. }
            | Self::AlpnMismatch { .. }
            | Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::TooManyConnections { .. }
            | Self::TooManyOfPeer { .. }
            | Self::TooManyCallers { .. }
            | Self::Disconnected
            | Self::Internal => ErrorKind::Retry,
        }
    }

    /// Whether the peer said not to come back.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::Closed { reason, .. } => reason.is_final(),
            Self::Addresses { failures, .. } => failures.iter().any(Self::is_final),
            // What the peer says of a certificate is no wish.
            Self::CertificateRefused { .. }
            | Self::Address { .. }
            | Self::Resolve { .. }
            | Self::Config { .. }
            | Self::Credential { .. }
            | Self::Library { .. }
            | Self::NoThread { .. }
            | Self::Overdue { .. }
            | Self::AlpnMismatch { .. }
            | Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::TooManyConnections { .. }
            | Self::TooManyOfPeer { .. }
            | Self::TooManyCallers { .. }
            | Self::Disconnected
            | Self::Internal
            | Self::Stopped => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{CertificateAlert, CloseCode};
    use crate::identity::{CertHash, KeyPrefixes, Refusal};

    fn peer(last: u8) -> SocketAddr {
        ([127, 0, 0, last], 4433).into()
    }

    fn all(failures: Vec<ConnectError>) -> ConnectError {
        ConnectError::Addresses { remote: "host:4433".to_owned(), failures }
    }

    fn by_us(refusal: Refusal) -> ConnectError {
        let refused = Box::new(CertificateRefused::ByUs { refusal, keys: None });
        ConnectError::CertificateRefused { peer: peer(1), refused }
    }

    #[test]
    fn every_address_is_named_with_its_reason() {
        let error = all(vec![
            ConnectError::Unreachable { peer: peer(1) },
            ConnectError::TimedOut { peer: peer(2), after: Duration::from_secs(2) },
        ]);
        assert_eq!(
            error.to_string(),
            "cannot connect to host:4433: 127.0.0.1:4433: nothing listens there (port \
             unreachable); 127.0.0.2:4433: no answer within 2s"
        );
    }

    #[test]
    fn one_address_that_may_pass_is_worth_another_try() {
        let found = CertHash::from_bytes([7; 32]);
        let never = by_us(Refusal::Untrusted { found });
        let passes = ConnectError::Unreachable { peer: peer(2) };
        assert_eq!(never.kind(), ErrorKind::Never);
        assert_eq!(all(vec![never.clone()]).kind(), ErrorKind::Never);
        assert_eq!(all(vec![never, passes]).kind(), ErrorKind::Retry);
    }

    #[test]
    fn what_time_or_the_peers_operator_cures_is_worth_another_try() {
        let found = CertHash::from_bytes([7; 32]);
        let (ago, wait) = (Duration::from_secs(1), Duration::from_secs(1));
        assert_eq!(by_us(Refusal::Expired { found, ago }).kind(), ErrorKind::Retry);
        assert_eq!(by_us(Refusal::NotYetValid { found, wait }).kind(), ErrorKind::Retry);
        assert_eq!(by_us(Refusal::Missing).kind(), ErrorKind::Never);
        let by_peer = |alert| {
            let keys = KeyPrefixes { subject: "aa".to_owned(), signers: vec![] };
            let refused = Box::new(CertificateRefused::ByPeer { keys, alert });
            ConnectError::CertificateRefused { peer: peer(1), refused }.kind()
        };
        assert_eq!(by_peer(CertificateAlert::Bad), ErrorKind::Retry);
        assert_eq!(by_peer(CertificateAlert::Expired), ErrorKind::Never, "ours must be renewed");
    }

    #[test]
    fn a_peer_that_said_not_to_come_back_is_not_asked_again() {
        let reason = CloseReason::Peer { code: CloseCode::FORBIDDEN };
        let error = ConnectError::Closed { peer: peer(1), reason };
        assert!(error.is_final());
        assert_eq!(error.kind(), ErrorKind::Never);
        assert!(all(vec![ConnectError::Stopped, error]).is_final());
        let reason = CloseReason::Peer { code: CloseCode::NORMAL };
        assert!(!ConnectError::Closed { peer: peer(1), reason }.is_final());
    }
}
