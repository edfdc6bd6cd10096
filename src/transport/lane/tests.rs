//! What is done outside the lock of a lane, and who waits for its room.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Context;

use futures_util::task::noop_waker;

use super::*;
use crate::error::CloseCode;
use crate::transport::link::batch::PIECE_BYTES_MAX;

const REASON: CloseReason = CloseReason::Local { code: CloseCode::NORMAL };

type Lane = SendLane<u8>;

fn lane(bytes_max: usize) -> Lane {
    SendLane::new(Share::alone(bytes_max), Arc::new(NodeRoom::new(64 << 20)), &Arc::default())
}

fn granted(lane: &Lane, length: usize) -> Cost {
    match lane.try_admit(length) {
        Admission::Granted(cost) => cost,
        refused => panic!("{length} bytes: {refused:?}"),
    }
}

/// A payload that asks its lane something when it is dropped: with the lock held it never returns.
struct Owner(Arc<Lane>, Vec<u8>, std::sync::mpsc::Sender<u64>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.1
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.2.send(self.0.counts().frames.accepted).unwrap();
    }
}

/// Hands payloads of `lengths` to what is done with the lane on another thread; all are dropped then.
fn dropped_outside(lengths: &[usize], act: impl FnOnce(&Lane, Vec<Bytes>) + Send + 'static) {
    let lane = Arc::new(lane(64 << 20));
    // Wide enough for all of them.
    let all = granted(&lane, (64 << 20) - HEADER_BYTES);
    lane.give_back(all);
    let (sender, dropped) = std::sync::mpsc::channel();
    let frame = |length: &usize| {
        Bytes::from_owner(Owner(Arc::clone(&lane), vec![1; *length], sender.clone()))
    };
    let (frames, count) = (lengths.iter().map(frame).collect(), lengths.len());
    std::thread::spawn(move || act(&lane, frames));
    for _ in 0..count {
        dropped.recv_timeout(std::time::Duration::from_secs(20)).expect("no deadlock");
    }
}

#[test]
fn a_payload_is_never_dropped_under_the_lock() {
    dropped_outside(&[100, 9_000, 2 * PIECE_BYTES_MAX, 10, 20, 9_000], |lane, mut frames| {
        let mut group = VecDeque::from(frames.split_off(3));
        for frame in frames {
            lane.offer(frame).unwrap();
        }
        assert!(lane.push_group(&mut group, 3, Cost::usual(0), Vec::new()).is_ok());
        lane.shut(&REASON);
        lane.abandon();
    });
}

#[test]
fn nor_is_the_rest_of_one_that_is_lost_with_its_stream() {
    dropped_outside(&[2 * PIECE_BYTES_MAX], |lane, frames| {
        frames.into_iter().for_each(|frame| assert!(lane.offer(frame).unwrap()));
        lane.keep_stream(1);
        let Next::Submit(first, _) = lane.next(false) else { panic!("something to submit") };
        drop(first);
        lane.discard_stream(|_| true);
        assert!(matches!(lane.submitted(false), Next::Nothing));
    });
}

#[test]
fn a_shut_lane_hands_frames_back_with_the_reason() {
    let lane = lane(1024);
    let cost = granted(&lane, 3);
    lane.shut(&REASON);
    assert_eq!(lane.try_admit(3), Admission::Shut);
    let rejected = lane.push(Bytes::from_static(b"abc"), cost, None).err().unwrap();
    assert_eq!((rejected.frame.as_ref(), rejected.reason), (&b"abc"[..], REASON));
}

/// Polls once.
fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(&noop_waker())) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

#[test]
fn admission_is_had_in_the_order_of_asking_and_given_back_by_who_gives_up() {
    let lane = lane(1024);
    let all = granted(&lane, 1020);
    let [first, second, mut third] =
        [500, 500, 400].map(|length| Box::pin(lane.admit(length, || {})));
    let mut waiting = [first, second];
    for waits in &mut waiting {
        assert_eq!(poll(waits.as_mut()), None);
    }
    assert_eq!(poll(third.as_mut()), None);
    let [first, second] = waiting;
    drop(first);
    lane.give_back(all);
    // It has been given room for itself, and goes without looking.
    drop(second);
    let Some(Admission::Granted(cost)) = poll(third.as_mut()) else { panic!("it is its turn") };
    lane.give_back(cost);
    assert_eq!(granted(&lane, 1020).bytes, 1024, "all of it is there again");
}

#[test]
fn a_frame_beyond_the_share_waits_for_the_turn_and_for_the_nodes_room() {
    let node = Arc::new(NodeRoom::new(1 << 20));
    let lanes: [Lane; 2] =
        [1, 2].map(|_| SendLane::new(Share::alone(1024), Arc::clone(&node), &Arc::default()));
    let cost = granted(&lanes[0], 600_000);
    let (mut same, asked) = (pin!(lanes[0].admit(500_000, || {})), Cell::new(false));
    let mut other = pin!(lanes[1].admit(600_000, || asked.set(true)));
    assert_eq!(poll(same.as_mut()), None, "one at a time");
    assert_eq!(poll(other.as_mut()), None, "the node's room is taken");
    lanes[0].give_back(cost);
    let Some(Admission::Granted(cost)) = poll(other.as_mut()) else { panic!("it is its turn") };
    assert_eq!(poll(same.as_mut()), None, "now it is the node that it waits for");
    lanes[1].give_back(cost);
    let Some(Admission::Granted(cost)) = poll(same.as_mut()) else { panic!("it is its turn") };
    lanes[0].give_back(cost);
    assert!(node.is_free());
    assert!(asked.get());
}

#[test]
fn who_gives_up_beside_the_room_leaves_nothing_taken() {
    let node = Arc::new(NodeRoom::new(1 << 20));
    let lanes: [Lane; 2] =
        [1, 2].map(|_| SendLane::new(Share::alone(1024), Arc::clone(&node), &Arc::default()));
    for granted_before in [false, true] {
        let cost = granted(&lanes[0], 600_000);
        let mut waits = Box::pin(lanes[1].admit(600_000, || {}));
        assert_eq!(poll(waits.as_mut()), None);
        if granted_before {
            lanes[0].give_back(cost);
            drop(waits);
        } else {
            drop(waits);
            lanes[0].give_back(cost);
        }
        assert!(node.is_free());
        let cost = granted(&lanes[1], 600_000);
        lanes[1].give_back(cost);
    }
}

#[test]
fn who_waits_at_the_node_is_told_that_the_lane_was_shut() {
    let node = Arc::new(NodeRoom::new(1 << 20));
    let lanes: [Lane; 2] =
        [1, 2].map(|_| SendLane::new(Share::alone(1024), Arc::clone(&node), &Arc::default()));
    let cost = granted(&lanes[0], 600_000);
    let mut waits = pin!(lanes[1].admit(600_000, || {}));
    assert_eq!(poll(waits.as_mut()), None);
    lanes[1].shut(&REASON);
    assert_eq!(poll(waits.as_mut()), Some(Admission::Shut));
    lanes[0].give_back(cost);
}
