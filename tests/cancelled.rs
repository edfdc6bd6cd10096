//! Every public async method, given up at every point where it waits: nothing is lost, nothing comes
//! twice.
//!
//! A future is polled in a task whose budget is spent, or nearly, so that it has to wait in places
//! where it otherwise never would; then it is dropped and asked for again.

mod common;

use std::collections::VecDeque;
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use common::{Pair, connected, friends, loopback, node, within};
use futures_util::{SinkExt, StreamExt};
use moorline::{
    ConnectionHandle, Lane, MsQuicTransport, NodeEvent, RecvError, Redial, SendError, Target,
    read_message_from_stream, write_buffer_to_stream,
};

const FRAMES: u32 = 300;

fn numbered(number: u32) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

fn number(frame: &Bytes) -> u32 {
    u32::from_be_bytes(frame[..4].try_into().expect("four bytes"))
}

/// Spends the task's budget down to `left` units.
async fn spend_budget(left: u32) {
    // A fresh one.
    tokio::task::yield_now().await;
    let all = 128;
    for _ in 0..all - left {
        let mut spending = pin!(tokio::task::consume_budget());
        std::future::poll_fn(|context| {
            let _ = spending.as_mut().poll(context);
            Poll::Ready(())
        })
        .await;
    }
}

/// Polls `future` up to `polls` times with `budget` units left, then gives it up.
async fn give_up<R>(future: impl Future<Output = R>, budget: u32, polls: u32) -> Option<R> {
    let mut future = pin!(future);
    for _ in 0..polls {
        spend_budget(budget).await;
        let polled = std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context)));
        if let Poll::Ready(result) = polled.await {
            return Some(result);
        }
    }
    None
}

/// All ways to give up: how much budget is left, and how often it is polled.
fn ways() -> impl Iterator<Item = (u32, u32)> {
    (0..4).flat_map(|budget| (1..4).map(move |polls| (budget, polls))).cycle()
}

/// Asks `take` again and again, mostly given up, until it has given [`FRAMES`] numbers, in order.
async fn takes_each_once<F>(what: &str, mut take: impl FnMut() -> F)
where
    F: Future<Output = Vec<u32>>,
{
    let mut taken = Vec::new();
    let mut given_up = 0;
    let all = async {
        for (budget, polls) in ways() {
            match give_up(take(), budget, polls).await {
                Some(more) => taken.extend(more),
                None => given_up += 1,
            }
            if taken.len() >= FRAMES as usize {
                return;
            }
        }
    };
    within(what, all).await;
    assert!(given_up > 50, "{what}: only {given_up} were given up");
    assert!(taken.iter().copied().eq(0..FRAMES), "{what}: {taken:?}");
}

async fn send_all(handle: &ConnectionHandle, lane: Lane) {
    for n in 0..FRAMES {
        within("a send", handle.send_on(lane, numbered(n))).await.expect("taken over");
    }
}

fn one(received: Result<Bytes, RecvError>) -> Vec<u32> {
    vec![number(&received.expect("a frame"))]
}

#[tokio::test]
async fn reads_that_are_given_up_lose_and_double_nothing() {
    let pair = Pair::new().await;
    let (near, far) = (&pair.at_client, &pair.at_server);
    send_all(near, Lane::Data).await;
    takes_each_once("recv", || async { one(far.recv().await) }).await;

    send_all(near, Lane::Bulk).await;
    takes_each_once("recv_on", || async { one(far.recv_on(Lane::Bulk).await) }).await;

    send_all(near, Lane::Data).await;
    let take = || async {
        let mut frames = Vec::new();
        far.recv_many(&mut frames, 2).await.expect("frames");
        frames.iter().map(number).collect()
    };
    takes_each_once("recv_many", take).await;

    send_all(near, Lane::Data).await;
    // A stream that is dropped has taken nothing ahead.
    let take = || async { one(far.stream().next().await.expect("not over")) };
    takes_each_once("stream", take).await;
    pair.end().await;
}

#[tokio::test]
async fn a_read_in_a_select_beside_a_busy_branch_loses_nothing() {
    let pair = Pair::new().await;
    let (near, far) = (pair.at_client.clone(), pair.at_server.clone());
    let drain = pair.at_client.clone();
    let draining = tokio::spawn(async move { while drain.recv().await.is_ok() {} });
    let sending = tokio::spawn(async move { send_all(&near, Lane::Data).await });
    let mut taken = Vec::new();
    let all = async {
        while taken.len() < FRAMES as usize {
            tokio::select! {
                frame = far.recv() => taken.extend(one(frame)),
                () = async {
                    for _ in 0..3_000 {
                        far.send("x").await.expect("taken over");
                    }
                } => {}
            }
        }
    };
    within("every frame", all).await;
    assert!(taken.iter().copied().eq(0..FRAMES), "{taken:?}");
    within("the sender", sending).await.expect("no panic");
    draining.abort();
    pair.end().await;
}

/// Sends numbers with `send`, mostly given up, until [`FRAMES`] were accepted.
async fn sends_each_once<F>(what: &str, pair: &Pair, mut send: impl FnMut(u32) -> F)
where
    F: Future<Output = Result<(), SendError>>,
{
    let before = pair.at_client.stats().sent.accepted;
    let (mut next, mut given_up) = (0, 0);
    let all = async {
        for (budget, polls) in ways() {
            match give_up(send(next), budget, polls).await {
                Some(sent) => {
                    sent.expect("taken over");
                    next += 1;
                }
                None => given_up += 1,
            }
            if next == FRAMES {
                return;
            }
        }
    };
    within(what, all).await;
    for expected in 0..FRAMES {
        let frame = within("a frame", pair.at_server.recv()).await.expect("a frame");
        assert_eq!(number(&frame), expected, "{what}");
    }
    let accepted = pair.at_client.stats().sent.accepted - before;
    assert_eq!(accepted, u64::from(FRAMES), "{what}: what was given up was not taken over");
    assert!(given_up > 0, "{what}: nothing was given up");
}

#[tokio::test]
async fn sends_that_are_given_up_are_not_sent() {
    let pair = Pair::new().await;
    let near = &pair.at_client;
    sends_each_once("send", &pair, |n| async move {
        // So that there is a turn to give up in: a sender gives way once in a while.
        near.send(numbered(n)).await
    })
    .await;
    sends_each_once("send_on", &pair, |n| near.send_on(Lane::Bulk, numbered(n))).await;
    sends_each_once("send_many", &pair, |n| async move {
        let mut frames = VecDeque::from([numbered(n)]);
        near.send_many(&mut frames).await
    })
    .await;
    pair.end().await;
}

/// A credit that is given up on its way gives its room back.
#[tokio::test]
async fn reservations_that_are_given_up_hold_no_room() {
    let small = |config: &mut moorline::NodeConfig| config.limits.lane_bytes_max = 16 << 10;
    let pair = Pair::with(|_| (), small).await;
    let near = &pair.at_client;
    for lengths in [[10_000, 10_000], [60_000, 60_000]] {
        let held = within("a credit", near.reserve(lengths[0])).await.expect("room");
        let mut given_up = 0;
        for (budget, polls) in ways().take(50) {
            let more = give_up(near.reserve(lengths[1]), budget, polls).await;
            given_up += u32::from(more.is_none());
        }
        assert!(given_up > 0, "{lengths:?}: nothing was given up");
        drop(held);
        let all = within("all of it", near.reserve(lengths[1])).await.expect("room");
        assert_eq!(all.length(), lengths[1]);
    }
    pair.end().await;
}

#[tokio::test]
async fn what_send_many_took_over_has_left_its_queue_whenever_it_is_given_up() {
    let pair = Pair::new().await;
    let reader = pair.at_server.clone();
    let reading = tokio::spawn(async move {
        for expected in 0..10 * FRAMES {
            let frame = reader.recv().await.expect("a frame");
            assert_eq!(number(&frame), expected);
            assert_eq!(frame.len(), 2_000);
        }
    });
    let frame = |n: u32| {
        let mut frame = vec![0; 2_000];
        frame[..4].copy_from_slice(&n.to_be_bytes());
        Bytes::from(frame)
    };
    let mut frames: VecDeque<Bytes> = (0..10 * FRAMES).map(frame).collect();
    let mut given_up = 0;
    let all = async {
        for (budget, polls) in ways() {
            match give_up(pair.at_client.send_many(&mut frames), budget, polls).await {
                Some(sent) => return sent.expect("taken over"),
                None => given_up += 1,
            }
            let accepted = pair.at_client.stats().sent.accepted;
            assert_eq!(accepted + frames.len() as u64, 10 * u64::from(FRAMES));
        }
    };
    within("every frame", all).await;
    assert!(given_up > 0, "nothing was given up");
    within("the reader", reading).await.expect("no panic");
    pair.end().await;
}

#[tokio::test]
async fn a_sink_that_is_given_up_sends_what_it_took_over() {
    let pair = Pair::new().await;
    let mut sink = pair.at_client.sink();
    let mut next = 0;
    let all = async {
        for (budget, polls) in ways() {
            // `feed` hands over and does not wait behind it.
            if let Some(sent) = give_up(sink.feed(numbered(next)), budget, polls).await {
                sent.expect("taken over");
                next += 1;
            }
            if next == FRAMES {
                return;
            }
        }
    };
    within("every frame", all).await;
    within("the flush", sink.flush()).await.expect("taken over");
    for expected in 0..FRAMES {
        let frame = within("a frame", pair.at_server.recv()).await.expect("a frame");
        assert_eq!(number(&frame), expected);
    }
    pair.end().await;
}

#[tokio::test]
async fn the_bare_transport_loses_and_doubles_nothing_either() {
    let (a, b) = friends();
    let (here, there) = (MsQuicTransport::new(), MsQuicTransport::new());
    let listener = here.create_listener(loopback(), &["x"], a).await.expect("it listens");
    let address = listener.local_addr();
    let dialling = tokio::spawn({
        let there = there.clone();
        async move { there.connect(address, &["x"], b).await.expect("it connects") }
    });
    let mut accepted = None;
    let accept = async {
        for (budget, polls) in ways() {
            // A request is taken only when it is returned.
            if let Some(request) = give_up(listener.accept(), budget, polls).await {
                accepted = Some(request.expect("a request").accept().await.expect("accepted"));
                return;
            }
        }
    };
    within("the request", accept).await;
    let server = accepted.expect("a connection");
    let client = within("the dial", dialling).await.expect("no panic");

    let mut next = 0;
    let all = async {
        for (budget, polls) in ways() {
            let sent = give_up(client.send(numbered(next)), budget, polls).await;
            if let Some(sent) = sent {
                sent.expect("taken over");
                next += 1;
            }
            if next == FRAMES {
                return;
            }
        }
    };
    within("sends", all).await;
    takes_each_once("recv", || async { one(server.recv().await.map(|(frame, _)| frame)) }).await;

    let stream = within("a stream", client.streams().acquire_send()).await.expect("a stream");
    for n in 0..FRAMES {
        write_buffer_to_stream(&stream, numbered(n)).await.expect("taken over");
    }
    let pool = server.streams();
    let stream = within("a stream", pool.acquire_recv()).await.expect("a stream");
    let take = || async { one(read_message_from_stream(&stream).await.map(|(frame, _)| frame)) };
    takes_each_once("read_message_from_stream", take).await;
}

#[tokio::test]
async fn events_are_taken_only_when_they_are_returned() {
    let (a, b) = friends();
    let (server, client) = (node(a).await, node(b).await);
    let mut events = server.subscribe();
    let address = server.listen(loopback()).await.expect("it listens");
    let mut check = client.subscribe();
    for _ in 0..3 {
        let target = Target::from(address).redial(Redial::Never);
        within("a dial", client.connect(target)).await.expect("it connects");
        connected(&mut check).await;
    }
    let mut told = 0;
    let all = async {
        for (budget, polls) in ways() {
            if let Some(event) = give_up(events.next(), budget, polls).await {
                let event = event.expect("the node lives");
                told += u32::from(matches!(event, NodeEvent::Connected(_)));
            }
            if told == 3 {
                return;
            }
        }
    };
    within("every event", all).await;
    client.close(common::LIMIT).await.expect("an orderly end");
    server.close(common::LIMIT).await.expect("an orderly end");
}
