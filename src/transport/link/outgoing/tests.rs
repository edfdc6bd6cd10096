//! One lane: what goes out, in which order, and how each frame ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::error::{CloseCode, Outcome};
use crate::marks::covers;
use crate::transport::link::batch::{BATCH_BYTES, Sent};
use crate::transport::link::fair::Turn;

const REASON: CloseReason = CloseReason::Local { code: CloseCode::NORMAL };

type Lane = Outgoing<u8, &'static str>;

fn lane(bytes_max: usize) -> Lane {
    Outgoing::new(Share::alone(bytes_max))
}

fn nobody(freed: Freed<&'static str>) {
    assert_eq!(freed.wake, [""; 0]);
}

/// Admission of a payload of `length` bytes, also beside the lane's own room.
fn admit(lane: &mut Lane, length: usize) -> Admission {
    let bytes = HEADER_BYTES + length;
    let admission = lane.try_take(bytes);
    if admission != Admission::Full || lane.fits(bytes) {
        return admission;
    }
    match lane.try_take_large_turn() {
        Admission::Granted(_) => Admission::Granted(lane.has_large(bytes)),
        refused => refused,
    }
}

fn granted(lane: &mut Lane, length: usize) -> Cost {
    match admit(lane, length) {
        Admission::Granted(cost) => cost,
        refused => panic!("{length} bytes: {refused:?}"),
    }
}

fn push(lane: &mut Lane, length: usize) {
    let cost = granted(lane, length);
    lane.push(Payload::Given(Bytes::from(vec![1; length])), cost, None);
}

fn take(lane: &mut Lane) -> Option<Batch> {
    match lane.next(false) {
        Step::Submit(batch, _) => Some(batch),
        Step::Finish | Step::Nothing | Step::Lost(..) => None,
    }
}

fn submit(lane: &mut Lane) -> Option<Batch> {
    take(lane).inspect(|_| lane.submitted())
}

fn end(lane: &mut Lane, batch: Batch, acknowledged: bool) -> Freed<&'static str> {
    lane.completed(&batch.into_parts().2, acknowledged)
}

#[test]
fn a_lone_frame_is_submitted_at_once() {
    let mut lane = lane(1 << 20);
    push(&mut lane, 10);
    assert_eq!(submit(&mut lane).unwrap().sent.frames, 1);
}

#[test]
fn frames_that_wait_become_one_submission() {
    let mut lane = lane(1 << 20);
    for _ in 0..8 {
        push(&mut lane, 1200);
        assert!(submit(&mut lane).is_some());
    }
    for _ in 0..5 {
        push(&mut lane, 100);
        assert!(submit(&mut lane).is_none(), "enough is in flight");
    }
    let sent = Sent { frames: 1, bytes: 1204, payload: 1200, cost: 1204, ..Sent::default() };
    nobody(lane.completed(&sent, true));
    assert_eq!(submit(&mut lane).unwrap().sent.frames, 5);
}

#[test]
fn a_few_small_frames_never_wait_for_an_acknowledgement() {
    let mut lane = lane(1 << 20);
    for _ in 0..20 {
        push(&mut lane, 100);
        assert!(submit(&mut lane).is_some());
    }
}

#[test]
fn admission_is_bounded_in_bytes_and_comes_back_with_completion() {
    let mut lane = lane(1024);
    push(&mut lane, 1000);
    assert_eq!(admit(&mut lane, 100), Admission::Full);
    let request = submit(&mut lane).unwrap();
    nobody(end(&mut lane, request, true));
    assert!(matches!(admit(&mut lane, 1000), Admission::Granted(_)));
}

#[test]
fn a_frame_larger_than_the_lane_is_admitted_beside_it_one_at_a_time() {
    let mut lane = lane(1024);
    push(&mut lane, 5000);
    assert_eq!(admit(&mut lane, 5000), Admission::Full);
    push(&mut lane, 1000);
    assert_eq!(admit(&mut lane, 100), Admission::Full);
    while let Some(request) = submit(&mut lane) {
        nobody(end(&mut lane, request, true));
    }
    push(&mut lane, 5000);
}

#[test]
fn outcomes_balance_whatever_happens() {
    let mut lane = lane(1 << 20);
    // Wide enough for all of them.
    let all = granted(&mut lane, (1 << 20) - HEADER_BYTES);
    nobody(lane.give_back(all));
    let told = Arc::new(AtomicUsize::new(0));
    for _ in 0..4 {
        let cost = granted(&mut lane, BATCH_BYTES);
        let told = Arc::clone(&told);
        let sink: OutcomeSink = Box::new(move |outcome| {
            let weight = match outcome {
                Outcome::Completed => 1,
                Outcome::MaybeSent => 10,
                Outcome::NotSent(frame) => frame.len() / BATCH_BYTES * 100,
            };
            told.fetch_add(weight, Ordering::Relaxed);
        });
        lane.push(Payload::Given(Bytes::from(vec![0; BATCH_BYTES])), cost, Some(sink));
    }
    let first = submit(&mut lane).unwrap();
    let second = submit(&mut lane).unwrap();
    for (batch, acknowledged) in [(first, true), (second, false)] {
        let (_, _, mut sent) = batch.into_parts();
        nobody(lane.completed(&sent, acknowledged));
        let outcome = || if acknowledged { Outcome::Completed } else { Outcome::MaybeSent };
        sent.sinks.drain(..).for_each(|(_, sink)| sink(outcome()));
    }
    nobody(lane.shut(&REASON));
    nobody(lane.abandon().tell());
    let counts = lane.counts();
    let expected = OutcomeCounts { accepted: 4, completed: 1, not_sent: 2, maybe_sent: 1 };
    assert_eq!(counts, expected);
    assert_eq!(told.load(Ordering::Relaxed), 211);
}

#[test]
fn a_submission_that_was_not_accepted_goes_first_again() {
    let mut lane = lane(1 << 20);
    push(&mut lane, 10);
    let batch = take(&mut lane).expect("something to submit");
    push(&mut lane, 20);
    nobody(lane.came_back(batch).tell());
    assert_eq!(submit(&mut lane).unwrap().sent.bytes, 14);
    assert_eq!(submit(&mut lane).unwrap().sent.bytes, 24);
}

/// A lane with room for large frames and a stream.
fn wide_lane() -> Lane {
    let mut lane = lane(64 << 20);
    let all = granted(&mut lane, (64 << 20) - HEADER_BYTES);
    nobody(lane.give_back(all));
    lane.keep_stream(0);
    lane
}

#[test]
fn a_large_frame_goes_out_in_pieces_and_ends_with_the_last() {
    let mut lane = wide_lane();
    push(&mut lane, 10);
    push(&mut lane, 3 * PIECE_BYTES_MAX + 1);
    push(&mut lane, 20);
    let mut sent = Vec::new();
    let mut wire = Vec::new();
    while let Some(request) = submit(&mut lane) {
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
        nobody(lane.completed(&batch, true));
        assert!(before.busy);
        assert_eq!(lane.progress().ended, before.ended + 1, "each piece is progress");
    }
    let counts = lane.counts();
    assert_eq!((counts.accepted, counts.completed), (3, 3));
    assert_eq!(lane.bytes_sent(), 3 * PIECE_BYTES_MAX as u64 + 31);
}

#[test]
fn the_rest_of_a_frame_never_goes_out_on_another_stream() {
    covers!("the rest of a frame is lost with its stream");
    for pieces_sent in [1, 2] {
        let mut lane = wide_lane();
        let (told, outcome) = std::sync::mpsc::channel();
        let sink: OutcomeSink = Box::new(move |outcome| told.send(outcome).unwrap());
        let large = Bytes::from(vec![1; 3 * PIECE_BYTES_MAX]);
        let cost = granted(&mut lane, large.len());
        lane.push(Payload::Given(large.clone()), cost, Some(sink));
        push(&mut lane, 20);
        let sent: Vec<_> = (0..pieces_sent).map(|_| submit(&mut lane).unwrap()).collect();
        lane.discard_stream(|_| true);
        if pieces_sent == 2 {
            // Another one is there before anybody looks.
            lane.keep_stream(1);
        }
        let Step::Lost(lost) = lane.next(false) else { panic!("the rest is lost") };
        nobody(lost.tell());
        assert_eq!(outcome.try_recv().unwrap(), Outcome::NotSent(large));
        sent.into_iter().for_each(|it| nobody(end(&mut lane, it, false)));
        lane.keep_stream(1);
        let next = submit(&mut lane).expect("what stands behind it goes on");
        assert_eq!(next.sent.bytes, 24);
        nobody(end(&mut lane, next, true));
        let counts = lane.counts();
        let expected = OutcomeCounts { accepted: 2, completed: 1, not_sent: 1, maybe_sent: 0 };
        assert_eq!(counts, expected);
        let all = admit(&mut lane, (64 << 20) - HEADER_BYTES);
        assert!(matches!(all, Admission::Granted(_)), "its room is free again: {all:?}");
    }
}

#[test]
fn a_frame_whose_first_piece_came_back_goes_out_whole_on_another_stream() {
    let mut lane = wide_lane();
    push(&mut lane, 2 * PIECE_BYTES_MAX);
    let batch = take(&mut lane).expect("something to submit");
    lane.discard_stream(|_| true);
    nobody(lane.came_back(batch).tell());
    lane.keep_stream(1);
    let bytes: Vec<_> = std::iter::from_fn(|| submit(&mut lane)).map(|it| it.sent.bytes).collect();
    assert_eq!(bytes, [HEADER_BYTES + PIECE_BYTES_MAX, PIECE_BYTES_MAX]);
}

#[test]
fn a_lane_that_is_given_up_gives_the_nodes_room_back() {
    let mut lane = lane(1024);
    push(&mut lane, 3 << 20);
    let first = submit(&mut lane).expect("a piece of it");
    nobody(lane.shut(&REASON));
    assert_eq!(lane.abandon().tell().large, HEADER_BYTES + (3 << 20));
    assert_eq!(end(&mut lane, first, false).large, 0, "all of it hung on the last piece");
    assert_eq!(lane.counts().not_sent, 1);
}

#[test]
fn whoever_waits_is_told_of_the_end_wherever_it_waits() {
    let mut lane = lane(1024);
    push(&mut lane, 1000);
    let (taken, freed) = lane.take(100, "room");
    let room = taken.expect_err("there is none");
    nobody(freed);
    assert!(matches!(lane.try_take_large_turn(), Admission::Granted(_)));
    lane.waits_at_node("node");
    let turn = lane.take_large_turn("turn").expect_err("it is taken");
    assert_eq!(lane.shut(&REASON).wake, ["room", "turn", "node"]);
    assert_eq!((lane.turn(room), lane.large_turn(turn)), (Turn::Shut, Turn::Shut));
    assert_eq!(admit(&mut lane, 1), Admission::Shut);
    let (taken, freed) = lane.take(2000, "late");
    assert_eq!(freed.wake, ["late"]);
    assert_eq!(lane.turn(taken.expect_err("too late")), Turn::Shut);
}

#[test]
fn the_end_is_sent_after_everything_accepted() {
    let mut lane = lane(1 << 20);
    push(&mut lane, 10);
    lane.finish();
    assert!(submit(&mut lane).is_some());
    assert!(matches!(lane.next(false), Step::Finish));
    assert!(matches!(lane.next(false), Step::Nothing), "the end is sent once");
}

#[test]
fn an_end_that_is_lost_with_its_stream_is_said_on_the_next() {
    covers!("the end of a lane is said again on another stream");
    let mut lane = lane(1 << 20);
    lane.keep_stream(0);
    lane.finish();
    assert!(matches!(lane.next(false), Step::Finish));
    assert!(lane.discard_stream(|_| true).is_some());
    assert!(matches!(lane.next(false), Step::Finish));
    lane.finished();
    assert!(lane.is_finished());
}

#[test]
fn what_comes_back_to_a_lane_that_was_given_up_was_not_sent() {
    covers!("a submission comes back to a lane that was given up");
    let mut lane = lane(1 << 20);
    push(&mut lane, 10);
    let batch = take(&mut lane).expect("something to submit");
    nobody(lane.shut(&REASON));
    nobody(lane.abandon().tell());
    nobody(lane.came_back(batch).tell());
    assert_eq!((lane.counts().not_sent, lane.pending()), (1, 0));
}
