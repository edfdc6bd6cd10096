//! Each limit of a connection counts what it holds back.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::advance;

use super::*;
use crate::config::Limits;
use crate::frame::HEADER_BYTES;
use crate::transport::connection::MsQuicNetConnection;
use crate::transport::core::{Deadline, From};
use crate::transport::ffi::ConnectionCallbacks;
use crate::transport::simulator::joined::{Held, Joined};

struct Pair {
    joined: Rc<Joined>,
    here: Arc<ConnectionCore>,
    there: Arc<ConnectionCore>,
    _ends: [MsQuicNetConnection; 2],
}

async fn pair(limits: Limits) -> Pair {
    let (joined, ends) = Joined::new(&limits);
    let [here, there] = ends.each_ref().map(|end| Arc::clone(end.core()));
    joined.run_until_idle().await;
    Pair { joined, here, there, _ends: ends }
}

/// What was counted.
fn reached(core: &ConnectionCore) -> Vec<(&'static str, u64)> {
    let mut counts = core.bounds.stats().limits.by_name();
    counts.retain(|(_, count)| *count > 0);
    counts
}

fn fill(core: &Arc<ConnectionCore>, lane: Lane) {
    while core.try_send(lane, vec![7; 1_000].into()).is_ok() {}
}

#[tokio::test(start_paused = true)]
async fn frames_that_are_too_large_are_counted_by_the_limit_of_their_lane() {
    let limits = Limits { frame_bytes_max: 100_000, ..Limits::default() };
    let Pair { here, _ends, .. } = pair(limits.clone()).await;
    for lane in Lane::ALL {
        here.try_send(lane, vec![7; 100_001].into()).expect_err("too large");
    }
    here.send_parts(Lane::Data, b"head", vec![7; 99_999].into()).await.expect_err("too large");
    assert_eq!(reached(&here), [("frame_bytes_max", 3), ("control_lane_bytes_max", 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_frame_of_the_peers_that_is_too_large_is_counted_with_the_end_of_its_connection() {
    let (joined, ends) = Joined::new_with(&[
        Limits { frame_bytes_max: 1_000, ..Limits::default() },
        Limits::default(),
    ]);
    let [here, there] = ends.each_ref().map(|end| Arc::clone(end.core()));
    there.try_send(Lane::Data, vec![7; 1_001].into()).expect("there is room");
    joined.run_until_idle().await;
    assert_eq!((reached(&here), reached(&there)), (vec![("frame_bytes_max", 1)], vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_frame_whose_rest_does_not_come_is_counted() {
    let Pair { joined, here, there, _ends, .. } = pair(Limits::default()).await;
    here.try_send(Lane::Data, vec![7; 3 << 20].into()).expect("there is room");
    joined.run_once().await;
    joined.hold(Held::Bytes);
    joined.run_until_idle().await;
    there.look_at(Deadline::Frames);
    advance(Limits::default().frame_time_max + Duration::from_secs(1)).await;
    there.look_at(Deadline::Frames);
    assert_eq!(reached(&there), [("frame_time_max", 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_lane_without_room_is_counted_by_what_is_used_up() {
    let bound = Limits { lane_bytes_max: 64 << 10, ..Limits::default() };
    let share = Limits { node_send_bytes_max: 256 << 10, ..Limits::default() };
    for (limits, lane, name) in [
        (bound.clone(), Lane::Data, "lane_bytes_max"),
        (bound, Lane::Control, "control_lane_bytes_max"),
        (share, Lane::Bulk, "node_send_bytes_max"),
    ] {
        let Pair { joined, here, _ends, .. } = pair(limits).await;
        joined.hold(Held::Acknowledgements);
        fill(&here, lane);
        assert_eq!(reached(&here), [(name, 1)]);
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_lane_and_gives_up_is_counted_for_both() {
    let Pair { joined, here, _ends, .. } = pair(Limits::default()).await;
    joined.hold(Held::Acknowledgements);
    fill(&here, Lane::Data);
    here.send(Lane::Data, vec![7; 1_000].into()).await.expect_err("nobody acknowledges");
    let acked = here.send_acked(Lane::Control, "asked".into()).await;
    acked.expect_err("nobody acknowledges");
    assert_eq!(reached(&here), [("stream_op_timeout", 2), ("lane_bytes_max", 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_has_to_pause_is_counted_by_what_is_used_up() {
    let bound = Limits { inbound_bytes_max: 64 << 10, ..Limits::default() };
    let share = Limits { node_receive_bytes_max: 64 << 10, ..Limits::default() };
    for (limits, name) in [(bound, "inbound_bytes_max"), (share, "node_receive_bytes_max")] {
        let Pair { joined, here, there, _ends, .. } = pair(limits).await;
        for _ in 0..300 {
            here.try_send(Lane::Data, vec![7; 1_000].into()).expect("there is room");
            joined.run_until_idle().await;
        }
        assert_eq!(reached(&there), [(name, 1)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_frame_that_waits_for_the_room_of_the_node_is_counted_where_it_waits() {
    let frame = 1 << 20;
    let limits = Limits {
        frame_bytes_max: frame,
        node_large_bytes_max: frame + HEADER_BYTES,
        lane_bytes_max: 64 << 10,
        inbound_bytes_max: 64 << 10,
        ..Limits::default()
    };
    let Pair { joined, here, there, _ends, .. } = pair(limits).await;
    assert!(here.bounds.large_sending.try_take(HEADER_BYTES + frame), "as another connection");
    here.try_send(Lane::Data, vec![7; frame].into()).expect_err("others have it");
    assert_eq!(reached(&here), [("node_large_bytes_max", 1)]);
    here.bounds.large_sending.give_back(HEADER_BYTES + frame);

    assert!(there.bounds.large.try_take(HEADER_BYTES + frame), "as another connection");
    here.try_send(Lane::Data, vec![7; frame].into()).expect("there is room");
    let core = Arc::clone(&there);
    let reads = tokio::spawn(async move { core.recv(From::All).await });
    joined.run_until_idle().await;
    assert_eq!(reached(&there), [("inbound_bytes_max", 1), ("node_large_bytes_max", 1)]);
    there.bounds.large.give_back(HEADER_BYTES + frame);
    joined.run_until_idle().await;
    assert_eq!(reads.await.expect("it ends").expect("a frame").frame.len(), frame);
}

#[tokio::test(start_paused = true)]
async fn a_window_that_is_smaller_because_there_are_many_is_counted() {
    let one = Limits { peer_streams_max: 3, ..Limits::default() };
    let limits = Limits { node_window_bytes_max: one.window_bytes_max / 2, ..one };
    let Pair { here, _ends, .. } = pair(limits).await;
    assert_eq!(reached(&here), [("node_window_bytes_max", 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_the_library_ends_is_counted_by_its_silence() {
    for (status, name) in [
        (status::CONNECTION_IDLE, "idle_time_max"),
        (status::CONNECTION_TIMEOUT, "disconnect_time_max"),
    ] {
        let Pair { here, _ends, .. } = pair(Limits::default()).await;
        here.closed_by_transport(status, 0);
        here.closed_by_transport(status, 0);
        assert_eq!(here.close_reason(), Some(CloseReason::TimedOut));
        assert_eq!(reached(&here), [(name, 1)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_wants_more_streams_is_counted() {
    let Pair { here, _ends, .. } = pair(Limits::default()).await;
    here.peer_needs_streams();
    assert_eq!(reached(&here), [("peer_streams_max", 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_stands_still_is_counted() {
    let Pair { joined, here, _ends, .. } = pair(Limits::default()).await;
    joined.hold(Held::Acknowledgements);
    here.try_send(Lane::Data, "to nobody".into()).expect("there is room");
    joined.run_until_idle().await;
    for _ in 0..6 {
        here.look_at(Deadline::Lanes);
        advance(Limits::default().lane_stall_time_max / 4).await;
    }
    assert_eq!(reached(&here), [("lane_stall_time_max", 1)]);
}
