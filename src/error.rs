//! What can go wrong, one enum per operation, and why a connection ended.
//!
//! Messages leave their cause out; `source()` has it. `kind()` is for programs, the message for
//! people. Facts are recorded where they happen and become errors once, at the edge.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::config::ConfigError;
use crate::identity::CredentialError;

mod close;
mod connect;
mod stream;

pub use close::{CertificateAlert, CertificateRefused, CloseCode, CloseReason, Side};
pub use connect::{ConnectError, InvalidAddress};
pub use stream::{Outcome, RecvError, SendError, SendManyError, StreamError};

/// What a program can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Nothing happened; the same call may succeed later, or on another connection.
    Retry,
    /// The same call will fail again: arguments, trust or configuration must change first.
    Never,
    /// It may have happened: only the application's own protocol can tell.
    Unknown,
}

/// An inbound connection did not come to stand.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// It ended during its handshake.
    #[error("connection from {peer} was not established: {reason}")]
    Closed {
        /// The peer's address.
        peer: SocketAddr,
        /// Why.
        reason: CloseReason,
    },
    /// The listener was stopped.
    #[error("the listener is stopped")]
    Stopped,
}

impl AcceptError {
    /// What a program can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Closed { .. } => ErrorKind::Retry,
            Self::Stopped => ErrorKind::Never,
        }
    }
}

/// Listening failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Another socket has the address.
    #[error("cannot listen on {address}: the port is in use; choose another or stop its owner")]
    InUse {
        /// The address.
        address: SocketAddr,
    },
    /// The address is not one of this machine's, or may not be used.
    #[error("cannot listen on {address}: {problem}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// What is wrong with it.
        problem: String,
    },
    /// Limits or ALPNs cannot work.
    #[error("cannot listen on {address}: the configuration is wrong")]
    Config {
        /// The address.
        address: SocketAddr,
        /// What is wrong.
        #[source]
        source: ConfigError,
    },
    /// The own credential could not be loaded.
    #[error("cannot listen on {address}: the own credential cannot be used")]
    Credential {
        /// The address.
        address: SocketAddr,
        /// What is wrong with it.
        #[source]
        source: Arc<CredentialError>,
    },
    /// MsQuic itself refused.
    #[error("cannot listen on {address}: MsQuic could not {action}")]
    Library {
        /// The address.
        address: SocketAddr,
        /// What was tried.
        action: &'static str,
        /// MsQuic's answer.
        #[source]
        source: LibraryError,
    },
    /// The system has no thread for this process.
    #[error("cannot listen on {address}: no thread could be started to {action}")]
    NoThread {
        /// The address.
        address: SocketAddr,
        /// What for.
        action: &'static str,
        /// What the system said.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// What binds the address failed by a defect of this crate; please report it.
    #[error("cannot listen: what binds the address failed (look at the log, and report it)")]
    Internal,
    /// The node was stopped.
    #[error("cannot listen: the node is stopped")]
    Stopped,
}

impl ListenError {
    /// What a program can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InUse { .. } | Self::Library { .. } | Self::NoThread { .. } | Self::Internal => {
                ErrorKind::Retry
            }
            Self::Address { .. }
            | Self::Config { .. }
            | Self::Credential { .. }
            | Self::Stopped => ErrorKind::Never,
        }
    }
}

/// A status of the MsQuic library that no operation of ours names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("QUIC_STATUS {status:#x}{}", in_words(*.status))]
#[non_exhaustive]
pub struct LibraryError {
    /// MsQuic's `QUIC_STATUS`.
    pub status: u32,
}

/// What a status says in words: on POSIX the library's local failures are error numbers of the
/// system.
fn in_words(status: u32) -> String {
    match i32::try_from(status).ok().filter(|number| (1..4096).contains(number)) {
        Some(number) => format!(": {}", std::io::Error::from_raw_os_error(number)),
        None => String::new(),
    }
}

/// A node could not be started, or has ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The configuration cannot work.
    #[error("the node cannot start: its configuration is wrong")]
    Config(#[from] ConfigError),
    /// MsQuic refused a setting of the whole process.
    #[error("the node cannot start: MsQuic refused to {action}")]
    Library {
        /// What was tried.
        action: &'static str,
        /// What MsQuic answered.
        source: LibraryError,
    },
    /// The supervisor actor could not be spawned.
    #[error("the node cannot start: its supervisor did not")]
    Spawn(#[source] ractor::SpawnErr),
    /// The node is stopped.
    #[error("the node is stopped")]
    Stopped,
    /// The node has ended, but a clone of it is left: MsQuic's registration stays open with it.
    #[error(
        "the node has ended, but a clone of it is left and keeps MsQuic's registration open: drop \
         every clone before the node is closed"
    )]
    CloneLeft,
    /// The node has ended, but MsQuic did not close the registration.
    #[error("the node has ended, but MsQuic did not close its registration within {after:?}")]
    StillOpen {
        /// How long this waited.
        after: Duration,
    },
    /// Not everything ended within the grace; what was left was cut.
    #[error("{connections} connections did not end within {grace:?} and were cut")]
    GraceExceeded {
        /// How many were cut.
        connections: usize,
        /// The limit.
        grace: Duration,
    },
}
