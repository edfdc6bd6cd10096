//! A peer as a service of tower, and as a Sink and a Stream.

mod common;

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use common::sessions::Pair;
use common::within;
use futures_util::{SinkExt, StreamExt};
use moorline::{CloseCode, Incoming, Lane, Peer, PeerEnded, PeerSendError, RequestError};
use tower::{Service, ServiceBuilder, ServiceExt};

const PROTOCOL: &str = "orders/1";
const TIME: Duration = Duration::from_secs(15);

/// Answers what it is asked with the same, and holds back what says so.
fn echo(peer: Peer) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok(Incoming::Request(mut request)) = peer.recv().await {
            match request.take_frame() {
                frame if frame == "hold" => held.push(request),
                frame => request.reply(frame).await.expect("it waits"),
            }
        }
    })
}

#[tokio::test]
async fn requests_go_through_towers_buffer_limit_and_timeout() {
    let pair = Pair::new(PROTOCOL).await;
    let server = echo(pair.at_server.clone());
    let limit = Duration::from_millis(300);
    let service = ServiceBuilder::new()
        .buffer(16)
        .concurrency_limit(4)
        .timeout(limit)
        .service(pair.at_client.service(Lane::Data, TIME));
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..50_u32 {
        let mut service = service.clone();
        calls.spawn(async move {
            let question = Bytes::copy_from_slice(&number.to_be_bytes());
            let ready = service.ready().await.map_err(|error| error.to_string())?;
            let answer = ready.call(question.clone()).await.map_err(|error| error.to_string())?;
            Ok::<bool, String>(answer == question)
        });
    }
    while let Some(call) = within("an answer", calls.join_next()).await {
        assert_eq!(call.expect("no panic"), Ok(true));
    }
    let late = within("the limit", service.clone().oneshot("hold".into())).await;
    let error = late.expect_err("nobody answers");
    assert!(error.is::<tower::timeout::error::Elapsed>(), "{error}");
    drop(service);
    server.abort();
    pair.end().await;
}

#[tokio::test]
async fn a_service_is_ready_while_there_is_a_place_in_flight_and_no_longer() {
    let pair = Pair::new(PROTOCOL).await;
    let server = echo(pair.at_server.clone());
    let mut service = pair.at_client.service(Lane::Data, TIME);
    // As many as may be in flight, each given out as ready.
    let mut calls = Vec::new();
    let is_ready = |service: &mut moorline::PeerService| {
        let waker = std::task::Waker::noop();
        service.poll_ready(&mut std::task::Context::from_waker(waker)).is_ready()
    };
    while is_ready(&mut service) {
        calls.push(Box::pin(service.call("hold".into())));
        assert!(calls.len() <= 1_024, "as many as there are places");
    }
    assert_eq!(calls.len(), 1_024);
    assert_eq!(
        pair.at_client.request("one more", TIME).await,
        Err(RequestError::TooMany { in_flight: 1_024 }),
        "places that are kept count",
    );
    // One that goes makes the service ready, also one that was called and never begun.
    let waiting = tokio::spawn(async move {
        poll_fn(|context| service.poll_ready(context)).await.map(|()| service)
    });
    drop(calls.pop());
    let mut service = within("ready", waiting).await.expect("no panic").expect("it goes on");
    assert_eq!(within("an answer", service.call("echo".into())).await, Ok("echo".into()));
    drop(calls);
    // A larger frame waits for its room when it comes.
    let large = Bytes::from(vec![7; 300_000]);
    let answer = within("an answer", service.ready()).await.expect("ready").call(large.clone());
    assert_eq!(within("an answer", answer).await, Ok(large));
    server.abort();
    within("the close", pair.at_client.close(CloseCode::NORMAL)).await;
    let over = within("the end", service.ready()).await.map(drop);
    assert_eq!(over, Err(RequestError::NotSent));
    drop(service);
    pair.end().await;
}

#[tokio::test]
async fn frames_go_through_a_sink_and_a_stream_which_ends_with_the_reason_once() {
    let pair = Pair::new(PROTOCOL).await;
    let (mut sink, mut stream) = (pair.at_client.sink(), pair.at_server.stream());
    let sending = tokio::spawn(async move {
        for number in 0..2_000_u32 {
            let mut frame = vec![0; 3_000];
            frame[..4].copy_from_slice(&number.to_be_bytes());
            sink.send(frame.into()).await.expect("accepted");
        }
        sink.close().await.expect("flushed");
    });
    for number in 0..2_000_u32 {
        let incoming = within("a frame", stream.next()).await.expect("more").expect("a frame");
        let Incoming::Message(frame) = incoming else { panic!("a message") };
        assert_eq!(frame[..4], number.to_be_bytes());
    }
    within("the sender", sending).await.expect("no panic");
    within("the close", pair.at_client.close(CloseCode::NORMAL)).await;
    let by_peer = PeerEnded::ByPeer { code: CloseCode::NORMAL };
    let end = within("the end", stream.next()).await.expect("the reason");
    assert_eq!(end.err(), Some(by_peer));
    assert!(within("the end", stream.next()).await.is_none());
    drop(stream);
    pair.end().await;
}

#[tokio::test]
async fn many_frames_leave_their_queue_as_they_are_accepted_and_come_many_at_a_time() {
    let pair = Pair::new(PROTOCOL).await;
    let mut frames: VecDeque<Bytes> =
        (0..500_u32).map(|number| Bytes::copy_from_slice(&number.to_be_bytes())).collect();
    within("sending", pair.at_client.send_many(&mut frames)).await.expect("accepted");
    assert!(frames.is_empty());
    let mut seen = Vec::new();
    while seen.len() < 500 {
        let count = within("frames", pair.at_server.recv_many(&mut seen, 64)).await.expect("more");
        assert!((1..=64).contains(&count));
    }
    for (number, incoming) in (0..500_u32).zip(&seen) {
        let Incoming::Message(frame) = incoming else { panic!("a message") };
        assert_eq!(frame[..], number.to_be_bytes());
    }
    // Without room it waits, and a cancelled call leaves what was not accepted.
    let large = Bytes::from(vec![1; 1 << 20]);
    let mut full = Ok(());
    while full.is_ok() {
        full = pair.at_client.try_send_on(Lane::Bulk, large.clone());
    }
    let Err(PeerSendError::Full { frame }) = full else { panic!("{full:?}") };
    assert!(frame == large, "it comes back");
    let accepted = pair.at_client.deliveries()[Lane::Bulk as usize].accepted;
    let mut frames = VecDeque::from([large.clone(), large.clone()]);
    {
        let mut waits = std::pin::pin!(pair.at_client.send_many_on(Lane::Bulk, &mut frames));
        let is_ready = poll_fn(|context| Poll::Ready(waits.as_mut().poll(context).is_ready()));
        assert!(!is_ready.await, "nobody takes them");
    }
    assert_eq!(frames.len(), 2);
    assert_eq!(pair.at_client.deliveries()[Lane::Bulk as usize].accepted, accepted);
    assert!(pair.at_client.try_recv().expect("it goes on").is_none());
    drop(within("room", pair.at_client.reserve(100)).await.expect("another lane"));
    let reserved = pair.at_client.try_reserve_on(Lane::Bulk, 1, 1 << 20);
    assert!(matches!(reserved, Err(PeerSendError::Full { .. })));
    drop(seen);
    pair.end().await;
}
