//! A reader that reads makes progress, and no deadline meets who is innocent: whatever the lanes, the
//! sizes and the path.

mod common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::relay::Relay;
use common::{Pair, connected, friends, loopback, node_with, within, within_limit};
use moorline::{
    CloseCode, CloseReason, ConnectionHandle, Lane, Limits, Node, NodeConfig, RecvError, Target,
};
use tokio::task::JoinSet;

/// Sends frames of `size` bytes on `lane` for ever.
fn flood(senders: &mut JoinSet<String>, handle: &ConnectionHandle, lane: Lane, size: usize) {
    let (handle, mut frame) = (handle.clone(), vec![0; size]);
    frame[0] = lane as u8;
    let frame = Bytes::from(frame);
    senders.spawn(async move {
        loop {
            if let Err(error) = handle.send_on(lane, frame.clone()).await {
                return format!("{lane:?}: {error}");
            }
        }
    });
}

/// Two lanes that send as fast as they can, and a reader of all; ends when each brought `count`.
async fn two_lanes(sizes: [(Lane, usize); 2], count: u32, change: impl Fn(&mut Limits) + Copy) {
    let pair = Pair::with(|config| change(&mut config.limits), |config| change(&mut config.limits));
    let pair = pair.await;
    let mut senders = JoinSet::new();
    for (lane, size) in sizes {
        flood(&mut senders, &pair.at_client, lane, size);
    }
    let mut got = [0; 3];
    let limit = Duration::from_secs(60);
    within_limit(limit, "frames of both lanes", async {
        while sizes.iter().any(|(lane, _)| got[*lane as usize] < count) {
            let frame = within("the next frame", pair.at_server.recv()).await.expect("a frame");
            let (_, size) = sizes.iter().find(|(lane, _)| *lane as u8 == frame[0]).expect("one");
            assert_eq!(frame.len(), *size);
            got[usize::from(frame[0])] += 1;
        }
    })
    .await;
    senders.abort_all();
    pair.at_client.close(CloseCode::NORMAL).await;
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_lanes_with_frames_of_the_largest_size_take_turns() {
    let frame_bytes_max = Limits::default().frame_bytes_max;
    let sizes = [(Lane::Data, frame_bytes_max), (Lane::Bulk, frame_bytes_max - 1)];
    two_lanes(sizes, 4, |_| ()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_a_little_over_the_queue_and_under_it_take_turns() {
    let sizes = [(Lane::Data, 4 << 20), (Lane::Bulk, 1 << 20)];
    two_lanes(sizes, 8, |_| ()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_take_turns_with_the_least_bounds_there_are() {
    let sizes = [(Lane::Data, 100_000), (Lane::Control, 900)];
    two_lanes(sizes, 100, |limits| {
        limits.inbound_bytes_max = 1 << 10;
        limits.lane_bytes_max = 1 << 10;
        limits.control_lane_bytes_max = 1 << 10;
        limits.window_bytes_max = 8 << 10;
        limits.frame_bytes_max = 1 << 20;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reader_of_one_lane_does_not_wait_for_that_of_another() {
    let pair = Pair::new().await;
    let mut senders = JoinSet::new();
    // Nobody reads these.
    flood(&mut senders, &pair.at_client, Lane::Data, 1 << 20);
    flood(&mut senders, &pair.at_client, Lane::Bulk, 100);
    within("both lanes are full", async {
        // Nothing more comes once both queues are.
        let waiting = || pair.at_server.stats().bytes_waiting;
        let mut before = 0;
        loop {
            // not synchronisation: looks whether anything moves
            tokio::time::sleep(Duration::from_millis(50)).await;
            if waiting() == before && before > 1 << 20 {
                return;
            }
            before = waiting();
        }
    })
    .await;
    for size in [10, 60_000].into_iter().cycle().take(200) {
        let frame = vec![Lane::Control as u8; size];
        within("a send", pair.at_client.send_on(Lane::Control, frame)).await.expect("taken over");
        let frame = within("its frame", pair.at_server.recv_on(Lane::Control)).await;
        assert_eq!(frame.expect("a frame").len(), size);
    }
    senders.abort_all();
    pair.end().await;
}

/// Connects through `relay`; the handles of both ends.
async fn through(
    make_relay: impl AsyncFnOnce(std::net::SocketAddr) -> Relay,
    change: impl Fn(&mut NodeConfig) + Copy,
) -> (ConnectionHandle, ConnectionHandle, (Node, Node, Relay)) {
    let (a, b) = friends();
    let (server, client) = (node_with(a, change).await, node_with(b, change).await);
    let mut events = server.subscribe();
    let address = within("listening", server.listen(loopback())).await.expect("it listens");
    let relay = make_relay(address).await;
    let target = Target::from(relay.address());
    let near = within("a dial", client.connect(target)).await.expect("it connects");
    let far = connected(&mut events).await;
    (near, far, (server, client, relay))
}

const FRAME_TIME: Duration = Duration::from_millis(1_500);

fn short(config: &mut NodeConfig) {
    config.limits.frame_time_max = FRAME_TIME;
    config.limits.stream_op_timeout = Duration::from_secs(60);
    // Queues on a slow path are long.
    config.limits.disconnect_time_max = Duration::from_secs(10);
    config.limits.idle_time_max = Duration::from_secs(10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_frame_on_a_slow_link_arrives() {
    const BYTES: usize = 4 << 20;
    let slow = async |server| Relay::start_slow(server, 1 << 20).await;
    let (near, far, _rest) = through(slow, short).await;
    let begun = Instant::now();
    within("a send", near.send(vec![7; BYTES])).await.expect("taken over");
    let frame = within("the frame", far.recv()).await.expect("a frame");
    assert_eq!(frame.len(), BYTES);
    assert!(begun.elapsed() > 2 * FRAME_TIME, "{:?}: the link was not slow", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_waits_behind_a_busier_lane_arrives_at_last() {
    let slow = async |server| Relay::start_slow(server, 2 << 20).await;
    let (near, far, _rest) = through(slow, short).await;
    let mut senders = JoinSet::new();
    flood(&mut senders, &near, Lane::Bulk, 1 << 20);
    let first = within("a frame of bulk", far.recv()).await.expect("a frame");
    assert_eq!(first[0], Lane::Bulk as u8);
    // From here on data alone could fill the link: bulk is inside a frame and waits.
    flood(&mut senders, &near, Lane::Data, 16 << 10);
    let begun = Instant::now();
    let mut data = 0;
    while begun.elapsed() < 4 * FRAME_TIME {
        let frame = within("a frame", far.recv()).await.expect("nobody is cut");
        data += u32::from(frame[0] == Lane::Data as u8);
    }
    assert!(data > 50, "{data} frames of data");
    senders.abort_all();
    let bulk = within("the frame of bulk", async {
        loop {
            let frame = far.recv().await.expect("nobody is cut");
            if frame[0] == Lane::Bulk as u8 {
                return frame;
            }
        }
    });
    assert_eq!(bulk.await.len(), 1 << 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_nobody_reads_is_no_fault_of_its_sender() {
    let small = |config: &mut NodeConfig| {
        config.limits.frame_time_max = FRAME_TIME;
        config.limits.inbound_bytes_max = 64 << 10;
        config.limits.lane_bytes_max = 256 << 10;
    };
    let pair = Pair::with(small, small).await;
    let sender = pair.at_client.clone();
    let sending = tokio::spawn(async move {
        for number in 0..8_u8 {
            sender.send(vec![number; 40 << 10]).await.expect("taken over");
        }
    });
    for number in 0..8_u8 {
        if number % 2 == 0 {
            // not synchronisation: the reader is slower than a frame may be unfinished
            tokio::time::sleep(FRAME_TIME * 3 / 2).await;
        }
        let frame = within("a frame", pair.at_server.recv()).await.expect("nobody is cut");
        assert_eq!((frame[0], frame.len()), (number, 40 << 10));
    }
    within("the sender", sending).await.expect("no panic");
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_stops_inside_a_frame_is_still_cut() {
    let (near, far, (_server, _client, relay)) =
        through(async |server| Relay::start(server).await, short).await;
    within("a frame", near.send_acked("warm")).await.expect("acknowledged");
    assert_eq!(within("a frame", far.recv()).await.expect("a frame"), "warm");
    relay.let_through_to_server(100_000);
    within("a send", near.send(vec![1; 1 << 20])).await.expect("taken over");
    let received = within("the end", far.recv()).await;
    assert!(matches!(received, Err(RecvError::FrameTimedOut { .. })), "{received:?}");
    let reason = within("the end", far.closed()).await;
    assert_eq!(reason, CloseReason::Local { code: CloseCode::FRAME_TIMEOUT });
}
