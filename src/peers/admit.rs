//! What an application is asked before a peer begins a session.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use crate::identity::CertHash;
use crate::session::effect::Admission;

/// A peer that wants to begin a session.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Arriving {
    /// Who it is: it has proven to hold the key, and is trusted.
    pub identity: CertHash,
    /// From where it comes.
    pub remote: SocketAddr,
    /// What it wants to speak.
    pub protocol: String,
}

/// Says of a peer whether it may. Called on a task of its own.
pub(crate) type Admit =
    Arc<dyn Fn(Arriving) -> Pin<Box<dyn Future<Output = Admission> + Send>> + Send + Sync>;
