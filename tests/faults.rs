//! What goes wrong, and what everybody is told: addresses that lead nowhere, peers that vanish, frames
//! that do not come whole.

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use common::process::{is_the_other_process, the_other_process, without_threads};
use common::relay::Relay;
use common::{
    LIMIT, assert_balanced, connected, dial, end, friends, loopback, node, node_with, stranger,
    within, within_limit,
};
use moorline::{
    CertHash, CloseCode, CloseReason, ConnectError, ConnectionHandle, ErrorKind, Events, Limits,
    MsQuicTransport, Node, NodeConfig, NodeEvent, Outcome, Position, RecvError, Redial, SendError,
    Side, Target, resolve_bad_certificate,
};

// ---- addresses that lead nowhere ---------------------------------------------------------------

#[tokio::test]
async fn a_peer_that_speaks_another_protocol_is_told_apart_from_other_failures() {
    let (a, b) = friends();
    let server = node_with(a, |config| config.alpns = vec!["one".to_owned()]).await;
    let client = node_with(b, |config| config.alpns = vec!["two".to_owned()]).await;
    let address = within("listening", server.listen(loopback())).await.expect("a listener");
    let error = within("connecting", client.connect(address)).await.expect_err("no protocol");
    // The peer may be about to be upgraded.
    assert_eq!(error.kind(), ErrorKind::Retry);
    let message = error.to_string();
    assert!(message.contains(&address.to_string()) && message.contains("two"), "{message}");
    let ConnectError::AlpnMismatch { peer, offered } = error else { panic!("{error:?}") };
    assert_eq!((peer, offered), (address, vec!["two".to_owned()]));
    end([client, server]).await;
}

#[tokio::test]
async fn a_closed_port_is_unreachable_at_once() {
    let client = node(stranger()).await;
    let address = {
        let socket = UdpSocket::bind(loopback()).expect("a socket");
        socket.local_addr().expect("a bound socket")
    };
    let fast = Duration::from_secs(2);
    let error =
        within_limit(fast, "connecting", client.connect(address)).await.expect_err("nobody");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    assert_eq!(error.kind(), ErrorKind::Retry);
    assert!(matches!(error, ConnectError::Unreachable { peer } if peer == address), "{error:?}");
    end([client]).await;
}

#[tokio::test]
async fn a_black_hole_times_out_at_the_limit_of_the_handshake() {
    let limit = Duration::from_secs(1);
    let client = node_with(stranger(), |config| config.limits.handshake_time_max = limit).await;
    let hole = UdpSocket::bind(loopback()).expect("a socket");
    let address = hole.local_addr().expect("a bound socket");
    let begun = Instant::now();
    let error = within("connecting", client.connect(address)).await.expect_err("no answer");
    let took = begun.elapsed();
    assert!((limit * 8 / 10..limit * 3).contains(&took), "took {took:?}");
    assert_eq!(error.kind(), ErrorKind::Retry);
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    let ConnectError::TimedOut { peer, after } = error else { panic!("{error:?}") };
    assert_eq!(peer, address);
    // What the credential took is no time that the peer had.
    assert!(after <= limit && !after.is_zero(), "{after:?}");
    end([client]).await;
    drop(hole);
}

#[tokio::test]
async fn a_dial_that_is_given_up_leaves_nothing_behind() {
    let transport = MsQuicTransport::new();
    let hole = UdpSocket::bind(loopback()).expect("a socket");
    let address = hole.local_addr().expect("a bound socket");
    let dial = transport.connect(address, &["test"], stranger());
    let given_up = tokio::time::timeout(Duration::from_millis(50), dial).await;
    assert!(given_up.is_err(), "nobody answers there");
    let registration = transport.registration().expect("open");
    assert!(registration.wait_idle(LIMIT).await, "{} handles", registration.live_handles());
}

#[tokio::test]
async fn an_address_that_is_none_is_named_in_the_error() {
    let client = node(stranger()).await;
    let transport = MsQuicTransport::new();
    for given in
        ["evil\0.example:4433", "localhost", "localhost:0", "127.0.0.1:0", "localhost:65536", ""]
    {
        let by_node = within("connecting", client.connect(given)).await.map(drop);
        let by_transport = transport.connect(given, &["test"], stranger());
        let by_transport = within("connecting", by_transport).await.map(drop);
        for result in [by_node, by_transport] {
            let error = result.expect_err("no address");
            assert_eq!(error.kind(), ErrorKind::Never, "{error:?}");
            let ConnectError::Address { given: named, problem } = &error else {
                panic!("{error:?}")
            };
            assert_eq!(named, given);
            assert!(!problem.is_empty());
            let message = error.to_string();
            assert!(message.contains(&format!("{given:?}")), "{message}");
            assert!(!message.contains('\0'), "{message:?}");
        }
    }
    end([client]).await;
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_named_and_may_resolve_later() {
    let client = node(stranger()).await;
    let given = "no-such-host.invalid:4433";
    let error = within("connecting", client.connect(given)).await.expect_err("no such host");
    assert_eq!(error.kind(), ErrorKind::Retry);
    let ConnectError::Resolve { name, problem } = error else { panic!("{error:?}") };
    assert_eq!(name, given);
    assert!(!problem.is_empty());
    end([client]).await;
}

/// A caller is told what is missing and what for, and may try again.
fn assert_no_thread(error: &(dyn std::error::Error + 'static), kind: ErrorKind) {
    let text = error.to_string();
    assert!(text.contains("no thread could be started to load the credential"), "{text}");
    assert!(error.source().is_some_and(|cause| !cause.to_string().is_empty()), "{text}");
    assert_eq!(kind, ErrorKind::Retry);
}

#[test]
fn where_no_thread_can_be_started_dials_and_listeners_fail_with_words_and_the_process_ends() {
    let test =
        "where_no_thread_can_be_started_dials_and_listeners_fail_with_words_and_the_process_ends";
    without_threads(test, async {
        let node = node(stranger()).await;
        std::thread::Builder::new().spawn(|| ()).expect_err("there are none");
        let listening = within("listening", node.listen(loopback())).await;
        let error = listening.expect_err("there is no thread");
        assert_no_thread(&error, error.kind());
        let silent = UdpSocket::bind(loopback()).expect("a socket");
        let target = Target::from(silent.local_addr().expect("it is bound"));
        let dialled = within("a dial", node.connect(target.clone().redial(Redial::Never))).await;
        let error = dialled.expect_err("there is no thread");
        assert_no_thread(&error, error.kind());
        // One that is kept waits for a thread, and tells.
        let mut events = node.subscribe();
        let dialled = node.connect(target.clone().redial(Redial::Always));
        let told = async {
            loop {
                match events.next().await {
                    Some(NodeEvent::DialFailed { error, retry_in: Some(_), .. }) => return error,
                    Some(_) => {}
                    None => panic!("the node ended"),
                }
            }
        };
        tokio::select! {
            dialled = dialled => panic!("{dialled:?}"),
            error = within("it is told", told) => assert_no_thread(&error, error.kind()),
        }
        let transport = MsQuicTransport::new();
        let dialled = within("a dial", transport.connect(loopback_port_9(), &["test"], stranger()));
        let error = dialled.await.map(drop).expect_err("there is no thread");
        assert_no_thread(&error, error.kind());
        // The registration cannot be closed either: it says so, and nothing waits for ever.
        let closed = within("the end", node.close(LIMIT)).await;
        assert!(matches!(closed, Err(moorline::NodeError::StillOpen { .. })), "{closed:?}");
    });
}

fn loopback_port_9() -> SocketAddr {
    ([127, 0, 0, 1], 9).into()
}

// ---- peers that vanish, and frames that do not come --------------------------------------------

async fn disconnected(events: &mut Events) -> (CertHash, CloseReason) {
    within("a Disconnected event", async {
        loop {
            match events.next().await {
                Some(NodeEvent::Disconnected { peer, reason, .. }) => return (peer, reason),
                Some(_) => {}
                None => panic!("the node ended"),
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_peer_whose_runtime_is_dropped_without_a_close_is_noticed() {
    let (a, b) = friends();
    let (gone, expected) = (b.identity(), a.identity());
    let server = node(a).await;
    let mut events = server.subscribe();
    let address = within("listening", server.listen(loopback())).await.expect("a listener");
    let (drop_it, dropped) = std::sync::mpsc::channel::<()>();
    let peer = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let kept = runtime.block_on(async {
            let client = node(b).await;
            let target = Target::from(address).expect(expected);
            let handle = within("connecting", client.connect(target)).await.expect("accepted");
            within("sending", handle.send("here")).await.expect("taken over");
            (client, handle)
        });
        // Nobody sends: the sender is dropped once the frame has arrived.
        assert!(dropped.recv().is_err());
        drop(runtime);
        kept
    });
    let at_server = connected(&mut events).await;
    assert_eq!(within("a frame", at_server.recv()).await.expect("a frame"), "here");
    let begun = Instant::now();
    drop(drop_it);
    let (peer_identity, reason) = disconnected(&mut events).await;
    assert_eq!(peer_identity, gone);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(
        matches!(
            reason,
            CloseReason::Peer {
                code: CloseCode::GOING_AWAY | CloseCode::ACTOR_FAILED | CloseCode::DROPPED
            }
        ),
        "{reason:?}"
    );
    let (_client, handle) =
        tokio::task::spawn_blocking(|| peer.join().expect("no panic")).await.expect("no panic");
    assert_eq!(within("the peer's end", handle.closed()).await.side(), Some(Side::Local));
    end([server]).await;
}

#[tokio::test]
async fn a_network_that_goes_silent_is_noticed_at_both_ends() {
    let fast = |config: &mut NodeConfig| {
        config.limits.keep_alive_interval = Duration::from_millis(100);
        config.limits.disconnect_time_max = Duration::from_millis(500);
        config.limits.idle_time_max = Duration::from_secs(2);
    };
    let (a, b) = friends();
    let (a_hash, b_hash) = (a.identity(), b.identity());
    let (server, client) = (node_with(a, fast).await, node_with(b, fast).await);
    let (mut at_a, mut at_b) = (server.subscribe(), client.subscribe());
    let address = within("listening", server.listen(loopback())).await.expect("a listener");
    let relay = Relay::start(address).await;
    let target = Target::from(relay.address()).redial(Redial::Never);
    let (at_client, at_server) = dial(&client, &target, &mut at_a).await;
    within("an exchange", at_client.send_acked("x")).await.expect("acknowledged");
    relay.cut();
    let outcome = within("the outcome", at_client.send_acked("lost")).await;
    let Err(SendError::Closed { reason, outcome: Outcome::MaybeSent }) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(reason, CloseReason::TimedOut);
    assert_eq!(disconnected(&mut at_a).await, (b_hash, CloseReason::TimedOut));
    assert_eq!(disconnected(&mut at_b).await, (a_hash, CloseReason::TimedOut));
    assert_eq!(within("a frame", at_server.recv()).await.expect("it had arrived"), "x");
    let error = within("the end", at_server.recv()).await.expect_err("nothing more");
    assert_eq!(error, RecvError::Closed { reason: CloseReason::TimedOut });
    let sent = assert_balanced(&at_client);
    assert_eq!((sent.completed, sent.maybe_sent), (1, 1));
    end([client, server]).await;
}

/// A pair over a relay, whose path carried large packets and then carries only small ones.
async fn over_a_path_that_shrinks(
    path_mtu_max: u16,
    disconnect_time_max: Duration,
) -> (Node, Node, Relay, ConnectionHandle) {
    let (a, b) = friends();
    let set = |config: &mut NodeConfig| {
        config.limits.path_mtu_max = path_mtu_max;
        config.limits.disconnect_time_max = disconnect_time_max;
        config.limits.idle_time_max = LIMIT;
    };
    let (server, client) = (node_with(a, set).await, node_with(b, set).await);
    let mut events = server.subscribe();
    let address = within("listening", server.listen(loopback())).await.expect("a listener");
    let relay = Relay::start(address).await;
    let (at_client, at_server) = dial(&client, &Target::from(relay.address()), &mut events).await;
    tokio::spawn(async move { while at_server.recv().await.is_ok() {} });
    for _ in 0..20 {
        within("a frame", at_client.send_acked(vec![1; 100_000])).await.expect("acknowledged");
    }
    relay.set_mtu(1300);
    (server, client, relay, at_client)
}

#[tokio::test]
async fn a_path_that_shrinks_ends_the_connection_and_the_next_one_fits_it() {
    let (server, client, relay, old) = over_a_path_that_shrinks(1500, Duration::from_secs(1)).await;
    let (mut events, mut at_server) = (client.subscribe(), server.subscribe());
    let outcome = within("the outcome", old.send_acked(vec![2; 100_000])).await;
    let Err(SendError::Closed { reason, outcome: Outcome::MaybeSent }) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(reason, CloseReason::TimedOut);
    let next = connected(&mut events).await;
    let there = connected(&mut at_server).await;
    tokio::spawn(async move { while there.recv().await.is_ok() {} });
    within("a frame", next.send_acked(vec![3; 100_000])).await.expect("acknowledged");
    drop((old, next));
    end([client, server]).await;
    drop(relay);
}

#[tokio::test]
async fn a_path_that_shrinks_no_further_than_the_limit_is_not_noticed() {
    let (server, client, relay, connection) = over_a_path_that_shrinks(1280, LIMIT / 2).await;
    for _ in 0..20 {
        within("a frame", connection.send_acked(vec![2; 100_000])).await.expect("acknowledged");
    }
    assert_eq!(connection.close_reason(), None);
    drop(connection);
    end([client, server]).await;
    drop(relay);
}

#[tokio::test]
async fn a_connection_that_the_peer_has_forgotten_is_told_as_such() {
    // Its peer gives it up while nothing comes through, as where this process is suspended.
    let (a, b) = friends();
    let server = node_with(a, |config| {
        config.limits.keep_alive_interval = Duration::from_millis(50);
        config.limits.disconnect_time_max = Duration::from_millis(200);
    })
    .await;
    let client = node_with(b, |config| {
        config.limits.keep_alive_interval = Duration::from_millis(50);
        config.limits.disconnect_time_max = LIMIT;
    })
    .await;
    let (mut at_a, mut at_b) = (server.subscribe(), client.subscribe());
    let address = within("listening", server.listen(loopback())).await.expect("a listener");
    let relay = Relay::start(address).await;
    let target = Target::from(relay.address()).redial(Redial::Never);
    let (at_client, at_server) = dial(&client, &target, &mut at_a).await;
    relay.cut();
    assert_eq!(within("the end there", at_server.closed()).await, CloseReason::TimedOut);
    assert_eq!(at_client.close_reason(), None, "it does not know yet");
    relay.mend();
    let reason = within("the end here", at_client.closed()).await;
    assert_eq!(reason, CloseReason::Forgotten);
    assert_eq!((reason.kind(), reason.side()), (ErrorKind::Retry, Some(Side::Peer)));
    assert!(reason.to_string().contains("does not know this connection any more"), "{reason}");
    assert_eq!(disconnected(&mut at_b).await.1, CloseReason::Forgotten);
    end([client, server]).await;
}

#[tokio::test]
async fn a_dial_outlives_the_loss_of_its_first_packets() {
    let (a, b) = friends();
    let server = node(a).await;
    let disconnect = Duration::from_millis(200);
    let client = node_with(b, |config| config.limits.disconnect_time_max = disconnect).await;
    let address = within("listening", server.listen(loopback())).await.expect("a listener");
    let relay = Relay::start(address).await;
    relay.lose_to_server(1);
    let begun = Instant::now();
    let connection = within("connecting", client.connect(relay.address())).await;
    let connection = connection.expect("a packet that is lost is sent again");
    assert_eq!(relay.left_to_lose(), 0);
    assert!(begun.elapsed() > disconnect, "the loss took less than a disconnect");
    // From here on the limit is that of a connection.
    relay.cut();
    let begun = Instant::now();
    let outcome = within("the outcome", connection.send_acked("lost")).await;
    let Err(SendError::Closed { reason, .. }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(reason, CloseReason::TimedOut);
    assert!(begun.elapsed() < Duration::from_secs(2), "took {:?}", begun.elapsed());
    end([client, server]).await;
}

#[tokio::test]
async fn a_frame_that_is_not_whole_in_time_closes_with_frame_timeout() {
    let limit = Duration::from_millis(300);
    let patient = |limits: &mut Limits| {
        limits.disconnect_time_max = LIMIT;
        limits.idle_time_max = LIMIT;
    };
    let (a, b) = friends();
    let server = node_with(a, |config| {
        patient(&mut config.limits);
        config.limits.frame_time_max = limit;
    })
    .await;
    let client = node_with(b, |config| patient(&mut config.limits)).await;
    let mut events = server.subscribe();
    let address = within("listening", server.listen(loopback())).await.expect("a listener");
    let relay = Relay::start(address).await;
    let target = Target::from(relay.address()).redial(Redial::Never);
    let (at_client, at_server) = dial(&client, &target, &mut events).await;
    within("a frame", at_client.send_acked("before")).await.expect("acknowledged");
    relay.let_through_to_server(100_000);
    at_client.try_send(vec![5; 1 << 20]).expect("taken over");

    assert_eq!(within("a frame", at_server.recv()).await.expect("a frame"), "before");
    let begun = Instant::now();
    let error = within("the deadline", at_server.recv()).await.expect_err("no whole frame");
    assert!(begun.elapsed() < limit * 4, "took {:?}", begun.elapsed());
    let RecvError::FrameTimedOut { after, position } = error else { panic!("{error:?}") };
    assert_eq!(after, limit);
    let Position::InBody { received, announced } = position else { panic!("{position:?}") };
    assert!(announced == 1 << 20 && (1..=100_000).contains(&received), "{position:?}");
    let code = CloseCode::FRAME_TIMEOUT;
    assert_eq!(within("the end", at_server.closed()).await, CloseReason::Local { code });
    assert_eq!(within("the end", at_client.closed()).await, CloseReason::Peer { code });
    let sent = assert_balanced(&at_client);
    assert_eq!((sent.accepted, sent.maybe_sent), (2, 1));
    end([client, server]).await;
}

// ---- the end of the process --------------------------------------------------------------------

#[tokio::test]
async fn a_process_that_ends_right_after_its_connections_does_not_abort() {
    if is_the_other_process() {
        let transport = MsQuicTransport::new();
        let server = stranger();
        let client = stranger().trust_hash(server.identity());
        let listener = transport.create_listener(loopback(), &["test"], server).await;
        let listener = listener.expect("a listener");
        let address = listener.local_addr();
        let accepted = async { listener.accept().await.expect("a request").accept().await };
        let dialled = async {
            let connection = transport.connect(address, &["test"], client).await?;
            let reason = connection.watch_close().await;
            Err::<(), _>(resolve_bad_certificate(address, &reason).expect("a refusal"))
        };
        let (accepted, dialled) = tokio::join!(
            within("the server's refusal", accepted),
            within("the client's end", dialled)
        );
        assert!(accepted.is_err(), "the server trusts nobody");
        assert!(matches!(dialled, Err(ConnectError::CertificateRefused { .. })), "{dialled:?}");
        drop(listener);
        let registration = transport.registration().expect("open");
        assert!(within("the last handle", registration.wait_idle(LIMIT)).await);
        return;
    }
    for _ in 0..40 {
        let other =
            the_other_process("a_process_that_ends_right_after_its_connections_does_not_abort");
        let ended = within("its end", other.wait_with_output()).await.expect("an end");
        let told = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{}: {told}", ended.status);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_exits_while_a_credential_is_loaded_does_not_crash() {
    if is_the_other_process() {
        let (loaded, mut count) = tokio::sync::mpsc::unbounded_channel();
        for _ in 0..2 {
            let loaded = loaded.clone();
            tokio::spawn(async move {
                let transport = MsQuicTransport::new();
                loop {
                    let listener = transport.create_listener(loopback(), &["test"], stranger());
                    // The exit refuses a new one.
                    let Ok(listener) = listener.await else { return };
                    drop(listener);
                    loaded.send(()).expect("the process lives");
                }
            });
        }
        for _ in 0..10 {
            within("a credential", count.recv()).await.expect("the tasks live");
        }
        std::process::exit(0);
    }
    for _ in 0..15 {
        let other =
            the_other_process("a_process_that_exits_while_a_credential_is_loaded_does_not_crash");
        let ended = within("its end", other.wait_with_output()).await.expect("an end");
        let told = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{}: {told}", ended.status);
    }
}
