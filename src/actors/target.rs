//! What a connector dials, and for how long it keeps at it.

use std::net::SocketAddr;

use crate::identity::CertHash;
use crate::transport::RemoteAddr;

/// When a connector dials again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Redial {
    /// Never: one attempt for one connection of its own. Each call makes another connection.
    Never,
    /// When an established connection is lost. If the first attempt fails, its error is returned
    /// and nothing is left behind.
    #[default]
    WhenLost,
    /// From the start: the peer may come later. The call that asked waits for the first success.
    Always,
}

/// Whom to connect to.
///
/// # Examples
///
/// ```
/// use moorline::{Redial, Target};
///
/// let target = Target::from("peer.example:4433").redial(Redial::Always);
/// assert_eq!(target.to_string(), "peer.example:4433");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    pub(crate) remote: RemoteAddr,
    pub(crate) expected: Option<CertHash>,
    pub(crate) redial: Redial,
}

impl Target {
    /// Takes nobody else than `peer`, who counts as trusted.
    #[must_use]
    pub fn expect(mut self, peer: CertHash) -> Self {
        self.expected = Some(peer);
        self
    }

    /// When to dial again.
    #[must_use]
    pub fn redial(mut self, redial: Redial) -> Self {
        self.redial = redial;
        self
    }

    /// The address it dials.
    #[must_use]
    pub fn remote(&self) -> &RemoteAddr {
        &self.remote
    }

    /// Whether both mean the same connection, however long it is kept.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.remote == other.remote && self.expected == other.expected
    }
}

impl From<RemoteAddr> for Target {
    fn from(remote: RemoteAddr) -> Self {
        Self { remote, expected: None, redial: Redial::default() }
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self::from(RemoteAddr::from(address))
    }
}

impl From<&str> for Target {
    fn from(text: &str) -> Self {
        Self::from(RemoteAddr::from(text))
    }
}

impl From<String> for Target {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.expected {
            Some(expected) => write!(f, "{}={expected}", self.remote),
            None => self.remote.fmt(f),
        }
    }
}
