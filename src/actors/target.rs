//! What a connector dials, and for how long it keeps at it.

use std::net::SocketAddr;
use std::str::FromStr;

use crate::error::InvalidAddress;
use crate::identity::CertHash;
use crate::transport::RemoteAddr;

/// When a connector dials again.
///
/// An error that may pass is tried again, with growing waits
/// ([`BackoffSettings`](crate::BackoffSettings)); one of kind
/// [`Never`](crate::ErrorKind::Never) is told to the callers and ends the connector, whatever this
/// says, unless a connection to the target has stood before: then what is configured here is right,
/// and somebody else has the peer's address for a while, or the peer is being set up anew. A
/// [final close code](crate::CloseCode::is_final) ends it in any case.
///
/// While a connector waits, a call for its target dials at once, and so does the arrival of its
/// peer; where the target names the [expected](Target::expect) identity, the connection that the
/// peer opened is taken as the target's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Redial {
    /// Never: one attempt for one connection of its own. Each call makes another connection, which is
    /// closed if the caller has gone before it gets it.
    Never,
    /// When an established connection is lost. If the first attempt fails, its error is returned
    /// and nothing is left behind.
    #[default]
    WhenLost,
    /// From the start: the peer may come later. The call that asked waits for the first success, or
    /// for an error that trying again does not cure.
    Always,
}

impl Redial {
    /// The one of the two that keeps at it longer.
    pub(crate) fn or(self, other: Self) -> Self {
        if other == Self::Always { other } else { self }
    }
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
/// // As text, checked at once: HOST:PORT, or HOST:PORT=HASH with the identity to expect.
/// assert_eq!("peer.example:4433".parse::<Target>()?.to_string(), "peer.example:4433");
/// assert!("peer.example".parse::<Target>().is_err());
/// # Ok::<(), moorline::InvalidAddress>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    pub(crate) remote: RemoteAddr,
    pub(crate) expected: Option<CertHash>,
    pub(crate) redial: Redial,
    /// Empty for those of the node.
    pub(crate) alpns: Vec<String>,
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

    /// Offers this protocol instead of those of the node; once more for another one, preferred
    /// first. Targets with other protocols are other targets.
    #[must_use]
    pub fn alpn(mut self, name: impl Into<String>) -> Self {
        self.alpns.push(name.into());
        self
    }

    /// The address it dials.
    #[must_use]
    pub fn remote(&self) -> &RemoteAddr {
        &self.remote
    }

    /// Whether both mean the same connection, however long it is kept.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (&self.remote, self.expected, &self.alpns) == (&other.remote, other.expected, &other.alpns)
    }

    /// The protocols it offers, with those of its node.
    pub(crate) fn offers<'a>(&'a self, of_node: &'a [String]) -> &'a [String] {
        if self.alpns.is_empty() { of_node } else { &self.alpns }
    }
}

impl From<RemoteAddr> for Target {
    fn from(remote: RemoteAddr) -> Self {
        Self { remote, expected: None, redial: Redial::default(), alpns: Vec::new() }
    }
}

impl From<Vec<SocketAddr>> for Target {
    fn from(addresses: Vec<SocketAddr>) -> Self {
        Self::from(RemoteAddr::from(addresses))
    }
}

/// `HOST:PORT` or `HOST:PORT=HASH`, as it is shown.
impl FromStr for Target {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let (address, hash) = match text.rsplit_once('=') {
            Some((address, hash)) => (address, Some(hash)),
            None => (text, None),
        };
        let expected = hash.map(str::parse).transpose().map_err(|problem| InvalidAddress {
            given: text.to_owned(),
            problem: format!("behind = stands the peer's identity: {problem}"),
        })?;
        let remote = address
            .parse::<RemoteAddr>()
            .map_err(|error| InvalidAddress { given: text.to_owned(), problem: error.problem })?;
        Ok(Self { expected, ..Self::from(remote) })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_read_as_it_is_shown_and_what_is_none_is_refused_in_words() {
        let hash = "ab".repeat(32);
        for text in ["peer.example:4433", "[::1]:4433"] {
            assert_eq!(text.parse::<Target>().unwrap(), Target::from(text));
            let expecting = format!("{text}={hash}");
            let target: Target = expecting.parse().unwrap();
            assert_eq!(target, Target::from(text).expect(hash.parse().unwrap()));
            assert_eq!(target.to_string(), expecting);
        }
        for (text, says) in [
            ("peer.example", "port is missing"),
            ("peer.example:4433=ab", "peer's identity"),
            ("peer.example:4433=", "peer's identity"),
            ("=peer.example:4433", "peer's identity"),
        ] {
            let error = text.parse::<Target>().unwrap_err();
            assert_eq!(error.given, text);
            assert!(error.problem.contains(says), "{error}");
        }
    }

    #[test]
    fn the_protocol_is_a_part_of_what_is_shared() {
        let plain = Target::from("peer.example:4433");
        let other = plain.clone().alpn("orders/1");
        assert!(plain.is_same(&plain.clone().redial(Redial::Always)));
        assert!(!plain.is_same(&other));
        let of_node = ["moorline/0".to_owned()];
        assert_eq!(plain.offers(&of_node), of_node);
        assert_eq!(other.offers(&of_node), ["orders/1"]);
    }
}
