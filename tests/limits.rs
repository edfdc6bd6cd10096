//! Every bound holds against whoever pushes at it, and what is within the bounds is not lost.

mod common;

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::memory::{Baseline, MIB, alone, resident, together};
use common::{LIMIT, Pair, assert_balanced, connected, friends, loopback, node, within};
use moorline::{
    CloseCode, CloseReason, ConnectionHandle, DEFAULT_ALPN, ErrorKind, HEADER_BYTES, Limits,
    MsQuicTransport, NodeConfig, Outcome, RecvError, Redial, SendError, Target,
};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

// ---- helpers -----------------------------------------------------------------------------------

/// What a lane, and the queue of who receives, may hold in these tests.
const HELD: usize = 256 << 10;

/// How long a sender waits here for a peer that does not read.
const PATIENCE: Duration = Duration::from_millis(500);

fn small(config: &mut NodeConfig) {
    config.limits.lane_bytes_max = HELD;
    config.limits.inbound_bytes_max = HELD;
    // A half of it for each stream.
    config.limits.window_bytes_max = usize::from(config.limits.peer_streams_max) * HELD / 2;
    config.limits.stream_op_timeout = PATIENCE;
}

/// The bytes that a sender may get rid of while nobody reads: its own lane, the queue of the
/// receiver, and what the receiver's transport holds for it, which is no more than the window.
const UNREAD_MAX: usize = 3 * HELD;

/// A frame that says which one it is.
fn numbered(number: usize, bytes: usize) -> Bytes {
    let mut frame = vec![0xa5; bytes.max(8)];
    frame[..8].copy_from_slice(&(number as u64).to_be_bytes());
    frame.into()
}

fn number_of(frame: &Bytes) -> usize {
    let number = frame.first_chunk::<8>().expect("a numbered frame");
    usize::try_from(u64::from_be_bytes(*number)).expect("small numbers")
}

/// Sends frames until the peer takes no more for [`PATIENCE`]; returns how many were taken over.
async fn send_until_it_waits(
    handle: &ConnectionHandle,
    mut frame: impl FnMut(usize) -> Bytes,
) -> usize {
    let mut count = 0;
    loop {
        let frame = frame(count);
        let begun = Instant::now();
        match within("a send", handle.send(frame.clone())).await {
            Ok(()) => count += 1,
            Err(error) => {
                assert!(begun.elapsed() >= PATIENCE, "gave up after {:?}", begun.elapsed());
                assert_eq!(error.kind(), ErrorKind::Retry);
                let SendError::TimedOut { after, outcome } = error else { panic!("{error:?}") };
                assert_eq!((after, outcome), (PATIENCE, Outcome::NotSent(frame)));
                return count;
            }
        }
    }
}

async fn recv(handle: &ConnectionHandle) -> Bytes {
    within("a frame", handle.recv()).await.expect("a frame")
}

/// Polls `future` once and drops it: `None` if it had to wait.
async fn poll_once<R>(future: impl Future<Output = R>) -> Option<R> {
    tokio::select! {
        biased;
        result = future => Some(result),
        () = std::future::ready(()) => None,
    }
}

// ---- the size of a frame -----------------------------------------------------------------------

#[tokio::test]
async fn a_frame_at_the_limit_passes_and_one_byte_more_is_handed_back() {
    let _together = together().await;
    let limit = 10_000;
    let with_limit = |config: &mut NodeConfig| config.limits.frame_bytes_max = limit;
    let pair = Pair::with(with_limit, with_limit).await;
    let fits = Bytes::from(vec![1; limit]);
    let handle = &pair.at_client;
    within("send", handle.send(fits.clone())).await.expect("taken over");
    handle.try_send(fits.clone()).expect("taken over");
    within("send_acked", handle.send_acked(fits.clone())).await.expect("acknowledged");
    drop(within("reserve", handle.reserve(limit)).await.expect("room"));
    for _ in 0..3 {
        assert_eq!(recv(&pair.at_server).await, fits);
    }

    let over = Bytes::from(vec![2; limit + 1]);
    let results = [
        within("send", handle.send(over.clone())).await,
        handle.try_send(over.clone()),
        within("send_acked", handle.send_acked(over.clone())).await,
    ];
    for result in results {
        let error = result.expect_err("too large");
        assert_eq!(error.kind(), ErrorKind::Never);
        let SendError::TooLarge { length, limit: named, frame } = error else {
            panic!("{error:?}")
        };
        assert_eq!((length, named, frame), (limit + 1, limit, over.clone()));
    }
    let error = within("reserve", handle.reserve(limit + 1)).await.expect_err("too large");
    assert!(matches!(error, SendError::TooLarge { .. }), "{error:?}");
    assert_eq!(assert_balanced(handle).accepted, 3, "nothing of what was refused");
    within("send", handle.send("next")).await.expect("the connection lives");
    assert_eq!(recv(&pair.at_server).await, "next");
    pair.end().await;
}

#[tokio::test]
async fn a_frame_over_the_peers_lower_limit_ends_the_connection_and_may_count_as_completed() {
    let _together = together().await;
    let limit = 10_000;
    let pair = Pair::with(|config| config.limits.frame_bytes_max = limit, |_| ()).await;
    let sent = within("send_acked", pair.at_client.send_acked(vec![1; limit + 1])).await;
    let code = CloseCode::FRAME_TOO_LARGE;
    assert_eq!(within("the end", pair.at_client.closed()).await, CloseReason::Peer { code });
    // What Outcome::Completed says: the bytes were acknowledged, or the close came first.
    match sent {
        Ok(()) => assert_eq!(assert_balanced(&pair.at_client).completed, 1),
        Err(SendError::Closed { outcome: Outcome::MaybeSent, .. }) => {
            assert_eq!(assert_balanced(&pair.at_client).maybe_sent, 1);
        }
        Err(error) => panic!("{error:?}"),
    }
    let error = within("recv", pair.at_server.recv()).await.expect_err("no frame of it");
    let RecvError::FrameTooLarge { announced, limit: least } = error else { panic!("{error:?}") };
    assert_eq!((announced, least), (limit as u64 + 1, limit));
    pair.end().await;
}

#[tokio::test]
async fn frames_larger_than_lane_and_queue_pass_one_at_a_time() {
    let _together = together().await;
    let tiny = |config: &mut NodeConfig| {
        config.limits.lane_bytes_max = 1 << 10;
        config.limits.inbound_bytes_max = 1 << 10;
    };
    let pair = Pair::with(tiny, tiny).await;
    let sender = pair.at_client.clone();
    let sent = tokio::spawn(async move {
        for number in 0..20 {
            sender.send(numbered(number, [8, 100 << 10][number % 2])).await.expect("taken over");
        }
    });
    for number in 0..20 {
        let frame = recv(&pair.at_server).await;
        assert_eq!(frame, numbered(number, [8, 100 << 10][number % 2]));
    }
    within("the sender", sent).await.expect("no panic");
    pair.end().await;
}

#[tokio::test]
async fn a_length_over_the_limit_closes_with_frame_too_large_and_costs_no_memory() {
    let _alone = alone().await;
    let (limit, announced) = (MIB, 64 * MIB);
    let pair = Pair::with(
        |config| config.limits.frame_bytes_max = limit,
        |config| config.limits.frame_bytes_max = announced,
    )
    .await;
    within("a frame", pair.at_client.send_acked("before")).await.expect("acknowledged");
    // Zeroed memory that nobody has written to is not resident.
    let frame = Bytes::from(vec![0; announced]);
    let memory = Baseline::take();
    let error = within("the end", pair.at_client.send_acked(frame)).await.expect_err("refused");
    let code = CloseCode::FRAME_TOO_LARGE;
    let (local, peer) = (CloseReason::Local { code }, CloseReason::Peer { code });
    let SendError::Closed { reason, outcome } = error else { panic!("{error:?}") };
    assert_eq!(reason, peer);
    // Not all of it had left: the peer cannot have it.
    assert!(matches!(&outcome, Outcome::NotSent(frame) if frame.len() == announced));
    drop(outcome);
    assert_eq!(recv(&pair.at_server).await, "before");
    let error = within("the refusal", pair.at_server.recv()).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Never);
    assert_eq!(error, RecvError::FrameTooLarge { announced: announced as u64, limit });
    let again = within("the end", pair.at_server.recv()).await.expect_err("closed");
    assert_eq!(again, error, "whoever asks later is told the same");
    assert_eq!(within("the end", pair.at_server.closed()).await, local);
    assert_eq!(within("the end", pair.at_client.closed()).await, peer);
    memory.assert_growth_below(8 * MIB, "a refused frame of 64 MiB");
    let expected = (2, 1, 1, 0);
    let sent = assert_balanced(&pair.at_client);
    assert_eq!((sent.accepted, sent.completed, sent.not_sent, sent.maybe_sent), expected);
    pair.end().await;
}

// ---- a peer that does not read -----------------------------------------------------------------

#[tokio::test]
async fn a_peer_that_does_not_read_makes_its_sender_wait_and_gets_everything_in_order_later() {
    let _together = together().await;
    let pair = Pair::with(small, small).await;
    let bytes = 1_000;
    let count = send_until_it_waits(&pair.at_client, |number| numbered(number, bytes)).await;
    let accepted = count * (HEADER_BYTES + bytes);
    assert!((HELD..=UNREAD_MAX).contains(&accepted), "{accepted} bytes were accepted");
    assert_eq!(pair.at_client.stats().sent.accepted, count as u64, "nothing of what was refused");
    let next = numbered(count, bytes);
    let error = pair.at_client.try_send(next.clone()).expect_err("full");
    assert_eq!(error.kind(), ErrorKind::Retry);
    assert!(matches!(&error, SendError::Full { frame } if *frame == next), "{error:?}");

    for number in 0..count {
        assert_eq!(recv(&pair.at_server).await, numbered(number, bytes));
    }
    within("a frame", pair.at_client.send_acked("flows again")).await.expect("acknowledged");
    assert_eq!(recv(&pair.at_server).await, "flows again");
    let sent = assert_balanced(&pair.at_client);
    assert_eq!(sent.completed, count as u64 + 1);
    pair.end().await;
}

#[tokio::test]
async fn small_frames_that_nobody_reads_stop_at_the_limits_and_cost_little_memory() {
    let _alone = alone().await;
    for bytes in [0, 16] {
        let pair = Pair::with(small, small).await;
        let frame = Bytes::from(vec![1; bytes]);
        let memory = Baseline::take();
        let count = send_until_it_waits(&pair.at_client, |_| frame.clone()).await;
        let accepted = count * (HEADER_BYTES + bytes);
        assert!((HELD..=UNREAD_MAX).contains(&accepted), "{accepted} bytes were accepted");
        let what = format!("{count} unread frames of {bytes} bytes");
        memory.assert_growth_below(UNREAD_MAX + 4 * MIB, &what);
        for _ in 0..count {
            assert_eq!(recv(&pair.at_server).await, frame);
        }
        pair.end().await;
    }
}

/// A receiver that was fast has a wide window: what it may hold must not become more by that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_was_fast_before_it_stops_reading_holds_no_more_than_the_limits() {
    let _together = together().await;
    let pair = Pair::with(small, small).await;
    let (bytes, fast) = (64 << 10, 1_000);
    let reading = pair.at_server.clone();
    let reader = tokio::spawn(async move {
        for number in 0..fast {
            assert_eq!(number_of(&recv(&reading).await), number);
        }
    });
    for number in 0..fast {
        let frame = numbered(number, bytes);
        within("a send", pair.at_client.send(frame)).await.expect("taken over");
    }
    within("the reader", reader).await.expect("no panic");
    let bytes = 1_000;
    let count = send_until_it_waits(&pair.at_client, |number| numbered(number, bytes)).await;
    for number in 0..count {
        assert_eq!(recv(&pair.at_server).await, numbered(number, bytes));
    }
    pair.end().await;
    let accepted = count * (HEADER_BYTES + bytes);
    assert!((HELD..=UNREAD_MAX).contains(&accepted), "{accepted} bytes were accepted");
}

#[tokio::test]
async fn send_acked_to_a_peer_that_does_not_read_times_out_with_maybe_sent() {
    let _together = together().await;
    let pair = Pair::with(small, small).await;
    let bytes = 32 << 10;
    let mut count = 0;
    let (error, waited) = loop {
        let begun = Instant::now();
        match within("an answer", pair.at_client.send_acked(numbered(count, bytes))).await {
            Ok(()) => count += 1,
            Err(error) => break (error, begun.elapsed()),
        }
        assert!(count * bytes <= UNREAD_MAX, "{count} frames are acknowledged and unread");
    };
    assert!(waited >= PATIENCE, "gave up after {waited:?}");
    assert_eq!(error.kind(), ErrorKind::Unknown);
    let SendError::TimedOut { after, outcome } = error else { panic!("{error:?}") };
    assert_eq!((after, outcome), (PATIENCE, Outcome::MaybeSent));
    let sent = pair.at_client.stats().sent;
    assert_eq!((sent.accepted, sent.completed), (count as u64 + 1, count as u64));

    // It was sent: once the peer reads, it comes.
    for number in 0..=count {
        assert_eq!(number_of(&recv(&pair.at_server).await), number);
    }
    within("a frame", pair.at_client.send_acked("last")).await.expect("acknowledged");
    assert_eq!(assert_balanced(&pair.at_client).completed, count as u64 + 2);
    pair.end().await;
}

#[tokio::test]
async fn a_cancelled_send_leaves_nothing_behind() {
    let _together = together().await;
    let pair = Pair::with(small, small).await;
    let bytes = 1_000;
    let count = send_until_it_waits(&pair.at_client, |number| numbered(number, bytes)).await;
    let mut empty = 0;
    while pair.at_client.try_send("").is_ok() {
        empty += 1;
    }
    let accepted = (count + empty) as u64;
    for size in [0, 1, 1_000, HELD / 2, HELD - 1_000] {
        let frame = Bytes::from(vec![9; size]);
        for _ in 0..50 {
            assert!(poll_once(pair.at_client.send(frame.clone())).await.is_none(), "no room");
            assert!(poll_once(pair.at_client.send_acked(frame.clone())).await.is_none());
            assert!(poll_once(pair.at_client.reserve(size)).await.is_none(), "no room");
        }
    }
    assert_eq!(pair.at_client.stats().sent.accepted, accepted);
    for number in 0..count {
        assert_eq!(recv(&pair.at_server).await, numbered(number, bytes));
    }
    for _ in 0..empty {
        assert_eq!(recv(&pair.at_server).await, "");
    }
    // Behind this one everything is acknowledged, so the whole lane is free.
    within("a frame", pair.at_client.send_acked("drained")).await.expect("acknowledged");
    assert_eq!(recv(&pair.at_server).await, "drained");
    let whole = Bytes::from(vec![8; HELD - HEADER_BYTES]);
    pair.at_client.try_send(whole.clone()).expect("the whole lane is free");
    assert_eq!(recv(&pair.at_server).await, whole);
    within("a frame", pair.at_client.send_acked("end")).await.expect("acknowledged");
    assert_eq!(recv(&pair.at_server).await, "end", "nothing of a cancelled send comes");
    assert_eq!(assert_balanced(&pair.at_client).accepted, accepted + 3);
    pair.end().await;
}

/// What it costs to remember who waits for an outcome counts as the frame does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_frames_with_an_answer_take_no_more_than_their_lane_holds() {
    let _alone = alone().await;
    let pair = Pair::new().await;
    let near = &pair.at_client;
    let lane = Limits::default().lane_bytes_max;
    let refused = within("a credit", near.reserve_many(lane / HEADER_BYTES, 0)).await;
    assert!(matches!(refused, Err(SendError::TooLarge { .. })), "{refused:?}");
    let count = 25_000;
    let credit = within("a credit", near.reserve_many(count, 0)).await.expect("room");
    let frames = vec![Bytes::new(); count];
    let before = resident();
    let (reply, answer) = tokio::sync::oneshot::channel();
    let reply = Some(reply.into());
    let message = moorline::ConnectionMessage::SendMany { frames, credit, reply };
    near.actor().cast(message).expect("it lives");
    let mut most = 0;
    let mut got = Vec::new();
    while got.len() < count {
        within("frames", pair.at_server.recv_many(&mut got, count)).await.expect("frames");
        most = most.max(resident().saturating_sub(before));
    }
    within("the answer", answer).await.expect("answered").expect("acknowledged");
    // The reader's own list is in it too.
    assert!(most < 2 * lane, "{most} bytes for frames that a lane of {lane} bytes holds");
    pair.end().await;
}

/// Bytes that `handle` gets rid of while nobody reads.
async fn unread(handle: &ConnectionHandle) -> usize {
    let bytes = 8 << 10;
    send_until_it_waits(handle, |number| numbered(number, bytes)).await * (HEADER_BYTES + bytes)
}

#[tokio::test]
async fn connections_have_smaller_windows_where_there_are_many_and_get_them_back() {
    let _together = together().await;
    let windows = |config: &mut NodeConfig| {
        small(config);
        config.limits.close_time_max = PATIENCE;
        config.limits.peer_streams_max = 1;
        config.limits.window_bytes_max = 8 << 20;
        config.limits.node_window_bytes_max = 8 << 20;
    };
    let pair = Pair::with(windows, windows).await;
    let mut events = pair.server.subscribe();
    let target = Target::from(pair.address).redial(Redial::Never);
    let mut all = vec![(pair.at_client.clone(), pair.at_server.clone())];
    for _ in 1..4 {
        let dialled = within("connecting", pair.client.connect(target.clone())).await;
        all.push((dialled.expect("a connection"), connected(&mut events).await));
    }
    // A part of eight MiB that is a power of two, in both directions.
    for ((dialled, accepted), window) in all.iter().zip([8 * MIB, 4 * MIB, 2 * MIB, 2 * MIB]) {
        for sender in [dialled, accepted] {
            let unread = unread(sender).await;
            // Where the queue pauses differs by frames; another window would be twice as large, or half.
            let held = window + HELD / 4..=window + 2 * HELD + HELD / 4;
            assert!(held.contains(&unread), "{unread} bytes behind a window of {window}");
        }
    }
    // Handles that are kept hold nothing.
    for (dialled, accepted) in &all[1..] {
        within("the close", dialled.close(CloseCode::NORMAL)).await;
        within("the close", accepted.closed()).await;
    }
    // A handshake that a packet began which came late has its part too, until it is given up.
    let widened = async {
        loop {
            let dialled = pair.client.connect(target.clone()).await.expect("one more");
            let accepted = connected(&mut events).await;
            let both = [unread(&dialled).await, unread(&accepted).await];
            dialled.close(CloseCode::NORMAL).await;
            accepted.closed().await;
            if both.iter().all(|unread| *unread > 4 * MIB) {
                break;
            }
        }
    };
    within("windows beside one other", widened).await;
    drop(all);
    pair.end().await;
}

// ---- a peer that gives streams up --------------------------------------------------------------

/// Nobody reads while a peer begins and gives up one stream after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_given_up_while_nobody_reads_leave_nothing_behind() {
    const STREAMS: u64 = 2_000;
    let _alone = alone().await;
    let (a, b) = friends();
    let server = node(a).await;
    let mut events = server.subscribe();
    let address = within("listening", server.listen(loopback())).await.expect("it listens");
    let transport = MsQuicTransport::new();
    let client = transport.connect(address, &[DEFAULT_ALPN], b).await.expect("connects");
    let accepted = connected(&mut events).await;
    let pool = client.streams();
    let mut memory = None;
    for number in 0..STREAMS {
        if number == STREAMS / 10 {
            // The pools of the library are filled by then.
            memory = Some(Baseline::take());
        }
        let stream = within("a stream", pool.acquire_send()).await.expect("a stream");
        pool.discard(&stream);
        // The one who gives up has to wait as well: streams pile up at its own end.
        within("the reset", async {
            while accepted.stats().streams_reset <= number {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    let memory = memory.expect("a baseline");
    memory.assert_growth_below(4 * MIB, "streams that were given up");
    within("a frame", client.send_acked("after them")).await.expect("acknowledged");
    // A reader has nothing to go through first.
    assert_eq!(within("the frame", accepted.recv()).await, Ok("after them".into()));
    drop(client);
    server.close(LIMIT).await.expect("an orderly end");
}

// ---- recv, cancelled ---------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_select_over_recv_and_a_timer_loses_nothing_and_grows_nothing() {
    const ITERATIONS: usize = 10_000;
    /// Memory is compared from here on: pools and windows are as large as they become.
    const WARM: usize = 2_000;
    let _alone = alone().await;
    let pair = Pair::new().await;
    let mut memory = None;
    let (mut sent, mut received, mut cancelled) = (0, 0, 0);
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for iteration in 0..WARM + ITERATIONS {
        if iteration == WARM {
            memory = Some(Baseline::take());
        }
        if iteration % 3 == 0 {
            // From below a packet to several of them.
            let frame = numbered(sent, [8, 100, 1_400, 5_000][sent % 4]);
            match pair.at_client.try_send(frame) {
                Ok(()) => sent += 1,
                // The reader is behind: it has enough to do.
                Err(SendError::Full { .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        let timer = async {
            match iteration % 10 {
                0 => drop(ticks.tick().await),
                1..6 => tokio::task::yield_now().await,
                _ => {}
            }
        };
        tokio::select! {
            frame = pair.at_server.recv() => {
                assert_eq!(number_of(&frame.expect("a frame")), received);
                received += 1;
            }
            () = timer => cancelled += 1,
        }
    }
    let memory = memory.expect("taken");
    memory.assert_growth_below(2 * MIB, "10,000 iterations of a select over recv");
    assert!(cancelled > ITERATIONS / 4, "only {cancelled} were cancelled");
    assert!(received > ITERATIONS / 10, "only {received} were received in the loop");
    while received < sent {
        assert_eq!(number_of(&recv(&pair.at_server).await), received);
        received += 1;
    }
    assert_eq!(pair.at_server.stats().frames_received, sent as u64);
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_is_cancelled_passes_its_wake_up_on() {
    let _together = together().await;
    let pair = Pair::new().await;
    for number in 0..1_000 {
        let mut cancelled = Box::pin(pair.at_server.recv());
        let mut waiting = Box::pin(pair.at_server.recv());
        // Both wait, the one that will be cancelled in front.
        assert!(poll_once(&mut cancelled).await.is_none(), "nothing was sent");
        assert!(poll_once(&mut waiting).await.is_none(), "nothing was sent");
        pair.at_client.try_send(numbered(number, 8)).expect("room");
        if number % 2 == 0 {
            // Gives the wake-up the time to come to the one in front.
            tokio::task::yield_now().await;
        }
        drop(cancelled);
        let frame = within("the frame of a cancelled reader", waiting).await.expect("a frame");
        assert_eq!(number_of(&frame), number);
    }
    pair.end().await;
}

// ---- strangers ---------------------------------------------------------------------------------

/// Sends `count` datagrams of a stranger while a connection to the same port is in use; returns
/// how often a frame went there and back meanwhile.
async fn under_datagrams(
    pair: &Pair,
    count: usize,
    mut datagram: impl FnMut() -> Vec<u8>,
) -> usize {
    /// Few enough that most fit the socket's buffer.
    const BURST: usize = 50;
    let stranger = UdpSocket::bind(loopback()).expect("a socket");
    stranger.connect(pair.address).expect("an address");
    let mut exchanges = 0;
    for number in 0..count {
        // A full buffer or a refusal loses this one; the next is sent all the same.
        drop(stranger.send(&datagram()));
        if number % BURST == BURST - 1 {
            exchange(pair, exchanges).await;
            exchanges += 1;
        }
    }
    exchange(pair, exchanges).await;
    exchanges + 1
}

async fn exchange(pair: &Pair, number: usize) {
    let frame = numbered(number, 2_000);
    within("a send", pair.at_client.send(frame.clone())).await.expect("taken over");
    assert_eq!(recv(&pair.at_server).await, frame);
    within("a send", pair.at_server.send(frame.clone())).await.expect("taken over");
    assert_eq!(recv(&pair.at_client).await, frame);
}

#[tokio::test]
async fn twenty_thousand_empty_datagrams_leave_memory_flat_and_peers_working() {
    let _alone = alone().await;
    let pair = Pair::new().await;
    for number in 0..100 {
        exchange(&pair, number).await;
    }
    let memory = Baseline::take();
    let exchanges = under_datagrams(&pair, 20_000, Vec::new).await;
    memory.assert_growth_below(8 * MIB, "20,000 empty datagrams");
    assert_eq!(exchanges, 401);
    pair.end().await;
}

#[tokio::test]
async fn twenty_thousand_datagrams_of_noise_leave_memory_flat_and_peers_working() {
    let _alone = alone().await;
    let pair = Pair::new().await;
    for number in 0..100 {
        exchange(&pair, number).await;
    }
    let mut random = StdRng::seed_from_u64(0x6d6f_6f72);
    let noise = move || {
        let mut datagram = vec![0; random.random_range(1..1_472)];
        random.fill_bytes(&mut datagram);
        if random.random_ratio(1, 4) && datagram.len() >= 1_200 {
            // What follows is read as the first packet of a connection (RFC 9000, section 17.2.2).
            let opening = [0xc3, 0, 0, 0, 1, 8];
            datagram[..opening.len()].copy_from_slice(&opening);
            // Behind the identifiers: no token, and a length that ends with the datagram.
            let length = u16::try_from(datagram.len() - 26).expect("small") | 0x4000;
            (datagram[14], datagram[23]) = (8, 0);
            datagram[24..26].copy_from_slice(&length.to_be_bytes());
        }
        datagram
    };
    let memory = Baseline::take();
    let exchanges = under_datagrams(&pair, 20_000, noise).await;
    memory.assert_growth_below(8 * MIB, "20,000 datagrams of noise");
    assert_eq!(exchanges, 401);
    pair.end().await;
}
