//! Room of a lane, and of the node beside it: who waits has it in the end, and nothing of it is lost.

use std::sync::Arc;

use bytes::Bytes;
use loom::future::block_on;
use loom::thread;

use super::lane::{Next, SendLane};
use super::link::batch::Sent;
use super::link::outgoing::Admission;
use super::link::room::Cost;
use super::link::share::Share;
use super::node_room::NodeRoom;
use crate::error::{CloseCode, CloseReason};
use crate::frame::HEADER_BYTES;
use crate::polling::{play, poll_once};

const REASON: CloseReason = CloseReason::Local { code: CloseCode::NORMAL };

/// All of a lane's room, and all of the node's.
const LANE_BYTES: usize = 1024;
const NODE_BYTES: usize = 1 << 20;

type Lane = SendLane<u8>;

pub(super) fn lane(bytes_max: usize) -> Arc<Lane> {
    Arc::new(SendLane::new(
        Share::alone(bytes_max),
        Arc::new(NodeRoom::new(NODE_BYTES)),
        &Arc::default(),
    ))
}

/// Two lanes in one node's room.
fn lanes() -> [Arc<Lane>; 2] {
    let node = Arc::new(NodeRoom::new(NODE_BYTES));
    [(); 2].map(|()| {
        Arc::new(SendLane::new(Share::alone(LANE_BYTES), Arc::clone(&node), &Arc::default()))
    })
}

/// Hands over what is next until there is nothing, as a connection does; `submitted` is called behind
/// each submission.
pub(super) fn hand_over(lane: &Lane, mut next: Next<u8>, mut submitted: impl FnMut(Sent)) {
    loop {
        next = match next {
            Next::Submit(batch, _) => {
                let (_, _, sent) = batch.into_parts();
                let next = lane.submitted(false);
                submitted(sent);
                next
            }
            Next::Nothing => return,
            Next::Finish => panic!("nobody asked for the end"),
        };
    }
}

/// Sends a frame of so many bytes, its header included.
pub(super) fn send(lane: &Lane, bytes: usize, submitted: impl FnMut(Sent)) {
    if lane.offer(Bytes::from(vec![0; bytes - HEADER_BYTES])).expect("there is room") {
        hand_over(lane, lane.next(false), submitted);
    }
}

/// Sends a frame on a lane that is idle.
pub(super) fn submit(lane: &Lane, bytes: usize) -> Sent {
    let mut all = Vec::new();
    send(lane, bytes, |sent| all.push(sent));
    all.pop().expect("nobody else is at it")
}

fn granted(admission: Admission) -> Cost {
    match admission {
        Admission::Granted(cost) => cost,
        Admission::Full | Admission::Shut => panic!("{admission:?}"),
    }
}

/// As much as `bytes`, with its header.
fn take(lane: &Lane, bytes: usize) -> Cost {
    granted(lane.try_admit(bytes - HEADER_BYTES))
}

/// Waits for as much as `bytes`, with its header.
async fn admitted(lane: Arc<Lane>, bytes: usize) -> Admission {
    lane.admit(bytes - HEADER_BYTES, || {}).await
}

/// Waits for it and gives it back.
fn waits(lane: &Arc<Lane>, bytes: usize) -> thread::JoinHandle<()> {
    let lane = Arc::clone(lane);
    thread::spawn(move || {
        let cost = granted(block_on(admitted(Arc::clone(&lane), bytes)));
        lane.give_back(cost);
    })
}

fn expect_all_free(lane: &Lane) {
    let cost = take(lane, LANE_BYTES);
    lane.give_back(cost);
    let cost = take(lane, NODE_BYTES);
    lane.give_back(cost);
}

/// Two wait, one gives back.
pub fn who_waits_for_room_has_it_in_the_end() {
    play(|| {
        let lane = lane(LANE_BYTES);
        let all = take(&lane, LANE_BYTES);
        let waiting = [400, 700].map(|bytes| waits(&lane, bytes));
        lane.give_back(all);
        waiting.into_iter().for_each(|one| one.join().unwrap());
        expect_all_free(&lane);
    });
}

/// One waits for what was sent.
pub fn what_is_acknowledged_is_had_by_who_waits() {
    play(|| {
        let lane = lane(LANE_BYTES);
        let sent = submit(&lane, LANE_BYTES);
        let waiting = waits(&lane, 700);
        assert!(matches!(lane.completed(sent, true, false), Next::Nothing));
        waiting.join().unwrap();
        expect_all_free(&lane);
    });
}

/// One gives up, whatever it has been given meanwhile.
pub fn who_gives_up_takes_nothing_along() {
    play(|| {
        let lane = lane(LANE_BYTES);
        let all = take(&lane, LANE_BYTES);
        let mut first = Box::pin(admitted(Arc::clone(&lane), LANE_BYTES));
        assert!(poll_once(first.as_mut()).is_pending());
        let second = waits(&lane, LANE_BYTES);
        let gives_up = thread::spawn(move || drop(first));
        lane.give_back(all);
        gives_up.join().unwrap();
        second.join().unwrap();
        expect_all_free(&lane);
    });
}

/// Another task goes on waiting.
pub fn who_waits_in_another_task_is_woken_there() {
    play(|| {
        let lane = lane(LANE_BYTES);
        let all = take(&lane, LANE_BYTES);
        let mut waiting = Box::pin(admitted(Arc::clone(&lane), LANE_BYTES));
        assert!(poll_once(waiting.as_mut()).is_pending());
        let waits = thread::spawn(move || granted(block_on(waiting)));
        lane.give_back(all);
        let cost = waits.join().unwrap();
        lane.give_back(cost);
        expect_all_free(&lane);
    });
}

/// The lane ends while one waits and another gives back.
pub fn who_waits_is_told_of_the_end() {
    play(|| {
        let lane = lane(LANE_BYTES);
        let all = take(&lane, LANE_BYTES);
        let waiting = Arc::clone(&lane);
        let waits =
            thread::spawn(move || match block_on(admitted(Arc::clone(&waiting), LANE_BYTES)) {
                Admission::Granted(cost) => {
                    let pushed = waiting.push(Bytes::from_static(b"late"), cost, None);
                    assert!(matches!(pushed, Ok(true)) || waiting.shut_reason().is_some());
                }
                Admission::Shut => assert!(waiting.shut_reason().is_some()),
                Admission::Full => panic!("it waits"),
            });
        let giving = Arc::clone(&lane);
        let gives = thread::spawn(move || giving.give_back(all));
        lane.shut(&REASON);
        lane.abandon();
        waits.join().unwrap();
        gives.join().unwrap();
        assert_eq!(lane.pending(), 0);
    });
}

// ---- beside the lane's own room

/// As large a frame as the node has room for.
pub fn who_waits_at_the_node_has_its_room_in_the_end() {
    play(|| {
        let lanes = lanes();
        let all = take(&lanes[0], NODE_BYTES);
        let waiting = [waits(&lanes[0], NODE_BYTES), waits(&lanes[1], NODE_BYTES)];
        lanes[0].give_back(all);
        waiting.into_iter().for_each(|one| one.join().unwrap());
        lanes.iter().for_each(|lane| expect_all_free(lane));
    });
}

/// One gives up that waits behind a large frame of its lane, whatever it has been given meanwhile.
pub fn who_gives_up_behind_a_large_frame_takes_nothing_along() {
    play(|| {
        let lanes = lanes();
        let all = take(&lanes[0], NODE_BYTES);
        let mut first = Box::pin(admitted(Arc::clone(&lanes[0]), NODE_BYTES));
        assert!(poll_once(first.as_mut()).is_pending());
        let second = waits(&lanes[0], NODE_BYTES);
        let gives_up = thread::spawn(move || drop(first));
        lanes[0].give_back(all);
        gives_up.join().unwrap();
        second.join().unwrap();
        lanes.iter().for_each(|lane| expect_all_free(lane));
    });
}

/// One gives up at the node, whatever it has been given meanwhile.
pub fn who_gives_up_at_the_node_takes_nothing_along() {
    play(|| {
        let lanes = lanes();
        let all = take(&lanes[0], NODE_BYTES);
        let mut first = Box::pin(admitted(Arc::clone(&lanes[1]), NODE_BYTES));
        assert!(poll_once(first.as_mut()).is_pending());
        let second = waits(&lanes[1], NODE_BYTES);
        let gives_up = thread::spawn(move || drop(first));
        lanes[0].give_back(all);
        gives_up.join().unwrap();
        second.join().unwrap();
        lanes.iter().for_each(|lane| expect_all_free(lane));
    });
}

/// The lane ends while one waits at the node.
pub fn who_waits_at_the_node_is_told_of_the_end() {
    play(|| {
        let lanes = lanes();
        let all = take(&lanes[0], NODE_BYTES);
        let waiting = Arc::clone(&lanes[1]);
        let waits = thread::spawn(move || {
            let admission = block_on(admitted(Arc::clone(&waiting), NODE_BYTES));
            assert_eq!(admission, Admission::Shut, "nobody gives back");
        });
        lanes[1].shut(&REASON);
        waits.join().unwrap();
        lanes[0].give_back(all);
        expect_all_free(&lanes[0]);
    });
}

/// The lane ends and the node has room at the same time.
pub fn room_that_comes_with_the_end_goes_back() {
    play(|| {
        let lanes = lanes();
        let all = take(&lanes[0], NODE_BYTES);
        let waiting = Arc::clone(&lanes[1]);
        let waits =
            thread::spawn(move || match block_on(admitted(Arc::clone(&waiting), NODE_BYTES)) {
                Admission::Granted(cost) => waiting.give_back(cost),
                Admission::Shut => {}
                Admission::Full => panic!("it waits"),
            });
        let giving = Arc::clone(&lanes[0]);
        let gives = thread::spawn(move || giving.give_back(all));
        lanes[1].shut(&REASON);
        waits.join().unwrap();
        gives.join().unwrap();
        expect_all_free(&lanes[0]);
    });
}

// ---- handing over

/// Two send at once, and what they submit is acknowledged: whoever finds nobody submitting submits.
pub fn no_frame_is_left_behind() {
    play(|| {
        let lane = lane(LANE_BYTES);
        let sends = [(); 2].map(|()| {
            let lane = Arc::clone(&lane);
            thread::spawn(move || {
                let mut in_flight = Vec::new();
                send(&lane, 100, |sent| in_flight.push(sent));
                while let Some(sent) = in_flight.pop() {
                    let next = lane.completed(sent, true, false);
                    hand_over(&lane, next, |sent| in_flight.push(sent));
                }
            })
        });
        sends.into_iter().for_each(|one| one.join().unwrap());
        assert_eq!((lane.counts().frames.completed, lane.pending()), (2, 0));
        expect_all_free(&lane);
    });
}
