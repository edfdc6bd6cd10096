//! What a frame costs in allocations, counted over the whole process: both ends, every thread.

mod common;

use std::collections::VecDeque;

use bytes::Bytes;
use common::process::in_its_own_runtime;
use common::{LIMIT, Pair, friends, loopback, node, within};
use dhat::{HeapStats, Profiler};
use moorline::{Incoming, Peer, Target};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Blocks and bytes that were allocated since the profiler began.
fn allocated() -> (u64, u64) {
    let stats = HeapStats::get();
    (stats.total_blocks, stats.total_bytes)
}

/// Sends `count` frames one by one and reads them all; returns blocks and bytes allocated meanwhile.
async fn pass(pair: &Pair, payload: Bytes, count: usize) -> (f64, f64) {
    let before = allocated();
    let sender = pair.at_client.clone();
    let sending = tokio::spawn(async move {
        for _ in 0..count {
            sender.send(payload.clone()).await.expect("taken over");
        }
    });
    let mut frames = Vec::with_capacity(256);
    let mut arrived = 0;
    within("all frames", async {
        while arrived < count {
            arrived += pair.at_server.recv_many(&mut frames, 256).await.expect("frames");
            frames.clear();
        }
    })
    .await;
    within("the sender", sending).await.expect("no panic");
    let after = allocated();
    let count = count as f64;
    ((after.0 - before.0) as f64 / count, (after.1 - before.1) as f64 / count)
}

/// Of so many small frames one may cost an allocation, whole batches together.
const SMALL_FRAMES: f64 = 5.0;

/// What a small frame costs, where no pass before the last one is below the bound: how many go together is a matter
/// of who runs when.
async fn small_frame(mut pass: impl AsyncFnMut() -> f64) -> f64 {
    const PASSES: usize = 5;
    let mut least = f64::INFINITY;
    for _ in 0..PASSES {
        least = least.min(pass().await);
        eprintln!("{least} allocations a small frame");
        if least * SMALL_FRAMES <= 1.0 {
            break;
        }
    }
    least
}

#[test]
fn a_small_frame_costs_a_fifth_of_an_allocation_and_a_large_one_a_copy() {
    in_its_own_runtime(
        "a_small_frame_costs_a_fifth_of_an_allocation_and_a_large_one_a_copy",
        counted(),
    );
}

async fn counted() {
    let _profiler = Profiler::builder().testing().build();
    let pair = Pair::new().await;
    pass(&pair, vec![1; 128].into(), 1000).await;

    // Both ends together, under load: batches on the one side, runs on the other.
    let blocks = small_frame(async || pass(&pair, vec![1; 128].into(), 50_000).await.0).await;
    assert!(blocks * SMALL_FRAMES <= 1.0, "{blocks} allocations a small frame");

    // The sender copies nothing: all that is allocated is the receiver's one copy. The first frame
    // of a size grows as it arrives.
    let megabyte = 1 << 20;
    pass(&pair, vec![1; megabyte].into(), 2).await;
    let (_, bytes) = pass(&pair, vec![1; megabyte].into(), 64).await;
    let copies = bytes / megabyte as f64;
    assert!(copies <= 1.1, "{copies} times the payload was allocated");

    // The same with many at once.
    let mut frames: VecDeque<Bytes> = (0..10_000).map(|_| vec![1; 128].into()).collect();
    let (before, _) = allocated();
    pair.at_client.send_many(&mut frames).await.expect("taken over");
    let mut arrived = Vec::with_capacity(10_000);
    within("all frames", async {
        while arrived.len() < 10_000 {
            pair.at_server.recv_many(&mut arrived, 10_000).await.expect("frames");
        }
    })
    .await;
    let blocks = (allocated().0 - before) as f64 / 10_000.0;
    assert!(blocks <= 0.2, "{blocks} allocations a frame of many");
    pair.end().await;
}

/// The same for messages of a session: blocks a message.
async fn pass_of_a_session(from: &Peer, to: &Peer, payload: Bytes, count: usize) -> f64 {
    let (before, _) = allocated();
    let sender = from.clone();
    let sending = tokio::spawn(async move {
        for _ in 0..count {
            sender.send(payload.clone()).await.expect("accepted");
        }
    });
    within("all messages", async {
        for _ in 0..count {
            let came = to.recv().await.expect("the session lives");
            assert!(matches!(came, Incoming::Message(_)), "{came:?}");
        }
    })
    .await;
    within("the sender", sending).await.expect("no panic");
    (allocated().0 - before) as f64 / count as f64
}

#[test]
fn a_small_message_of_a_session_costs_a_fifth_of_an_allocation() {
    in_its_own_runtime(
        "a_small_message_of_a_session_costs_a_fifth_of_an_allocation",
        counted_in_a_session(),
    );
}

async fn counted_in_a_session() {
    let _profiler = Profiler::builder().testing().build();
    let (a, b) = friends();
    let (server, client) = (node(a).await, node(b).await);
    let mut begun = server.accept("counted/1");
    let address = within("listening", server.listen(loopback())).await.expect("a listener");
    let target = Target::from(address).expect(server.identity());
    let near = within("a peer", client.peer(target, "counted/1")).await.expect("a peer");
    let far = within("its other end", begun.next()).await.expect("it came");
    pass_of_a_session(&near, &far, vec![1; 128].into(), 1000).await;
    let payload = Bytes::from(vec![1; 128]);
    let blocks =
        small_frame(async || pass_of_a_session(&near, &far, payload.clone(), 50_000).await).await;
    assert!(blocks * SMALL_FRAMES <= 1.0, "{blocks} allocations a message");
    drop((near, far, begun));
    within("the client's end", client.close(LIMIT)).await.expect("an orderly end");
    within("the server's end", server.close(LIMIT)).await.expect("an orderly end");
}
