//! When a target is dialled again, when it is not, and who gets the connection.

mod common;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::{
    LIMIT, Pair, cancelled_after, connected, dial_failed, disconnected, event, free_port, friends,
    loopback, node, node_with, one_peer_with_many, quick, stranger, ten_dials_later, until, within,
    within_limit,
};
use moorline::{
    CertificateRefused, CloseCode, CloseReason, ConnectError, ConnectionHandle, DEFAULT_ALPN,
    Direction, ErrorKind, MsQuicTransport, Node, NodeConfig, NodeEvent, Redial, SupervisorMessage,
    Target,
};
use tokio::net::UdpSocket;

async fn connect(node: &Node, target: impl Into<Target>) -> ConnectionHandle {
    within("a connection", node.connect(target)).await.expect("it connects")
}

async fn listen_at(node: &Node, address: SocketAddr) {
    within("listening", node.listen(address)).await.expect("it listens");
}

async fn close<const N: usize>(nodes: [Node; N]) {
    for node in nodes {
        within("the end of a node", node.close(LIMIT)).await.expect("an orderly end");
    }
}

/// Asks for a target in a task of its own.
fn asking(
    node: &Node,
    target: &Target,
) -> tokio::task::JoinHandle<Result<ConnectionHandle, ConnectError>> {
    let (node, target) = (node.clone(), target.clone());
    tokio::spawn(async move { node.connect(target).await })
}

/// Nobody waits that long in a test: whatever is back before was not waited for.
fn patient(config: &mut NodeConfig) {
    (config.backoff.initial, config.backoff.cap) = (LIMIT * 3, LIMIT * 4);
}

// ---- what trying again does not cure -----------------------------------------------------------

#[tokio::test]
async fn an_error_that_trying_again_does_not_cure_is_told_once_and_ends_the_connector() {
    let (a, b) = friends();
    let (server, untrusted) = (node(a).await, node(stranger().insecure_accept_any()).await);
    let client = node_with(b, quick).await;
    let address = within("listening", server.listen(loopback())).await.expect("it listens");
    let not_trusted = within("listening", untrusted.listen(loopback())).await.expect("it listens");
    let targets = [
        Target::from("localhost"),
        Target::from("127.0.0.1:0"),
        Target::from(address).expect(stranger().identity()),
        Target::from(not_trusted),
    ];
    for target in targets {
        let target = target.redial(Redial::Always);
        let mut events = client.subscribe();
        let answer = within("the answer", client.connect(target.clone())).await;
        let error = answer.expect_err("it can never succeed");
        assert_eq!(error.kind(), ErrorKind::Never, "{target}: {error}");
        let told = dial_failed(&mut events, &mut Vec::new()).await;
        assert_eq!(told, (target.clone(), false), "not dialled again");
        let seen = ten_dials_later(&client).await;
        assert!(seen.is_empty(), "{target}: {seen:?}");
    }
    close([client, server, untrusted]).await;
}

#[tokio::test]
async fn a_peer_that_does_not_trust_us_yet_is_dialled_until_it_does() {
    // One identity, before its operator has trusted the client and after that.
    let (not_yet, b) = (stranger(), stranger());
    let a = not_yet.clone().trust_hash(b.identity());
    let before = node(not_yet).await;
    let client = node_with(b.trust_hash(a.identity()), quick).await;
    let (address, mut events) = (free_port(), client.subscribe());
    listen_at(&before, address).await;
    let target = Target::from(address).redial(Redial::Always);
    let caller = asking(&client, &target);
    let refused = |event: &NodeEvent| match event {
        NodeEvent::DialFailed {
            error: ConnectError::CertificateRefused { refused, .. }, ..
        } => Some(matches!(**refused, CertificateRefused::ByPeer { .. })),
        _ => None,
    };
    for _ in 0..3 {
        assert!(event(&mut events, "a refusal", &mut Vec::new(), refused).await);
    }
    close([before]).await;
    let after = node(a).await;
    listen_at(&after, address).await;
    let handle = within("the caller", caller).await.expect("no panic").expect("it connects");
    assert_eq!(handle.peer(), after.identity());
    drop(handle);
    close([client, after]).await;
}

#[tokio::test]
async fn another_identity_at_a_peers_address_does_not_end_what_had_stood() {
    let (a, b) = friends();
    let client = node_with(b, quick).await;
    let (address, mut events) = (free_port(), client.subscribe());
    let server = node(a.clone()).await;
    listen_at(&server, address).await;
    let target = Target::from(address).expect(a.identity());
    let first = connect(&client, target.clone()).await;
    close([server]).await;
    disconnected(&mut events, first.epoch()).await;
    // Somebody else has the address for a while.
    let other = node(stranger().insecure_accept_any()).await;
    listen_at(&other, address).await;
    let unexpected = |event: &NodeEvent| match event {
        NodeEvent::DialFailed { error, retry_in, .. } if error.kind() == ErrorKind::Never => {
            Some(retry_in.is_some())
        }
        _ => None,
    };
    assert!(event(&mut events, "the wrong one", &mut Vec::new(), unexpected).await);
    let answer = within("a caller", client.connect(target.clone().redial(Redial::Always))).await;
    assert_eq!(answer.expect_err("it is told").kind(), ErrorKind::Never);
    close([other]).await;
    let back = node(a).await;
    listen_at(&back, address).await;
    let again = connected(&mut events).await;
    assert_eq!(again.peer(), back.identity());
    drop((first, again));
    close([client, back]).await;
}

// ---- waits -------------------------------------------------------------------------------------

#[tokio::test]
async fn a_call_does_not_wait_for_the_backoff() {
    let (a, b) = friends();
    let (server, client) = (node(a).await, node_with(b, patient).await);
    let (address, mut events) = (free_port(), client.subscribe());
    let target = Target::from(address).redial(Redial::Always);
    let waiting = asking(&client, &target);
    assert_eq!(dial_failed(&mut events, &mut Vec::new()).await, (target.clone(), true));
    listen_at(&server, address).await;
    let called = connect(&client, target).await;
    let waited = within("the one who waited", waiting).await.expect("no panic").expect("the same");
    assert_eq!(waited, called);
    drop((waited, called));
    close([client, server]).await;
}

#[tokio::test]
async fn a_connection_that_the_expected_peer_opens_ends_the_wait_and_is_the_targets_own() {
    let (a, b) = friends();
    let (us, peer) = (node_with(a, patient).await, node(b).await);
    let here = within("listening", us.listen(loopback())).await.expect("it listens");
    let (there, mut events) = (free_port(), us.subscribe());
    let target = Target::from(there).expect(peer.identity()).redial(Redial::Always);
    let waiting = asking(&us, &target);
    let mut seen = Vec::new();
    assert_eq!(dial_failed(&mut events, &mut seen).await, (target.clone(), true));
    let theirs = connect(&peer, Target::from(here).redial(Redial::Never)).await;
    let ours = within("the caller", waiting).await.expect("no panic").expect("it is there");
    assert_eq!((ours.direction(), ours.peer()), (Direction::Inbound, peer.identity()));
    assert_eq!(connect(&us, target).await, ours);
    assert_eq!(us.connections().len(), 1, "no second one");
    // When it ends the target is dialled, at once.
    listen_at(&peer, there).await;
    within("the end", theirs.close(CloseCode::NORMAL)).await;
    connected(&mut events).await;
    let dialled = connected(&mut events).await;
    assert_eq!((dialled.direction(), dialled.remote_addr()), (Direction::Outbound, there));
    drop((ours, theirs, dialled));
    close([us, peer]).await;
}

#[tokio::test]
async fn a_peer_that_comes_by_itself_is_dialled_at_once_where_none_was_expected() {
    let (a, b) = friends();
    let us = node_with(a, patient).await;
    let here = within("listening", us.listen(loopback())).await.expect("it listens");
    let (there, mut events) = (free_port(), us.subscribe());
    let peer = node(b.clone()).await;
    listen_at(&peer, there).await;
    let first = connect(&us, there).await;
    close([peer]).await;
    // Dialled at once, and nobody is there.
    assert!(dial_failed(&mut events, &mut Vec::new()).await.1);
    let back = node(b).await;
    listen_at(&back, there).await;
    let theirs = connect(&back, Target::from(here).redial(Redial::Never)).await;
    let inbound = connected(&mut events).await;
    let dialled = connected(&mut events).await;
    assert_eq!(
        (inbound.direction(), dialled.direction()),
        (Direction::Inbound, Direction::Outbound)
    );
    drop((first, theirs, inbound, dialled));
    close([us, back]).await;
}

#[tokio::test]
async fn a_peer_that_is_restarted_again_and_again_is_back_at_once_each_time() {
    let (a, b) = friends();
    let client = node(b).await;
    let (address, mut events) = (free_port(), client.subscribe());
    let mut server = node(a.clone()).await;
    listen_at(&server, address).await;
    connect(&client, Target::from(address).expect(server.identity())).await;
    connected(&mut events).await;
    for round in 1..=5 {
        close([server]).await;
        server = node(a.clone()).await;
        listen_at(&server, address).await;
        let begun = Instant::now();
        connected(&mut events).await;
        // A dial that came too early, and one wait of a connection that did not hold for long.
        assert!(begun.elapsed() < Duration::from_millis(1500), "{round}: {:?}", begun.elapsed());
    }
    close([client, server]).await;
}

// ---- ends that are final, and those that are not -------------------------------------------------

#[tokio::test]
async fn a_peer_that_is_told_not_to_come_back_does_not() {
    for code in [CloseCode::FORBIDDEN, CloseCode::APPLICATION_FINAL] {
        let pair = Pair::with(quick, quick).await;
        let (mut at_client, mut at_server) = (pair.client.subscribe(), pair.server.subscribe());
        let target = Target::from(pair.address).expect(pair.server.identity());
        within("the close", pair.at_server.close(code)).await;
        let abandoned = |event: &NodeEvent| match event {
            NodeEvent::Abandoned { target, reason } => Some((target.clone(), reason.clone())),
            _ => None,
        };
        let told = event(&mut at_client, "word of it", &mut Vec::new(), abandoned).await;
        assert_eq!(told, (target.clone(), CloseReason::Peer { code }));
        ten_dials_later(&pair.client).await;
        assert!(pair.client.connections().is_empty() && pair.server.connections().is_empty());
        // Somebody here may ask again.
        let again = connect(&pair.client, target).await;
        connected(&mut at_server).await;
        drop(again);
        pair.end().await;
    }
}

#[tokio::test]
async fn a_peer_that_is_closed_with_any_other_code_comes_back() {
    let application = CloseCode::application(0x1234).expect("an application's code");
    for code in [CloseCode::NORMAL, CloseCode::REFUSED, application] {
        let pair = Pair::with(quick, quick).await;
        let mut events = pair.server.subscribe();
        within("the close", pair.at_server.close(code)).await;
        connected(&mut events).await;
        pair.end().await;
    }
}

/// A peer without a node, whose listener takes connections one by one.
struct Bare {
    transport: MsQuicTransport,
    listener: moorline::MsQuicListener,
}

impl Bare {
    async fn new(credential: moorline::NetCredential) -> Self {
        let transport = MsQuicTransport::new();
        let listener = transport.create_listener(loopback(), &[DEFAULT_ALPN], credential).await;
        Self { transport, listener: listener.expect("a listener") }
    }

    async fn accept(&self) -> moorline::MsQuicNetConnection {
        let request = within("a request", self.listener.accept()).await.expect("a request");
        within("a connection", request.accept()).await.expect("a connection")
    }

    async fn end(self) {
        within("the listener's end", self.listener.stopped()).await;
        drop(self.listener);
        let registration = self.transport.registration().expect("open");
        assert!(registration.wait_idle(LIMIT).await, "{}", registration.live_handles());
    }
}

#[tokio::test]
async fn a_peer_that_ends_its_frames_and_never_closes_is_cut_and_dialled_again() {
    let (a, b) = friends();
    let peer = Bare::new(a).await;
    let client = node_with(b, |config| {
        quick(config);
        config.limits.close_time_max = Duration::from_millis(200);
    })
    .await;
    let mut events = client.subscribe();
    let target = Target::from(peer.listener.local_addr()).redial(Redial::Always);
    let (ours, theirs) = tokio::join!(connect(&client, target), peer.accept());
    within("a frame", theirs.send("last")).await.expect("taken over");
    assert_eq!(within("a frame", ours.recv()).await.expect("a frame"), "last");
    // A close that is given up: its direction has ended, and the connection stays.
    drop(tokio::time::timeout(Duration::from_millis(50), theirs.close(CloseCode::NORMAL)).await);
    assert!(within("the end", ours.recv()).await.is_err());
    let reason = disconnected(&mut events, ours.epoch()).await;
    assert_eq!(reason, CloseReason::Local { code: CloseCode::HALF_CLOSED });
    let told = within("the peer's end", theirs.watch_close()).await;
    assert_eq!(told, CloseReason::Peer { code: CloseCode::HALF_CLOSED });
    let again = peer.accept().await;
    assert_eq!(again.remote_identity(), client.identity());
    drop((theirs, again));
    close([client]).await;
    peer.end().await;
}

#[tokio::test]
async fn a_close_of_ours_that_a_half_closed_peer_does_not_answer_stays_our_wish() {
    let (a, b) = friends();
    let peer = Bare::new(a).await;
    let client = node_with(b, |config| {
        quick(config);
        config.limits.close_time_max = Duration::from_millis(200);
    })
    .await;
    let target = Target::from(peer.listener.local_addr()).redial(Redial::Always);
    let (ours, theirs) = tokio::join!(connect(&client, target), peer.accept());
    let reason = within("the close", ours.close(CloseCode::NORMAL)).await;
    assert_eq!(reason, CloseReason::Local { code: CloseCode::NORMAL });
    ten_dials_later(&client).await;
    assert!(client.connections().is_empty());
    drop((ours, theirs));
    close([client]).await;
    peer.end().await;
}

// ---- callers that have gone --------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_attempt_whose_caller_has_gone_leaves_no_connection() {
    let (a, b) = friends();
    // Those that were given up have their places until they are seen to end.
    let many = one_peer_with_many;
    let (server, client) = (node_with(a, many).await, node_with(b, many).await);
    let address = within("listening", server.listen(loopback())).await.expect("it listens");
    let target = Target::from(address).redial(Redial::Never);
    // Given up at each point where it waits, until it waits no more.
    for times in 0.. {
        let dial = cancelled_after(times, client.connect(target.clone()));
        if within("the dial", dial).await.is_some() {
            break;
        }
    }
    until("the one that was taken is left", || client.connections().len() == 1).await;
    // And at points that have to do with the network.
    for after in 0..20 {
        let dial = client.connect(target.clone());
        if let Ok(taken) = tokio::time::timeout(Duration::from_millis(after), dial).await {
            within("the close", taken.expect("it connects").close(CloseCode::NORMAL)).await;
        }
    }
    until("no connector is left", || client.supervisor().get_children().len() == 1).await;
    until("one connection is left", || client.connections().len() == 1).await;
    until("there as well", || server.connections().len() == 1).await;
    close([client, server]).await;
}

#[tokio::test]
async fn an_answer_that_comes_while_its_caller_goes_is_not_lost() {
    let (a, b) = friends();
    let (server, client) = (node(a).await, node(b).await);
    let bound = within("listening", server.listen(loopback())).await.expect("it listens");
    {
        // Asked for, answered, and given up before the answer is looked at.
        let target = Target::from(bound).redial(Redial::Never);
        let mut dial = std::pin::pin!(client.connect(target));
        assert!(cancelled_after(1, dial.as_mut()).await.is_none());
        let is_answered = || {
            let connector_ended = client.supervisor().get_children().len() == 1;
            client.connections().len() == 1 && connector_ended
        };
        until("it is answered", is_answered).await;
    }
    until("nobody's connection is closed", || client.connections().is_empty()).await;
    let mut events = server.subscribe();
    {
        let mut listen = std::pin::pin!(server.listen(loopback()));
        assert!(cancelled_after(1, listen.as_mut()).await.is_none());
        let listening =
            |event: &NodeEvent| matches!(event, NodeEvent::Listening { .. }).then_some(());
        event(&mut events, "it listens", &mut Vec::new(), listening).await;
    }
    until("the first one is left", || server.supervisor().get_children().len() == 1).await;
    close([client, server]).await;
}

#[tokio::test]
async fn a_single_attempt_that_is_given_up_dials_no_longer() {
    let client = node(stranger()).await;
    let silent = UdpSocket::bind(loopback()).await.expect("a socket");
    let target = Target::from(silent.local_addr().expect("it is bound")).redial(Redial::Never);
    let caller = asking(&client, &target);
    within("the dial", silent.recv_from(&mut [0; 2048])).await.expect("a datagram");
    caller.abort();
    within("its end", caller).await.expect_err("it was given up");
    let gone = until("the connector ends", || client.supervisor().get_children().is_empty());
    within_limit(Duration::from_secs(5), "long before the handshake's limit", gone).await;
    close([client]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_whose_caller_has_gone_does_not_listen() {
    let server = node(stranger()).await;
    let mut taken = Vec::new();
    for times in 0.. {
        if let Some(bound) = cancelled_after(times, server.listen(loopback())).await {
            taken.push(bound.expect("it listens"));
            break;
        }
    }
    until("the one that was taken is left", || server.supervisor().get_children().len() == 1).await;
    server.stop_listening(taken[0]);
    until("none is left", || server.supervisor().get_children().is_empty()).await;
    close([server]).await;
}

#[tokio::test]
async fn callers_that_have_given_up_leave_their_places_to_the_living() {
    const PLACES: usize = 1024;
    let client = node(stranger()).await;
    let silent = UdpSocket::bind(loopback()).await.expect("a socket");
    let target = Target::from(silent.local_addr().expect("it is bound"));
    let ask = || {
        let (sender, answer) = ractor::concurrency::oneshot();
        let message = SupervisorMessage::Connect { target: target.clone(), reply: sender.into() };
        client.supervisor().cast(message).expect("the node lives");
        answer
    };
    // They ask and go, as a call with a time-out of its own does.
    for _ in 0..PLACES {
        drop(ask());
    }
    let living: Vec<_> = (0..PLACES).map(|_| ask()).collect();
    let refused = within("an answer", ask()).await.expect("it is answered");
    assert!(matches!(refused, Err(ConnectError::TooManyCallers { limit: PLACES })), "{refused:?}");
    client.disconnect(target.clone());
    for answer in living {
        let answer = within("an answer", answer).await.expect("it is answered");
        assert!(matches!(answer, Err(ConnectError::Disconnected)), "{answer:?}");
    }
    close([client]).await;
}

// ---- protocols ---------------------------------------------------------------------------------

#[tokio::test]
async fn a_target_may_ask_for_a_protocol_of_its_own() {
    let (a, b) = friends();
    let speaks = |config: &mut NodeConfig| config.alpns = vec!["plain".into(), "orders/1".into()];
    let (server, client) = (node_with(a, speaks).await, node_with(b, speaks).await);
    let mut events = server.subscribe();
    let address = within("listening", server.listen(loopback())).await.expect("it listens");
    let plain = connect(&client, address).await;
    let orders = connect(&client, Target::from(address).alpn("orders/1")).await;
    assert_ne!(plain, orders);
    assert_eq!((plain.alpn_negotiated(), orders.alpn_negotiated()), ("plain", "orders/1"));
    let seen = [connected(&mut events).await, connected(&mut events).await];
    assert_eq!(seen.map(|handle| handle.alpn_negotiated().to_owned()), ["plain", "orders/1"]);
    let other = Target::from(address).alpn("letters/1").redial(Redial::Never);
    let error = within("the dial", client.connect(other)).await.expect_err("nobody speaks it");
    let ConnectError::AlpnMismatch { offered, .. } = error else { panic!("{error:?}") };
    assert_eq!(offered, ["letters/1"]);
    let none = Target::from(address).alpn("").redial(Redial::Always);
    let error = within("the dial", client.connect(none)).await.expect_err("no name");
    assert!(matches!(error, ConnectError::Config { .. }), "{error:?}");
    drop((plain, orders));
    close([client, server]).await;
}
