//! Sessions with peers, for who has a node.

use super::Node;
use crate::actors::peers::{Peers, accept, open};
use crate::actors::target::Target;
use crate::peers::error::PeerError;
use crate::peers::handle::Peer;

impl Node {
    /// A session with the [expected](Target::expect) peer of `target` for this protocol, which the node
    /// keeps connected: what is accepted for it outlives connections. Where both sides ask for it they
    /// share one.
    ///
    /// It returns when the peer has agreed.
    ///
    /// # Errors
    ///
    /// [`PeerError`]: the first dial failed, or the peer refuses.
    ///
    /// # Cancel safety
    ///
    /// Cancelled, nothing is left behind.
    pub async fn peer(&self, target: impl Into<Target>, protocol: &str) -> Result<Peer, PeerError> {
        open(self.supervisor().clone(), self.shared(), target.into(), protocol).await
    }

    /// Takes peers that begin a session for this protocol from here on. Of several that accept one
    /// protocol the last gets them.
    ///
    /// # Panics
    ///
    /// Outside of a runtime of tokio, where the node's sessions begin.
    #[must_use = "peers that nobody takes are given up"]
    pub fn accept(&self, protocol: &str) -> Peers {
        accept(self.shared(), protocol)
    }
}
