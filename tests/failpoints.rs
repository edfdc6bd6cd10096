//! What the library does when one of its actors or callbacks fails: over real MsQuic on loopback.
//!
//! A third node talks to the same one meanwhile, and must not notice.

mod common;

use std::time::{Duration, Instant};

use common::{
    LIMIT, assert_balanced, connected, event, friends, loopback, node_with, quick, stranger, within,
};
use moorline::testing::failpoint::{Failpoint, Failure, Planted};
use moorline::{
    CertHash, CloseCode, CloseReason, ConnectError, ConnectionHandle, ErrorKind, Events, Lane,
    ListenError, MsQuicTransport, Node, NodeConfig, NodeError, NodeEvent, Redial, SendError,
    Target,
};

/// What a handler stalls for, and an end comes late.
const WHILE: Duration = Duration::from_millis(700);

/// The same where others must be done before it is over, on a busy machine too.
const LONG: Duration = Duration::from_secs(3);

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
            // What had come is read, and then its end.
            within("a reader's end", async { while handle.recv().await.is_ok() {} }).await;
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

/// Whether a frame goes there and back.
async fn exchanges(one: &ConnectionHandle, other: &ConnectionHandle) -> bool {
    for (from, to) in [(one, other), (other, one)] {
        if within("a send", from.send_acked("frame")).await.is_err()
            || within("a frame", to.recv()).await.is_err()
        {
            return false;
        }
    }
    true
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
    // The next message that its actor gets is of this one, which is lost with it.
    let single = three.target.clone().redial(Redial::Never);
    drop(within("a dial", three.client.connect(single.clone())).await);
    within("the failure", fails.strikes(1)).await;
    within("the start that fails", starts.strikes(1)).await;
    let listens = |event: &NodeEvent| matches!(event, NodeEvent::Listening { .. }).then_some(());
    event(&mut events, "the port is back", &mut Vec::new(), listens).await;
    let one = connect(&three.client, &single).await;
    exchange(&one, &connected(&mut events).await).await;
    exchange(&three.at_client, &three.at_server).await;
    drop(one);
    three.end().await;
}

/// A listener fails where it ends: its port is free all the same, and what it accepted goes on.
async fn a_listener_fails_at_its_end(point: Failpoint) {
    let three = Three::new().await;
    let address = within("listening", three.server.listen(loopback())).await.expect("it listens");
    let planted = three.plant(Failure::Panic(point), At::Server);
    three.server.stop_listening(address);
    within("the failure", planted.strikes(1)).await;
    let again = within("listening again", three.server.listen(address)).await;
    assert_eq!(again.expect("the port is free"), address);
    exchange(&three.at_client, &three.at_server).await;
    three.end().await;
}

#[tokio::test]
async fn a_listener_that_panics_behind_its_end_has_given_its_port_back() {
    a_listener_fails_at_its_end(Failpoint::ListenerPostStop).await;
}

#[tokio::test]
async fn a_connector_that_does_not_start_tells_its_caller_and_the_next_call_connects() {
    let three = Three::new().await;
    let mut events = three.server.subscribe();
    let address = within("listening", three.server.listen(loopback())).await.expect("it listens");
    for redial in [Redial::Never, Redial::Always] {
        let target = Target::from(address).redial(redial);
        let planted = three.plant(Failure::Panic(Failpoint::ConnectorPreStart), At::Client);
        let result = within("an answer", three.client.connect(target.clone())).await;
        assert!(result.is_err(), "{redial:?}");
        assert_eq!(planted.struck(), 1);
        let one = connect(&three.client, &target).await;
        exchange(&one, &connected(&mut events).await).await;
    }
    three.end().await;
}

#[tokio::test]
async fn a_connector_that_fails_and_does_not_start_again_at_first_is_started_once_more() {
    let three = Three::new().await;
    let mut events = three.client.subscribe();
    let starts = three.plant(Failure::Panic(Failpoint::ConnectorPreStart), At::Client);
    let fails = three.plant(Failure::Panic(Failpoint::ConnectorHandle), At::Client);
    drop(within("an answer", three.client.connect(three.target.clone())).await);
    within("the failure", fails.strikes(1)).await;
    within("the start that fails", starts.strikes(1)).await;
    let restarted =
        |event: &NodeEvent| matches!(event, NodeEvent::ConnectorRestarted { .. }).then_some(());
    event(&mut events, "its restart", &mut Vec::new(), restarted).await;
    // The connection stood all the time.
    assert_eq!(connect(&three.client, &three.target).await.epoch(), three.at_client.epoch());
    exchange(&three.at_client, &three.at_server).await;
    three.end().await;
}

#[tokio::test]
async fn a_connector_that_panics_behind_its_end_keeps_nothing() {
    let three = Three::new().await;
    let planted = three.plant(Failure::Panic(Failpoint::ConnectorPostStop), At::Client);
    three.client.disconnect(three.target.clone());
    within("the failure", planted.strikes(1)).await;
    exchange(&three.at_client, &three.at_server).await;
    let mut events = three.server.subscribe();
    let one = connect(&three.client, &three.target).await;
    exchange(&one, &connected(&mut events).await).await;
    drop(one);
    three.end().await;
}

/// What fails before a connection stands is tried again, as its target says.
async fn a_dial_fails(point: Failpoint, ends: &[At]) {
    for at in ends {
        let three = Three::new().await;
        let mut at_server = three.server.subscribe();
        let address = within("listening", three.server.listen(loopback())).await.expect("a port");
        let planted = three.plant(Failure::Panic(point), *at);
        let target = Target::from(address).redial(Redial::Always);
        drop(connect(&three.client, &target).await);
        within("the failure", planted.strikes(1)).await;
        // A peer that closes at once may have been taken for one that accepted, at either end.
        let works = async {
            let mut there = connected(&mut at_server).await;
            loop {
                let handle = connect(&three.client, &target).await;
                if there.close_reason().is_some() {
                    there = connected(&mut at_server).await;
                } else if exchanges(&handle, &there).await {
                    return handle;
                }
            }
        };
        let handle = within("a connection that works", works).await;
        assert_eq!(planted.struck(), 1, "{point} {at:?}");
        exchange(&three.at_client, &three.at_server).await;
        drop(handle);
        three.end().await;
    }
}

#[tokio::test]
async fn a_connection_whose_actor_does_not_start_is_closed_and_dialled_again() {
    a_dial_fails(Failpoint::ConnectionPreStart, &At::BOTH).await;
}

#[tokio::test]
async fn a_connection_whose_actor_panics_behind_its_end_has_ended_in_order() {
    for at in At::BOTH {
        let three = Three::new().await;
        let planted = three.plant(Failure::Panic(Failpoint::ConnectionPostStop), at);
        within("a send", three.at_client.send("last")).await.expect("accepted");
        let (client, server) = (three.at_client.clone(), three.at_server.clone());
        let closing = tokio::spawn(async move { client.close(CloseCode::NORMAL).await });
        assert_eq!(within("the last frame", server.recv()).await.expect("a frame"), "last");
        within("the end of the frames", server.recv()).await.expect_err("it is closed");
        let reason = within("the close", closing).await.expect("no panic");
        assert_eq!(reason, CloseReason::Local { code: CloseCode::NORMAL });
        within("the failure", planted.strikes(1)).await;
        three.is_over().await;
        assert_eq!(assert_balanced(&three.at_client).completed, 1);
        three.end().await;
    }
}

#[tokio::test]
async fn a_handler_that_stalls_holds_up_nothing_but_what_it_handles() {
    let handlers = [
        (Failpoint::SupervisorHandle, At::Server),
        (Failpoint::ListenerHandle, At::Server),
        (Failpoint::ConnectorHandle, At::Client),
        (Failpoint::ConnectionHandle, At::Server),
    ];
    for (point, at) in handlers {
        let three = Three::new().await;
        let (mut events, began) = (three.server.subscribe(), Instant::now());
        let planted = three.plant(Failure::Stall(point, LONG), at);
        match point {
            Failpoint::SupervisorHandle => {
                let asking = within("an answer", three.server.listen(loopback()));
                let (asked, ()) = tokio::join!(asking, frames_go_on(&three, &planted));
                asked.expect("it listens");
            }
            Failpoint::ListenerHandle => {
                let single = three.target.clone().redial(Redial::Never);
                let dialled = connect(&three.client, &single);
                let (dialled, ()) = tokio::join!(dialled, frames_go_on(&three, &planted));
                exchange(&dialled, &connected(&mut events).await).await;
            }
            Failpoint::ConnectorHandle => {
                let asked = connect(&three.client, &three.target);
                let (asked, ()) = tokio::join!(asked, frames_go_on(&three, &planted));
                assert_eq!(asked.epoch(), three.at_client.epoch());
            }
            _ => {
                let closing = three.at_server.close(CloseCode::NORMAL);
                let looking = async {
                    within("the failure", planted.strikes(1)).await;
                    three.nobody_else_notices().await;
                };
                let reading = three.at_client.recv();
                let (reason, (), read) = tokio::join!(closing, looking, reading);
                assert_eq!(reason, CloseReason::Local { code: CloseCode::NORMAL });
                read.expect_err("it is closed");
            }
        }
        assert!(began.elapsed() >= LONG, "{point}");
        three.end().await;
    }
}

/// While an actor stalls.
async fn frames_go_on(three: &Three, planted: &Planted) {
    within("the failure", planted.strikes(1)).await;
    let began = Instant::now();
    exchange(&three.at_client, &three.at_server).await;
    three.nobody_else_notices().await;
    assert!(began.elapsed() < LONG, "they waited for it");
}

// ---- callbacks ---------------------------------------------------------------------------------

/// A panic in a callback of an established connection ends that one, with `INTERNAL` where it happened;
/// what it was dialled for is dialled again.
async fn a_callback_panics<F: Future<Output = ()>>(
    point: Failpoint,
    ends: &[At],
    provoke: impl Fn(ConnectionHandle, ConnectionHandle) -> F,
) {
    for at in ends {
        let three = Three::new().await;
        let (mut at_server, mut at_client) = (three.server.subscribe(), three.client.subscribe());
        let planted = three.plant(Failure::Panic(point), *at);
        provoke(three.at_client.clone(), three.at_server.clone()).await;
        within("the failure", planted.strikes(1)).await;
        three.nobody_else_notices().await;
        let (there, here) = three.is_over().await;
        let ended = three.handle(*at).close_reason();
        let known = CloseReason::Local { code: CloseCode::INTERNAL };
        assert!(ended == Some(known) || is_closing(point), "{point} {at:?}: {there}, {here}");
        let impossible = [&three.server, &three.client].map(|node| node.stats().impossible);
        assert_eq!(impossible.iter().sum::<u64>(), 1, "{point} {at:?}: {impossible:?}");
        let before = [three.at_client.epoch(), three.at_server.epoch()];
        if !is_closing(point) {
            let [one, two] = again([&mut at_client, &mut at_server], before).await;
            exchange(&one, &two).await;
        }
        three.end().await;
    }
}

/// Where the connection was ending anyway.
fn is_closing(point: Failpoint) -> bool {
    matches!(
        point,
        Failpoint::ConnectionCallbackClosing
            | Failpoint::ConnectionCallbackComplete
            | Failpoint::StreamCallbackComplete
    )
}

/// A frame each way, on the lane of data.
async fn send_both_ways(one: ConnectionHandle, two: ConnectionHandle) {
    drop((one.send("to the server").await, two.send("to the client").await));
}

#[tokio::test]
async fn a_panic_where_bytes_come_ends_that_connection_alone() {
    a_callback_panics(Failpoint::StreamCallbackReceive, &At::BOTH, send_both_ways).await;
}

#[tokio::test]
async fn a_panic_where_something_was_acknowledged_ends_that_connection_alone() {
    a_callback_panics(Failpoint::StreamCallbackSent, &At::BOTH, send_both_ways).await;
}

#[tokio::test]
async fn a_panic_where_a_stream_comes_ends_that_connection_alone() {
    let provoke = async |one: ConnectionHandle, two: ConnectionHandle| {
        // The first frame of a lane opens its stream.
        drop(one.send_on(Lane::Control, "to the server").await);
        drop(two.send_on(Lane::Control, "to the client").await);
    };
    a_callback_panics(Failpoint::ConnectionCallbackStream, &At::BOTH, provoke).await;
}

#[tokio::test]
async fn a_panic_where_a_connection_ends_leaves_nobody_waiting() {
    let points = [
        (Failpoint::ConnectionCallbackClosing, &At::BOTH[1..]),
        (Failpoint::ConnectionCallbackComplete, &At::BOTH[..]),
        (Failpoint::StreamCallbackComplete, &At::BOTH[..]),
    ];
    for (point, ends) in points {
        let provoke = async |one: ConnectionHandle, two: ConnectionHandle| {
            let reading = tokio::spawn(async move { while one.recv().await.is_ok() {} });
            // Whether it comes back is what is looked at.
            drop(tokio::spawn(async move { two.close(CloseCode::NORMAL).await }));
            within("a reader's end", reading).await.expect("no panic");
        };
        a_callback_panics(point, ends, provoke).await;
    }
}

#[tokio::test]
async fn a_panic_before_a_connection_stands_is_a_dial_that_failed() {
    a_dial_fails(Failpoint::ConnectionCallbackConnected, &At::BOTH).await;
    a_dial_fails(Failpoint::ListenerCallbackNew, &[At::Server]).await;
}

#[tokio::test]
async fn a_panic_where_a_listener_has_stopped_leaves_nobody_waiting_for_its_port() {
    a_listener_fails_at_its_end(Failpoint::ListenerCallbackComplete).await;
    // Somebody holds the listener and waits for its end.
    let (transport, credential) = (MsQuicTransport::new(), stranger());
    let failure = Failure::Panic(Failpoint::ListenerCallbackComplete);
    let planted = failure.plan().at(credential.identity()).times(1).plant();
    let listening = transport.create_listener(loopback(), &["test"], credential.clone());
    let listener = within("listening", listening).await.expect("it listens");
    within("its end", listener.stopped()).await;
    assert_eq!(planted.struck(), 1);
    let listening = transport.create_listener(listener.local_addr(), &["test"], credential);
    within("listening again", listening).await.expect("the port is free");
}

#[tokio::test]
async fn a_callback_that_stalls_loses_nothing() {
    for point in [Failpoint::StreamCallbackReceive, Failpoint::StreamCallbackSent] {
        let three = Three::new().await;
        let planted = three.plant(Failure::Stall(point, WHILE), At::Client);
        let began = Instant::now();
        exchange(&three.at_client, &three.at_server).await;
        assert_eq!(planted.struck(), 1, "{point}");
        assert!(began.elapsed() >= WHILE, "{point}");
        exchange(&three.at_client, &three.at_server).await;
        assert_eq!(assert_balanced(&three.at_client).completed, 2, "{point}");
        three.end().await;
    }
}

// ---- calls -------------------------------------------------------------------------------------

#[tokio::test]
async fn a_send_that_fails_goes_over_another_stream() {
    let three = Three::new().await;
    exchange(&three.at_client, &three.at_server).await;
    let planted = three.plant(Failure::SendFails, At::Client);
    for number in 0..3_u8 {
        let sending = three.at_client.send_acked(vec![number; 100]);
        within("a send", sending).await.expect("acknowledged");
        assert_eq!(within("a frame", three.at_server.recv()).await.expect("a frame")[0], number);
    }
    assert_eq!(planted.struck(), 1);
    assert_eq!(assert_balanced(&three.at_client).completed, 4);
    three.end().await;
}

#[tokio::test]
async fn sends_that_fail_all_the_time_end_the_connection_in_its_time() {
    let three = Three::with(|config| config.limits.lane_stall_time_max = WHILE).await;
    let (mut at_server, mut at_client) = (three.server.subscribe(), three.client.subscribe());
    let planted = Failure::SendFails.plan().at(three.client.identity()).plant();
    let sent = within("an outcome", three.at_client.send_acked("in vain")).await;
    sent.expect_err("it was not sent");
    three.is_over().await;
    assert_eq!(assert_balanced(&three.at_client).completed, 0);
    assert!(planted.struck() > 1);
    drop(planted);
    let before = [three.at_client.epoch(), three.at_server.epoch()];
    let [one, two] = again([&mut at_client, &mut at_server], before).await;
    exchange(&one, &two).await;
    drop((one, two));
    three.end().await;
}

#[tokio::test]
async fn an_end_that_comes_late_is_waited_for_and_holds_up_nobody_else() {
    let three = Three::new().await;
    three.client.disconnect(three.target.clone());
    let planted = three.plant(Failure::LateComplete(LONG), At::Client);
    let began = Instant::now();
    let reading = three.at_server.recv();
    let closing = three.at_client.close(CloseCode::NORMAL);
    let looking = async {
        within("the failure", planted.strikes(1)).await;
        three.nobody_else_notices().await;
        assert!(began.elapsed() < LONG, "it was not late");
    };
    let (reason, read, ()) = tokio::join!(closing, reading, looking);
    assert_eq!(reason, CloseReason::Local { code: CloseCode::NORMAL });
    read.expect_err("it is closed");
    assert!(began.elapsed() >= LONG);
    three.end().await;
}

#[tokio::test]
async fn a_node_whose_connection_ends_late_ends_behind_it() {
    let three = Three::new().await;
    let planted = three.plant(Failure::LateComplete(WHILE), At::Client);
    let Three { server, client, other, at_server, at_client, meanwhile, .. } = three;
    drop((at_server, at_client));
    let began = Instant::now();
    within("the end", client.close(LIMIT)).await.expect("an orderly end");
    assert_eq!(planted.struck(), 1);
    assert!(began.elapsed() >= WHILE);
    exchange(&meanwhile[0], &meanwhile[1]).await;
    drop(meanwhile);
    common::end([other, server]).await;
}

// ---- memory ------------------------------------------------------------------------------------

#[tokio::test]
async fn a_node_without_memory_says_so_and_works_again_with_it() {
    let three = Three::new().await;
    let new_target = || three.target.clone().redial(Redial::Never).alpn("another/1");

    // A dial, and what listens: an error that may pass, and nothing is left of it.
    let planted = three.plant(Failure::NoMemory, At::Client);
    let dialled = within("a dial", three.client.connect(new_target())).await;
    let error = dialled.map(drop).expect_err("without memory");
    assert!(matches!(error, ConnectError::Library { .. }), "{error:?}");
    assert_eq!((error.kind(), planted.struck()), (ErrorKind::Retry, 1));
    let planted = three.plant(Failure::NoMemory, At::Client);
    let error = within("listening", three.client.listen(loopback())).await;
    let error = error.map(drop).expect_err("without memory");
    assert!(matches!(error, ListenError::Library { .. }), "{error:?}");
    assert_eq!((error.kind(), planted.struck()), (ErrorKind::Retry, 1));
    within("listening", three.client.listen(loopback())).await.expect("there is memory again");

    // A target that is kept is dialled until there is some.
    let mut events = three.client.subscribe();
    let failure = Failure::NoMemory.plan().at(three.client.identity());
    three.client.disconnect(three.target.clone());
    let (closing, reading) = (three.at_client.close(CloseCode::NORMAL), three.at_server.recv());
    let (_, read) = tokio::join!(closing, reading);
    read.expect_err("it is closed");
    let planted = failure.times(3).plant();
    let again = within("a connection", three.client.connect(three.target.clone()));
    let again = again.await.expect("the third time there is");
    assert_eq!(planted.struck(), 3);
    drop(connected(&mut events).await);
    drop(again);
    three.end().await;
}

#[tokio::test]
async fn a_frame_for_which_there_is_no_stream_has_its_outcome() {
    let three = Three::with(|config| config.limits.lane_stall_time_max = WHILE).await;
    let planted = Failure::NoMemory.plan().at(three.client.identity()).plant();
    let sent = within("an outcome", three.at_client.send_acked("in vain")).await;
    let error = sent.expect_err("it was not sent");
    assert!(matches!(error, SendError::Closed { .. }), "{error:?}");
    let (_, reason) = three.is_over().await;
    assert_eq!(reason, CloseReason::Local { code: CloseCode::LANE_STALLED });
    assert_eq!(assert_balanced(&three.at_client).completed, 0);
    assert!(planted.struck() > 4, "it was tried again: {}", planted.struck());
    drop(planted);
    three.end().await;
}

#[tokio::test]
async fn a_frame_for_which_there_is_a_stream_a_little_later_goes_out() {
    let three = Three::with(|config| config.limits.lane_stall_time_max = 4 * WHILE).await;
    // The first time, and again at once.
    let failure = Failure::NoMemory.plan().at(three.client.identity()).times(2);
    let (planted, read) = (failure.plant(), three.at_server.recv_on(Lane::Bulk));
    let sent = three.at_client.send_acked_on(Lane::Bulk, "in the end");
    let (sent, read) = within("a frame", async { tokio::join!(sent, read) }).await;
    sent.expect("acknowledged");
    assert_eq!(read.expect("a frame"), "in the end");
    assert_eq!(planted.struck(), 2);
    three.end().await;
}
