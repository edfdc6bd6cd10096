//! What a node keeps up, what it leaves alone, and who is told of its end.

mod common;

use std::time::Duration;

use common::{
    LIMIT, Pair, closed_port, connected, dial_failed, disconnected, free_port, friends, loopback,
    node, node_with, one_peer_with_many, quick, stranger, ten_dials_later, within,
};
use moorline::{
    CloseCode, CloseReason, ConnectError, ConnectionHandle, ListenError, MsQuicTransport,
    NetCredential, Node, NodeConfig, NodeError, Redial, Target,
};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::mpsc;

async fn quick_node(credential: NetCredential) -> Node {
    node_with(credential, quick).await
}

async fn connect(node: &Node, target: impl Into<Target>) -> ConnectionHandle {
    within("a connection", node.connect(target)).await.expect("it connects")
}

async fn close(node: Node) {
    within("the end", node.close(LIMIT)).await.expect("an orderly end");
}

// ---- when to dial ------------------------------------------------------------------------------

#[tokio::test]
async fn a_first_dial_that_fails_is_told_and_leaves_nothing_behind() {
    let (a, b) = friends();
    let (server, client) = (node(a).await, quick_node(b).await);
    let (address, mut events) = (free_port(), client.subscribe());
    for redial in [Redial::WhenLost, Redial::Never] {
        let result = within("the dial", client.connect(Target::from(address).redial(redial))).await;
        assert!(matches!(result, Err(ConnectError::Unreachable { .. })), "{result:?}");
        assert!(!dial_failed(&mut events, &mut Vec::new()).await.1, "it is not dialled again");
    }
    let mut at_server = server.subscribe();
    within("listening", server.listen(address)).await.expect("it listens");
    let seen = ten_dials_later(&client).await;
    assert!(seen.is_empty(), "{seen:?}");
    assert!(client.peers().is_empty() && server.peers().is_empty());
    // The first thing that comes is what is asked for now.
    let handle = connect(&client, address).await;
    assert_eq!(connected(&mut at_server).await.remote_addr(), handle.local_addr());
    drop(handle);
    close(client).await;
    close(server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_right_after_a_failed_one_is_a_dial_again() {
    let node = quick_node(stranger()).await;
    for round in 0..300 {
        let result = within("the dial", node.connect(closed_port())).await;
        assert!(matches!(result, Err(ConnectError::Unreachable { .. })), "{round}: {result:?}");
    }
    close(node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_right_after_a_close_makes_a_new_connection() {
    let pair = Pair::with(quick, quick).await;
    let mut at_server = pair.server.subscribe();
    let reading = tokio::spawn(async move {
        loop {
            // Whoever reads to the end lets the peer close at once.
            let handle = connected(&mut at_server).await;
            while handle.recv().await.is_ok() {}
        }
    });
    let target = Target::from(pair.address).expect(pair.server.identity());
    let mut last = pair.at_client.clone();
    for round in 0..30 {
        within("the close", last.close(CloseCode::NORMAL)).await;
        let next = within("the dial", pair.client.connect(target.clone())).await;
        let next = next.unwrap_or_else(|error| panic!("{round}: {error}"));
        assert!(next.epoch() > last.epoch(), "{round}");
        last = next;
    }
    reading.abort();
    drop(last);
    pair.end().await;
}

#[tokio::test]
async fn a_peer_that_comes_later_is_dialled_until_it_is_there() {
    let (a, b) = friends();
    let (server, client) = (node(a).await, quick_node(b).await);
    let (address, mut events) = (free_port(), client.subscribe());
    let target = Target::from(address).redial(Redial::Always);
    let caller = tokio::spawn({
        let (client, target) = (client.clone(), target.clone());
        async move { client.connect(target).await }
    });
    for _ in 0..3 {
        assert_eq!(dial_failed(&mut events, &mut Vec::new()).await, (target.clone(), true));
    }
    within("listening", server.listen(address)).await.expect("it listens");
    let handle = within("the caller", caller).await.expect("no panic").expect("it connects");
    assert_eq!(connected(&mut events).await.epoch(), handle.epoch());
    drop(handle);
    close(client).await;
    close(server).await;
}

#[tokio::test]
async fn a_peer_that_restarts_is_dialled_again_with_a_newer_epoch() {
    let (a, b) = friends();
    let client = quick_node(b).await;
    let mut events = client.subscribe();
    let address = free_port();
    let mut last = None::<ConnectionHandle>;
    for round in 0..3 {
        let server = node(a.clone()).await;
        let mut at_server = server.subscribe();
        within("listening", server.listen(address)).await.expect("it listens");
        let next = match &last {
            None => connect(&client, Target::from(address).expect(server.identity())).await,
            Some(_) => connected(&mut events).await,
        };
        if let Some(last) = &last {
            assert!(next.epoch() > last.epoch(), "round {round}");
            assert_eq!(next.peer(), last.peer());
        } else {
            connected(&mut events).await;
        }
        let other = connected(&mut at_server).await;
        within("a send", next.send_acked("frame")).await.expect("acknowledged");
        assert_eq!(within("a frame", other.recv()).await.expect("a frame"), "frame");
        drop(other);
        close(server).await;
        let reason = disconnected(&mut events, next.epoch()).await;
        assert_eq!(reason, CloseReason::Peer { code: CloseCode::GOING_AWAY });
        last = Some(next);
    }
    drop(last);
    close(client).await;
}

#[tokio::test]
async fn a_connection_that_its_application_closed_is_not_dialled_again() {
    let application = CloseCode::application(0x777).expect("an application's code");
    for code in [CloseCode::NORMAL, application] {
        let pair = Pair::with(quick, quick).await;
        let mut at_server = pair.server.subscribe();
        within("the close", pair.at_client.close(code)).await;
        let reason = disconnected(&mut at_server, pair.at_server.epoch()).await;
        assert_eq!(reason, CloseReason::Peer { code });
        ten_dials_later(&pair.client).await;
        assert!(pair.client.connections().is_empty() && pair.server.connections().is_empty());
        pair.end().await;
    }
}

#[tokio::test]
async fn a_connection_that_the_peers_application_closed_is_dialled_again() {
    let pair = Pair::with(quick, quick).await;
    let mut events = pair.client.subscribe();
    within("the close", pair.at_server.close(CloseCode::NORMAL)).await;
    let next = connected(&mut events).await;
    assert!(next.epoch() > pair.at_client.epoch());
    drop(next);
    pair.end().await;
}

#[tokio::test]
async fn a_target_that_is_not_kept_any_more_keeps_its_connection_and_is_not_dialled_again() {
    let pair = Pair::with(quick, quick).await;
    let mut at_client = pair.client.subscribe();
    pair.client.disconnect(Target::from(pair.address).expect(pair.server.identity()));
    let seen = ten_dials_later(&pair.client).await;
    assert!(seen.is_empty(), "{seen:?}");
    within("a send", pair.at_client.send_acked("frame")).await.expect("acknowledged");
    within("the close", pair.at_server.close(CloseCode::NORMAL)).await;
    disconnected(&mut at_client, pair.at_client.epoch()).await;
    ten_dials_later(&pair.client).await;
    assert!(pair.client.connections().is_empty());
    pair.end().await;
}

#[tokio::test]
async fn a_target_that_is_disconnected_while_it_is_dialled_answers_its_callers() {
    let node = node_with(stranger(), |config| {
        quick(config);
        (config.backoff.initial, config.backoff.cap) = (LIMIT, LIMIT);
    })
    .await;
    let mut events = node.subscribe();
    let target = closed_port().redial(Redial::Always);
    let callers: Vec<_> = (0..3)
        .map(|_| {
            let (node, target) = (node.clone(), target.clone());
            tokio::spawn(async move { node.connect(target).await.map(drop) })
        })
        .collect();
    dial_failed(&mut events, &mut Vec::new()).await;
    node.disconnect(target);
    for caller in callers {
        within("a caller", caller).await.expect("no panic").expect_err("it is not dialled");
    }
    close(node).await;
}

// ---- who shares what ---------------------------------------------------------------------------

#[tokio::test]
async fn calls_for_one_target_share_one_connection() {
    let (a, b) = friends();
    let (server, client) = (node(a).await, node(b).await);
    let mut at_server = server.subscribe();
    let address = within("listening", server.listen(loopback())).await.expect("it listens");
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.connect(Target::from(address)).await })
        })
        .collect();
    let mut epochs = Vec::new();
    for caller in callers {
        let handle = within("a caller", caller).await.expect("no panic").expect("it connects");
        epochs.push(handle.epoch());
    }
    epochs.push(connect(&client, Target::from(address).redial(Redial::Always)).await.epoch());
    epochs.dedup();
    assert_eq!(epochs.len(), 1, "{epochs:?}");
    connected(&mut at_server).await;
    assert_eq!((client.connections().len(), server.connections().len()), (1, 1));
    close(client).await;
    close(server).await;
}

#[tokio::test]
async fn a_call_that_keeps_at_it_is_not_given_up_with_one_that_does_not() {
    let (a, b) = friends();
    let silent = tokio::net::UdpSocket::bind(free_port()).await.expect("a socket");
    let address = silent.local_addr().expect("it is bound");
    let client = node_with(b, |config| {
        quick(config);
        config.limits.handshake_time_max = Duration::from_millis(500);
    })
    .await;
    let call = |redial| {
        let (client, target) = (client.clone(), Target::from(address).redial(redial));
        tokio::spawn(async move { client.connect(target).await })
    };
    let once = call(Redial::WhenLost);
    within("the dial", silent.recv_from(&mut [0; 2048])).await.expect("a datagram");
    // While the first one is still dialling.
    let always = call(Redial::Always);
    let failed = within("the one call", once).await.expect("no panic");
    assert!(matches!(failed, Err(ConnectError::TimedOut { .. })), "{failed:?}");
    drop(silent);
    let server = node(a).await;
    within("listening", server.listen(address)).await.expect("it listens");
    within("the other call", always).await.expect("no panic").expect("it connects");

    close(client).await;
    close(server).await;
}

#[tokio::test]
async fn each_single_attempt_makes_a_connection_of_its_own() {
    let pair = Pair::new().await;
    let mut at_server = pair.server.subscribe();
    let mut epochs = vec![pair.at_client.epoch()];
    for _ in 0..3 {
        let target = Target::from(pair.address).redial(Redial::Never);
        epochs.push(connect(&pair.client, target).await.epoch());
        connected(&mut at_server).await;
    }
    assert!(epochs.is_sorted_by(|one, next| one < next), "{epochs:?}");
    assert_eq!((pair.client.connections().len(), pair.server.connections().len()), (4, 4));
    assert_eq!((pair.client.peers().len(), pair.server.peers().len()), (1, 1));
    pair.end().await;
}

#[tokio::test]
async fn a_single_attempt_that_is_lost_is_not_dialled_again() {
    let pair = Pair::with(quick, quick).await;
    pair.client.disconnect(Target::from(pair.address).expect(pair.server.identity()));
    let mut at_client = pair.client.subscribe();
    let target = Target::from(pair.address).redial(Redial::Never);
    let single = connect(&pair.client, target).await;
    for handle in pair.server.connections() {
        within("the close", handle.close(CloseCode::NORMAL)).await;
    }
    disconnected(&mut at_client, single.epoch()).await;
    ten_dials_later(&pair.client).await;
    assert!(pair.client.connections().is_empty());
    drop(single);
    pair.end().await;
}

#[tokio::test]
async fn the_newest_connection_of_a_peer_is_the_active_one_and_epochs_never_repeat() {
    let pair = Pair::new().await;
    let (peer, mut events) = (pair.server.identity(), pair.client.subscribe());
    let active = |node: &Node| node.connection(&peer).map(|handle| handle.epoch());
    assert_eq!(pair.client.connection(&pair.client.identity()).map(|handle| handle.epoch()), None);
    assert_eq!(active(&pair.client), Some(pair.at_client.epoch()));
    let mut epochs = vec![pair.at_client.epoch()];
    for _ in 0..4 {
        let target = Target::from(pair.address).redial(Redial::Never);
        let newest = connect(&pair.client, target).await;
        connected(&mut events).await;
        assert_eq!(active(&pair.client), Some(newest.epoch()));
        let peers = pair.client.peers();
        assert_eq!((peers.len(), peers[0].epoch(), peers[0].peer()), (1, newest.epoch(), peer));
        let mut open: Vec<_> = pair.client.connections().iter().map(|h| h.epoch()).collect();
        open.sort_unstable();
        assert_eq!(open, [pair.at_client.epoch(), newest.epoch()]);
        assert!(!epochs.contains(&newest.epoch()), "{} again", newest.epoch());
        epochs.push(newest.epoch());
        let server = pair.server.connection(&pair.client.identity()).expect("it is there");
        within("the close", server.close(CloseCode::NORMAL)).await;
        disconnected(&mut events, newest.epoch()).await;
        assert_eq!(active(&pair.client), Some(pair.at_client.epoch()));
    }
    pair.end().await;
}

#[tokio::test]
async fn two_nodes_with_one_configuration_do_not_meet() {
    let (a, b) = friends();
    let config = NodeConfig::new(a);
    let twins = [config.clone(), config].map(Node::spawn);
    let client = node(b).await;
    let mut nodes = Vec::new();
    for twin in twins {
        let twin = within("a twin", twin).await.expect("a node");
        let address = within("listening", twin.listen(loopback())).await.expect("it listens");
        nodes.push((twin, address));
    }
    assert_eq!(nodes[0].0.identity(), nodes[1].0.identity());
    assert_ne!(nodes[0].1, nodes[1].1);
    for (twin, address) in &nodes {
        let mut events = twin.subscribe();
        let here = connect(&client, *address).await;
        let there = connected(&mut events).await;
        within("a send", here.send_acked("frame")).await.expect("acknowledged");
        assert_eq!(within("a frame", there.recv()).await.expect("a frame"), "frame");
        assert_eq!(twin.connections().len(), 1);
    }
    let (first, _) = nodes.remove(0);
    close(first).await;
    // The other one never noticed.
    assert_eq!(nodes[0].0.connections().len(), 1);
    let left = client.connection(&nodes[0].0.identity()).expect("the other twin");
    within("a send", left.send_acked("frame")).await.expect("acknowledged");
    drop(left);
    close(client).await;
    close(nodes.remove(0).0).await;
}

// ---- where to listen ---------------------------------------------------------------------------

#[tokio::test]
async fn an_address_is_listened_on_once_and_again_after_it_was_given_up() {
    let (a, b) = friends();
    let server = node_with(a, one_peer_with_many).await;
    let client = node_with(b, one_peer_with_many).await;
    let address = within("listening", server.listen(loopback())).await.expect("it listens");
    let twice = within("the answer", server.listen(address)).await;
    assert!(matches!(twice, Err(ListenError::InUse { .. })), "{twice:?}");
    for round in 0..20 {
        server.stop_listening(address);
        let again = within("listening", server.listen(address)).await;
        assert_eq!(again.unwrap_or_else(|error| panic!("{round}: {error}")), address);
        let single = connect(&client, Target::from(address).redial(Redial::Never)).await;
        assert_eq!(single.peer(), server.identity());
    }
    // Those that came while it listened live on.
    server.stop_listening(address);
    assert_eq!(client.connections().len(), 20);
    close(client).await;
    close(server).await;
}

#[tokio::test]
async fn a_free_port_is_given_to_one_listener_only() {
    // As many as it takes for some of them to meet if ports were drawn blindly.
    const LISTENERS: usize = 400;
    let (transport, credential) = (MsQuicTransport::new(), stranger());
    let (mut listeners, mut ports) = (Vec::new(), std::collections::HashSet::new());
    for number in 0..LISTENERS {
        let listener = transport.create_listener(loopback(), &["test"], credential.clone()).await;
        let listener = listener.unwrap_or_else(|error| panic!("{number}: {error}"));
        assert!(ports.insert(listener.local_addr()), "{} twice", listener.local_addr());
        listeners.push(listener);
    }
    drop(listeners);
    let registration = transport.registration().expect("a registration");
    assert!(registration.wait_idle(LIMIT).await, "{} handles", registration.live_handles());
}

// ---- a node under an actor of the application --------------------------------------------------

/// What a parent is told, and told to do.
enum ParentMessage {
    ShutDown(Node),
}

/// Passes on what it is told of its children.
struct Parent;

#[derive(Debug, PartialEq)]
enum Told {
    Started,
    Ended,
    Failed,
    ShutDown(bool),
}

impl Actor for Parent {
    type Msg = ParentMessage;
    type State = mpsc::UnboundedSender<Told>;
    type Arguments = mpsc::UnboundedSender<Told>;

    async fn pre_start(
        &self,
        _myself: ActorRef<ParentMessage>,
        told: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(told)
    }

    async fn handle(
        &self,
        _myself: ActorRef<ParentMessage>,
        ParentMessage::ShutDown(node): ParentMessage,
        told: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let in_order = node.shutdown(LIMIT).await.is_ok();
        Ok(told.send(Told::ShutDown(in_order))?)
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<ParentMessage>,
        event: SupervisionEvent,
        told: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let told_now = match event {
            SupervisionEvent::ActorStarted(_) => Told::Started,
            SupervisionEvent::ActorTerminated(..) => Told::Ended,
            SupervisionEvent::ActorFailed(..) => Told::Failed,
            _ => return Ok(()),
        };
        Ok(told.send(told_now)?)
    }
}

/// A pair whose server has a parent.
struct Family {
    parent: ActorRef<ParentMessage>,
    told: mpsc::UnboundedReceiver<Told>,
    server: Node,
    client: Node,
    at_client: ConnectionHandle,
}

impl Family {
    async fn new() -> Self {
        let (sender, told) = mpsc::unbounded_channel();
        let (parent, _) = Actor::spawn(None, Parent, sender).await.expect("an actor");
        let (a, b) = friends();
        let cell: ActorCell = parent.get_cell();
        let server = within("a node", Node::spawn_linked(NodeConfig::new(a), cell)).await;
        let server = server.expect("a node");
        let client = node(b).await;
        let address = within("listening", server.listen(loopback())).await.expect("it listens");
        let at_client = connect(&client, Target::from(address).redial(Redial::Never)).await;
        let mut family = Self { parent, told, server, client, at_client };
        assert_eq!(family.next().await, Told::Started);
        family
    }

    async fn next(&mut self) -> Told {
        within("word of the node", self.told.recv()).await.expect("the parent lives")
    }
}

#[tokio::test]
async fn a_parent_is_told_of_the_end_of_its_node() {
    let mut family = Family::new().await;
    within("the end", family.server.shutdown(LIMIT)).await.expect("an orderly end");
    assert_eq!(family.next().await, Told::Ended);
    let reason = within("the connection's end", family.at_client.closed()).await;
    assert_eq!(reason, CloseReason::Peer { code: CloseCode::GOING_AWAY });
    drop(family.at_client);
    close(family.client).await;
    family.parent.stop(None);
}

#[tokio::test]
async fn a_parent_is_told_when_its_node_is_dropped() {
    let mut family = Family::new().await;
    drop(family.server.clone());
    let Family { server, .. } = family;
    drop(server);
    let told = within("word of the node", family.told.recv()).await;
    assert_eq!(told, Some(Told::Ended));
    let reason = within("the connection's end", family.at_client.closed()).await;
    assert_eq!(reason, CloseReason::Peer { code: CloseCode::GOING_AWAY });
    drop(family.at_client);
    close(family.client).await;
    family.parent.stop(None);
}

#[tokio::test]
async fn a_node_ends_with_its_parent() {
    for kill in [false, true] {
        let family = Family::new().await;
        if kill {
            family.parent.kill();
        } else {
            family.parent.stop(None);
        }
        within("the node's end", family.server.stopped()).await;
        let reason = within("the connection's end", family.at_client.closed()).await;
        assert!(matches!(reason, CloseReason::Peer { .. }), "{reason:?}");
        let result = within("a late shutdown", family.server.shutdown(LIMIT)).await;
        assert!(matches!(result, Err(NodeError::Stopped)), "{result:?}");
        drop(family.at_client);
        close(family.client).await;
    }
}

#[tokio::test]
async fn a_parent_may_wait_for_the_shutdown_in_its_own_handler() {
    let mut family = Family::new().await;
    let order = ParentMessage::ShutDown(family.server.clone());
    assert!(family.parent.cast(order).is_ok(), "the parent lives");
    assert_eq!(family.next().await, Told::ShutDown(true));
    assert_eq!(family.next().await, Told::Ended);
    drop(family.at_client);
    close(family.client).await;
    family.parent.stop(None);
}
