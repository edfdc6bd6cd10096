//! Control, data and bulk: order, precedence, room, and what happens to a lane that stands still.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{Pair, within};
use moorline::{
    CloseCode, CloseReason, ConnectionHandle, ConnectionMessage, Lane, NodeConfig, RecvError,
    SendError,
};

/// A frame that tells its lane and its number.
fn frame(lane: Lane, number: usize, bytes: usize) -> Bytes {
    let mut frame = vec![0; bytes.max(9)];
    frame[0] = lane as u8;
    frame[1..9].copy_from_slice(&(number as u64).to_be_bytes());
    frame.into()
}

fn lane_of(frame: &Bytes) -> Lane {
    Lane::ALL[usize::from(frame[0])]
}

fn number_of(frame: &Bytes) -> usize {
    let number = u64::from_be_bytes(frame[1..9].try_into().expect("a number"));
    usize::try_from(number).expect("a small number")
}

async fn recv(handle: &ConnectionHandle) -> Bytes {
    within("a frame", handle.recv()).await.expect("a frame")
}

/// Sends on `lane` until the peer's refusal to read has filled everything; returns how many.
async fn fill(handle: &ConnectionHandle, lane: Lane, bytes: usize) -> usize {
    let mut count = 0;
    loop {
        let send = handle.send_on(lane, frame(lane, count, bytes));
        match tokio::time::timeout(Duration::from_millis(300), send).await {
            Ok(sent) => sent.expect("taken over"),
            Err(_) => return count,
        }
        count += 1;
    }
}

#[tokio::test]
async fn frames_of_each_lane_arrive_in_its_order_and_are_counted_by_lane() {
    let pair = Pair::new().await;
    let (count, bytes) = (200, 3_000);
    let reading = pair.at_server.clone();
    let reader = tokio::spawn(async move {
        let mut next = [0; 3];
        for _ in 0..3 * count {
            let frame = recv(&reading).await;
            let lane = lane_of(&frame) as usize;
            assert_eq!((number_of(&frame), frame.len()), (next[lane], bytes));
            next[lane] += 1;
        }
        next
    });
    for number in 0..count {
        for lane in Lane::ALL {
            let send = pair.at_client.send_on(lane, frame(lane, number, bytes));
            within("a send", send).await.expect("taken over");
        }
    }
    assert_eq!(within("the reader", reader).await.expect("no panic"), [count; 3]);
    for lane in Lane::ALL {
        let acked = pair.at_client.send_acked_on(lane, frame(lane, count, bytes));
        within("an acknowledgement", acked).await.expect("acknowledged");
    }
    let stats = pair.at_client.stats();
    assert_eq!(stats.sent_by_lane.map(|sent| sent.completed), [count as u64 + 1; 3]);
    assert_eq!(stats.sent.completed, 3 * (count as u64 + 1));
    pair.end().await;
}

#[test]
fn a_lane_has_a_number_and_comes_back_from_it() {
    for lane in Lane::ALL {
        assert_eq!(Lane::try_from(u8::from(lane)), Ok(lane));
    }
    let error = Lane::try_from(3).expect_err("there are three");
    assert_eq!(error.to_string(), "3 is no lane: 0 is control, 1 is data, 2 is bulk");
}

#[tokio::test]
async fn the_statistics_tell_what_waits_on_each_lane_and_at_the_reader() {
    let pair = Pair::new().await;
    let sizes = [(Lane::Control, 100), (Lane::Data, 200_000), (Lane::Bulk, 3_000_000)];
    for (lane, bytes) in sizes {
        let sent = pair.at_client.send_acked_on(lane, vec![1; bytes]);
        within("an acknowledgement", sent).await.expect("acknowledged");
    }
    let stats = pair.at_client.stats();
    assert_eq!(stats.bytes_pending_by_lane, [0; 3], "all of it was acknowledged");
    assert!(stats.packets_sent > 0, "{stats:?}");
    assert!(stats.packets_lost < stats.packets_sent, "{stats:?}");
    let waiting = pair.at_server.stats().bytes_waiting;
    assert!((200_100..3_210_000).contains(&waiting), "{waiting} bytes wait");
    for _ in sizes {
        recv(&pair.at_server).await;
    }
    assert_eq!(pair.at_server.stats().bytes_waiting, 0);
    let piled_up = fill(&pair.at_client, Lane::Bulk, 100_000).await;
    let [control, data, bulk] = pair.at_client.stats().bytes_pending_by_lane;
    assert_eq!((control, data), (0, 0));
    assert!(bulk > 0 && bulk <= piled_up * 100_004, "{bulk} bytes of {piled_up} frames");
    pair.end().await;
}

#[tokio::test]
async fn a_close_sends_what_every_lane_had_accepted_first() {
    for order in [Lane::ALL, [Lane::Bulk, Lane::Data, Lane::Control]] {
        let pair = Pair::new().await;
        let count = 100;
        for lane in order {
            for number in 0..count {
                let send = pair.at_client.send_on(lane, frame(lane, number, 500));
                within("a send", send).await.expect("taken over");
            }
        }
        let closing = pair.at_client.clone();
        let close = tokio::spawn(async move { closing.close(CloseCode::NORMAL).await });
        let mut got = [0; 3];
        let error = loop {
            match within("a frame", pair.at_server.recv()).await {
                Ok(frame) => got[lane_of(&frame) as usize] += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(got, [count; 3], "the end of one lane is not the end of all");
        let reason = CloseReason::Peer { code: CloseCode::NORMAL };
        assert_eq!(error, RecvError::Closed { reason });
        let reason = within("the peer's close", pair.at_server.closed()).await;
        assert_eq!(reason, CloseReason::Peer { code: CloseCode::NORMAL });
        let closed = within("the close", close).await.expect("no panic");
        assert_eq!(closed, CloseReason::Local { code: CloseCode::NORMAL });
        assert_eq!(pair.at_client.stats().sent.completed, 3 * count as u64);
        pair.end().await;
    }
}

#[tokio::test]
async fn a_connection_that_used_bulk_alone_closes_at_once() {
    let pair = Pair::new().await;
    let acked = pair.at_client.send_acked_on(Lane::Bulk, "x");
    within("an acknowledgement", acked).await.expect("acknowledged");
    assert_eq!(recv(&pair.at_server).await, "x");
    let begun = std::time::Instant::now();
    within("the close", pair.at_client.close(CloseCode::NORMAL)).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "took {:?}", begun.elapsed());
    pair.end().await;
}

#[tokio::test]
async fn control_takes_small_frames_only() {
    let pair = Pair::with(|_| (), |client| client.limits.control_lane_bytes_max = 2_000).await;
    let fits = frame(Lane::Control, 0, 2_000);
    within("a send", pair.at_client.send_on(Lane::Control, fits)).await.expect("taken over");
    let large = frame(Lane::Control, 1, 2_001);
    let sent = within("a refusal", pair.at_client.send_on(Lane::Control, large.clone())).await;
    let Err(SendError::TooLarge { length, limit, frame }) = sent else { panic!("{sent:?}") };
    assert_eq!((length, limit, frame), (2_001, 2_000, large));
    pair.end().await;
}

/// Nobody reads, and bulk is full to the last byte: the others still have room, and once somebody
/// reads they do not stand behind what bulk has piled up.
#[tokio::test]
async fn frames_overtake_a_full_bulk_lane() {
    let window = |config: &mut NodeConfig| {
        config.limits.inbound_bytes_max = 1 << 20;
        config.limits.window_bytes_max = 8 << 20;
    };
    let pair = Pair::with(window, window).await;
    let bytes = 16 << 10;
    let piled_up = fill(&pair.at_client, Lane::Bulk, bytes).await;
    assert!(piled_up * bytes > 2 << 20, "{piled_up} frames");
    for lane in [Lane::Control, Lane::Data] {
        for number in 0..10 {
            pair.at_client.try_send_on(lane, frame(lane, number, 100)).expect("room of its own");
        }
    }
    let (mut before, mut left) = (0, 20);
    while left > 0 {
        match lane_of(&recv(&pair.at_server).await) {
            Lane::Bulk => before += 1,
            Lane::Control | Lane::Data => left -= 1,
        }
    }
    // What the queue holds, and the window of its stream.
    assert!(before * bytes <= 2 << 20, "{before} of {piled_up} frames came first");
    for _ in before..piled_up {
        assert_eq!(lane_of(&recv(&pair.at_server).await), Lane::Bulk);
    }
    pair.end().await;
}

#[tokio::test]
async fn a_lane_that_stands_still_ends_its_connection_with_lane_stalled() {
    let limit = Duration::from_millis(400);
    for lane in Lane::ALL {
        let small = |config: &mut NodeConfig| config.limits.inbound_bytes_max = 64 << 10;
        let pair = Pair::with(small, |client| client.limits.lane_stall_time_max = limit).await;
        let filled = tokio::time::timeout(limit, fill(&pair.at_client, lane, 10_000)).await;
        let begun = std::time::Instant::now();
        let reason = within("the end", pair.at_client.closed()).await;
        assert_eq!(reason, CloseReason::Local { code: CloseCode::LANE_STALLED }, "{filled:?}");
        assert!(begun.elapsed() < limit * 4, "took {:?}", begun.elapsed());
        let reason = within("the peer's end", pair.at_server.closed()).await;
        assert_eq!(reason, CloseReason::Peer { code: CloseCode::LANE_STALLED });
        let sent = pair.at_client.stats().sent;
        assert_eq!(sent.accepted, sent.completed + sent.not_sent + sent.maybe_sent);
        pair.end().await;
    }
}

#[tokio::test]
async fn a_lane_that_moves_slowly_or_rests_goes_on() {
    let limit = Duration::from_millis(600);
    let small = |config: &mut NodeConfig| {
        config.limits.inbound_bytes_max = 64 << 10;
        config.limits.window_bytes_max = 512 << 10;
    };
    let pair = Pair::with(small, |client| client.limits.lane_stall_time_max = limit).await;
    // Resting: one frame now and then, with more than the limit between the first two.
    let mut rest = tokio::time::interval(limit * 2);
    for number in 0..3 {
        rest.tick().await;
        let sent = pair.at_client.send_acked(frame(Lane::Data, number, 100));
        within("an acknowledgement", sent).await.expect("acknowledged");
        assert_eq!(number_of(&recv(&pair.at_server).await), number);
    }
    // Slow: full all the time, and a reader that takes a little in each quarter of the limit.
    let sending = pair.at_client.clone();
    let sender = tokio::spawn(async move { while sending.send(vec![1; 10_000]).await.is_ok() {} });
    let mut slow = tokio::time::interval(limit / 4);
    for _ in 0..12 {
        slow.tick().await;
        for _ in 0..7 {
            recv(&pair.at_server).await;
        }
    }
    assert_eq!(pair.at_client.close_reason(), None);
    pair.end().await;
    within("the sender", sender).await.expect("no panic");
}

#[tokio::test]
async fn a_message_goes_out_on_the_lane_of_its_credit() {
    let pair = Pair::new().await;
    let credit = within("room", pair.at_client.reserve_on(Lane::Bulk, 1, 10)).await.expect("room");
    assert_eq!(credit.lane(), Lane::Bulk);
    let (reply, told) = ractor::concurrency::oneshot();
    let frame = Bytes::from_static(b"by message");
    let message = ConnectionMessage::Send { frame, credit, reply: Some(reply.into()) };
    pair.at_client.actor().cast(message).expect("a live actor");
    within("the outcome", told).await.expect("an answer").expect("acknowledged");
    assert_eq!(pair.at_client.stats().sent_by_lane.map(|sent| sent.completed), [0, 0, 1]);
    pair.end().await;
}
