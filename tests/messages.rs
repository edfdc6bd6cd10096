//! A connection driven by messages: every request, its credit, and its end.

mod common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{
    LIMIT, Pair, connected, friends, loopback, node, node_with, one_peer_with_many, stranger,
    within,
};
use moorline::{
    CloseCode, CloseReason, ConnectError, ConnectionHandle, ConnectionMessage, Credit, FrameBatch,
    Lane, NodeConfig, Outcome, ReceivedFrame, RecvError, Redial, SendError, SendManyError,
    SupervisorMessage, Target,
};
use ractor::{Actor, ActorProcessingErr, ActorRef, Message, RpcReplyPort};
use tokio::sync::{mpsc, oneshot};

/// Sends a request that is answered later.
fn ask<M: Message, R>(
    actor: &ActorRef<M>,
    message: impl FnOnce(RpcReplyPort<R>) -> M,
) -> oneshot::Receiver<R> {
    let (reply, answer) = oneshot::channel();
    assert!(actor.cast(message(reply.into())).is_ok(), "the actor lives");
    answer
}

/// Sends a request and waits for its answer.
async fn call<M: Message, R>(
    what: &str,
    actor: &ActorRef<M>,
    message: impl FnOnce(RpcReplyPort<R>) -> M,
) -> R {
    let answer = ask(actor, message);
    within(what, answer).await.unwrap_or_else(|_| panic!("{what}: the port was dropped"))
}

fn recv(
    actor: &ActorRef<ConnectionMessage>,
) -> oneshot::Receiver<Result<ReceivedFrame, RecvError>> {
    ask(actor, |reply| ConnectionMessage::Recv { lane: None, reply })
}

async fn received(actor: &ActorRef<ConnectionMessage>) -> Result<Bytes, RecvError> {
    let received = call("a frame", actor, |reply| ConnectionMessage::Recv { lane: None, reply });
    received.await.map(ReceivedFrame::into_bytes)
}

async fn credit(handle: &ConnectionHandle, length: usize) -> Credit {
    within("a credit", handle.reserve(length)).await.expect("a credit")
}

/// Sends by message and waits for the outcome.
async fn send(
    actor: &ActorRef<ConnectionMessage>,
    frame: impl Into<Bytes>,
    credit: Credit,
) -> Result<(), SendError> {
    let frame = frame.into();
    call("the outcome", actor, |reply| ConnectionMessage::Send {
        frame,
        credit,
        reply: Some(reply),
    })
    .await
}

fn numbered(number: u32) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

fn number(frame: &Bytes) -> u32 {
    u32::from_be_bytes(frame[..4].try_into().expect("four bytes"))
}

// ---- requests ----------------------------------------------------------------------------------

#[tokio::test]
async fn a_connection_is_driven_by_messages_alone() {
    let (a, b) = friends();
    let (server, client) = (node(a).await, node(b).await);
    let mut events = server.subscribe();
    let listen = |reply| SupervisorMessage::Listen { address: loopback(), reply };
    let address = call("listening", server.supervisor(), listen).await.expect("it listens");
    let target = Target::from(address).expect(server.identity());
    let dial = |reply| SupervisorMessage::Connect { target: target.clone(), reply };
    let at_client = call("connecting", client.supervisor(), dial).await.expect("it connects");
    let at_server = connected(&mut events).await;
    let (near, far) = (at_client.actor(), at_server.actor());

    for (from, handle, to) in [(&near, &at_client, &far), (&far, &at_server, &near)] {
        for size in [0, 1, 4096, 100_000] {
            let frame = Bytes::from(vec![7; size]);
            send(from, frame.clone(), credit(handle, size).await).await.expect("acknowledged");
            assert_eq!(received(to).await.expect("a frame"), frame);
        }
        let stats = call("the stats", from, |reply| ConnectionMessage::Stats { reply }).await;
        assert_eq!((stats.sent.accepted, stats.sent.completed), (4, 4));
        let stats = call("the stats", to, |reply| ConnectionMessage::Stats { reply }).await;
        assert_eq!((stats.frames_received, stats.bytes_received), (4, 104_097));
    }

    let code = CloseCode::application(0x4242).expect("an application's code");
    let watch = |reply| ConnectionMessage::WatchClose { reply };
    let (told_here, told_there) = (ask(&near, watch), ask(&far, watch));
    let waiting = recv(&near);
    let close = |reply| ConnectionMessage::Close { code, reply: Some(reply) };
    let again = ask(&near, close);
    assert_eq!(call("the close", &near, close).await, CloseReason::Local { code });
    let reason = CloseReason::Local { code };
    assert_eq!(within("the first close", again).await, Ok(reason.clone()));
    assert_eq!(within("the watcher here", told_here).await, Ok(reason.clone()));
    let answered = within("the reader", waiting).await.expect("it is answered");
    assert!(answered.is_err(), "{answered:?}");
    assert_eq!(within("the watcher there", told_there).await, Ok(CloseReason::Peer { code }));

    let disconnect = SupervisorMessage::Disconnect { target };
    client.supervisor().cast(disconnect).expect("the node lives");
    for node in [&client, &server] {
        let shutdown = |reply| SupervisorMessage::Shutdown { grace: LIMIT, reply };
        assert_eq!(call("the end", node.supervisor(), shutdown).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_by_message_right_after_a_failed_one_is_answered() {
    let node = node(stranger()).await;
    // Nothing listens there, ever.
    let target = Target::from(std::net::SocketAddr::from(([127, 0, 0, 1], 9)));
    for _ in 0..300 {
        let dial = |reply| SupervisorMessage::Connect { target: target.clone(), reply };
        let result = call("the dial", node.supervisor(), dial).await;
        assert!(matches!(result, Err(ConnectError::Unreachable { .. })), "{result:?}");
    }
    within("the end", node.shutdown(LIMIT)).await.expect("an orderly end");
}

#[tokio::test]
async fn a_frame_by_message_after_a_close_comes_back() {
    let pair = Pair::new().await;
    let actor = &pair.at_client.actor();
    let credit = credit(&pair.at_client, 16).await;
    let close = ConnectionMessage::Close { code: CloseCode::NORMAL, reply: None };
    actor.cast(close).expect("it lives");
    let error = send(actor, "too late", credit).await.expect_err("it is closing");
    let SendError::Closed { reason, outcome } = error else { panic!("{error:?}") };
    assert_eq!(reason, CloseReason::Local { code: CloseCode::NORMAL });
    assert_eq!(outcome, Outcome::NotSent("too late".into()));
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_are_told_the_reason_when_a_node_shuts_down() {
    let (a, b) = friends();
    let server = node_with(a, one_peer_with_many).await;
    let client = node_with(b, one_peer_with_many).await;
    let mut events = server.subscribe();
    let address = within("listening", server.listen(loopback())).await.expect("it listens");
    let (mut watchers, mut readers) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        let target = Target::from(address).redial(Redial::Never);
        let dialled = within("a dial", client.connect(target)).await.expect("a dial");
        let accepted = connected(&mut events).await;
        let watch = |reply| ConnectionMessage::WatchClose { reply };
        watchers.push((ask(&dialled.actor(), watch), ask(&accepted.actor(), watch)));
        // Who reads to the end lets the peer close at once.
        readers.push(tokio::spawn(async move { while accepted.recv().await.is_ok() {} }));
    }
    within("the end", client.shutdown(LIMIT)).await.expect("an orderly end");
    let code = CloseCode::GOING_AWAY;
    for (here, there) in watchers {
        assert_eq!(within("here", here).await, Ok(CloseReason::Local { code }));
        assert_eq!(within("there", there).await, Ok(CloseReason::Peer { code }));
    }
    for reader in readers {
        within("a reader", reader).await.expect("no panic");
    }
    within("the server's end", server.shutdown(LIMIT)).await.expect("an orderly end");
}

#[tokio::test]
async fn control_messages_are_answered_at_once_while_a_lane_is_saturated() {
    let pair = Pair::new().await;
    let mut senders = Vec::new();
    for _ in 0..4 {
        let sender = pair.at_client.clone();
        senders.push(tokio::spawn(
            async move { while sender.send(vec![1; 1 << 16]).await.is_ok() {} },
        ));
    }
    let reader = pair.at_server.clone();
    let reading = tokio::spawn(async move { while reader.recv().await.is_ok() {} });
    let actor = &pair.at_client.actor();
    // Under load, then with a peer that reads no more: the lane is full from then on.
    for round in 0..2 {
        let mut longest = Duration::ZERO;
        for _ in 0..200 {
            let asked = Instant::now();
            call("the stats", actor, |reply| ConnectionMessage::Stats { reply }).await;
            longest = longest.max(asked.elapsed());
        }
        assert!(longest < Duration::from_millis(500), "round {round}: {longest:?}");
        reading.abort();
        within("a full lane", async {
            while pair.at_client.try_send(vec![1; 1 << 16]).is_ok() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    actor.kill();
    for sender in senders {
        within("a sender", sender).await.expect("no panic");
    }
    pair.end().await;
}

// ---- credit ------------------------------------------------------------------------------------

/// A lane for one frame of this many bytes.
fn small_lane(config: &mut NodeConfig) {
    config.limits.lane_bytes_max = LANE;
}

const LANE: usize = 64 << 10;

/// What is remembered of a frame until its outcome is known: it counts as bytes of the lane.
const REMEMBERED: usize = 128;

/// What fills a small lane by itself, with a credit.
const FILLS: usize = LANE - 4 - REMEMBERED;

#[tokio::test]
async fn a_frame_that_is_larger_than_its_credit_comes_back_and_frees_its_room() {
    let pair = Pair::with(|_| (), small_lane).await;
    let credit = credit(&pair.at_client, FILLS).await;
    assert_eq!(credit.length(), FILLS);
    let error = send(&pair.at_client.actor(), vec![1; FILLS + 1], credit).await;
    let error = error.expect_err("one byte too many");
    assert!(matches!(error, SendError::Credit { .. }), "{error:?}");
    assert_eq!(error.into_frame().expect("handed back").len(), FILLS + 1);
    pair.at_client.try_send(vec![2; FILLS]).expect("there is room again");
    assert_eq!(within("a frame", pair.at_server.recv()).await.expect("a frame")[0], 2);
    pair.end().await;
}

#[tokio::test]
async fn a_frame_with_the_credit_of_another_connection_comes_back_and_frees_its_room() {
    let pair = Pair::with(|_| (), small_lane).await;
    let target = Target::from(pair.address).redial(Redial::Never);
    let other = within("another connection", pair.client.connect(target)).await.expect("one more");
    let credit = credit(&other, FILLS).await;
    let error = send(&pair.at_client.actor(), "astray", credit).await.expect_err("not its credit");
    assert!(matches!(error, SendError::Credit { .. }), "{error:?}");
    assert_eq!(error.into_frame().expect("handed back"), "astray");
    other.try_send(vec![2; FILLS]).expect("there is room again");
    pair.at_client.try_send(vec![2; FILLS]).expect("nothing was taken here");
    within("the close", other.close(CloseCode::NORMAL)).await;
    drop(other);
    pair.end().await;
}

#[tokio::test]
async fn a_credit_that_is_dropped_gives_its_room_back() {
    let pair = Pair::with(|_| (), small_lane).await;
    let unused = credit(&pair.at_client, FILLS).await;
    let refused = pair.at_client.try_send("no room");
    assert!(matches!(refused, Err(SendError::Full { .. })), "{refused:?}");
    let mut next = Box::pin(pair.at_client.reserve(FILLS));
    tokio::select! {
        biased;
        next = &mut next => panic!("the lane is full: {next:?}"),
        () = std::future::ready(()) => {}
    }
    drop(unused);
    drop(within("the next credit", next).await.expect("there is room"));
    pair.at_client.try_send(vec![3; FILLS]).expect("there is room again");
    pair.end().await;
}

#[tokio::test]
async fn a_credit_is_refused_for_a_frame_over_the_limit() {
    let pair = Pair::new().await;
    let error = within("the answer", pair.at_client.reserve((16 << 20) + 1)).await;
    assert!(matches!(error, Err(SendError::TooLarge { .. })), "{error:?}");
    pair.end().await;
}

#[tokio::test]
async fn a_credit_that_outlives_its_connection_is_refused_with_the_reason() {
    let pair = Pair::new().await;
    let credit = credit(&pair.at_client, 16).await;
    within("the close", pair.at_client.close(CloseCode::NORMAL)).await;
    let late = within("the answer", pair.at_client.reserve(16)).await;
    let Err(SendError::Closed { reason, .. }) = late else { panic!("{late:?}") };
    assert_eq!(reason, CloseReason::Local { code: CloseCode::NORMAL });
    drop(credit);
    pair.end().await;
}

// ---- batches -----------------------------------------------------------------------------------

type SentMany = Result<(), SendManyError>;

/// Sends a batch by message; its answer comes later.
fn begin_many(
    actor: &ActorRef<ConnectionMessage>,
    frames: Vec<Bytes>,
    credit: Credit,
) -> oneshot::Receiver<SentMany> {
    ask(actor, |reply| ConnectionMessage::SendMany { frames, credit, reply: Some(reply) })
}

async fn send_many(
    actor: &ActorRef<ConnectionMessage>,
    frames: Vec<Bytes>,
    credit: Credit,
) -> SentMany {
    within("the outcomes", begin_many(actor, frames, credit)).await.expect("it is answered")
}

async fn credit_many(handle: &ConnectionHandle, frames: usize, length: usize) -> Credit {
    within("a credit", handle.reserve_many(frames, length)).await.expect("a credit")
}

fn all_came_back(error: &SendManyError, frames: &[Bytes]) {
    let expected: Vec<_> = frames.iter().cloned().map(Outcome::NotSent).collect();
    assert_eq!(error.outcomes, expected);
}

#[tokio::test]
async fn batches_arrive_in_order_and_are_answered_once_all_of_each_was_acknowledged() {
    const FRAMES: u32 = 64;
    let pair = Pair::new().await;
    let mut answers = Vec::new();
    for batch in 0..200 {
        let frames: Vec<_> = (batch * FRAMES..(batch + 1) * FRAMES).map(numbered).collect();
        let credit = credit_many(&pair.at_client, frames.len(), 4 * frames.len()).await;
        answers.push(begin_many(&pair.at_client.actor(), frames, credit));
    }
    for expected in 0..200 * FRAMES {
        let frame = within("a frame", pair.at_server.recv()).await.expect("a frame");
        assert_eq!(number(&frame), expected);
    }
    for answer in answers {
        within("an answer", answer).await.expect("it is answered").expect("acknowledged");
    }
    let sent = pair.at_client.stats().sent;
    assert_eq!((sent.accepted, sent.completed), (200 * 64, 200 * 64));
    pair.end().await;
}

#[tokio::test]
async fn a_batch_may_have_frames_of_every_size_or_none_at_all() {
    let pair = Pair::new().await;
    let actor = &pair.at_client.actor();
    let sizes = [0, 1, 8 << 10, (8 << 10) + 1, 100_000, 0, 1 << 20, 3, 65_536, 40_000, 40_000];
    let frames: Vec<_> = sizes.iter().map(|size| Bytes::from(vec![7; *size])).collect();
    let credit = credit_many(&pair.at_client, sizes.len(), sizes.iter().sum()).await;
    assert_eq!((credit.frames(), credit.length()), (sizes.len(), sizes.iter().sum()));
    let answer = begin_many(actor, frames.clone(), credit);
    for frame in frames {
        assert_eq!(within("a frame", pair.at_server.recv()).await.expect("a frame"), frame);
    }
    within("the answer", answer).await.expect("it is answered").expect("acknowledged");
    let nothing = credit_many(&pair.at_client, 0, 0).await;
    send_many(actor, Vec::new(), nothing).await.expect("nothing can fail");
    pair.end().await;
}

#[tokio::test]
async fn a_batch_that_needs_less_than_its_credit_gives_the_rest_back() {
    let pair = Pair::with(|_| (), small_lane).await;
    let (frames, length) = (16, LANE - 16 * (4 + REMEMBERED));
    let credit = credit_many(&pair.at_client, frames, length).await;
    let refused = pair.at_client.try_reserve_many(1, 0);
    assert!(matches!(refused, Err(SendError::Full { .. })), "{refused:?}");
    let sent = ConnectionMessage::SendMany { frames: vec!["one".into()], credit, reply: None };
    pair.at_client.actor().cast(sent).expect("it lives");
    call("the stats", &pair.at_client.actor(), |reply| ConnectionMessage::Stats { reply }).await;
    pair.at_client.try_reserve_many(frames - 1, length - 3).expect("the rest is free");
    assert_eq!(within("a frame", pair.at_server.recv()).await.expect("a frame"), "one");
    pair.end().await;
}

#[tokio::test]
async fn a_batch_that_its_credit_does_not_cover_comes_back_whole_and_frees_its_room() {
    let pair = Pair::with(|_| (), small_lane).await;
    let (actor, whole) = (&pair.at_client.actor(), LANE - 3 * (4 + REMEMBERED));
    let too_long = vec![Bytes::from(vec![1; whole]), "a".into(), "b".into()];
    let too_many = vec![Bytes::from_static(b"c"); 4];
    for frames in [too_long, too_many] {
        let credit = credit_many(&pair.at_client, 3, whole).await;
        let error = send_many(actor, frames.clone(), credit).await.expect_err("too small a credit");
        assert!(matches!(error.source, SendError::Credit { .. }), "{error:?}");
        all_came_back(&error, &frames);
        assert_eq!(error.into_frames(), frames);
    }
    let target = Target::from(pair.address).redial(Redial::Never);
    let other = within("another connection", pair.client.connect(target)).await.expect("one more");
    let credit = credit_many(&other, 3, whole).await;
    let frames = vec![Bytes::from_static(b"astray"); 2];
    let error = send_many(actor, frames.clone(), credit).await.expect_err("not its credit");
    assert!(matches!(error.source, SendError::Credit { .. }), "{error:?}");
    all_came_back(&error, &frames);
    for handle in [&other, &pair.at_client] {
        drop(handle.try_reserve_many(3, whole).expect("there is room again"));
        assert_eq!(handle.stats().sent.accepted, 0);
    }
    within("the close", other.close(CloseCode::NORMAL)).await;
    drop(other);
    pair.end().await;
}

#[tokio::test]
async fn a_batch_with_one_frame_over_the_limit_comes_back_whole() {
    let limited = |config: &mut NodeConfig| config.limits.frame_bytes_max = 1000;
    let pair = Pair::with(limited, limited).await;
    let frames = vec![Bytes::from(vec![1; 1000]), Bytes::from(vec![2; 1001])];
    let credit = credit_many(&pair.at_client, 2, 2001).await;
    let error = send_many(&pair.at_client.actor(), frames.clone(), credit).await;
    let error = error.expect_err("the second is too large");
    assert!(matches!(error.source, SendError::TooLarge { length: 1001, limit: 1000, .. }));
    all_came_back(&error, &frames);
    let alone = credit_many(&pair.at_client, 2, 2001).await;
    let error = send(&pair.at_client.actor(), frames[1].clone(), alone).await;
    assert!(matches!(error, Err(SendError::TooLarge { .. })), "{error:?}");
    assert_eq!(pair.at_client.stats().sent.accepted, 0);
    pair.end().await;
}

#[tokio::test]
async fn a_credit_for_more_than_the_lane_can_hold_is_refused_at_once() {
    let pair = Pair::with(|_| (), small_lane).await;
    for (frames, length) in [(2, LANE), (LANE, 0), (usize::MAX, usize::MAX)] {
        let error = within("the answer", pair.at_client.reserve_many(frames, length)).await;
        assert!(matches!(error, Err(SendError::TooLarge { .. })), "{error:?}");
        let error = pair.at_client.try_reserve_many(frames, length);
        assert!(matches!(error, Err(SendError::TooLarge { .. })), "{error:?}");
    }
    drop(
        pair.at_client
            .try_reserve_many(2, LANE - 2 * (4 + REMEMBERED))
            .expect("just as much as it holds"),
    );
    pair.end().await;
}

#[tokio::test]
async fn a_batch_by_message_after_a_close_comes_back_with_the_reason() {
    let pair = Pair::new().await;
    let actor = &pair.at_client.actor();
    let credit = credit_many(&pair.at_client, 3, 12).await;
    let close = ConnectionMessage::Close { code: CloseCode::NORMAL, reply: None };
    actor.cast(close).expect("it lives");
    let frames: Vec<_> = (0..3).map(numbered).collect();
    let error = send_many(actor, frames.clone(), credit).await.expect_err("it is closing");
    all_came_back(&error, &frames);
    let SendError::Closed { reason, outcome } = &error.source else { panic!("{error:?}") };
    assert_eq!(*reason, CloseReason::Local { code: CloseCode::NORMAL });
    assert_eq!(*outcome, Outcome::NotSent(numbered(0)));
    within("the end", pair.at_client.closed()).await;
    let late = pair.at_client.try_reserve_many(3, 12);
    assert!(matches!(late, Err(SendError::Closed { .. })), "{late:?}");
    pair.end().await;
}

#[tokio::test]
async fn every_frame_of_every_batch_has_one_outcome_when_the_connection_is_cut() {
    const FRAMES: usize = 50;
    const SIZE: usize = 1000;
    let reads_nothing = |config: &mut NodeConfig| config.limits.inbound_bytes_max = 64 << 10;
    let gives_up = |config: &mut NodeConfig| {
        config.limits.stream_op_timeout = Duration::from_secs(1);
    };
    let pair = Pair::with(reads_nothing, gives_up).await;
    let mut answers = Vec::new();
    let stopped = within("the lane to be full", async {
        loop {
            match pair.at_client.reserve_many(FRAMES, FRAMES * SIZE).await {
                Ok(credit) => {
                    let frames = vec![Bytes::from(vec![answers.len() as u8; SIZE]); FRAMES];
                    answers.push(begin_many(&pair.at_client.actor(), frames, credit));
                }
                Err(error) => return error,
            }
        }
    })
    .await;
    assert!(matches!(stopped, SendError::TimedOut { .. }), "{stopped:?}");
    pair.at_server.actor().kill();
    let (mut completed, mut maybe_sent, mut not_sent) = (0, 0, 0);
    for answer in answers {
        match within("an answer", answer).await.expect("it is answered") {
            Ok(()) => completed += FRAMES as u64,
            Err(error) => {
                assert!(matches!(error.source, SendError::Closed { .. }), "{error:?}");
                assert_eq!(error.outcomes.len(), FRAMES);
                for outcome in error.outcomes {
                    match outcome {
                        Outcome::Completed => completed += 1,
                        Outcome::MaybeSent => maybe_sent += 1,
                        Outcome::NotSent(frame) => not_sent += frame.len() as u64 / SIZE as u64,
                    }
                }
            }
        }
    }
    within("the end", pair.at_client.closed()).await;
    let sent = pair.at_client.stats().sent;
    assert_eq!((sent.completed, sent.maybe_sent, sent.not_sent), (completed, maybe_sent, not_sent));
    assert_eq!(sent.accepted, completed + maybe_sent + not_sent);
    assert!(maybe_sent + not_sent > 0, "all of it was acknowledged: {sent:?}");
    pair.end().await;
}

// ---- readers -----------------------------------------------------------------------------------

#[tokio::test]
async fn a_frame_whose_reader_has_gone_goes_to_the_next() {
    let pair = Pair::new().await;
    let reader = &pair.at_server.actor();
    drop(recv(reader));
    drop(recv(reader));
    let next = recv(reader);
    for number in 0..2 {
        within("a send", pair.at_client.send(numbered(number))).await.expect("taken over");
    }
    let frame = within("a frame", next).await.expect("answered").expect("a frame");
    assert_eq!(frame.into_bytes(), numbered(0));
    drop(recv(reader));
    assert_eq!(within("a frame", pair.at_server.recv()).await.expect("a frame"), numbered(1));
    assert_eq!(pair.at_server.stats().frames_received, 2);
    pair.end().await;
}

#[tokio::test]
async fn readers_that_wait_are_served_in_the_order_they_asked() {
    let pair = Pair::new().await;
    let readers: Vec<_> = (0..500).map(|_| recv(&pair.at_server.actor())).collect();
    // Behind the readers: they wait when the first frame comes.
    call("the stats", &pair.at_server.actor(), |reply| ConnectionMessage::Stats { reply }).await;
    for number in 0..500 {
        within("a send", pair.at_client.send(numbered(number))).await.expect("taken over");
    }
    for (expected, reader) in (0..).zip(readers) {
        let frame = within("a frame", reader).await.expect("answered").expect("a frame");
        assert_eq!(number(&frame.into_bytes()), expected);
    }
    pair.end().await;
}

#[tokio::test]
async fn an_answer_that_nobody_took_goes_to_the_next_reader_in_its_order() {
    let pair = Pair::new().await;
    let reader = &pair.at_server.actor();
    let given_up = [recv(reader), recv(reader)];
    call("the stats", reader, |reply| ConnectionMessage::Stats { reply }).await;
    for number in 0..3 {
        within("a send", pair.at_client.send(numbered(number))).await.expect("taken over");
    }
    // Both answers are there before their callers give up.
    let mut third = recv(reader);
    let frame = within("a frame", &mut third).await.expect("answered").expect("a frame");
    assert_eq!(number(&frame.into_bytes()), 2);
    drop(given_up);
    for expected in 0..2 {
        let frame = within("a frame", pair.at_server.recv()).await.expect("a frame");
        assert_eq!(number(&frame), expected);
    }
    assert_eq!(pair.at_server.stats().frames_received, 3);
    pair.end().await;
}

#[tokio::test]
async fn a_reader_by_message_may_want_one_lane() {
    let pair = Pair::new().await;
    let reader = &pair.at_server.actor();
    let on = |lane| ask(reader, |reply| ConnectionMessage::Recv { lane: Some(lane), reply });
    let (bulk, control) = (on(Lane::Bulk), on(Lane::Control));
    for lane in Lane::ALL {
        let frame = format!("{lane:?}");
        within("a send", pair.at_client.send_on(lane, frame)).await.expect("taken over");
    }
    for (lane, answer) in [(Lane::Bulk, bulk), (Lane::Control, control)] {
        let frame = within("a frame", answer).await.expect("answered").expect("a frame");
        assert_eq!(frame.lane(), lane);
        assert_eq!(frame.into_bytes(), format!("{lane:?}"));
    }
    assert_eq!(received(reader).await, Ok("Data".into()));
    pair.end().await;
}

#[tokio::test]
async fn readers_that_gave_up_leave_their_places_to_others() {
    let pair = Pair::new().await;
    let reader = &pair.at_server.actor();
    for _ in 0..3 {
        (0..1024).for_each(|_| drop(recv(reader)));
        let next = recv(reader);
        within("a send", pair.at_client.send("frame")).await.expect("taken over");
        let frame = within("a frame", next).await.expect("answered").expect("a frame");
        assert_eq!(frame.into_bytes(), "frame");
    }
    pair.end().await;
}

#[tokio::test]
async fn watchers_that_gave_up_leave_their_places_to_others() {
    let pair = Pair::new().await;
    let watched = &pair.at_server.actor();
    let watch = |reply| ConnectionMessage::WatchClose { reply };
    (0..2048).for_each(|_| drop(ask(watched, watch)));
    let told = ask(watched, watch);
    let reason = within("the close", pair.at_server.close(CloseCode::NORMAL)).await;
    assert_eq!(within("the watcher", told).await, Ok(reason));
    pair.end().await;
}

#[tokio::test]
async fn more_readers_than_may_wait_are_told_and_the_others_are_served() {
    let pair = Pair::new().await;
    let readers: Vec<_> = (0..1025).map(|_| recv(&pair.at_server.actor())).collect();
    let sender = pair.at_client.clone();
    call("the stats", &pair.at_server.actor(), |reply| ConnectionMessage::Stats { reply }).await;
    for number in 0..1024 {
        within("a send", sender.send(numbered(number))).await.expect("taken over");
    }
    let mut refused = Vec::new();
    for reader in readers {
        match within("an answer", reader).await.expect("answered") {
            Ok(frame) => drop(frame.into_bytes()),
            Err(error) => refused.push(error),
        }
    }
    assert_eq!(refused, [RecvError::TooManyReaders { limit: 1024 }]);
    pair.end().await;
}

// ---- subscribers -------------------------------------------------------------------------------

/// What the actor of an application is told.
enum AppMessage {
    Frames(FrameBatch),
    Panic,
}

impl From<FrameBatch> for AppMessage {
    fn from(batch: FrameBatch) -> Self {
        Self::Frames(batch)
    }
}

impl TryFrom<AppMessage> for FrameBatch {
    type Error = ();

    fn try_from(message: AppMessage) -> Result<Self, ()> {
        match message {
            AppMessage::Frames(batch) => Ok(batch),
            AppMessage::Panic => Err(()),
        }
    }
}

/// Passes on what it gets.
struct App;

impl Actor for App {
    type Msg = AppMessage;
    type State = mpsc::UnboundedSender<FrameBatch>;
    type Arguments = mpsc::UnboundedSender<FrameBatch>;

    async fn pre_start(
        &self,
        _myself: ActorRef<AppMessage>,
        batches: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(batches)
    }

    async fn handle(
        &self,
        _myself: ActorRef<AppMessage>,
        message: AppMessage,
        batches: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            AppMessage::Frames(batch) => Ok(batches.send(batch)?),
            AppMessage::Panic => panic!("asked to by the test"),
        }
    }
}

type Batches = mpsc::UnboundedReceiver<FrameBatch>;

async fn app() -> (ActorRef<AppMessage>, Batches) {
    let (sender, batches) = mpsc::unbounded_channel();
    let (app, _) = Actor::spawn(None, App, sender).await.expect("an actor");
    (app, batches)
}

async fn subscribe(handle: &ConnectionHandle, app: &ActorRef<AppMessage>) -> bool {
    let subscriber = app.get_derived();
    call("the subscription", &handle.actor(), |reply| ConnectionMessage::Subscribe {
        subscriber,
        reply: Some(reply),
    })
    .await
}

#[tokio::test]
async fn a_subscriber_gets_every_frame_in_order_in_batches() {
    const COUNT: u32 = 50_000;
    let pair = Pair::new().await;
    let (app, mut batches) = app().await;
    // Those that came before it as well.
    within("a send", pair.at_client.send(numbered(0))).await.expect("taken over");
    assert!(subscribe(&pair.at_server, &app).await);
    let sender = pair.at_client.clone();
    let sending = tokio::spawn(async move {
        for number in 1..COUNT {
            sender.send(numbered(number)).await.expect("taken over");
        }
    });
    let (mut next, mut count) = (0, 0);
    while next < COUNT {
        let mut batch = within("a batch", batches.recv()).await.expect("the actor lives");
        assert!(!batch.frames().is_empty());
        for frame in batch.take_frames() {
            assert_eq!(number(&frame), next);
            next += 1;
        }
        count += 1;
    }
    assert!(count < COUNT, "never more than one frame at once");
    within("the sender", sending).await.expect("no panic");
    let stats = pair.at_server.stats();
    assert_eq!(stats.frames_received, u64::from(COUNT));
    app.stop(None);
    pair.end().await;
}

#[tokio::test]
async fn a_batch_that_is_held_stops_the_sender_and_its_drop_opens_the_window() {
    const INBOUND: usize = 64 << 10;
    let reads = |config: &mut NodeConfig| config.limits.inbound_bytes_max = INBOUND;
    let sends = |config: &mut NodeConfig| {
        small_lane(config);
        config.limits.stream_op_timeout = Duration::from_secs(1);
    };
    let pair = Pair::with(reads, sends).await;
    let (app, mut batches) = app().await;
    assert!(subscribe(&pair.at_server, &app).await);
    let frame = |number: u32| {
        let mut frame = vec![0; 8 << 10];
        frame[..4].copy_from_slice(&number.to_be_bytes());
        frame
    };
    let mut sent = 0;
    let stopped = within("the sender stops", async {
        loop {
            if let Err(error) = pair.at_client.send(frame(sent)).await {
                return error;
            }
            sent += 1;
        }
    })
    .await;
    assert!(matches!(stopped, SendError::TimedOut { outcome: Outcome::NotSent(_), .. }));

    let mut held = Vec::new();
    while let Ok(batch) = batches.try_recv() {
        held.push(batch);
    }
    let bytes: usize = held.iter().flat_map(FrameBatch::frames).map(Bytes::len).sum();
    assert!(bytes > 0 && bytes <= INBOUND, "{bytes} bytes were given to the subscriber");
    let mut next = 0;
    for frame in held.iter().flat_map(FrameBatch::frames) {
        assert_eq!(number(frame), next);
        next += 1;
    }
    drop(held);
    let late = sent..sent + 20;
    let sending = async {
        for number in late.clone() {
            let taken = pair.at_client.send(frame(number)).await;
            assert!(taken.is_ok(), "the window is open: frame {number}");
        }
    };
    let reading = async {
        while next < late.end {
            let batch = batches.recv().await.expect("the actor lives");
            for frame in batch.frames() {
                assert_eq!(number(frame), next);
                next += 1;
            }
        }
    };
    within("the frames behind it", async { tokio::join!(sending, reading) }).await;
    app.stop(None);
    pair.end().await;
}

#[tokio::test]
async fn nobody_else_reads_while_a_subscriber_does() {
    let pair = Pair::new().await;
    let reading = tokio::spawn({
        let reader = pair.at_server.clone();
        async move { reader.recv().await }
    });
    let (app, mut batches) = app().await;
    assert!(subscribe(&pair.at_server, &app).await);
    assert!(!subscribe(&pair.at_server, &app).await, "one subscriber at most");
    let waited = within("a reader that waited", reading).await.expect("no panic");
    assert_eq!(waited, Err(RecvError::Subscribed));
    let refused = within("a read", pair.at_server.recv()).await;
    assert_eq!(refused, Err(RecvError::Subscribed));
    let mut frames = Vec::new();
    let refused = within("a read of many", pair.at_server.recv_many(&mut frames, 8)).await;
    assert_eq!(refused, Err(RecvError::Subscribed));
    within("a send", pair.at_client.send("frame")).await.expect("taken over");
    let batch = within("a batch", batches.recv()).await.expect("the actor lives");
    assert_eq!(batch.frames(), ["frame"]);
    drop(batch);
    app.stop(None);
    pair.end().await;
}

#[tokio::test]
async fn a_reader_by_message_is_refused_while_a_subscriber_reads() {
    let pair = Pair::new().await;
    let waited = recv(&pair.at_server.actor());
    let (app, _batches) = app().await;
    assert!(subscribe(&pair.at_server, &app).await);
    assert_eq!(received(&pair.at_server.actor()).await, Err(RecvError::Subscribed));
    let waited = within("a reader that waited", waited).await.expect("it is answered");
    assert_eq!(waited.err(), Some(RecvError::Subscribed));
    app.stop(None);
    pair.end().await;
}

/// Ends a subscriber and waits until it takes no more messages.
async fn end(app: ActorRef<AppMessage>) {
    app.stop(None);
    within("the subscriber's end", app.wait(None)).await.expect("no limit");
}

#[tokio::test]
async fn frames_for_a_subscriber_that_died_go_to_the_next_reader() {
    let pair = Pair::new().await;
    let (app, mut batches) = app().await;
    assert!(subscribe(&pair.at_server, &app).await);
    within("a send", pair.at_client.send(numbered(0))).await.expect("taken over");
    let batch = within("a batch", batches.recv()).await.expect("the actor lives");
    assert_eq!(batch.frames(), [numbered(0)]);
    end(app).await;
    let next = recv(&pair.at_server.actor());
    for number in 1..100 {
        within("a send", pair.at_client.send(numbered(number))).await.expect("taken over");
    }
    let frame = within("a frame", next).await.expect("answered").expect("a frame");
    assert_eq!(number(&frame.into_bytes()), 1);
    for expected in 2..100 {
        let frame = within("a frame", pair.at_server.recv()).await.expect("a frame");
        assert_eq!(number(&frame), expected);
    }
    assert_eq!(pair.at_server.stats().frames_received, 100);
    drop(batch);
    pair.end().await;
}

/// Takes frames in an actor that is given up while some wait in its mailbox.
async fn frames_in_the_mailbox_of_a_subscriber(give_up: impl FnOnce(&ActorRef<AppMessage>)) {
    let pair = Pair::new().await;
    let (app, batches) = app().await;
    // Its handler fails at the first batch.
    drop(batches);
    give_up(&app);
    let subscribed = subscribe(&pair.at_server, &app).await;
    for number in 0..100 {
        within("a send", pair.at_client.send(numbered(number))).await.expect("taken over");
    }
    within("the subscriber's end", app.wait(None)).await.expect("no limit");
    for expected in 0..100 {
        let frame = within("a frame", pair.at_server.recv()).await.expect("a frame");
        assert_eq!(number(&frame), expected, "subscribed: {subscribed}");
    }
    pair.end().await;
}

#[tokio::test]
async fn frames_that_wait_for_a_subscriber_that_panics_go_to_the_next_reader() {
    frames_in_the_mailbox_of_a_subscriber(|app| drop(app.cast(AppMessage::Panic))).await;
}

#[tokio::test]
async fn frames_that_wait_for_a_subscriber_that_fails_go_to_the_next_reader() {
    frames_in_the_mailbox_of_a_subscriber(|_| ()).await;
}

#[tokio::test]
async fn frames_that_wait_for_a_subscriber_that_is_killed_go_to_the_next_reader() {
    frames_in_the_mailbox_of_a_subscriber(|app| app.kill()).await;
}

#[tokio::test]
async fn a_batch_tells_whose_frames_it_has_and_on_which_lane() {
    let pair = Pair::new().await;
    let (app, mut batches) = app().await;
    assert!(subscribe(&pair.at_server, &app).await);
    for lane in Lane::ALL {
        for number in 0..100 {
            let sent = pair.at_client.send_on(lane, numbered(number));
            within("a send", sent).await.expect("taken over");
        }
    }
    let mut next = [0; 3];
    while next != [100; 3] {
        let batch = within("a batch", batches.recv()).await.expect("the actor lives");
        assert_eq!(batch.peer(), pair.client.identity());
        assert_eq!(batch.epoch(), pair.at_server.epoch());
        let next = &mut next[batch.lane() as usize];
        for frame in batch {
            assert_eq!(number(&frame), *next);
            *next += 1;
        }
    }
    app.stop(None);
    pair.end().await;
}

#[tokio::test]
async fn a_subscriber_that_looks_at_nothing_does_not_get_it_for_ever() {
    let pair = Pair::new().await;
    let (app, mut batches) = app().await;
    assert!(subscribe(&pair.at_server, &app).await);
    within("a send", pair.at_client.send("ignored")).await.expect("taken over");
    let mut ignored = 0;
    loop {
        let batch = within("a batch", batches.recv()).await.expect("the actor lives");
        ignored += 1;
        assert!(ignored < 10, "given again and again");
        drop(batch);
        if pair.at_server.stats().bytes_waiting == 0 {
            break;
        }
    }
    within("a send", pair.at_client.send("seen")).await.expect("taken over");
    let batch = within("a batch", batches.recv()).await.expect("the actor lives");
    assert_eq!(batch.frames(), ["seen"]);
    drop(batch);
    app.stop(None);
    pair.end().await;
}

#[tokio::test]
async fn a_subscriber_that_died_is_replaced_by_the_next_one() {
    let pair = Pair::new().await;
    let (first, _batches) = app().await;
    assert!(subscribe(&pair.at_server, &first).await);
    end(first).await;
    let (second, mut batches) = app().await;
    assert!(subscribe(&pair.at_server, &second).await, "the first one is gone");
    within("a send", pair.at_client.send("frame")).await.expect("taken over");
    let batch = within("a batch", batches.recv()).await.expect("the actor lives");
    assert_eq!(batch.frames(), ["frame"]);
    drop(batch);
    second.stop(None);
    pair.end().await;
}

#[tokio::test]
async fn a_reader_is_not_refused_for_a_subscriber_that_died() {
    let pair = Pair::new().await;
    let (app, _batches) = app().await;
    assert!(subscribe(&pair.at_server, &app).await);
    end(app).await;
    let reader = pair.at_server.clone();
    let reading = tokio::spawn(async move { reader.recv().await });
    tokio::task::yield_now().await;
    within("a send", pair.at_client.send("frame")).await.expect("taken over");
    let frame = within("a frame", reading).await.expect("no panic");
    assert_eq!(frame, Ok("frame".into()));
    pair.end().await;
}

#[tokio::test]
async fn a_subscription_ends_with_its_connection_and_every_frame_before_it_is_given() {
    let pair = Pair::new().await;
    let (app, mut batches) = app().await;
    assert!(subscribe(&pair.at_server, &app).await);
    let waited = recv(&pair.at_server.actor());
    for number in 0..1000 {
        within("a send", pair.at_client.send(numbered(number))).await.expect("taken over");
    }
    let closing = tokio::spawn({
        let handle = pair.at_client.clone();
        async move { handle.close(CloseCode::NORMAL).await }
    });
    let mut next = 0;
    while next < 1000 {
        let batch = within("a batch", batches.recv()).await.expect("the actor lives");
        for frame in batch.frames() {
            assert_eq!(number(frame), next);
            next += 1;
        }
    }
    let reason = within("the close", closing).await.expect("no panic");
    assert_eq!(reason, CloseReason::Local { code: CloseCode::NORMAL });
    let sent = pair.at_client.stats().sent;
    assert_eq!((sent.accepted, sent.completed), (1000, 1000));
    within("the end there", pair.at_server.closed()).await;
    let refused = within("a reader that waited", waited).await;
    assert!(!matches!(refused, Ok(Ok(_))), "every frame went to the subscriber");
    end(app).await;
    pair.end().await;
}
