//! One lane: what goes out, in which order, and how each frame ends.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::batch::{BATCH_BYTES, PIECE_BYTES_MAX};
use super::state::SUBMISSIONS;
use super::*;
use crate::error::CloseCode;
use tokio::sync::Semaphore;

const REASON: CloseReason = CloseReason::Local { code: CloseCode::NORMAL };

type Lane = SendLane<u8>;

fn lane(bytes_max: usize) -> Lane {
    SendLane::new(Share::alone(bytes_max), Arc::new(Semaphore::new(64 << 20)))
}

fn push(lane: &Lane, length: usize) {
    let Admission::Granted(cost) = lane.try_admit(length) else { panic!("not admitted") };
    assert!(lane.push(Bytes::from(vec![1; length]), cost, None).is_ok());
}

fn submit(lane: &Lane) -> Option<SendRequest<Sent>> {
    match lane.next() {
        Step::Submit(request) => {
            lane.submitted(Ok(()));
            Some(*request)
        }
        Step::Finish | Step::Nothing | Step::Lost(_) => None,
    }
}

#[test]
fn a_lone_frame_is_submitted_at_once() {
    let lane = lane(1 << 20);
    push(&lane, 10);
    assert_eq!(submit(&lane).unwrap().batch.frames, 1);
}

#[test]
fn frames_that_wait_become_one_submission() {
    let lane = lane(1 << 20);
    for _ in 0..SUBMISSIONS {
        push(&lane, 1200);
        assert!(submit(&lane).is_some());
    }
    for _ in 0..5 {
        push(&lane, 100);
        assert!(submit(&lane).is_none(), "enough is in flight");
    }
    let sent = Sent { frames: 1, bytes: 1204, payload: 1200, cost: 1204, ..Sent::default() };
    lane.completed(sent, true);
    assert_eq!(submit(&lane).unwrap().batch.frames, 5);
}

#[test]
fn a_few_small_frames_never_wait_for_an_acknowledgement() {
    let lane = lane(1 << 20);
    for _ in 0..20 {
        push(&lane, 100);
        assert!(submit(&lane).is_some());
    }
}

#[test]
fn admission_is_bounded_in_bytes_and_comes_back_with_completion() {
    let lane = lane(1024);
    push(&lane, 1000);
    assert_eq!(lane.try_admit(100), Admission::Full);
    let request = submit(&lane).unwrap();
    lane.completed(request.into_parts().2, true);
    assert!(matches!(lane.try_admit(1000), Admission::Granted(_)));
}

#[test]
fn a_frame_larger_than_the_lane_is_admitted_beside_it_one_at_a_time() {
    let lane = lane(1024);
    push(&lane, 5000);
    assert_eq!(lane.try_admit(5000), Admission::Full);
    push(&lane, 1000);
    assert_eq!(lane.try_admit(100), Admission::Full);
    while let Some(request) = submit(&lane) {
        lane.completed(request.into_parts().2, true);
    }
    push(&lane, 5000);
}

#[test]
fn outcomes_balance_whatever_happens() {
    let lane = lane(1 << 20);
    // Wide enough for all of them.
    let Admission::Granted(all) = lane.try_admit((1 << 20) - HEADER_BYTES) else { panic!() };
    lane.give_back(all);
    let told = Arc::new(AtomicUsize::new(0));
    for _ in 0..4 {
        let Admission::Granted(cost) = lane.try_admit(BATCH_BYTES) else { panic!() };
        let told = Arc::clone(&told);
        let sink: OutcomeSink = Box::new(move |outcome| {
            let weight = match outcome {
                Outcome::Completed => 1,
                Outcome::MaybeSent => 10,
                Outcome::NotSent(frame) => frame.len() / BATCH_BYTES * 100,
            };
            told.fetch_add(weight, Ordering::Relaxed);
        });
        assert!(lane.push(Bytes::from(vec![0; BATCH_BYTES]), cost, Some(sink)).is_ok());
    }
    let first = submit(&lane).unwrap();
    let second = submit(&lane).unwrap();
    lane.completed(first.into_parts().2, true);
    lane.completed(second.into_parts().2, false);
    lane.shut(&REASON);
    lane.abandon();
    let (counts, _) = lane.counts();
    let expected = OutcomeCounts { accepted: 4, completed: 1, not_sent: 2, maybe_sent: 1 };
    assert_eq!(counts, expected);
    assert_eq!(told.load(Ordering::Relaxed), 211);
}

#[test]
fn a_submission_that_was_not_accepted_goes_first_again() {
    let lane = lane(1 << 20);
    push(&lane, 10);
    let Step::Submit(request) = lane.next() else { panic!("nothing to submit") };
    push(&lane, 20);
    lane.submitted(Err(request));
    assert_eq!(submit(&lane).unwrap().batch.bytes, 14);
    assert_eq!(submit(&lane).unwrap().batch.bytes, 24);
}

/// A lane with room for large frames and a stream.
fn wide_lane() -> Lane {
    let lane = lane(64 << 20);
    let Admission::Granted(all) = lane.try_admit((64 << 20) - HEADER_BYTES) else { panic!() };
    lane.give_back(all);
    lane.keep_stream(0);
    lane
}

#[test]
fn a_large_frame_goes_out_in_pieces_and_ends_with_the_last() {
    let lane = wide_lane();
    push(&lane, 10);
    push(&lane, 3 * PIECE_BYTES_MAX + 1);
    push(&lane, 20);
    let mut sent = Vec::new();
    let mut wire = Vec::new();
    while let Some(request) = submit(&lane) {
        let (parts, count, batch) = request.into_parts();
        wire.extend(parts[..count].concat());
        sent.push(batch);
    }
    let frames: Vec<u64> = sent.iter().map(|batch| batch.frames).collect();
    assert_eq!(frames, [1, 0, 0, 1, 1]);
    let mut decoder = crate::frame::FrameDecoder::new(64 << 20);
    let mut lengths = Vec::new();
    let take = &mut |piece| match piece {
        crate::frame::Piece::Run(run) => lengths.extend(run.map(|frame| frame.len())),
        crate::frame::Piece::Frame(frame) => lengths.push(frame.len()),
    };
    decoder.feed(&wire, take).unwrap();
    assert_eq!(lengths, [10, 3 * PIECE_BYTES_MAX + 1, 20]);
    for batch in sent {
        let before = lane.progress();
        lane.completed(batch, true);
        assert!(before.busy);
        assert_eq!(lane.progress().ended, before.ended + 1, "each piece is progress");
    }
    let (counts, bytes) = lane.counts();
    assert_eq!((counts.accepted, counts.completed), (3, 3));
    assert_eq!(bytes, 3 * PIECE_BYTES_MAX as u64 + 31);
}

#[test]
fn the_rest_of_a_frame_never_goes_out_on_another_stream() {
    for pieces_sent in [1, 2] {
        let lane = wide_lane();
        let (told, outcome) = std::sync::mpsc::channel();
        let sink: OutcomeSink = Box::new(move |outcome| told.send(outcome).unwrap());
        let large = Bytes::from(vec![1; 3 * PIECE_BYTES_MAX]);
        let Admission::Granted(cost) = lane.try_admit(large.len()) else { panic!() };
        assert!(lane.push(large.clone(), cost, Some(sink)).is_ok());
        push(&lane, 20);
        let sent: Vec<_> = (0..pieces_sent).map(|_| submit(&lane).unwrap()).collect();
        lane.discard_stream(|_| true);
        if pieces_sent == 2 {
            // Another one is there before anybody looks.
            lane.keep_stream(1);
        }
        let Step::Lost(sinks) = lane.next() else { panic!("the rest is lost") };
        sinks.into_iter().for_each(|(frame, sink)| sink(Outcome::NotSent(frame)));
        assert_eq!(outcome.try_recv().unwrap(), Outcome::NotSent(large));
        sent.into_iter().for_each(|it| lane.completed(it.into_parts().2, false));
        lane.keep_stream(1);
        let next = submit(&lane).expect("what stands behind it goes on");
        assert_eq!(next.batch.bytes, 24);
        lane.completed(next.into_parts().2, true);
        let (counts, _) = lane.counts();
        let expected = OutcomeCounts { accepted: 2, completed: 1, not_sent: 1, maybe_sent: 0 };
        assert_eq!(counts, expected);
        let all = lane.try_admit((64 << 20) - HEADER_BYTES);
        assert!(matches!(all, Admission::Granted(_)), "its room is free again: {all:?}");
    }
}

#[test]
fn a_frame_whose_first_piece_came_back_goes_out_whole_on_another_stream() {
    let lane = wide_lane();
    push(&lane, 2 * PIECE_BYTES_MAX);
    let Step::Submit(request) = lane.next() else { panic!("nothing to submit") };
    lane.discard_stream(|_| true);
    lane.submitted(Err(request));
    lane.keep_stream(1);
    let bytes: Vec<_> = std::iter::from_fn(|| submit(&lane)).map(|it| it.batch.bytes).collect();
    assert_eq!(bytes, [HEADER_BYTES + PIECE_BYTES_MAX, PIECE_BYTES_MAX]);
}

#[test]
fn a_payload_is_never_dropped_under_the_lock() {
    struct Owner(Arc<Lane>, Vec<u8>, std::sync::mpsc::Sender<u64>);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.1
        }
    }
    impl Drop for Owner {
        fn drop(&mut self) {
            // With the lock held this would never return.
            self.2.send(self.0.counts().0.accepted).unwrap();
        }
    }
    let lane = Arc::new(wide_lane());
    let (sender, dropped) = std::sync::mpsc::channel();
    let frame =
        |length| Bytes::from_owner(Owner(Arc::clone(&lane), vec![1; length], sender.clone()));
    let (given, waits) = std::sync::mpsc::channel();
    let frames: Vec<_> = [100, 9_000, 2 * PIECE_BYTES_MAX].map(frame).into();
    let mut group: VecDeque<_> = [10, 20, 9_000].map(frame).into();
    let at_work = Arc::clone(&lane);
    std::thread::spawn(move || {
        for frame in frames {
            at_work.offer(frame).unwrap();
        }
        assert!(at_work.push_group(&mut group, 3, Cost::usual(0), Vec::new()).is_ok());
        at_work.shut(&REASON);
        at_work.abandon();
        given.send(()).unwrap();
    });
    waits.recv_timeout(std::time::Duration::from_secs(20)).expect("no deadlock");
    assert_eq!(dropped.try_iter().count(), 6);
}

#[test]
fn a_lane_that_is_given_up_gives_the_nodes_room_back() {
    let large = Arc::new(Semaphore::new(64 << 20));
    let lane: Lane = SendLane::new(Share::alone(1024), Arc::clone(&large));
    push(&lane, 3 << 20);
    assert!(large.available_permits() < 62 << 20);
    let first = submit(&lane).expect("a piece of it");
    lane.shut(&REASON);
    lane.abandon();
    lane.completed(first.into_parts().2, false);
    assert_eq!(large.available_permits(), 64 << 20);
    assert_eq!(lane.counts().0.not_sent, 1);
}

#[test]
fn a_shut_lane_hands_frames_back_with_the_reason() {
    let lane = lane(1024);
    let Admission::Granted(cost) = lane.try_admit(3) else { panic!() };
    lane.shut(&REASON);
    assert_eq!(lane.try_admit(3), Admission::Shut);
    let rejected = lane.push(Bytes::from_static(b"abc"), cost, None).err().unwrap();
    assert_eq!((rejected.frame.as_ref(), rejected.reason), (&b"abc"[..], REASON));
}

#[test]
fn the_end_is_sent_after_everything_accepted() {
    let lane = lane(1 << 20);
    push(&lane, 10);
    lane.finish();
    assert!(submit(&lane).is_some());
    assert!(matches!(lane.next(), Step::Finish));
    assert!(matches!(lane.next(), Step::Nothing), "the end is sent once");
}
