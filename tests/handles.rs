//! What a `ConnectionHandle` offers beside one `send` and one `recv`.

mod common;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Pair, stranger, within};
use futures_util::{SinkExt, StreamExt, stream};
use moorline::{
    CloseCode, CloseReason, Lane, Latency, Node, NodeConfig, NodeError, Outcome, RecvError,
    SendError,
};

/// Of all lengths up to some packets, and each one different.
fn frames(count: usize) -> VecDeque<Bytes> {
    (0..count)
        .map(|number| {
            let mut frame = number.to_be_bytes().to_vec();
            frame.resize(8 + number * 37 % 5000, number as u8);
            frame.into()
        })
        .collect()
}

async fn assert_arrive(at: &moorline::ConnectionHandle, expected: &VecDeque<Bytes>) {
    let (mut arrived, wanted) = (Vec::new(), expected.len());
    within("all frames", async {
        while arrived.len() < wanted {
            at.recv_many(&mut arrived, 100).await.expect("frames");
        }
    })
    .await;
    assert!(arrived.iter().eq(expected), "the same frames in the same order");
}

#[tokio::test]
async fn many_frames_are_sent_in_order_at_once() {
    let pair = Pair::new().await;
    let expected = frames(3000);
    let mut given = expected.clone();
    let sender = pair.at_client.clone();
    let sending = tokio::spawn(async move {
        sender.send_many(&mut given).await.expect("taken over");
        given.len()
    });
    assert_arrive(&pair.at_server, &expected).await;
    assert_eq!(within("the sender", sending).await.expect("no panic"), 0);
    let counts = pair.at_client.stats().sent;
    assert_eq!(counts.accepted, 3000);
    pair.end().await;
}

#[tokio::test]
async fn what_send_many_did_not_take_over_stays_with_the_caller() {
    let pair = Pair::with(|config| config.limits.inbound_bytes_max = 1 << 16, |_| ()).await;
    let mut given: VecDeque<Bytes> = (0..10_000).map(|_| vec![7; 1000].into()).collect();
    // Nobody reads: it cannot end.
    let waited =
        tokio::time::timeout(Duration::from_millis(300), pair.at_client.send_many(&mut given));
    waited.await.expect_err("the lane is full");
    let accepted = pair.at_client.stats().sent.accepted;
    assert_eq!(accepted as usize + given.len(), 10_000, "none is lost, none is there twice");
    assert!(accepted > 0);

    pair.at_client.actor().kill();
    within("the end", pair.at_client.closed()).await;
    let error = within("the error", pair.at_client.send_many(&mut given)).await;
    let Err(SendError::Closed { outcome: Outcome::NotSent(frame), .. }) = error else {
        panic!("{error:?}");
    };
    assert_eq!(frame.len(), 1000);
    assert_eq!(accepted as usize + given.len() + 1, 10_000);
    pair.end().await;
}

#[tokio::test]
async fn a_frame_over_the_limit_stops_send_many_and_comes_back() {
    let pair = Pair::with(|_| (), |config| config.limits.frame_bytes_max = 100).await;
    let lengths = [10, 100, 101, 50];
    let mut given: VecDeque<Bytes> = lengths.map(|length| vec![1; length].into()).into();
    let error = within("the error", pair.at_client.send_many(&mut given)).await;
    assert!(matches!(error, Err(SendError::TooLarge { length: 101, limit: 100, .. })), "{error:?}");
    assert_eq!(given.len(), 1, "the one behind it");
    within("the rest", pair.at_client.send_many(&mut given)).await.expect("taken over");
    for length in [10, 100, 50] {
        let frame = within("a frame", pair.at_server.recv()).await.expect("a frame");
        assert_eq!(frame.len(), length);
    }
    pair.end().await;
}

#[tokio::test]
async fn a_frame_in_two_parts_arrives_as_one() {
    let pair = Pair::new().await;
    let sizes = [0, 1, 100, 8 << 10, (8 << 10) + 1, 200_000, (1 << 20) + 1, 5 << 20];
    for head_bytes in [0, 1, 30, 20_000] {
        for body_bytes in sizes {
            let (head, body) = (vec![1; head_bytes], Bytes::from(vec![2; body_bytes]));
            let sent = pair.at_client.send_parts(&head, body.clone());
            within("a send", sent).await.expect("taken over");
            let frame = within("the frame", pair.at_server.recv()).await.expect("a frame");
            assert!(frame == [&head[..], &body].concat(), "{head_bytes} and {body_bytes}");
        }
    }
    pair.end().await;
}

#[tokio::test]
async fn a_frame_in_two_parts_comes_back_whole() {
    let small = |config: &mut NodeConfig| config.limits.frame_bytes_max = 100;
    let pair = Pair::with(|_| (), small).await;
    let error = within("the error", pair.at_client.send_parts(b"head", vec![2; 97])).await;
    let error = error.expect_err("it is too large");
    assert!(matches!(error, SendError::TooLarge { length: 101, limit: 100, .. }), "{error:?}");
    let whole = [b"head", &[2; 97][..]].concat();
    assert_eq!(error.into_frame().expect("handed back"), whole);
    within("the close", pair.at_client.close(CloseCode::NORMAL)).await;
    let error = within("the error", pair.at_client.send_parts(b"head", "body")).await;
    let frame = error.expect_err("closed").into_frame();
    assert_eq!(frame.expect("handed back"), "headbody");
    pair.end().await;
}

#[tokio::test]
async fn a_sink_and_a_stream_carry_frames() {
    let pair = Pair::new().await;
    // More than a lane holds: the sink has to wait for room.
    let expected: Vec<Bytes> = (0..400u32).map(|n| vec![n as u8; 20_000].into()).collect();
    let (mut sink, given) = (pair.at_client.sink(), expected.clone());
    let sending = tokio::spawn(async move {
        sink.send_all(&mut stream::iter(given.into_iter().map(Ok))).await.expect("taken over");
        sink.close().await.expect("flushed");
    });
    let mut stream = pair.at_server.stream();
    for frame in &expected {
        let arrived = within("a frame", stream.next()).await.expect("not over").expect("a frame");
        assert_eq!(arrived, frame);
    }
    within("the sender", sending).await.expect("no panic");
    let closing = pair.at_client.clone();
    let closing = tokio::spawn(async move { closing.close(CloseCode::NORMAL).await });
    let end = within("the end", stream.next()).await.expect("the reason first");
    let closed = CloseReason::Peer { code: CloseCode::NORMAL };
    assert_eq!(end, Err(RecvError::Closed { reason: closed }));
    assert!(within("nothing more", stream.next()).await.is_none());
    let reason = within("the close", closing).await.expect("no panic");
    assert_eq!(reason, CloseReason::Local { code: CloseCode::NORMAL });
    let mut late = pair.at_client.sink();
    let error = within("the error", late.send(Bytes::from_static(b"late"))).await;
    assert!(matches!(error, Err(SendError::Closed { .. })), "{error:?}");
    pair.end().await;
}

#[tokio::test]
async fn a_lane_carries_bytes_for_those_who_know_no_frames() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let pair = Pair::new().await;
    let (near, far) = (pair.at_client.clone(), pair.at_server.clone());
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let (mut here, mut there) = (near.into_io(Lane::Bulk), far.into_io(Lane::Bulk));
    // Frames without bytes are not the end.
    within("a send", pair.at_client.send_on(Lane::Bulk, "")).await.expect("taken over");
    let given = sent.clone();
    let writing = tokio::spawn(async move {
        for part in given.chunks(70_001) {
            here.write_all(part).await.expect("written");
        }
        let mut answer = [0; 6];
        here.read_exact(&mut answer).await.expect("an answer");
        here.shutdown().await.expect("an orderly end");
        answer
    });
    let mut got = vec![0; sent.len()];
    within("all bytes", there.read_exact(&mut got)).await.expect("all of them");
    assert!(got == sent);
    within("the answer", there.write_all(b"answer")).await.expect("written");
    assert_eq!(within("the end", there.read(&mut got)).await.expect("an orderly end"), 0);
    assert_eq!(&within("the writer", writing).await.expect("no panic"), b"answer");
    assert_eq!(pair.at_client.stats().sent_by_lane[Lane::Data as usize].accepted, 0);
    pair.end().await;
}

#[tokio::test]
async fn a_lane_of_bytes_that_is_dropped_closes_its_connection_behind_what_was_written() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let pair = Pair::new().await;
    let mut here = pair.at_client.clone().into_io(Lane::Data);
    within("a write", here.write_all(&[7; 100_000])).await.expect("written");
    drop(here);
    let mut there = pair.at_server.clone().into_io(Lane::Data);
    let mut got = Vec::new();
    within("all bytes", there.read_to_end(&mut got)).await.expect("an orderly end");
    assert_eq!(got, [7; 100_000]);
    let reason = within("the end", pair.at_client.closed()).await;
    assert_eq!(reason, CloseReason::Local { code: CloseCode::NORMAL });
    let mut late = pair.at_client.clone().into_io(Lane::Data);
    let error = within("a late write", late.write_all(b"late")).await.expect_err("closed");
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    pair.end().await;
}

#[tokio::test]
async fn nodes_whose_workers_poll_or_sleep_exchange_frames_and_end() {
    for latency in [Latency::Polling { idle_us: 200 }, Latency::Saving] {
        let set = |config: &mut NodeConfig| config.latency = latency;
        let pair = Pair::with(set, set).await;
        for frame in &frames(200) {
            pair.at_client.send(frame.clone()).await.expect("taken over");
            let there = within("there", pair.at_server.recv()).await.expect("a frame");
            pair.at_server.send(there).await.expect("taken over");
            assert_eq!(within("back", pair.at_client.recv()).await.expect("a frame"), frame);
        }
        pair.end().await;
    }
}

#[tokio::test]
async fn an_idle_path_acknowledges_a_lone_frame_soon() {
    let pair = Pair::new().await;
    let mut fastest = Duration::MAX;
    for frame in &frames(20) {
        let started = Instant::now();
        pair.at_client.send_acked(frame.clone()).await.expect("acknowledged");
        fastest = fastest.min(started.elapsed());
        within("the frame", pair.at_server.recv()).await.expect("a frame");
    }
    // An acknowledgement may be 25 ms late by default (RFC 9000, section 18.2).
    assert!(fastest < Duration::from_millis(20), "{fastest:?}");
    pair.end().await;
}

#[tokio::test]
async fn a_polling_time_that_cannot_work_is_refused_by_name() {
    for idle_us in [0, 10_001] {
        let mut config = NodeConfig::new(stranger());
        config.latency = Latency::Polling { idle_us };
        let error = Node::spawn(config).await.expect_err("it cannot work");
        let NodeError::Config(cause) = error else { panic!("{error:?}") };
        assert!(cause.to_string().contains("latency.idle_us"), "{cause}");
    }
}
