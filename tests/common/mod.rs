//! What the tests share: identities that trust each other, and waits with a name and a limit.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod certificates;
pub(crate) mod load;
pub(crate) mod memory;
pub(crate) mod messages;
pub(crate) mod process;
pub(crate) mod relay;
pub(crate) mod sessions;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::task::Poll;
use std::time::Duration;

use moorline::{
    CloseReason, ConnectionHandle, Events, NetCredential, Node, NodeConfig, NodeEvent,
    OutcomeCounts, Redial, Target,
};

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

/// Longer than any test.
pub(crate) const NEVER: Duration = Duration::from_secs(100);

/// Nobody is taken for gone by a deadline, and whoever is gone is dialled again soon.
pub(crate) fn patient(_: usize, config: &mut NodeConfig) {
    config.limits.idle_time_max = NEVER;
    config.limits.disconnect_time_max = NEVER;
    config.limits.stream_op_timeout = NEVER;
    config.limits.frame_time_max = NEVER;
    config.limits.lane_stall_time_max = NEVER;
    config.backoff.initial = Duration::from_millis(20);
    config.backoff.cap = Duration::from_millis(100);
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

/// As many connections with one peer as with all of them.
pub(crate) fn one_peer_with_many(config: &mut NodeConfig) {
    config.limits.connections_per_peer_max = config.limits.connections_max;
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

/// One more connection between two nodes, seen from both ends.
pub(crate) async fn dial(
    client: &Node,
    target: &Target,
    events: &mut Events,
) -> (ConnectionHandle, ConnectionHandle) {
    let at_client = within("connecting", client.connect(target.clone())).await.expect("accepted");
    (at_client, connected(events).await)
}

/// Ends nodes one after the other.
pub(crate) async fn end<const N: usize>(nodes: [Node; N]) {
    for node in nodes {
        within("the end of a node", node.close(LIMIT)).await.expect("an orderly end");
    }
}

/// Each frame that was accepted has its one outcome.
#[track_caller]
pub(crate) fn assert_balanced(handle: &ConnectionHandle) -> OutcomeCounts {
    let sent = handle.stats().sent;
    assert_eq!(sent.accepted, sent.completed + sent.not_sent + sent.maybe_sent, "{sent:?}");
    sent
}

/// A free port that the system gives to nobody else: below those it hands out itself.
pub(crate) fn free_port() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 18_000).expect("small") + 10_000;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if std::net::UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

/// Nothing listens there, ever.
pub(crate) fn closed_port() -> Target {
    Target::from(SocketAddr::from(([127, 0, 0, 1], 9)))
}

/// Dials again soon, and always after the same time.
pub(crate) fn quick(config: &mut NodeConfig) {
    config.backoff.initial = Duration::from_millis(20);
    config.backoff.factor = 1.0;
    config.backoff.jitter = 0.0;
}

/// Reads events up to the first that `wanted` takes; `seen` gets those before it.
pub(crate) async fn event<R>(
    events: &mut Events,
    what: &str,
    seen: &mut Vec<NodeEvent>,
    mut wanted: impl FnMut(&NodeEvent) -> Option<R>,
) -> R {
    within(what, async {
        loop {
            let event = events.next().await.expect("the node lives");
            if let Some(found) = wanted(&event) {
                return found;
            }
            seen.push(event);
        }
    })
    .await
}

/// The next failed dial: of whom, and whether it is dialled again.
pub(crate) async fn dial_failed(events: &mut Events, seen: &mut Vec<NodeEvent>) -> (Target, bool) {
    event(events, "a failed dial", seen, |event| match event {
        NodeEvent::DialFailed { target, retry_in, .. } => {
            Some((target.clone(), retry_in.is_some()))
        }
        _ => None,
    })
    .await
}

/// The end of a connection, as the node tells it.
pub(crate) async fn disconnected(events: &mut Events, epoch: u64) -> CloseReason {
    event(events, "the end of a connection", &mut Vec::new(), |event| match event {
        NodeEvent::Disconnected { epoch: of, reason, .. } if *of == epoch => Some(reason.clone()),
        _ => None,
    })
    .await
}

/// Ends after a quick node had time for ten dials of anybody it still dials; returns what it told.
pub(crate) async fn ten_dials_later(node: &Node) -> Vec<NodeEvent> {
    let (mut events, mut seen) = (node.subscribe(), Vec::new());
    let other = closed_port().redial(Redial::Always);
    let caller = tokio::spawn({
        let (node, other) = (node.clone(), other.clone());
        async move { node.connect(other).await.map(drop) }
    });
    for _ in 0..10 {
        assert_eq!(dial_failed(&mut events, &mut seen).await, (other.clone(), true));
    }
    node.disconnect(other);
    within("the caller", caller).await.expect("no panic").expect_err("nobody is there");
    seen
}

/// Looks again and again, where nobody tells.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    within(what, async {
        while !holds() {
            ticks.tick().await;
        }
    })
    .await;
}

/// Polls `future` up to `times` times, then drops it; what it returned, if it came to that.
pub(crate) async fn cancelled_after<R>(times: usize, future: impl Future<Output = R>) -> Option<R> {
    let mut future = std::pin::pin!(future);
    let mut polled = 0;
    std::future::poll_fn(|context| {
        if polled == times {
            return Poll::Ready(None);
        }
        polled += 1;
        let polled_now = future.as_mut().poll(context).map(Some);
        if polled_now.is_pending() && polled == times { Poll::Ready(None) } else { polled_now }
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
