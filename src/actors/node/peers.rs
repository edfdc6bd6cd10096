//! Sessions with peers, for who has a node.

use std::sync::Arc;

use super::Node;
use crate::actors::peers::{Peers, accept, open};
use crate::actors::target::Target;
use crate::peers::admit::{Admit, Arriving};
use crate::peers::error::PeerError;
use crate::peers::handle::Peer;
use crate::session::effect::Admission;

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
    /// protocol the last gets them. Once what is returned is dropped, peers that want to begin one are told
    /// that nobody accepts it (`UNKNOWN_PROTOCOL`); sessions that have begun go on.
    #[must_use = "peers that nobody takes are given up"]
    pub fn accept(&self, protocol: &str) -> Peers {
        accept(self.shared(), protocol, None)
    }

    /// As [`accept`](Self::accept), for those that `admit` admits: it is asked about each peer that wants to
    /// begin a session, before there is anything of it. It answers with an [`Admission`], or a future of one,
    /// within three quarters of [`SessionLimits::hello_time_max`](crate::SessionLimits::hello_time_max);
    /// later, or where it panics, the peer is refused and may come back. It runs on a task of its own.
    ///
    /// A peer whose application asked with [`peer`](Self::peer) is told the code and the text
    /// ([`PeerEnded::Refused`](crate::PeerEnded::Refused)). Behind a final refusal it does not come back by itself.
    ///
    /// # Examples
    ///
    /// ```
    /// use moorline::{Admission, CloseCode, NetCredential, Node, NodeConfig};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let node = Node::spawn(NodeConfig::new(NetCredential::generate_self_signed(&[], &[])?)).await?;
    /// let peers = node.accept_with("orders/1", |arriving| match arriving.remote.ip().is_loopback() {
    ///     true => Admission::Accept,
    ///     false => Admission::refuse_for_good(CloseCode::FORBIDDEN, "from this machine alone"),
    /// });
    /// let others = node.accept_with("stock/1", |arriving| async move {
    ///     tokio::task::yield_now().await; // looks it up somewhere
    ///     Admission::refuse(CloseCode::REFUSED, format!("nobody knows {}", arriving.identity))
    /// });
    /// # drop((peers, others));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "peers that nobody takes are given up"]
    pub fn accept_with<A>(
        &self,
        protocol: &str,
        admit: impl Fn(Arriving) -> A + Send + Sync + 'static,
    ) -> Peers
    where
        A: IntoFuture<Output = Admission> + 'static,
        A::IntoFuture: Send + 'static,
    {
        let admit: Admit = Arc::new(move |arriving| Box::pin(admit(arriving).into_future()));
        accept(self.shared(), protocol, Some(admit))
    }
}
