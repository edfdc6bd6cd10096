//! How many connections are let in: where no place is left, whoever comes is refused and told.

mod common;

use common::memory::{Baseline, MIB, alone, together};
use common::{
    LIMIT, connected, friends, loopback, node, node_with, one_peer_with_many, stranger, within,
};
use moorline::{
    AcceptError, CloseCode, CloseReason, ConnectError, ErrorKind, Limits, MsQuicTransport,
    NodeConfig, NodeEvent, Redial, Target,
};

#[tokio::test]
async fn connections_that_nobody_accepts_are_refused_over_the_limit() {
    const PENDING: usize = 4;
    const SURPLUS: usize = 50;
    let _alone = alone().await;
    let mut limits = Limits::default();
    limits.handshakes_pending_max = PENDING;
    let transport = MsQuicTransport::with_limits(limits).expect("good limits");
    let (server, client) = friends();
    let listener = transport.create_listener(loopback(), &["test"], server).await.expect("bound");
    let address = listener.local_addr();
    let dial = || within("connecting", transport.connect(address, &["test"], client.clone()));
    let mut first = Vec::new();
    for _ in 0..PENDING {
        first.push(dial().await.expect("a place in the queue"));
    }
    let memory = Baseline::take();
    for _ in 0..SURPLUS {
        let error = dial().await.expect_err("the queue is full");
        assert_eq!(error.kind(), ErrorKind::Retry);
        let ConnectError::Closed { peer, reason } = error else { panic!("{error:?}") };
        assert_eq!((peer, reason), (address, CloseReason::Refused));
    }
    memory.assert_growth_below(4 * MIB, "50 refused connections");

    // Those that wait are as good as ever, and give their places back.
    for connection in first {
        let request = within("a request", listener.accept()).await.expect("it waits");
        assert_eq!(request.remote_addr().port(), connection.local_addr().port());
        let accepted = within("the handshake", request.accept()).await.expect("it was done");
        connection.send("hello").await.expect("taken over");
        let (frame, _) = within("a frame", accepted.recv()).await.expect("a frame");
        assert_eq!(frame, "hello");
    }
    let late = dial().await.expect("there is room again");
    drop(listener);
    let code = CloseCode::REFUSED;
    assert_eq!(within("its end", late.watch_close()).await, CloseReason::Peer { code });
    assert!(transport.registration().expect("open").wait_idle(LIMIT).await);
}

#[tokio::test]
async fn a_node_with_enough_connections_refuses_one_more_with_too_many_connections() {
    let _together = together().await;
    let (a, b) = friends();
    let server = node_with(a, |config| config.limits.connections_max = 2).await;
    let client = node(b).await;
    let mut events = server.subscribe();
    let address = within("listening", server.listen(loopback())).await.expect("a listener");
    let target = Target::from(address).redial(Redial::Never);
    let mut standing = Vec::new();
    for _ in 0..2 {
        let dialled = within("connecting", client.connect(target.clone())).await;
        standing.push((dialled.expect("room"), connected(&mut events).await));
    }
    for _ in 0..20 {
        let dialled = within("connecting", client.connect(target.clone())).await;
        let error = dialled.expect_err("the node is full");
        assert_eq!(error.kind(), ErrorKind::Retry);
        let ConnectError::Closed { peer, reason } = error else { panic!("{error:?}") };
        let code = CloseCode::TOO_MANY_CONNECTIONS;
        assert_eq!((peer, reason), (address, CloseReason::Peer { code }));
        assert_eq!(server.connections().len(), 2);
    }
    let (gone, at_server) = standing.pop().expect("two of them");
    within("the close", gone.close(CloseCode::NORMAL)).await;
    within("the close", at_server.closed()).await;
    within("connecting", client.connect(target)).await.expect("there is room again");
    for node in [client, server] {
        within("the end", node.close(LIMIT)).await.expect("an orderly end");
    }
}

#[tokio::test]
async fn a_peer_with_as_many_connections_as_one_may_is_refused_one_more_and_another_is_not() {
    let _together = together().await;
    let (a, b, c) = (stranger(), stranger(), stranger());
    let (one, other) = (b.identity(), c.identity());
    let (a_hash, server) = (a.identity(), node(a.trust_hash(one).trust_hash(other)).await);
    let greedy = node_with(b.trust_hash(a_hash), one_peer_with_many).await;
    let alone = |config: &mut NodeConfig| config.limits.connections_per_peer_max = 1;
    let modest = node_with(c.trust_hash(a_hash), alone).await;
    let mut events = server.subscribe();
    let address = within("listening", server.listen(loopback())).await.expect("a listener");
    let target = Target::from(address).redial(Redial::Never);
    let limit = Limits::default().connections_per_peer_max;
    let mut standing = Vec::new();
    for _ in 0..limit {
        let dialled = within("connecting", greedy.connect(target.clone())).await;
        standing.push((dialled.expect("room"), connected(&mut events).await));
    }
    let code = CloseCode::TOO_MANY_OF_PEER;
    for _ in 0..20 {
        let dialled = within("connecting", greedy.connect(target.clone())).await;
        let error = dialled.expect_err("it has all of its own");
        assert_eq!(error.kind(), ErrorKind::Retry);
        let ConnectError::Closed { peer, reason } = error else { panic!("{error:?}") };
        assert_eq!((peer, reason), (address, CloseReason::Peer { code }));
    }
    let mut refused = 0;
    let last = within("another peer", modest.connect(target.clone())).await.expect("room");
    within("what is told", async {
        loop {
            match events.next().await.expect("the node lives") {
                NodeEvent::Connected(handle) if handle.peer() == other => return,
                NodeEvent::Refused { error: AcceptError::Closed { reason, .. }, .. } => {
                    assert_eq!(reason, CloseReason::Local { code });
                    refused += 1;
                }
                event => panic!("{event:?}"),
            }
        }
    })
    .await;
    assert_eq!((refused, server.admissions().too_many_of_peer), (20, 20));
    assert_eq!(server.connections().len(), limit + 1);
    let (gone, at_server) = standing.pop().expect("some");
    within("the close", gone.close(CloseCode::NORMAL)).await;
    within("the close", at_server.closed()).await;
    within("connecting", greedy.connect(target)).await.expect("there is room again");
    // Its own limit counts for who dials as well.
    let again = Target::from(address).redial(Redial::Never);
    let error = within("connecting", modest.connect(again)).await.expect_err("it has one");
    assert_eq!(error.kind(), ErrorKind::Retry);
    let ConnectError::TooManyOfPeer { peer, limit } = error else { panic!("{error:?}") };
    assert_eq!((peer, limit), (address, 1));
    within("a frame", last.send_acked("x")).await.expect("the first one lives");
    for node in [modest, greedy, server] {
        within("the end", node.close(LIMIT)).await.expect("an orderly end");
    }
}

#[tokio::test]
async fn a_node_with_enough_connections_does_not_dial_one_more() {
    let _together = together().await;
    let server = node(stranger().insecure_accept_any()).await;
    let full = stranger().insecure_accept_any();
    let client = node_with(full, |config| config.limits.connections_max = 1).await;
    let address = within("listening", server.listen(loopback())).await.expect("a listener");
    let target = Target::from(address).redial(Redial::Never);
    let only = within("connecting", client.connect(target.clone())).await.expect("room");
    let error = within("connecting", client.connect(target)).await.expect_err("full");
    assert_eq!(error.kind(), ErrorKind::Retry);
    let ConnectError::TooManyConnections { peer, limit } = error else { panic!("{error:?}") };
    assert_eq!((peer, limit), (address, 1));
    within("a frame", only.send_acked("x")).await.expect("the first one lives");
    for node in [client, server] {
        within("the end", node.close(LIMIT)).await.expect("an orderly end");
    }
}
