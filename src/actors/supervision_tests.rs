//! Failures of actors, over real MsQuic on loopback.

mod connections;
mod node;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use ractor::{ActorRef, Message};
use tokio::net::UdpSocket;

use super::events::{Events, NodeEvent};
use super::handle::ConnectionHandle;
use super::listener::ListenerMessage;
use super::message::connection::ConnectionMessage;
use super::message::connector::ConnectorMessage;
use super::node::Node;
use super::target::{Redial, Target};
use super::tasks::Unfinished;
use crate::config::NodeConfig;
use crate::error::{
    CloseCode, CloseReason, ConnectError, ListenError, NodeError, Outcome, RecvError, SendError,
};
use crate::identity::NetCredential;

/// Longer than anything takes on a loaded machine.
const LIMIT: Duration = Duration::from_secs(20);

/// A wait before a restart that gives a test time to act meanwhile.
const LONG_RESTART: Duration = Duration::from_millis(300);

async fn within<R>(what: &str, future: impl Future<Output = R>) -> R {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {LIMIT:?}"),
    }
}

/// Reads events up to the first that `wanted` takes; `seen` gets those before it.
async fn event_after<R>(
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

async fn event<R>(
    events: &mut Events,
    what: &str,
    wanted: impl FnMut(&NodeEvent) -> Option<R>,
) -> R {
    event_after(events, what, &mut Vec::new(), wanted).await
}

async fn connected(events: &mut Events) -> ConnectionHandle {
    event(events, "a connection", |event| {
        let NodeEvent::Connected(handle) = event else { return None };
        Some(handle.clone())
    })
    .await
}

async fn listening(events: &mut Events, at: SocketAddr) {
    let bound = |event: &NodeEvent| {
        matches!(event, NodeEvent::Listening { address } if *address == at).then_some(())
    };
    event(events, "the port is back", bound).await;
}

async fn listener_restarted(events: &mut Events, at: SocketAddr) {
    let restarted = |event: &NodeEvent| {
        matches!(event, NodeEvent::ListenerRestarted { address } if *address == at).then_some(())
    };
    event(events, "the listener's restart", restarted).await;
}

async fn connector_restarted(events: &mut Events) {
    let restarted =
        |event: &NodeEvent| matches!(event, NodeEvent::ConnectorRestarted { .. }).then_some(());
    event(events, "the connector's restart", restarted).await;
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Nothing listens there: it is no port of the range that the system gives out.
fn closed_port() -> Target {
    Target::from(SocketAddr::from(([127, 0, 0, 1], 9)))
}

async fn node(credential: NetCredential, change: impl FnOnce(&mut NodeConfig)) -> Node {
    let mut config = NodeConfig::new(credential);
    config.backoff.initial = Duration::from_millis(10);
    change(&mut config);
    Node::spawn(config).await.expect("a node")
}

fn stranger() -> NetCredential {
    NetCredential::generate_self_signed(&["test"], &[]).expect("a self-signed certificate")
}

async fn lone_node(change: impl FnOnce(&mut NodeConfig)) -> Node {
    node(stranger(), change).await
}

async fn listen(node: &Node) -> SocketAddr {
    within("a listener", node.listen(loopback())).await.expect("it listens")
}

async fn connect(node: &Node, target: &Target) -> ConnectionHandle {
    within("a connection", node.connect(target.clone())).await.expect("it connects")
}

/// Children of a node that take messages of this type.
fn children<M: Message>(node: &Node) -> Vec<ActorRef<M>> {
    let children = node.supervisor().get_children().into_iter();
    children.filter(|c| c.is_message_type_of::<M>() == Some(true)).map(ActorRef::from).collect()
}

/// The one child of a node that takes messages of this type.
fn child<M: Message>(node: &Node) -> ActorRef<M> {
    let mut children = children(node);
    assert_eq!(children.len(), 1);
    children.pop().expect("one")
}

async fn panic_connector(node: &Node) {
    let connector = child::<ConnectorMessage>(node);
    connector.cast(ConnectorMessage::Panic).expect("it lives");
    within("the connector's end", connector.wait(None)).await.expect("no limit");
}

async fn panic_listener(listener: &ActorRef<ListenerMessage>) {
    listener.cast(ListenerMessage::Panic).expect("it lives");
    within("the listener's end", listener.wait(None)).await.expect("no limit");
}

/// One node dials another and keeps it.
struct Pair {
    server: Node,
    client: Node,
    address: SocketAddr,
    target: Target,
    at_server: ConnectionHandle,
    at_client: ConnectionHandle,
}

impl Pair {
    async fn new(change: impl Fn(&mut NodeConfig)) -> Self {
        let (a, b) = (stranger(), stranger());
        let (a_hash, b_hash) = (a.identity(), b.identity());
        let server = node(a.trust_hash(b_hash), &change).await;
        let client = node(b.trust_hash(a_hash), &change).await;
        let mut events = server.subscribe();
        let address = listen(&server).await;
        let target = Target::from(address);
        let at_client = connect(&client, &target).await;
        let at_server = connected(&mut events).await;
        Self { server, client, address, target, at_server, at_client }
    }

    async fn end(self) {
        let Self { server, client, at_server, at_client, .. } = self;
        drop((at_server, at_client));
        within("the client's end", client.close(LIMIT)).await.expect("an orderly end");
        within("the server's end", server.close(LIMIT)).await.expect("an orderly end");
    }
}

/// A frame each way.
async fn exchange(one: &ConnectionHandle, other: &ConnectionHandle) {
    for (from, to) in [(one, other), (other, one)] {
        within("a send", from.send_acked("frame")).await.expect("acknowledged");
        assert_eq!(within("a frame", to.recv()).await.expect("a frame"), "frame");
    }
}

/// Ends after any restart that was due, with the default delay, when it was called.
async fn restarts_are_over(node: &Node, events: &mut Events, seen: &mut Vec<NodeEvent>) {
    // The second restart of one more listener waits twice as long as a first one.
    let before: Vec<_> = children::<ListenerMessage>(node).iter().map(|c| c.get_id()).collect();
    let address = listen(node).await;
    let mut listener = children::<ListenerMessage>(node);
    listener.retain(|listener| !before.contains(&listener.get_id()));
    for _ in 0..2 {
        panic_listener(&listener.pop().expect("the listener")).await;
        let restarted = |event: &NodeEvent| {
            matches!(event, NodeEvent::ListenerRestarted { address: at } if *at == address)
                .then_some(())
        };
        event_after(events, "a restart", seen, restarted).await;
        listener = children::<ListenerMessage>(node);
        listener.retain(|listener| !before.contains(&listener.get_id()));
    }
}

// ---- listeners ---------------------------------------------------------------------------------

#[tokio::test]
async fn a_listener_that_panics_has_its_port_back_and_connections_never_notice() {
    let pair = Pair::new(|_| ()).await;
    exchange(&pair.at_client, &pair.at_server).await;
    let mut events = pair.server.subscribe();
    panic_listener(&child(&pair.server)).await;
    exchange(&pair.at_client, &pair.at_server).await;
    listener_restarted(&mut events, pair.address).await;
    let mut seen = Vec::new();
    let bound = |event: &NodeEvent| matches!(event, NodeEvent::Listening { .. }).then_some(());
    event_after(&mut events, "the port is back", &mut seen, bound).await;

    let late = connect(&pair.client, &pair.target.clone().redial(Redial::Never)).await;
    let late_at_server = connected(&mut events).await;
    exchange(&late, &late_at_server).await;
    exchange(&pair.at_client, &pair.at_server).await;
    let (at_client, at_server) = (pair.client.connections(), pair.server.connections());
    assert!(at_client.iter().any(|handle| handle.epoch() == pair.at_client.epoch()));
    assert!(at_server.iter().any(|handle| handle.epoch() == pair.at_server.epoch()));
    let lost = |event: &NodeEvent| matches!(event, NodeEvent::Disconnected { .. });
    assert!(!seen.iter().any(lost), "{seen:?}");
    drop((late, late_at_server, at_client, at_server));
    pair.end().await;
}

#[tokio::test]
async fn a_listener_that_is_stopped_during_its_restart_stays_down() {
    let node = lone_node(|_| ()).await;
    let mut events = node.subscribe();
    let address = listen(&node).await;
    panic_listener(&child(&node)).await;
    node.stop_listening(address);
    let mut seen = Vec::new();
    restarts_are_over(&node, &mut events, &mut seen).await;
    let back = |event: &NodeEvent| matches!(event, NodeEvent::ListenerRestarted { address: at } if *at == address);
    assert!(!seen.iter().any(back), "{seen:?}");
    assert_eq!(children::<ListenerMessage>(&node).len(), 1);
    let result = within("a dial", node.connect(Target::from(address))).await;
    assert!(matches!(result, Err(ConnectError::Unreachable { .. })), "{result:?}");
    within("the end", node.close(LIMIT)).await.expect("an orderly end");
}

// ---- connectors --------------------------------------------------------------------------------

#[tokio::test]
async fn a_connector_that_panics_while_up_leaves_its_connection_and_keeps_it() {
    let pair = Pair::new(|_| ()).await;
    let mut events = pair.client.subscribe();
    panic_connector(&pair.client).await;
    exchange(&pair.at_client, &pair.at_server).await;
    connector_restarted(&mut events).await;
    let shared = connect(&pair.client, &pair.target).await;
    assert_eq!(shared.epoch(), pair.at_client.epoch());
    exchange(&pair.at_client, &pair.at_server).await;

    let mut at_server = pair.server.subscribe();
    pair.at_client.actor().kill();
    let (again, again_at_server) = (connected(&mut events).await, connected(&mut at_server).await);
    assert!(again.epoch() > shared.epoch());
    exchange(&again, &again_at_server).await;
    drop((shared, again, again_at_server));
    pair.end().await;
}

#[tokio::test]
async fn a_connect_during_the_restart_of_a_connector_shares_its_connection() {
    let pair = Pair::new(|config| config.restart.delay_initial = LONG_RESTART).await;
    panic_connector(&pair.client).await;
    let shared = connect(&pair.client, &pair.target).await;
    assert_eq!(shared.epoch(), pair.at_client.epoch());
    assert_eq!(pair.client.connections().len(), 1);
    drop(shared);
    pair.end().await;
}

#[tokio::test]
async fn a_connector_that_panics_while_it_waits_dials_again() {
    let node = lone_node(|config| config.backoff.initial = Duration::from_secs(30)).await;
    let mut events = node.subscribe();
    let target = closed_port().redial(Redial::Always);
    let caller = tokio::spawn({
        let (node, target) = (node.clone(), target.clone());
        async move { node.connect(target).await.map(drop) }
    });
    let failed = |event: &NodeEvent| {
        let NodeEvent::DialFailed { retry_in, .. } = event else { return None };
        Some(retry_in.is_some())
    };
    assert!(event(&mut events, "the first dial", failed).await);
    panic_connector(&node).await;
    within("the caller's answer", caller).await.expect("no panic").expect_err("its connector died");
    connector_restarted(&mut events).await;
    assert!(event(&mut events, "the second dial", failed).await);
    within("the end", node.close(LIMIT)).await.expect("an orderly end");
}

/// A peer that never answers, and a connector that dials it.
async fn dialling(node: &Node, redial: Redial) -> (UdpSocket, SocketAddr, Target) {
    let silent = UdpSocket::bind(loopback()).await.expect("a socket");
    let target = Target::from(silent.local_addr().expect("it is bound")).redial(redial);
    let caller = node.connect(target.clone());
    let mut datagram = [0; 2048];
    let asked = silent.recv_from(&mut datagram);
    let (_, from) = within("the first dial", async {
        tokio::select! {
            result = caller => panic!("nobody answered, yet: {result:?}"),
            asked = asked => asked.expect("a datagram"),
        }
    })
    .await;
    (silent, from, target)
}

#[tokio::test]
async fn a_connector_that_panics_while_it_dials_dials_again() {
    let node = lone_node(|_| ()).await;
    let mut events = node.subscribe();
    let (silent, first, target) = dialling(&node, Redial::WhenLost).await;
    panic_connector(&node).await;
    connector_restarted(&mut events).await;
    within("the second dial", async {
        while silent.recv_from(&mut [0; 2048]).await.expect("a datagram").1 == first {}
    })
    .await;
    node.disconnect(target);
    within("the end", node.close(LIMIT)).await.expect("an orderly end");
}

#[tokio::test]
async fn a_connector_for_one_attempt_is_not_restarted() {
    let node = lone_node(|_| ()).await;
    let mut events = node.subscribe();
    let (_silent, _, _) = dialling(&node, Redial::Never).await;
    panic_connector(&node).await;
    let mut seen = Vec::new();
    restarts_are_over(&node, &mut events, &mut seen).await;
    let back = |event: &NodeEvent| matches!(event, NodeEvent::ConnectorRestarted { .. });
    assert!(!seen.iter().any(back), "nobody holds what it would make: {seen:?}");
    within("the end", node.close(LIMIT)).await.expect("an orderly end");
}

#[tokio::test]
async fn a_target_that_is_disconnected_during_the_restart_of_its_connector_is_not_dialled() {
    let pair = Pair::new(|_| ()).await;
    let mut events = pair.client.subscribe();
    panic_connector(&pair.client).await;
    pair.client.disconnect(pair.target.clone());
    let mut seen = Vec::new();
    restarts_are_over(&pair.client, &mut events, &mut seen).await;
    let back = |event: &NodeEvent| matches!(event, NodeEvent::ConnectorRestarted { .. });
    assert!(!seen.iter().any(back), "{seen:?}");
    assert!(children::<ConnectorMessage>(&pair.client).is_empty());
    exchange(&pair.at_client, &pair.at_server).await;
    pair.end().await;
}
