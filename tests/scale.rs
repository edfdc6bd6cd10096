//! Many connections of one node.

mod common;

#[cfg(target_os = "linux")]
use common::process::in_its_own_runtime;
use common::{LIMIT, connected, friends, loopback, node, node_with, one_peer_with_many, within};
use moorline::{Redial, Target};

#[cfg(target_os = "linux")]
fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("descriptors").count()
}

/// Sockets of their own would take four descriptors a connection.
#[cfg(target_os = "linux")]
#[test]
fn connections_to_one_address_share_their_sockets() {
    in_its_own_runtime("connections_to_one_address_share_their_sockets", many_connections());
}

#[cfg(target_os = "linux")]
async fn many_connections() {
    const CONNECTIONS: usize = 150;
    let (a, b) = friends();
    let server = node_with(a, one_peer_with_many).await;
    let client = node_with(b, one_peer_with_many).await;
    let address = within("listening", server.listen(loopback())).await.expect("a listener");
    let mut events = server.subscribe();
    let before = open_descriptors();
    let mut pairs = Vec::new();
    for number in 0..CONNECTIONS {
        let target = Target::from(address).redial(Redial::Never);
        let near = within("a dial", client.connect(target)).await.expect("a connection");
        let far = connected(&mut events).await;
        near.send(format!("{number}")).await.expect("taken over");
        pairs.push((near, far));
    }
    let used = open_descriptors() - before;
    assert!(used < CONNECTIONS, "{used} descriptors for {CONNECTIONS} connections");
    for (number, (near, far)) in pairs.iter().enumerate() {
        assert_eq!(within("a frame", far.recv()).await.expect("a frame"), format!("{number}"));
        far.send(format!("{number}")).await.expect("taken over");
        assert_eq!(within("the answer", near.recv()).await.expect("a frame"), format!("{number}"));
    }
    drop(pairs);
    within("the client's end", client.close(LIMIT)).await.expect("an orderly end");
    within("the server's end", server.close(LIMIT)).await.expect("an orderly end");
}

/// Shared sockets do not tell that a port is closed: a dial to one must not use them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_port_is_told_at_once_to_everybody_who_dials_it_together() {
    let (a, b) = friends();
    let (server, client) = (node(a).await, node(b).await);
    let address = within("listening", server.listen(loopback())).await.expect("a listener");
    server.stop_listening(address);
    within("the server's end", server.close(LIMIT)).await.expect("an orderly end");
    let dials = (0..10).map(|_| {
        let (client, target) = (client.clone(), Target::from(address).redial(Redial::Never));
        tokio::spawn(async move { client.connect(target).await })
    });
    for dial in dials.collect::<Vec<_>>() {
        let result = within("the answer", dial).await.expect("no panic");
        let error = result.expect_err("nobody listens");
        assert!(matches!(error, moorline::ConnectError::Unreachable { .. }), "{error:?}");
    }
    within("the client's end", client.close(LIMIT)).await.expect("an orderly end");
}
