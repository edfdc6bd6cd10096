//! A node ends by itself: a child fails too often, its supervisor is killed, nobody holds it any more.

use super::*;

/// After the server's supervisor ended by itself: nothing is left of it, and everybody was told.
async fn is_over(pair: Pair) {
    let Pair { server, client, address, target, at_server, at_client } = pair;
    within("the node's end", server.stopped()).await;
    let told = within("the client is told", at_client.closed()).await;
    let codes = [CloseCode::GOING_AWAY, CloseCode::ACTOR_FAILED];
    assert!(matches!(told, CloseReason::Peer { code } if codes.contains(&code)), "{told:?}");
    within("the end here", at_server.closed()).await;
    within("the connection's actor", at_server.actor().wait(None)).await.expect("no limit");
    let registration = server.registration();
    assert!(registration.wait_idle(LIMIT).await, "{} handles", registration.live_handles());
    drop(registration);
    assert!(server.connections().is_empty());
    assert!(matches!(server.listen(address).await, Err(ListenError::Stopped)));
    assert!(matches!(server.connect(target.clone()).await, Err(ConnectError::Stopped)));
    assert!(matches!(server.shutdown(LIMIT).await, Err(NodeError::Stopped)));
    server.disconnect(target);
    drop(at_client);
    within("the client's end", client.close(LIMIT)).await.expect("an orderly end");
}

#[tokio::test]
async fn a_listener_that_keeps_panicking_ends_the_node() {
    let quick = Duration::from_millis(1);
    let pair = Pair::new(|config| {
        config.restart.restarts_max = 2;
        (config.restart.delay_initial, config.restart.delay_max) = (quick, quick);
    })
    .await;
    let mut events = pair.server.subscribe();
    for _ in 0..2 {
        panic_listener(&child(&pair.server)).await;
        listening(&mut events, pair.address).await;
    }
    panic_listener(&child(&pair.server)).await;
    is_over(pair).await;
}

#[tokio::test]
async fn a_connector_that_keeps_panicking_ends_the_node() {
    let quick = Duration::from_millis(1);
    let pair = Pair::new(|config| {
        config.restart.restarts_max = 2;
        (config.restart.delay_initial, config.restart.delay_max) = (quick, quick);
    })
    .await;
    let mut events = pair.client.subscribe();
    for _ in 0..2 {
        panic_connector(&pair.client).await;
        connector_restarted(&mut events).await;
    }
    panic_connector(&pair.client).await;
    within("the node's end", pair.client.stopped()).await;
    let told = within("the server is told", pair.at_server.closed()).await;
    assert!(matches!(told, CloseReason::Peer { .. }), "{told:?}");
    assert!(matches!(pair.client.connect(pair.target).await, Err(ConnectError::Stopped)));
    drop(pair.at_server);
    within("the server's end", pair.server.close(LIMIT)).await.expect("an orderly end");
}

#[tokio::test]
async fn a_killed_supervisor_takes_its_children_along_and_its_peers_are_told() {
    let pair = Pair::new(|_| ()).await;
    let children = pair.server.supervisor().get_children();
    assert_eq!(children.len(), 2, "a listener and a connection");
    pair.server.supervisor().kill();
    for child in children {
        within("a child's end", child.wait(None)).await.expect("no limit");
    }
    is_over(pair).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_dropped_closes_its_registration() {
    let Pair { server, client, at_server, at_client, .. } = Pair::new(|_| ()).await;
    for node in [server, client] {
        let mut closed = node.registration().watch_closed();
        drop(node);
        within("the registration's end", closed.wait_for(|closed| *closed)).await.expect("told");
    }
    within("the end there", at_server.closed()).await;
    within("the end here", at_client.closed()).await;
}

/// A panic in a task of the node's own is told to whoever waits for what the task was to say.
#[tokio::test]
async fn a_task_that_panics_tells_who_waits_and_one_that_is_done_says_nothing_more() {
    for panics in [true, false] {
        let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let unfinished = Unfinished::then(move || told.send(()).expect("somebody waits"));
            assert!(!panics, "asked to by a test");
            unfinished.done();
        });
        assert_eq!(within("the task", task).await.is_err(), panics);
        assert_eq!(within("what is told", hears.recv()).await.is_some(), panics);
    }
}
