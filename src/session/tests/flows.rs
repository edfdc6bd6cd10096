//! A flow's two ends, alone.

use proptest::prelude::*;

use super::data::Batch;
use crate::session::flow::FlowState;
use crate::session::flow_in::{Arrival, FlowIn};
use crate::session::flow_out::{Entry, Fate, FlowOut, FlowViolation, Outcomes};
use crate::session::rate::Rate;

fn batch(frames: u64, bytes: u64) -> Batch {
    Batch((0..frames).map(|frame| (frame, bytes)).collect())
}

fn state(received: u64, taken: u64) -> FlowState {
    FlowState { received, taken, credit: 100 }
}

/// With these batches accepted and, as far as credit goes, submitted.
fn sent(batches: &[(u64, u64)]) -> FlowOut<Batch> {
    let mut flow = FlowOut::default();
    flow.resume(state(0, 0), |_, _| {}).expect("nothing was received");
    for (frames, bytes) in batches {
        flow.push(batch(*frames, *bytes)).expect("it is not over");
    }
    submit_all(&mut flow);
    flow
}

fn submit_all(flow: &mut FlowOut<Batch>) -> Vec<u64> {
    let mut firsts = Vec::new();
    while let Some((first, _)) = flow.next_to_submit() {
        firsts.push(first);
        flow.submitted();
    }
    firsts
}

#[test]
fn a_batch_that_was_partly_received_goes_again_as_a_whole() {
    let mut flow = sent(&[(2, 10), (3, 10), (1, 10)]);
    assert_eq!(flow.last_submitted(), 6);
    flow.link_lost();
    assert!(flow.next_to_submit().is_none());
    flow.resume(state(4, 2), |_, _| {}).expect("it was sent");
    assert_eq!(submit_all(&mut flow), [3, 6]);
}

#[test]
fn what_any_connection_had_may_be_sent() {
    let mut flow = sent(&[(1, 10), (1, 10)]);
    flow.link_lost();
    flow.resume(state(0, 0), |_, _| {}).expect("nothing was received");
    flow.submitted();
    flow.push(batch(1, 10)).expect("it is not over");
    flow.end(None, |_, _| {});
    let fates = [1, 2, 3].map(|number| flow.fate(number));
    assert_eq!(fates, [Fate::MaybeSent, Fate::MaybeSent, Fate::NotSent].map(Some));
}

#[test]
fn a_flow_waits_for_credit_and_lets_one_larger_entry_through_alone() {
    let mut flow = sent(&[(1, 60), (1, 60), (1, 500)]);
    assert_eq!((flow.last_submitted(), flow.is_waiting()), (1, true));
    flow.taken(state(1, 1), |_, _| {}).expect("it was sent");
    assert_eq!(submit_all(&mut flow), [2]);
    flow.taken(state(2, 2), |_, _| {}).expect("it was sent");
    assert_eq!((submit_all(&mut flow), flow.is_waiting()), (vec![3], false));
    flow.link_lost();
    flow.resume(FlowState { credit: 0, ..state(2, 2) }, |_, _| {}).expect("it was sent");
    assert!(flow.next_to_submit().is_none(), "nothing is granted");
}

#[test]
fn what_no_connection_had_can_be_extended() {
    let mut flow = sent(&[(1, 90)]);
    let more = |flow: &mut FlowOut<Batch>| {
        flow.extend_last(|first, last| {
            last.0.push((first, 1));
            first
        })
    };
    assert_eq!(more(&mut flow), None);
    assert_eq!(flow.push(batch(1, 90)).ok(), Some(2));
    assert_eq!((more(&mut flow), flow.last_accepted()), (Some(3), 3));
    flow.link_lost();
    flow.resume(state(0, 0), |_, _| {}).expect("nothing was received");
    // The first was on a connection that is gone.
    flow.taken(state(1, 1), |_, _| {}).expect("it was sent");
    assert_eq!(more(&mut flow), Some(4));
}

#[test]
fn what_cannot_be_is_a_violation() {
    let mut flow = sent(&[(3, 10)]);
    let never_sent = |received, taken| FlowViolation::NeverSent { received, taken, submitted: 3 };
    assert_eq!(flow.taken(state(4, 0), |_, _| {}), Err(never_sent(4, 0)));
    assert_eq!(flow.taken(state(1, 2), |_, _| {}), Err(never_sent(1, 2)));
    flow.taken(state(2, 1), |_, _| {}).expect("it was sent");
    let back = FlowViolation::WentBack { before: state(2, 1), after: state(1, 1) };
    assert_eq!(flow.taken(state(1, 1), |_, _| {}), Err(back));
    // A Hello may be older than what came over the connection that it follows.
    flow.link_lost();
    assert_eq!(flow.resume(state(0, 0), |_, _| {}), Ok(()));
    assert_eq!(flow.last_taken(), 1);
    // So may what came over an earlier connection be newer than what this one has.
    assert_eq!(flow.taken(state(3, 3), |_, _| {}), Ok(()));
    // It goes over this one all the same: a connection's frames have no gaps.
    assert_eq!(flow.next_to_submit().map(|(first, _)| first), Some(1));
    flow.submitted();
    let mut released = Vec::new();
    flow.release_taken(&mut |first, _| released.push(first));
    assert_eq!(released, [1]);
    assert!(!flow.is_waiting());
    assert!(flow.cut(2, |_, _| {}).is_err());
}

#[test]
fn the_end_tells_of_each_frame_what_became_of_it() {
    use Fate::{Delivered, MaybeSent, NotSent};
    let end = |known: Option<FlowState>| {
        let mut flow = sent(&[(2, 10), (2, 10), (1, 900)]);
        flow.taken(state(1, 1), |_, _| {}).expect("it was sent");
        let mut left = Vec::new();
        flow.end(known, |first, _| left.push(first));
        assert_eq!(left, [1, 3, 5]);
        assert!(flow.push(batch(1, 1)).is_err());
        let outcomes = flow.outcomes();
        let Outcomes { accepted, delivered, not_sent, maybe_sent } = outcomes;
        assert_eq!((accepted, delivered + not_sent + maybe_sent), (5, 5));
        [1, 2, 3, 4, 5].map(|number| flow.fate(number).expect("it is over"))
    };
    assert_eq!(end(None), [Delivered, MaybeSent, MaybeSent, MaybeSent, NotSent]);
    assert_eq!(end(Some(state(3, 2))), [Delivered, Delivered, MaybeSent, NotSent, NotSent]);
    // A peer that took what was never sent tells nothing.
    assert_eq!(end(Some(state(9, 9))), [Delivered, MaybeSent, MaybeSent, MaybeSent, NotSent]);
}

#[test]
fn what_a_peer_that_stops_does_not_take_over_was_not_sent() {
    let mut flow = sent(&[(2, 10), (2, 10), (1, 900)]);
    flow.taken(state(3, 1), |_, _| {}).expect("it was sent");
    let mut unsent = Vec::new();
    flow.cut(3, |first, _| unsent.push(first)).expect("it has no more");
    assert_eq!((unsent, flow.fate(4), flow.fate(3)), (vec![5], Some(Fate::NotSent), None));
    assert!(flow.push(batch(1, 1)).is_err());
    flow.taken(state(3, 3), |_, _| {}).expect("it was sent");
    let outcomes = Outcomes { accepted: 5, delivered: 3, not_sent: 2, maybe_sent: 0 };
    assert_eq!(flow.outcomes(), outcomes);
    assert_eq!(flow.last_received(), 3);
}

#[test]
fn frames_that_came_are_skipped_and_gaps_are_violations() {
    let mut flow = FlowIn::new(100);
    let gap = |number, expected| Err(FlowViolation::Gap { number, expected });
    assert_eq!(flow.arrived(1), gap(0, 1).map(|()| Arrival::Skip));
    assert_eq!(flow.begin_stream(2), gap(2, 1));
    flow.begin_stream(1).expect("the first");
    assert_eq!(flow.arrived(10), Ok(Arrival::Accept(1)));
    assert_eq!(flow.arrived(10), Ok(Arrival::Accept(2)));
    flow.attached();
    flow.begin_stream(2).expect("a batch that was partly received");
    assert_eq!(flow.arrived(10), Ok(Arrival::Skip));
    assert_eq!(flow.arrived(10), Ok(Arrival::Accept(3)));
    flow.freeze();
    assert_eq!(flow.arrived(10), Ok(Arrival::Skip));
    assert_eq!(flow.state(), FlowState { received: 3, taken: 0, credit: 100 });
}

#[test]
fn a_peer_that_passes_its_credit_is_found() {
    let mut flow = FlowIn::new(100);
    flow.begin_stream(1).expect("the first");
    assert_eq!(flow.arrived(500), Ok(Arrival::Accept(1)), "alone it may be larger");
    assert_eq!(flow.arrived(1), Err(FlowViolation::OverCredit { untaken: 501, granted: 100 }));
    flow.take(1, 1, 500);
    flow.grant(50);
    assert_eq!((flow.untaken_bytes(), flow.state().credit), (0, 100));
}

#[test]
fn taken_counts_without_holes_and_is_told_by_quarters() {
    let mut flow = FlowIn::new(100);
    flow.begin_stream(1).expect("the first");
    for _ in 0..5 {
        flow.arrived(10).expect("there is room");
    }
    flow.take(2, 2, 20);
    assert_eq!((flow.state().taken, flow.is_due(false)), (0, false));
    flow.take(1, 1, 10);
    assert_eq!((flow.state().taken, flow.is_due(true)), (3, true), "a quarter was taken");
    assert_eq!(flow.tell(true).taken, 3);
    flow.take(4, 1, 10);
    assert_eq!((flow.is_due(true), flow.is_due(false)), (false, true));
    flow.tell(false);
    assert!(!flow.is_due(false));
    flow.attached();
    assert!(flow.is_due(false), "what was told may not have come");
}

/// What is granted behind so many round trips: in each the peer sends as much as it knew of credit, and the
/// reader takes up to so many of the frames, of 1,000 bytes each, as they come.
fn granted_behind(round_trips: usize, taken_in_each: u64) -> u64 {
    let mut flow = FlowIn::new(16_000);
    flow.begin_stream(1).expect("the first");
    for _ in 0..round_trips {
        let may_come = (flow.state().credit - flow.untaken_bytes()) / 1_000;
        let last = flow.state().taken + taken_in_each;
        let mut on_its_way = false;
        for _ in 0..may_come.max(taken_in_each.min(16)) {
            let FlowState { received, taken, .. } = flow.state();
            if flow.untaken_bytes() < flow.state().credit {
                flow.arrived(1_000).expect("there is room");
            }
            if taken < last && taken < received.max(1) {
                flow.take(taken + 1, 1, 1_000);
            }
            if flow.is_due(on_its_way) {
                if flow.is_used_up(on_its_way) {
                    flow.grant(2 * flow.state().credit);
                }
                flow.tell(on_its_way);
                on_its_way = true;
            }
        }
        flow.word_came();
    }
    flow.state().credit
}

#[test]
fn a_reader_that_keeps_up_is_granted_more_and_a_slow_one_is_not() {
    assert!(
        granted_behind(12, u64::MAX / 2) >= 16_000 << 8,
        "each round trip half of it was taken"
    );
    assert_eq!(granted_behind(200, 3), 16_000, "what waits is enough for it");
}

proptest! {
    /// Whatever is sent, lost, taken and told: at each moment the ledger agrees with a plain list.
    #[test]
    fn the_ledger_agrees_with_a_list(
        steps in proptest::collection::vec((0_u8..6, 1_u64..5, 1_u64..60), 0..120),
    ) {
        let mut out = sent(&[]);
        let mut inn = FlowIn::new(100);
        inn.begin_stream(1).expect("the first");
        // What is under way, in frames' bytes; what came and was not taken.
        let (mut way, mut queue) = (Vec::new(), std::collections::VecDeque::new());
        let (mut released, mut taken, mut begun) = (0, 0, true);
        for (what, count, bytes) in steps {
            match what {
                0 | 1 => drop(out.push(batch(if count * bytes > 100 { 1 } else { count }, bytes))),
                2 => {
                    while let Some((first, entry)) = out.next_to_submit() {
                        if !std::mem::replace(&mut begun, true) {
                            inn.begin_stream(first).expect("no gap");
                        }
                        prop_assert!(first <= out.last_received().max(out.last_submitted()) + 1);
                        way.extend(entry.0.iter().map(|(_, bytes)| *bytes));
                        out.submitted();
                    }
                }
                3 => for bytes in way.drain(..way.len().min(count as usize)) {
                    match inn.arrived(bytes) {
                        Ok(Arrival::Accept(number)) => queue.push_back((number, bytes)),
                        Ok(Arrival::Skip) => {}
                        Err(violation) => prop_assert!(false, "{}", violation),
                    }
                },
                4 => for (number, bytes) in queue.drain(..queue.len().min(count as usize)) {
                    taken += 1;
                    prop_assert_eq!(number, taken);
                    inn.take(number, 1, bytes);
                },
                _ if count == 1 => {
                    out.link_lost();
                    way.clear();
                    inn.attached();
                    out.resume(inn.state(), |_, entry| released += entry.frames())
                        .expect("it is true");
                    begun = false;
                }
                _ => out.taken(inn.tell(true), |_, entry| released += entry.frames())
                    .expect("it is true"),
            }
            prop_assert!(released <= out.last_taken() && out.last_taken() <= taken);
            prop_assert!(inn.state().received <= out.last_submitted());
            prop_assert!(out.last_submitted() <= out.last_accepted());
        }
        out.end(Some(inn.state()), |_, _| {});
        let Outcomes { accepted, delivered, not_sent, maybe_sent } = out.outcomes();
        prop_assert_eq!((delivered, accepted), (taken, delivered + not_sent + maybe_sent));
        prop_assert_eq!(maybe_sent, queue.len() as u64);
    }
}

/// One that these steps were done to; none where the peer does what ends the session.
fn after(granted: u64, steps: &[(u8, u64)]) -> Option<FlowIn> {
    let mut flow = FlowIn::new(granted);
    let mut queue = Vec::new();
    // Where it goes on, some frames before that, or one behind it, which may not be.
    let begin = |flow: &mut FlowIn, amount: u64| {
        let _ = flow.begin_stream((flow.state().received + 2).saturating_sub(amount % 4).max(1));
    };
    for (what, amount) in steps {
        match what {
            0 => begin(&mut flow, *amount),
            1..5 => match flow.arrived(*amount) {
                Ok(Arrival::Accept(number)) => queue.push((number, *amount)),
                Ok(Arrival::Skip) => {}
                Err(_) => return None,
            },
            5 if !queue.is_empty() => {
                let (number, bytes) = queue.remove(*amount as usize % queue.len());
                flow.take(number, 1, bytes);
            }
            6 => {
                flow.attached();
                begin(&mut flow, *amount);
            }
            7 if *amount < 3 => flow.freeze(),
            8 => flow.grant(granted + amount),
            _ => drop(flow.tell(amount % 2 == 0)),
        }
    }
    Some(flow)
}

proptest! {
    /// Frames that are accepted together are those that would be one by one, and nothing else happens by
    /// it; where they are not, nothing happens at all.
    #[test]
    fn frames_come_together_as_they_do_one_by_one(
        granted in 20_u64..200,
        steps in proptest::collection::vec((0_u8..10, 1_u64..30), 0..60),
        frames in proptest::collection::vec(1_u64..30, 0..12),
    ) {
        let [Some(before), Some(mut together), Some(mut alone)] =
            [(); 3].map(|()| after(granted, &steps))
        else {
            return Ok(());
        };
        let told: Vec<_> = frames.iter().map(|bytes| alone.arrived(*bytes)).collect();
        let first = together.all_arrived(frames.len() as u64, frames.iter().sum());
        if let Some(first) = first {
            let accepted: Vec<_> = (first..).take(frames.len()).map(|it| Ok(Arrival::Accept(it))).collect();
            prop_assert_eq!(told, accepted);
            prop_assert_eq!(format!("{together:?}"), format!("{alone:?}"));
        } else {
            let accepts = |told: &Result<_, _>| matches!(told, Ok(Arrival::Accept(_)));
            let fits = alone.untaken_bytes() <= alone.state().credit;
            prop_assert!(frames.is_empty() || !fits || !told.iter().all(accepts), "{:?}", alone);
            prop_assert_eq!(format!("{together:?}"), format!("{before:?}"));
        }
    }
}

#[test]
fn a_second_brings_so_many_messages_and_bytes() {
    let start = std::time::Instant::now();
    let at = |ms| start + std::time::Duration::from_millis(ms);
    let mut rate = Rate::new(start, 4, 1_000);
    assert!((0..4).all(|_| rate.allows(at(0), 10)));
    assert!(!rate.allows(at(0), 10), "the fifth at once");
    assert!(!rate.allows(at(250), 10), "what was too much is paid for as well");
    assert!(rate.allows(at(1_000), 10));
    let mut rate = Rate::new(start, 100, 1_000);
    assert!(rate.allows(at(0), 1_000) && !rate.allows(at(0), 1));
}
