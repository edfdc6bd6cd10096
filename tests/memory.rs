//! What a node takes on in memory stays under what its limits say beforehand.
//!
//! Both nodes are in this process, so what they take on is compared with the sum for both.
#![cfg(target_os = "linux")]

mod common;

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use common::memory::{MIB, peak, resident};
use common::process::in_its_own_runtime;
use common::{LIMIT, connected, friends, loopback, node_with, within};
use moorline::{
    CloseCode, CloseReason, ConnectError, ConnectionHandle, HEADER_BYTES, Limits, Node, Redial,
    SendError, Target, WorstCaseMemory,
};
use tokio::task::JoinSet;

/// One at a time: beside it the deadlines of the others would be missed.
static TURN: Mutex<()> = Mutex::new(());

/// Connections that are made at the same time.
const WIDTH: usize = 16;

/// How long a sender waits here for a peer that does not read.
const PATIENCE: Duration = Duration::from_millis(500);

/// Two nodes with the same limits and many connections between them.
struct Many {
    server: Node,
    client: Node,
    limits: Limits,
    /// The ends that dialled.
    near: Vec<ConnectionHandle>,
    /// The ends that accepted, in another order.
    far: Vec<ConnectionHandle>,
    /// What the process has anyway: library, runtime, two nodes that know nobody.
    anyway: usize,
}

impl Many {
    async fn new(count: usize, change: impl Fn(&mut Limits)) -> Self {
        let (a, b) = friends();
        let change = |limits: &mut Limits| {
            change(limits);
            limits.connections_per_peer_max = limits.connections_max;
        };
        let server = node_with(a, |config| change(&mut config.limits)).await;
        let client = node_with(b, |config| change(&mut config.limits)).await;
        let mut limits = Limits::default();
        change(&mut limits);
        let address = within("listening", server.listen(loopback())).await.expect("a listener");
        let anyway = resident();
        let mut events = server.subscribe();
        let (mut dials, mut near, mut far) = (JoinSet::new(), Vec::new(), Vec::new());
        for number in 0..count {
            dials.spawn(dial(client.clone(), address));
            if number >= WIDTH {
                near.push(
                    within("a dial", dials.join_next()).await.expect("one").expect("no panic"),
                );
                far.push(connected(&mut events).await);
            }
        }
        while let Some(dialled) = within("a dial", dials.join_next()).await {
            near.push(dialled.expect("no panic"));
            far.push(connected(&mut events).await);
        }
        Self { server, client, limits, near, far, anyway }
    }

    /// What one of the nodes may take on.
    fn worst_case(&self) -> WorstCaseMemory {
        self.limits.worst_case_memory(self.near.len())
    }

    /// Bytes at the peak beside what the process has anyway, which must be fewer than `allowed` for
    /// each of both nodes.
    fn measure(&self, what: &str, allowed: u64) -> usize {
        let taken = peak() - self.anyway;
        let allowed = usize::try_from(2 * allowed).expect("bounded");
        eprintln!("{what}: {} MiB of {} MiB", taken / MIB, allowed / MIB);
        assert!(taken < allowed, "{what}: {taken} bytes, at most {allowed} are allowed");
        taken
    }

    async fn end(self) {
        drop((self.near, self.far));
        within("the client's end", self.client.close(LIMIT)).await.expect("an orderly end");
        within("the server's end", self.server.close(LIMIT)).await.expect("an orderly end");
    }
}

/// Dials until it is taken: handshakes are turned away or given up when workers are late, and they are
/// with thousands of connections on a busy machine.
async fn dial(node: Node, address: SocketAddr) -> ConnectionHandle {
    loop {
        match node.connect(Target::from(address).redial(Redial::Never)).await {
            Ok(handle) => return handle,
            Err(
                ConnectError::TimedOut { .. }
                | ConnectError::Closed {
                    reason:
                        CloseReason::Refused | CloseReason::Peer { code: CloseCode::HANDSHAKE_TIMEOUT },
                    ..
                },
            ) => tokio::task::yield_now().await,
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Sends until the peer takes no more for [`PATIENCE`]; returns the bytes taken over.
async fn send_until_it_waits(handle: ConnectionHandle) -> usize {
    let frames = [100, 1_000, 20_000].map(|length| Bytes::from(vec![0x5a; length]));
    let mut accepted = 0;
    for frame in frames.iter().cycle() {
        match handle.send(frame.clone()).await {
            Ok(()) => accepted += HEADER_BYTES + frame.len(),
            Err(SendError::TimedOut { .. }) => break,
            Err(error) => panic!("{error:?}"),
        }
    }
    accepted
}

#[test]
fn peers_that_never_read_take_no_more_than_the_limits_say() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let test = "peers_that_never_read_take_no_more_than_the_limits_say";
    in_its_own_runtime(test, peers_that_never_read());
}

async fn peers_that_never_read() {
    const PEERS: usize = 8;
    let many = Many::new(PEERS, |limits| {
        limits.frame_bytes_max = 64 << 10;
        limits.peer_streams_max = 1;
        limits.stream_op_timeout = PATIENCE;
    })
    .await;
    let mut senders = JoinSet::new();
    for handle in &many.near {
        senders.spawn(send_until_it_waits(handle.clone()));
    }
    let accepted = within("the senders", senders.join_all()).await.into_iter().sum::<usize>();
    let taken = many
        .measure(&format!("{} MiB that nobody reads", accepted / MIB), many.worst_case().total());
    assert!(accepted > PEERS * many.limits.inbound_bytes_max, "{accepted} bytes were accepted");
    assert!(taken > accepted, "all of it is somewhere");
    many.end().await;
}

#[test]
fn senders_at_full_speed_take_no_more_than_the_limits_say() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let test = "senders_at_full_speed_take_no_more_than_the_limits_say";
    in_its_own_runtime(test, senders_at_full_speed());
}

async fn senders_at_full_speed() {
    const SENDERS: usize = 64;
    const FRAMES: usize = 3_000;
    const BYTES: usize = 1_000;
    let many = Many::new(SENDERS, |limits| {
        limits.frame_bytes_max = BYTES;
        limits.lane_bytes_max = 256 << 10;
        limits.inbound_bytes_max = 256 << 10;
        limits.peer_streams_max = 1;
        limits.handshakes_pending_max = 4 * WIDTH;
    })
    .await;
    let mut tasks = JoinSet::new();
    for sender in many.near.clone() {
        tasks.spawn(async move {
            let frame = Bytes::from(vec![0x5a; BYTES]);
            for _ in 0..FRAMES {
                sender.send(frame.clone()).await.expect("taken over");
            }
        });
    }
    for receiver in many.far.clone() {
        tasks.spawn(async move {
            let (mut frames, mut left) = (Vec::new(), FRAMES);
            while left > 0 {
                left -= receiver.recv_many(&mut frames, left.min(256)).await.expect("frames");
                frames.clear();
            }
        });
    }
    within("all frames", tasks.join_all()).await;
    many.measure("64 senders at full speed", many.worst_case().total());
    many.end().await;
}

#[test]
fn five_thousand_idle_connections_take_no_more_than_the_limits_say() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let test = "five_thousand_idle_connections_take_no_more_than_the_limits_say";
    in_its_own_runtime(test, five_thousand_idle_connections());
}

async fn five_thousand_idle_connections() {
    const CONNECTIONS: usize = 5_000;
    let many = Many::new(CONNECTIONS, |limits| {
        limits.connections_max = CONNECTIONS;
        // Other tests may keep the processors busy for longer than the default second.
        limits.keep_alive_interval = LIMIT / 8;
        limits.disconnect_time_max = LIMIT;
        limits.idle_time_max = LIMIT;
    })
    .await;
    assert_eq!((many.near.len(), many.far.len()), (CONNECTIONS, CONNECTIONS));
    let WorstCaseMemory { connections, handshakes, pools, .. } = many.worst_case();
    // There are no frames.
    many.measure("5,000 idle connections", connections + handshakes + pools);
    let standing = |handle: &ConnectionHandle| handle.close_reason().is_none();
    assert!(many.near.iter().chain(&many.far).all(standing), "a connection did not stay");
    many.end().await;
}
