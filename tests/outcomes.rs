//! What whoever sends is told when a connection ends: afterwards, meanwhile, and under load.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{Pair, assert_balanced, dial, end, friends, loopback, node, node_with, within};
use moorline::{
    CloseCode, CloseReason, ConnectionHandle, ErrorKind, NodeConfig, Outcome, RecvError, Redial,
    SendError, Target,
};

// ---- after the end -----------------------------------------------------------------------------

const CODE: CloseCode = match CloseCode::application(0x1234) {
    Some(code) => code,
    None => panic!("an application's code"),
};

#[tokio::test]
async fn send_after_a_close_gives_the_real_reason_at_both_ends() {
    let pair = Pair::new().await;
    let (local, peer) = (CloseReason::Local { code: CODE }, CloseReason::Peer { code: CODE });
    assert_eq!(within("the close", pair.at_client.close(CODE)).await, local);
    assert_eq!(within("the close", pair.at_server.closed()).await, peer);
    for (handle, expected) in [(&pair.at_client, local), (&pair.at_server, peer)] {
        assert_eq!(handle.close_reason(), Some(expected.clone()));
        let frame = Bytes::from_static(b"too late");
        let results = [
            within("send", handle.send(frame.clone())).await,
            handle.try_send(frame.clone()),
            within("send_acked", handle.send_acked(frame.clone())).await,
        ];
        for result in results {
            let error = result.expect_err("closed");
            assert_eq!(error.kind(), ErrorKind::Retry);
            let SendError::Closed { reason, outcome } = error else { panic!("{error:?}") };
            assert_eq!((reason, outcome), (expected.clone(), Outcome::NotSent(frame.clone())));
        }
        let error = within("reserve", handle.reserve(1)).await.expect_err("closed");
        assert!(matches!(&error, SendError::Closed { reason, .. } if *reason == expected));
        let received = within("recv", handle.recv()).await;
        assert_eq!(received, Err(RecvError::Closed { reason: expected }));
        assert_eq!(handle.stats().sent.accepted, 0);
    }
    pair.end().await;
}

#[tokio::test]
async fn whoever_waits_to_send_is_told_of_a_close_at_once() {
    let pair = Pair::with(small_buffers, small_buffers).await;
    fill(&pair.at_client, 16 << 10).await;
    let waiting = {
        let handle = pair.at_client.clone();
        tokio::spawn(async move { handle.send(vec![7; 100_000]).await })
    };
    let code = CODE;
    let closing = {
        let handle = pair.at_client.clone();
        tokio::spawn(async move { handle.close(code).await })
    };
    let error = within("the waiting send", waiting).await.expect("no panic").expect_err("closed");
    let SendError::Closed { reason, outcome } = error else { panic!("{error:?}") };
    assert_eq!(reason, CloseReason::Local { code });
    assert_eq!(outcome, Outcome::NotSent(vec![7; 100_000].into()));
    within("the close", closing).await.expect("no panic");
    assert_balanced(&pair.at_client);
    pair.end().await;
}

/// Little memory, and little patience where it is full.
fn small_buffers(config: &mut NodeConfig) {
    config.limits.lane_bytes_max = 128 << 10;
    config.limits.inbound_bytes_max = 128 << 10;
    config.limits.stream_op_timeout = Duration::from_secs(5);
    config.limits.close_time_max = Duration::from_millis(500);
}

/// Sends frames that nobody reads until the lane stays full; returns how many.
async fn fill(handle: &ConnectionHandle, bytes: usize) -> u64 {
    let mut count = 0;
    loop {
        let send = handle.send(vec![1; bytes]);
        match tokio::time::timeout(Duration::from_millis(300), send).await {
            Ok(sent) => sent.expect("taken over"),
            Err(_) => return count,
        }
        count += 1;
    }
}

// ---- ends under load ---------------------------------------------------------------------------

/// Rounds of each way to end a connection under load.
const ROUNDS: usize = 10;

/// What the callers of one end were told.
#[derive(Debug, Default)]
struct Told {
    /// By `send`: taken over.
    taken_over: u64,
    /// By `send_acked`.
    completed: u64,
    not_sent: u64,
    maybe_sent: u64,
    reasons: Vec<CloseReason>,
}

/// Frames of many sizes from many tasks, until the connection is over.
struct Load {
    senders: Vec<tokio::task::JoinHandle<Told>>,
    reader: tokio::task::JoinHandle<u64>,
    /// What may be told before the reason of the end is known.
    provisional: Option<CloseReason>,
}

impl Load {
    /// `warm` is told once so many frames have arrived that everything flows.
    fn start(handle: &ConnectionHandle, warm: tokio::sync::oneshot::Sender<()>) -> Self {
        let sizes = [0, 100, 1_000, 8_192, 8_193, 30_000, 70_000, 200_000];
        let acked = sizes.into_iter().map(|size| {
            let handle = handle.clone();
            tokio::spawn(async move {
                let (mut told, frame) = (Told::default(), Bytes::from(vec![3; size]));
                loop {
                    match handle.send_acked(frame.clone()).await {
                        Ok(()) => told.completed += 1,
                        Err(SendError::Closed { reason, outcome }) => {
                            match outcome {
                                Outcome::NotSent(back) => {
                                    assert_eq!(back, frame);
                                    told.not_sent += 1;
                                }
                                Outcome::MaybeSent => told.maybe_sent += 1,
                                Outcome::Completed => panic!("an error for a completed frame"),
                            }
                            told.reasons.push(reason);
                            return told;
                        }
                        Err(error) => panic!("{error:?}"),
                    }
                }
            })
        });
        let plain = [50, 20_000].into_iter().map(|size| {
            let handle = handle.clone();
            tokio::spawn(async move {
                let (mut told, frame) = (Told::default(), Bytes::from(vec![4; size]));
                loop {
                    match handle.send(frame.clone()).await {
                        Ok(()) => told.taken_over += 1,
                        Err(SendError::Closed { reason, outcome: Outcome::NotSent(back) }) => {
                            assert_eq!(back, frame);
                            told.reasons.push(reason);
                            return told;
                        }
                        Err(error) => panic!("{error:?}"),
                    }
                }
            })
        });
        let senders = acked.chain(plain).collect();
        let reading = handle.clone();
        let reader = tokio::spawn(async move {
            let (mut warm, mut count) = (Some(warm), 0);
            loop {
                match reading.recv().await {
                    Ok(_) => count += 1,
                    Err(RecvError::Closed { .. }) => return count,
                    // Ends of streams, where the peer had the time to finish them.
                    Err(_) => {}
                }
                if count == 300
                    && let Some(warm) = warm.take()
                {
                    warm.send(()).expect("the test waits for it");
                }
            }
        });
        Self { senders, reader, provisional: None }
    }

    /// Once `handle` is over: everybody has one answer, and the counts say the same.
    async fn settle(self, what: &str, handle: &ConnectionHandle) {
        let reason = within("the end", handle.closed()).await;
        let mut all = Told::default();
        for sender in self.senders {
            let told = within("an answer", sender).await.expect("no panic");
            let [told_reason] = &told.reasons[..] else { panic!("{what}: {told:?}") };
            assert!(
                told_reason == &reason || Some(told_reason) == self.provisional.as_ref(),
                "{what}: {told_reason:?}, but {reason:?}"
            );
            all.taken_over += told.taken_over;
            all.completed += told.completed;
            all.not_sent += told.not_sent;
            all.maybe_sent += told.maybe_sent;
        }
        within("the reader", self.reader).await.expect("no panic");
        let sent = assert_balanced(handle);
        assert!(sent.completed >= all.completed, "{what}: {sent:?} {all:?}");
        assert!(sent.maybe_sent >= all.maybe_sent, "{what}: {sent:?} {all:?}");
        // What was refused before it was accepted is in nobody's count.
        let acked = sent.accepted - all.taken_over;
        let known = all.completed + all.maybe_sent;
        assert!((known..=known + all.not_sent).contains(&acked), "{what}: {sent:?} {all:?}");
    }
}

/// Loads both ends of a connection and lets `kill` end it.
async fn kill_under_load(
    what: &str,
    (at_client, at_server): (ConnectionHandle, ConnectionHandle),
    told_meanwhile: Option<CloseReason>,
    kill: impl AsyncFnOnce(),
) {
    let (warm_client, client_is_warm) = tokio::sync::oneshot::channel();
    let (warm_server, server_is_warm) = tokio::sync::oneshot::channel();
    let client_load = Load::start(&at_client, warm_client);
    let mut server_load = Load::start(&at_server, warm_server);
    server_load.provisional = told_meanwhile;
    within("frames at the client", client_is_warm).await.expect("the reader lives");
    within("frames at the server", server_is_warm).await.expect("the reader lives");
    kill().await;
    client_load.settle(what, &at_client).await;
    server_load.settle(what, &at_server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_balance_when_the_actor_of_a_loaded_connection_is_killed() {
    let (a, b) = friends();
    let (server, client) = (node(a).await, node(b).await);
    let mut events = server.subscribe();
    let address = within("listening", server.listen(loopback())).await.expect("a listener");
    let target = Target::from(address).redial(Redial::Never);
    for _ in 0..ROUNDS {
        let (at_client, at_server) = dial(&client, &target, &mut events).await;
        let killed = at_client.clone();
        let kill = async move || killed.actor().kill();
        kill_under_load("killed", (at_client.clone(), at_server.clone()), None, kill).await;
        let code = CloseCode::ACTOR_FAILED;
        assert_eq!(at_client.close_reason(), Some(CloseReason::Local { code }));
        assert_eq!(at_server.close_reason(), Some(CloseReason::Peer { code }));
    }
    end([client, server]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_balance_when_the_node_of_a_loaded_peer_is_dropped() {
    let (a, b) = friends();
    let client = node(b).await;
    for _ in 0..ROUNDS {
        let server = node(a.clone()).await;
        let mut events = server.subscribe();
        let address = within("listening", server.listen(loopback())).await.expect("a listener");
        let target = Target::from(address).redial(Redial::Never);
        let (at_client, at_server) = dial(&client, &target, &mut events).await;
        let ends = (at_client.clone(), at_server.clone());
        kill_under_load("dropped", ends, None, async move || drop(server)).await;
        let code = CloseCode::GOING_AWAY;
        assert_eq!(at_client.close_reason(), Some(CloseReason::Peer { code }));
    }
    end([client]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_balance_when_a_close_under_load_is_cut_at_its_limit() {
    let (a, b) = friends();
    let server = node(a).await;
    let tiny = Duration::from_millis(1);
    let client = node_with(b, |config| config.limits.close_time_max = tiny).await;
    let mut events = server.subscribe();
    let address = within("listening", server.listen(loopback())).await.expect("a listener");
    let target = Target::from(address).redial(Redial::Never);
    for _ in 0..ROUNDS {
        let (at_client, at_server) = dial(&client, &target, &mut events).await;
        let closed = at_client.clone();
        let kill = async move || {
            let reason = within("the close", closed.close(CODE)).await;
            assert_eq!(reason, CloseReason::Local { code: CODE });
        };
        // The end of the client's frames may come long before its code.
        let meanwhile = Some(CloseReason::Peer { code: CloseCode::NORMAL });
        let ends = (at_client.clone(), at_server.clone());
        kill_under_load("closed", ends, meanwhile, kill).await;
        assert_eq!(at_server.close_reason(), Some(CloseReason::Peer { code: CODE }));
    }
    end([client, server]).await;
}
