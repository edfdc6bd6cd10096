//! A connection driven by messages: every request, its credit, and its end.

mod common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::messages::{LANE, ask, call, number, numbered, received, recv, small_lane};
use common::{
    LIMIT, Pair, connected, friends, loopback, node, node_with, one_peer_with_many, stranger,
    within,
};
use moorline::{
    CloseCode, CloseReason, ConnectError, ConnectionHandle, ConnectionMessage, Credit, Lane,
    NodeConfig, Outcome, RecvError, Redial, SendError, SendManyError, SupervisorMessage, Target,
};
use ractor::ActorRef;
use tokio::sync::oneshot;

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
