//! What the library does when one of its actors or callbacks fails: over real MsQuic on loopback.
//!
//! A third node talks to the same one meanwhile, and must not notice.

mod common;

use std::time::{Duration, Instant};

use common::{
    LIMIT, assert_balanced, connected, friends, loopback, node_with, quick, stranger, within,
};
use moorline::testing::failpoint::{Failpoint, Failure, Planted};
use moorline::{
    CertHash, CloseCode, CloseReason, ConnectError, ConnectionHandle, Events, Lane, ListenError,
    Node, NodeConfig, NodeError, Redial, SupervisorMessage, Target,
};

/// What a handler stalls for, and an end comes late.
const WHILE: Duration = Duration::from_millis(700);

/// A node that listens, one that keeps a connection to it, and one that only looks on.
struct Three {
    server: Node,
    client: Node,
    other: Node,
    target: Target,
    at_server: ConnectionHandle,
    at_client: ConnectionHandle,
    /// What goes on: the connection of the other one, from both ends.
    meanwhile: [ConnectionHandle; 2],
}

impl Three {
    async fn new() -> Self {
        Self::with(|_| ()).await
    }

    async fn with(change: impl Fn(&mut NodeConfig)) -> Self {
        let [a, b, c] = [(); 3].map(|()| stranger());
        let [a_hash, b_hash, c_hash] = [&a, &b, &c].map(|of| of.identity());
        let change = |config: &mut NodeConfig| {
            quick(config);
            change(config);
        };
        let server = node_with(a.trust_hash(b_hash).trust_hash(c_hash), change).await;
        let client = node_with(b.trust_hash(a_hash), change).await;
        let other = node_with(c.trust_hash(a_hash), change).await;
        let mut events = server.subscribe();
        let address = within("listening", server.listen(loopback())).await.expect("a listener");
        let target = Target::from(address).expect(a_hash).redial(Redial::Always);
        let looks_on = connect(&other, &target).await;
        let meanwhile = [looks_on, connected(&mut events).await];
        let at_client = connect(&client, &target).await;
        let at_server = connected(&mut events).await;
        Self { server, client, other, target, at_server, at_client, meanwhile }
    }

    fn identity(&self, at: At) -> CertHash {
        match at {
            At::Server => self.server.identity(),
            At::Client => self.client.identity(),
        }
    }

    fn handle(&self, at: At) -> &ConnectionHandle {
        match at {
            At::Server => &self.at_server,
            At::Client => &self.at_client,
        }
    }

    /// Plants a failure that comes once.
    fn plant(&self, failure: Failure, at: At) -> Planted {
        failure.plan().at(self.identity(at)).times(1).plant()
    }

    async fn nobody_else_notices(&self) {
        exchange(&self.meanwhile[0], &self.meanwhile[1]).await;
    }

    /// The connection that was hit is over for everybody who looks, with an outcome for each frame.
    async fn is_over(&self) -> (CloseReason, CloseReason) {
        let reasons = (
            within("the end at the server", self.at_server.closed()).await,
            within("the end at the client", self.at_client.closed()).await,
        );
        for handle in [&self.at_server, &self.at_client] {
            within("a reader's end", handle.recv()).await.expect_err("it is over");
            within("a sender's end", handle.send_acked("late")).await.expect_err("it is over");
            assert_balanced(handle);
        }
        reasons
    }

    /// All of it still works, and ends in order.
    async fn end(self) {
        self.nobody_else_notices().await;
        let Self { server, client, other, at_server, at_client, meanwhile, .. } = self;
        drop((at_server, at_client, meanwhile));
        common::end([other, client, server]).await;
    }
}

/// At which end a failure comes.
#[derive(Debug, Clone, Copy)]
enum At {
    Server,
    Client,
}

impl At {
    const BOTH: [Self; 2] = [Self::Server, Self::Client];
}

async fn connect(node: &Node, target: &Target) -> ConnectionHandle {
    within("a connection", node.connect(target.clone())).await.expect("it connects")
}

/// A frame each way.
async fn exchange(one: &ConnectionHandle, other: &ConnectionHandle) {
    for (from, to) in [(one, other), (other, one)] {
        within("a send", from.send_acked("frame")).await.expect("acknowledged");
        assert_eq!(within("a frame", to.recv()).await.expect("a frame"), "frame");
    }
}

/// The next connection of both ends, behind these epochs.
async fn again(events: [&mut Events; 2], before: [u64; 2]) -> [ConnectionHandle; 2] {
    let mut handles = Vec::new();
    for (events, before) in events.into_iter().zip(before) {
        handles.push(loop {
            let handle = connected(events).await;
            if handle.epoch() > before && handle.close_reason().is_none() {
                break handle;
            }
        });
    }
    handles.try_into().expect("two")
}

// ---- actors ------------------------------------------------------------------------------------

#[tokio::test]
async fn a_node_whose_supervisor_does_not_start_is_an_error_and_leaves_nothing() {
    let (a, b) = friends();
    let failure = Failure::Panic(Failpoint::SupervisorPreStart);
    let planted = failure.plan().at(a.identity()).times(1).plant();
    let spawned = within("the start", Node::spawn(NodeConfig::new(a.clone()))).await;
    assert!(matches!(spawned, Err(NodeError::Spawn(_))), "{:?}", spawned.map(drop));
    assert_eq!(planted.struck(), 1);

    let (one, two) = (node_with(a, |_| ()).await, node_with(b, |_| ()).await);
    let mut events = one.subscribe();
    let address = within("listening", one.listen(loopback())).await.expect("a listener");
    let at_two = connect(&two, &address.into()).await;
    exchange(&at_two, &connected(&mut events).await).await;
    drop(at_two);
    common::end([two, one]).await;
}

#[tokio::test]
async fn a_supervisor_that_panics_tells_who_asked_and_every_peer() {
    let three = Three::new().await;
    let planted = three.plant(Failure::Panic(Failpoint::SupervisorHandle), At::Server);
    let answered = within("an answer", three.server.listen(loopback())).await;
    assert!(matches!(answered, Err(ListenError::Stopped)), "{answered:?}");
    assert_eq!(planted.struck(), 1);
    within("the node's end", three.server.stopped()).await;
    for handle in [&three.at_client, &three.meanwhile[0]] {
        let told = within("a peer is told", handle.closed()).await;
        let codes = [CloseCode::GOING_AWAY, CloseCode::ACTOR_FAILED];
        assert!(matches!(told, CloseReason::Peer { code } if codes.contains(&code)), "{told:?}");
    }
    three.is_over().await;
    let Three { server, client, other, at_server, at_client, meanwhile, .. } = three;
    drop((at_server, at_client, meanwhile));
    let late = within("a late end", server.close(LIMIT)).await;
    assert!(matches!(late, Err(NodeError::Stopped)), "{late:?}");
    common::end([other, client]).await;
}

#[tokio::test]
async fn a_supervisor_that_panics_behind_its_end_has_ended_in_order() {
    let three = Three::new().await;
    let planted = three.plant(Failure::Panic(Failpoint::SupervisorPostStop), At::Server);
    let Three { server, client, other, at_server, at_client, meanwhile, .. } = three;
    drop((at_server, meanwhile));
    within("the end", server.close(LIMIT)).await.expect("an orderly end");
    assert_eq!(planted.struck(), 1);
    let told = within("the client is told", at_client.closed()).await;
    assert_eq!(told, CloseReason::Peer { code: CloseCode::GOING_AWAY });
    drop(at_client);
    common::end([other, client]).await;
}

#[tokio::test]
async fn a_listener_that_does_not_start_is_an_error_and_the_next_one_listens() {
    let three = Three::new().await;
    let planted = three.plant(Failure::Panic(Failpoint::ListenerPreStart), At::Server);
    let answered = within("an answer", three.server.listen(loopback())).await;
    answered.expect_err("it did not start");
    assert_eq!(planted.struck(), 1);
    let address = within("listening", three.server.listen(loopback())).await.expect("it listens");
    let mut events = three.server.subscribe();
    let one = connect(&three.client, &Target::from(address).redial(Redial::Never)).await;
    exchange(&one, &connected(&mut events).await).await;
    three.end().await;
}

#[tokio::test]
async fn a_listener_that_fails_and_does_not_start_again_at_first_is_started_once_more() {
    let three = Three::new().await;
    let mut events = three.server.subscribe();
    let starts = three.plant(Failure::Panic(Failpoint::ListenerPreStart), At::Server);
    let fails = three.plant(Failure::Panic(Failpoint::ListenerHandle), At::Server);
    // The first message that its actor gets is of this one.
    let late = tokio::spawn({
        let (client, target) = (three.client.clone(), three.target.clone().redial(Redial::Always));
        let target = target.alpns(&["moorline/0"]);
        async move { client.connect(target).await }
    });
    within("the failure", fails.strikes(1)).await;
    within("the start that fails", starts.strikes(1)).await;
    within("another one", late).await.expect("no panic").expect("it connects in the end");
    drop(connected(&mut events).await);
    exchange(&three.at_client, &three.at_server).await;
    three.end().await;
}

#[tokio::test]
async fn a_listener_that_panics_behind_its_end_has_given_its_port_back() {
    let three = Three::new().await;
    let address = within("listening", three.server.listen(loopback())).await.expect("it listens");
    let planted = three.plant(Failure::Panic(Failpoint::ListenerPostStop), At::Server);
    three.server.stop_listening(address);
    within("the failure", planted.strikes(1)).await;
    let again = within("listening again", three.server.listen(address)).await;
    assert_eq!(again.expect("the port is free"), address);
    exchange(&three.at_client, &three.at_server).await;
    three.end().await;
}
