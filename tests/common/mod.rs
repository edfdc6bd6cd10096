//! What the tests share: identities that trust each other, and waits with a name and a limit.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod certificates;
pub(crate) mod memory;
pub(crate) mod process;
pub(crate) mod relay;

use std::net::SocketAddr;
use std::time::Duration;

use moorline::{ConnectionHandle, Events, NetCredential, Node, NodeConfig, NodeEvent, Target};

/// Longer than anything takes on a loaded machine, shorter than a person's patience.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Waits for `future`, at most for [`LIMIT`]; a test that hangs says where.
pub(crate) async fn within<R>(what: &str, future: impl Future<Output = R>) -> R {
    within_limit(LIMIT, what, future).await
}

/// As [`within`], with a limit of its own.
pub(crate) async fn within_limit<R>(
    limit: Duration,
    what: &str,
    future: impl Future<Output = R>,
) -> R {
    match tokio::time::timeout(limit, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {limit:?}"),
    }
}

/// Any free port on loopback.
pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A fresh identity that trusts nobody.
pub(crate) fn stranger() -> NetCredential {
    NetCredential::generate_self_signed(&["test"], &[]).expect("a self-signed certificate")
}

/// Two fresh identities that trust each other by hash.
pub(crate) fn friends() -> (NetCredential, NetCredential) {
    let (a, b) = (stranger(), stranger());
    let (a_hash, b_hash) = (a.identity(), b.identity());
    (a.trust_hash(b_hash), b.trust_hash(a_hash))
}

/// A node with the default configuration.
pub(crate) async fn node(credential: NetCredential) -> Node {
    node_with(credential, |_| ()).await
}

/// A node with a configuration of its own.
pub(crate) async fn node_with(
    credential: NetCredential,
    change: impl FnOnce(&mut NodeConfig),
) -> Node {
    let mut config = NodeConfig::new(credential);
    change(&mut config);
    Node::spawn(config).await.expect("a node")
}

/// The next connection that came to stand.
pub(crate) async fn connected(events: &mut Events) -> ConnectionHandle {
    within("a Connected event", async {
        loop {
            match events.next().await {
                Some(NodeEvent::Connected(handle)) => return handle,
                Some(_) => {}
                None => panic!("the node ended"),
            }
        }
    })
    .await
}

/// Two nodes and one connection between them, seen from both ends.
pub(crate) struct Pair {
    /// Listens.
    pub(crate) server: Node,
    /// Dialled.
    pub(crate) client: Node,
    /// The listener's address.
    pub(crate) address: SocketAddr,
    /// The connection, seen from the server.
    pub(crate) at_server: ConnectionHandle,
    /// The connection, seen from the client.
    pub(crate) at_client: ConnectionHandle,
}

impl Pair {
    /// With the default configuration.
    pub(crate) async fn new() -> Self {
        Self::with(|_| (), |_| ()).await
    }

    /// With configurations of their own: the server's, the client's.
    pub(crate) async fn with(
        server: impl FnOnce(&mut NodeConfig),
        client: impl FnOnce(&mut NodeConfig),
    ) -> Self {
        let (a, b) = friends();
        let server = node_with(a, server).await;
        let client = node_with(b, client).await;
        let mut events = server.subscribe();
        let address = within("listening", server.listen(loopback())).await.expect("a listener");
        let target = Target::from(address).expect(server.identity());
        let at_client = within("connecting", client.connect(target)).await.expect("a connection");
        let at_server = connected(&mut events).await;
        Self { server, client, address, at_server, at_client }
    }

    /// Ends both nodes and waits for their registrations to close.
    pub(crate) async fn end(self) {
        let Self { server, client, at_server, at_client, .. } = self;
        drop((at_server, at_client));
        within("the client's end", client.close(LIMIT)).await.expect("an orderly end");
        within("the server's end", server.close(LIMIT)).await.expect("an orderly end");
    }
}
