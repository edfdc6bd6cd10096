//! How a node ends: in order, at its grace, without anybody's help, and what it leaves behind.

mod common;

use std::time::{Duration, Instant};

use common::process::{in_its_own_process, time_of_an_exit};
use common::{
    LIMIT, Pair, cancelled_after, connected, friends, loopback, node, stranger, until, within,
    within_limit,
};
use moorline::{
    CloseCode, CloseReason, ConnectError, ConnectionHandle, ListenError, MsQuicTransport, Node,
    NodeError, Outcome, RecvError, Redial, SendError, Target,
};
use tokio::net::UdpSocket;
use tokio::runtime::Runtime;

/// What a cut may take beyond the grace.
const CUT: Duration = Duration::from_secs(3);

/// Takes frames until there are no more; returns how many, and why.
async fn read_to_the_end(handle: ConnectionHandle) -> (u64, RecvError) {
    let mut frames = 0;
    loop {
        match handle.recv().await {
            Ok(_) => frames += 1,
            Err(error) => return (frames, error),
        }
    }
}

/// Sends until that is refused.
async fn send_to_the_end(handle: ConnectionHandle) -> SendError {
    loop {
        if let Err(error) = handle.send(vec![5; 3000]).await {
            return error;
        }
    }
}

fn assert_balance(handle: &ConnectionHandle) {
    let sent = handle.stats().sent;
    assert_eq!(sent.accepted, sent.completed + sent.not_sent + sent.maybe_sent, "{sent:?}");
}

const AWAY: CloseCode = CloseCode::GOING_AWAY;

// ---- in order ----------------------------------------------------------------------------------

#[tokio::test]
async fn a_shutdown_sends_everything_that_was_accepted() {
    let pair = Pair::new().await;
    let reading = tokio::spawn(read_to_the_end(pair.at_server.clone()));
    for _ in 0..2000 {
        within("a send", pair.at_client.send(vec![1; 10_000])).await.expect("taken over");
    }
    within("the end", pair.client.shutdown(LIMIT)).await.expect("nothing was cut");
    let (frames, error) = within("the reader", reading).await.expect("no panic");
    assert_eq!(frames, 2000);
    assert_eq!(error, RecvError::Closed { reason: CloseReason::Peer { code: AWAY } });
    let sent = pair.at_client.stats().sent;
    assert_eq!((sent.accepted, sent.completed), (2000, 2000));
    within("the server's end", pair.server.close(LIMIT)).await.expect("an orderly end");
}

#[tokio::test]
async fn a_shutdown_under_load_from_both_ends_accounts_for_every_frame() {
    let pair = Pair::new().await;
    let mut tasks = Vec::new();
    for handle in [&pair.at_client, &pair.at_server] {
        tasks.push((
            tokio::spawn(read_to_the_end(handle.clone())),
            tokio::spawn(send_to_the_end(handle.clone())),
        ));
    }
    within("traffic", async {
        while pair.at_client.stats().frames_received < 1000 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    within("the end", pair.client.shutdown(LIMIT)).await.expect("nothing was cut");
    let mut received = Vec::new();
    for (reading, sending) in tasks {
        received.push(within("a reader", reading).await.expect("no panic").0);
        let error = within("a sender", sending).await.expect("no panic");
        assert!(
            matches!(&error, SendError::Closed { outcome: Outcome::NotSent(_), .. }),
            "{error:?}"
        );
    }
    let client = pair.at_client.stats().sent;
    assert_eq!((client.accepted, client.completed), (received[1], received[1]), "{client:?}");
    within("the end there", pair.at_server.closed()).await;
    assert_balance(&pair.at_server);
    within("the server's end", pair.server.close(LIMIT)).await.expect("an orderly end");
}

#[tokio::test]
async fn a_second_shutdown_is_told_that_the_node_is_stopped() {
    let pair = Pair::new().await;
    let (first, second) =
        tokio::join!(pair.client.shutdown(LIMIT), async { pair.client.shutdown(LIMIT).await });
    first.expect("an orderly end");
    assert!(matches!(second, Err(NodeError::Stopped)), "{second:?}");
    let third = within("a late one", pair.client.shutdown(LIMIT)).await;
    assert!(matches!(third, Err(NodeError::Stopped)), "{third:?}");
    let result = within("a late dial", pair.client.connect(pair.address)).await;
    assert!(matches!(result, Err(ConnectError::Stopped)), "{result:?}");
    let result = within("a late listener", pair.client.listen(loopback())).await;
    assert!(matches!(result, Err(ListenError::Stopped)), "{result:?}");
    assert!(matches!(
        within("a late close", pair.client.close(LIMIT)).await,
        Err(NodeError::Stopped)
    ));
    within("the server's end", pair.server.close(LIMIT)).await.expect("an orderly end");
}

#[tokio::test]
async fn a_shutdown_that_is_cancelled_goes_on() {
    let pair = Pair::new().await;
    {
        let mut shutdown = Box::pin(pair.client.shutdown(LIMIT));
        tokio::select! {
            biased;
            result = &mut shutdown => panic!("it takes a round trip, yet: {result:?}"),
            () = std::future::ready(()) => {}
        }
    }
    within("the end", pair.client.stopped()).await;
    let reason = within("the end of the connection", pair.at_client.closed()).await;
    assert_eq!(reason, CloseReason::Local { code: AWAY });
    within("the server's end", pair.server.close(LIMIT)).await.expect("an orderly end");
}

#[tokio::test]
async fn a_close_that_is_cancelled_goes_on_in_order() {
    let pair = Pair::new().await;
    let reading = tokio::spawn(read_to_the_end(pair.at_server.clone()));
    for _ in 0..500 {
        within("a send", pair.at_client.send(vec![1; 10_000])).await.expect("taken over");
    }
    let registration = pair.at_client.clone();
    // Polled once, with the last clone of the node, then dropped.
    assert!(cancelled_after(1, pair.client.close(LIMIT)).await.is_none());
    let (frames, error) = within("the reader", reading).await.expect("no panic");
    assert_eq!(frames, 500, "what was accepted is sent");
    assert_eq!(error, RecvError::Closed { reason: CloseReason::Peer { code: AWAY } });
    within("the end", registration.closed()).await;
    let sent = registration.stats().sent;
    assert_eq!((sent.accepted, sent.completed), (500, 500));
    within("the server's end", pair.server.close(LIMIT)).await.expect("an orderly end");
}

#[tokio::test]
async fn a_close_beside_a_clone_that_is_left_says_so() {
    let idle = node(stranger()).await;
    let clone = idle.clone();
    let result = within_limit(CUT, "the close", idle.close(LIMIT)).await;
    assert!(matches!(result, Err(NodeError::CloneLeft)), "{result:?}");
    within("the node has ended all the same", clone.stopped()).await;
    // One that goes soon is waited for.
    let pair = Pair::new().await;
    let clone = pair.client.clone();
    let watching = tokio::spawn(async move { clone.stopped().await });
    within("the close", pair.client.close(LIMIT)).await.expect("the clone went with the node");
    within("the one who watched", watching).await.expect("no panic");
    within("the server's end", pair.server.close(LIMIT)).await.expect("an orderly end");
}

#[tokio::test]
async fn a_node_that_did_nothing_ends_at_once() {
    let idle = node(stranger()).await;
    within("the end", idle.shutdown(LIMIT)).await.expect("an orderly end");
    within("the end", node(stranger()).await.close(LIMIT)).await.expect("an orderly end");
}

#[tokio::test]
async fn events_end_behind_the_last_one_of_a_node() {
    let pair = Pair::new().await;
    let mut events = pair.client.subscribe();
    within("the end", pair.client.shutdown(LIMIT)).await.expect("an orderly end");
    let mut last = None;
    while let Some(event) = within("an event, or the end", events.next()).await {
        last = Some(event);
    }
    assert!(matches!(last, Some(moorline::NodeEvent::Disconnected { .. })), "{last:?}");
    within("the server's end", pair.server.close(LIMIT)).await.expect("an orderly end");
}

#[tokio::test(flavor = "current_thread")]
async fn a_shutdown_on_a_runtime_of_one_thread_ends_under_load() {
    for _ in 0..3 {
        let pair = Pair::new().await;
        for handle in [&pair.at_client, &pair.at_server] {
            tokio::spawn(read_to_the_end(handle.clone()));
            tokio::spawn(send_to_the_end(handle.clone()));
        }
        within("traffic", async {
            while pair.at_server.stats().frames_received < 100 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let Pair { client, server, at_client, at_server, .. } = pair;
        within("the client's end", client.close(LIMIT)).await.expect("an orderly end");
        within("the server's end", server.close(LIMIT)).await.expect("an orderly end");
        assert_balance(&at_client);
        assert_balance(&at_server);
    }
}

// ---- at the grace ------------------------------------------------------------------------------

#[tokio::test]
async fn a_peer_that_never_reads_is_cut_at_the_grace() {
    let grace = Duration::from_secs(1);
    // The lane takes more than the other end can hold while nobody reads there.
    let pair = Pair::with(|config| config.limits.inbound_bytes_max = 32 << 10, |_| ()).await;
    let sending = tokio::spawn(send_to_the_end(pair.at_client.clone()));
    within("more than the peer can hold", async {
        while pair.at_client.stats().sent.accepted * 3000 < 150 << 10 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let began = Instant::now();
    let result = within_limit(grace + CUT, "the end", pair.client.shutdown(grace)).await;
    let Err(NodeError::GraceExceeded { connections, grace: limit }) = result else {
        panic!("{result:?}");
    };
    assert_eq!((connections, limit), (1, grace));
    assert!(began.elapsed() >= grace, "it was given the time");
    let error = within("the sender", sending).await.expect("no panic");
    let SendError::Closed { reason, outcome: Outcome::NotSent(_) } = error else {
        panic!("{error:?}");
    };
    assert_eq!(reason, CloseReason::Local { code: AWAY });
    let told = within("the peer is told", pair.at_server.closed()).await;
    assert_eq!(told, CloseReason::Peer { code: AWAY });
    assert_balance(&pair.at_client);
    within("the server's end", pair.server.close(LIMIT)).await.expect("an orderly end");
}

#[tokio::test]
async fn a_shutdown_without_any_grace_ends_as_well() {
    let pair = Pair::new().await;
    let sending = tokio::spawn(send_to_the_end(pair.at_client.clone()));
    let result = within_limit(CUT, "the end", pair.client.shutdown(Duration::ZERO)).await;
    assert!(
        matches!(result, Ok(()) | Err(NodeError::GraceExceeded { connections: 1, .. })),
        "{result:?}"
    );
    within("the sender", sending).await.expect("no panic");
    let told = within("the peer is told", pair.at_server.closed()).await;
    assert_eq!(told, CloseReason::Peer { code: AWAY });
    within("the server's end", pair.server.close(LIMIT)).await.expect("an orderly end");
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_a_peer_that_was_dialled_and_never_answers() {
    let node = node(stranger()).await;
    let silent = UdpSocket::bind(loopback()).await.expect("a socket");
    let target = Target::from(silent.local_addr().expect("it is bound"));
    let caller = tokio::spawn({
        let node = node.clone();
        async move { node.connect(target).await.map(drop) }
    });
    within("the dial", silent.recv_from(&mut [0; 2048])).await.expect("a datagram");
    let began = Instant::now();
    within("the end", node.shutdown(LIMIT)).await.expect("an orderly end");
    within("the caller", caller).await.expect("no panic").expect_err("nobody answered");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

// ---- without anybody's help --------------------------------------------------------------------

/// Drops one end; the other is told, and the port is free again.
async fn a_node_is_dropped(drop_the_server: bool) {
    let pair = Pair::new().await;
    let Pair { server, client, address, at_server, at_client } = pair;
    let clone = server.clone();
    drop(clone);
    let left = if drop_the_server {
        drop(server);
        let told = within("the client is told", at_client.closed()).await;
        assert_eq!(told, CloseReason::Peer { code: AWAY });
        let ended = within("the end", at_server.closed()).await;
        assert_eq!(ended, CloseReason::Local { code: AWAY });
        until("the port is free", || std::net::UdpSocket::bind(address).is_ok()).await;
        client
    } else {
        drop(client);
        let told = within("the server is told", at_server.closed()).await;
        assert_eq!(told, CloseReason::Peer { code: AWAY });
        let ended = within("the end", at_client.closed()).await;
        assert_eq!(ended, CloseReason::Local { code: AWAY });
        server
    };
    drop((at_server, at_client));
    within("the end of the other", left.close(LIMIT)).await.expect("an orderly end");
}

#[tokio::test]
async fn a_node_that_is_dropped_goes_away_for_its_peers() {
    for drop_the_server in [true, false] {
        a_node_is_dropped(drop_the_server).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_dropped_on_a_runtime_of_many_threads_goes_away_for_its_peers() {
    for _ in 0..5 {
        for drop_the_server in [true, false] {
            a_node_is_dropped(drop_the_server).await;
        }
    }
}

// ---- what is left behind -----------------------------------------------------------------------

/// Threads and descriptors of this process.
#[derive(Debug, Clone, Copy)]
struct Level {
    threads: usize,
    descriptors: usize,
}

impl Level {
    fn now() -> Self {
        let count = |folder| std::fs::read_dir(folder).expect("Linux has it").count();
        Self { threads: count("/proc/self/task"), descriptors: count("/proc/self/fd") }
    }

    /// Waits until there is no more than this.
    async fn is_back(self) {
        let back = || {
            let now = Self::now();
            now.threads <= self.threads && now.descriptors <= self.descriptors
        };
        let waited = tokio::time::timeout(Duration::from_secs(5), until("the level", back)).await;
        assert!(waited.is_ok(), "before: {self:?}, after: {:?}", Self::now());
    }
}

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    // One thread for what blocks: the level of threads is the same after every round.
    builder.worker_threads(2).max_blocking_threads(1).enable_all().build().expect("a runtime")
}

/// A frame each way, and a close that both ends take part in.
async fn use_and_close(dialled: &ConnectionHandle, accepted: ConnectionHandle) {
    within("a send", dialled.send_acked("there")).await.expect("acknowledged");
    assert_eq!(within("a frame", accepted.recv()).await.expect("a frame"), "there");
    within("a send", accepted.send_acked("back")).await.expect("acknowledged");
    assert_eq!(within("a frame", dialled.recv()).await.expect("a frame"), "back");
    let reading = tokio::spawn(read_to_the_end(accepted));
    within("the close", dialled.close(CloseCode::NORMAL)).await;
    within("the reader", reading).await.expect("no panic");
}

#[test]
fn a_hundred_connections_of_two_nodes_leave_nothing_behind() {
    in_its_own_process("a_hundred_connections_of_two_nodes_leave_nothing_behind", || {
        runtime().block_on(async {
            let pair = Pair::new().await;
            let mut events = pair.server.subscribe();
            let mut level = None;
            for _ in 0..=100 {
                let target = Target::from(pair.address).redial(Redial::Never);
                let dialled = within("a dial", pair.client.connect(target)).await.expect("a dial");
                let accepted = connected(&mut events).await;
                use_and_close(&dialled, accepted).await;
                drop(dialled);
                level.get_or_insert_with(Level::now);
            }
            until("all are forgotten", || {
                (pair.client.connections().len(), pair.server.connections().len()) == (1, 1)
            })
            .await;
            level.expect("the first round's").is_back().await;
            drop(events);
            pair.end().await;
        });
    });
}

#[test]
fn twenty_pairs_of_nodes_leave_nothing_behind() {
    in_its_own_process("twenty_pairs_of_nodes_leave_nothing_behind", || {
        runtime().block_on(async {
            let mut level = None;
            for _ in 0..=20 {
                let pair = Pair::new().await;
                use_and_close(&pair.at_client, pair.at_server.clone()).await;
                pair.end().await;
                level.get_or_insert_with(Level::now);
            }
            level.expect("the first round's").is_back().await;
        });
    });
}

#[test]
fn a_hundred_connections_of_two_transports_leave_no_handle_behind() {
    in_its_own_process("a_hundred_connections_of_two_transports_leave_no_handle_behind", || {
        runtime().block_on(async {
            let (a, b) = friends();
            let (server, client) = (MsQuicTransport::new(), MsQuicTransport::new());
            let alpns = ["test"];
            let listener = server.create_listener(loopback(), &alpns, a).await.expect("a listener");
            let mut level = None;
            for _ in 0..=100 {
                let address = listener.local_addr();
                let (dialled, accepted) = within("a connection", async {
                    tokio::join!(client.connect(address, &alpns, b.clone()), async {
                        listener.accept().await?.accept().await
                    })
                })
                .await;
                let (dialled, accepted) = (dialled.expect("a dial"), accepted.expect("accepted"));
                within("a send", dialled.send("there")).await.expect("taken over");
                assert_eq!(within("a frame", accepted.recv()).await.expect("a frame").0, "there");
                within("the closes", async {
                    tokio::join!(
                        dialled.close(CloseCode::NORMAL),
                        accepted.close(CloseCode::NORMAL)
                    )
                })
                .await;
                drop((dialled, accepted));
                level.get_or_insert_with(Level::now);
            }
            let registration = client.registration().expect("a registration");
            assert!(registration.wait_idle(LIMIT).await, "{}", registration.live_handles());
            level.expect("the first round's").is_back().await;
            within("the listener's end", listener.stopped()).await;
            drop(listener);
            let registration = server.registration().expect("a registration");
            assert!(registration.wait_idle(LIMIT).await, "{}", registration.live_handles());
        });
    });
}

// ---- a process that just ends ------------------------------------------------------------------

/// A pair with traffic, on a runtime that is given up.
async fn pair_under_load() -> Pair {
    let pair = Pair::new().await;
    for handle in [&pair.at_client, &pair.at_server] {
        tokio::spawn(read_to_the_end(handle.clone()));
        tokio::spawn(send_to_the_end(handle.clone()));
    }
    within("traffic", async {
        while pair.at_server.stats().frames_received < 100 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    pair
}

#[test]
fn a_runtime_that_is_dropped_with_open_connections_does_not_hang_or_abort() {
    in_its_own_process(
        "a_runtime_that_is_dropped_with_open_connections_does_not_hang_or_abort",
        || {
            let runtime = runtime();
            let pair = runtime.block_on(pair_under_load());
            drop(runtime);
            drop(pair);
        },
    );
}

#[test]
fn a_process_that_ends_with_open_connections_does_not_hang_or_abort() {
    in_its_own_process("a_process_that_ends_with_open_connections_does_not_hang_or_abort", || {
        let runtime = runtime();
        std::mem::forget(runtime.block_on(pair_under_load()));
        std::mem::forget(runtime);
    });
}

#[test]
fn a_process_that_exits_with_open_connections_does_not_hang_or_abort() {
    in_its_own_process("a_process_that_exits_with_open_connections_does_not_hang_or_abort", || {
        let runtime = runtime();
        let _pair = runtime.block_on(pair_under_load());
        println!("running 1 test");
        std::process::exit(0);
    });
}

/// A node that listens and one that dialled it, so that configurations of both roles are kept.
async fn listening_and_dialled() -> (Node, Node) {
    let Pair { server, client, at_server, at_client, .. } = Pair::new().await;
    within("the close", at_client.close(CloseCode::NORMAL)).await;
    within("the close", at_server.closed()).await;
    (server, client)
}

#[test]
fn a_process_that_exits_beside_a_listening_node_ends_before_the_limit_of_the_exit() {
    let test = "a_process_that_exits_beside_a_listening_node_ends_before_the_limit_of_the_exit";
    // The limit is a second. A machine that is busy may delay one end, but not each of them.
    let ends: Vec<Duration> =
        (0..3).map(|_| time_of_an_exit(test, listening_and_dialled())).collect();
    eprintln!("{ends:?}");
    assert!(ends.iter().any(|took| *took < Duration::from_millis(800)), "{ends:?}");
}

/// A node that dials a peer that never answers, on a runtime that is given up.
async fn dialling() -> (Node, UdpSocket) {
    let node = node(stranger()).await;
    let silent = UdpSocket::bind(loopback()).await.expect("a socket");
    let address = silent.local_addr().expect("it is bound");
    let dialling = node.clone();
    tokio::spawn(async move { dialling.connect(address).await.map(drop) });
    within("the dial", silent.recv_from(&mut [0; 2048])).await.expect("a datagram");
    (node, silent)
}

#[test]
fn a_runtime_that_is_dropped_while_it_dials_does_not_hang_or_abort() {
    in_its_own_process("a_runtime_that_is_dropped_while_it_dials_does_not_hang_or_abort", || {
        let runtime = runtime();
        let dialling = runtime.block_on(dialling());
        drop(runtime);
        drop(dialling);
    });
}

#[test]
fn a_process_that_ends_while_it_dials_does_not_hang_or_abort() {
    in_its_own_process("a_process_that_ends_while_it_dials_does_not_hang_or_abort", || {
        let runtime = runtime();
        std::mem::forget(runtime.block_on(dialling()));
        std::mem::forget(runtime);
    });
}

#[test]
fn a_node_is_used_after_its_runtime_was_dropped_and_answers_that_it_is_stopped() {
    let first = runtime();
    let pair = first.block_on(Pair::new());
    drop(first);
    runtime().block_on(async {
        within("the node's end", pair.client.stopped()).await;
        let result = within("a late dial", pair.client.connect(pair.address)).await;
        assert!(matches!(result, Err(ConnectError::Stopped)), "{result:?}");
        let result = within("a late shutdown", pair.client.shutdown(LIMIT)).await;
        assert!(matches!(result, Err(NodeError::Stopped)), "{result:?}");
        within("the connection's end", pair.at_client.closed()).await;
        within("the connection's end", pair.at_server.closed()).await;
        let error = within("a late send", pair.at_client.send("late")).await;
        assert!(matches!(error, Err(SendError::Closed { .. })), "{error:?}");
        // Another node in the same process works as before.
        Pair::new().await.end().await;
    });
}
