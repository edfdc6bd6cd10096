//! What is told of a peer, for who is quick and for who is slow.

use proptest::prelude::*;

use super::*;
use crate::session::message::EndedReason;

fn down(code: CloseCode) -> PeerChange {
    PeerChange::down(Some(CloseReason::Peer { code }))
}

fn lost(code: CloseCode) -> Step {
    Step::Down(Some(CloseReason::Peer { code }))
}

fn all_told(watching: &mut Watching, status: &Status) -> Vec<PeerChange> {
    std::iter::from_fn(|| watching.next(status)).collect()
}

#[test]
fn a_loss_says_why_and_which_side_it_was() {
    let mut status = Status::default();
    assert_eq!(status.step(Step::Up), [PeerChange::Up]);
    let timed_out = PeerChange::Down { reason: Some(CloseReason::TimedOut), side: None };
    assert_eq!(status.step(Step::Down(Some(CloseReason::TimedOut))), [timed_out]);
    status.step(Step::Up);
    let [PeerChange::Down { side, .. }] = &status.step(lost(CloseCode::NORMAL))[..] else {
        panic!("a loss")
    };
    assert_eq!(*side, Some(Side::Peer));
}

#[test]
fn a_connection_that_is_left_for_another_one_is_told_as_lost_behind_which_the_other_comes() {
    let mut status = Status::default();
    status.step(Step::Up);
    assert_eq!(status.step(Step::Down(None)), []);
    let left = PeerChange::down(Some(CloseReason::Local { code: CloseCode::DUPLICATE }));
    assert_eq!(status.step(Step::Up), [left, PeerChange::Up]);
}

#[test]
fn the_end_of_a_session_is_told_behind_its_loss_and_a_restart_before_the_end() {
    let mut status = Status::default();
    let mut watching = Watching::default();
    status.step(Step::Up);
    status.step(Step::Down(None));
    let changes = status.step(Step::Ended(EndReason::PeerRestarted));
    let stale = PeerChange::down(Some(CloseReason::Local { code: CloseCode::STALE_INCARNATION }));
    let ended = PeerChange::Ended { reason: PeerEnded::PeerRestarted };
    assert_eq!(changes, [stale.clone(), PeerChange::Restarted, ended.clone()]);
    assert_eq!(all_told(&mut watching, &status), [stale, PeerChange::Restarted, ended]);
    assert!(watching.is_over());
    // One that was down before has no second loss.
    let mut status = Status::default();
    status.step(Step::Up);
    status.step(lost(CloseCode::GOING_AWAY));
    let changes = status.step(Step::Ended(EndReason::Time));
    assert_eq!(changes, [PeerChange::Ended { reason: PeerEnded::TimedOut }]);
}

#[test]
fn a_watch_begins_with_what_is_true() {
    let mut status = Status::default();
    assert_eq!(all_told(&mut Watching::default(), &status), [PeerChange::down(None)]);
    status.step(Step::Up);
    assert_eq!(all_told(&mut Watching::default(), &status), [PeerChange::Up]);
    status.step(lost(CloseCode::NORMAL));
    assert_eq!(all_told(&mut Watching::default(), &status), [down(CloseCode::NORMAL)]);
}

#[test]
fn who_is_slow_learns_that_it_was_another_connection() {
    let (mut status, mut watching) = (Status::default(), Watching::default());
    status.step(Step::Up);
    assert_eq!(all_told(&mut watching, &status), [PeerChange::Up]);
    status.step(lost(CloseCode::NORMAL));
    status.step(Step::Up);
    assert_eq!(all_told(&mut watching, &status), [down(CloseCode::NORMAL), PeerChange::Up]);
}

fn steps() -> impl Strategy<Value = (Vec<(Option<bool>, bool)>, bool)> {
    // Up, lost or left; and whether the watcher looks behind it.
    let step = (prop_oneof![Just(None), any::<bool>().prop_map(Some)], any::<bool>());
    (proptest::collection::vec(step, 0..40), any::<bool>())
}

proptest! {
    #[test]
    fn whoever_watches_is_told_up_and_down_in_turn_and_what_is_true_last(
        (steps, ends) in steps(),
    ) {
        let (mut status, mut watching) = (Status::default(), Watching::default());
        let (mut seen, mut all) = (Vec::new(), Vec::new());
        for (step, looks) in steps {
            let step = match step {
                None => Step::Up,
                Some(true) => lost(CloseCode::NORMAL),
                Some(false) => Step::Down(None),
            };
            all.extend(status.step(step));
            if looks {
                let told = all_told(&mut watching, &status);
                prop_assert!(told.len() <= 2, "{told:?}");
                seen.extend(told);
            }
        }
        if ends {
            all.extend(status.step(Step::Ended(EndReason::Peer(EndedReason::Replaced, CloseCode::NORMAL))));
        }
        seen.extend(all_told(&mut watching, &status));
        prop_assert_eq!(watching.is_over(), ends);
        for told in [&seen, &all] {
            for pair in told.windows(2) {
                let is_up = |change: &PeerChange| *change == PeerChange::Up;
                let is_down = |change: &PeerChange| matches!(change, PeerChange::Down { .. });
                prop_assert!(!(is_up(&pair[0]) && is_up(&pair[1])), "{:?}", told);
                prop_assert!(!(is_down(&pair[0]) && is_down(&pair[1])), "{:?}", told);
            }
        }
        // What is true last. Who was told that it is down does not hear of a connection that came and went
        // before it looked again, and so not of that one's reason.
        if let Some(last) = all.last() {
            let is_down = |change: &PeerChange| matches!(change, PeerChange::Down { .. });
            let is_told = seen.last().is_some_and(|seen| seen == last || (is_down(seen) && is_down(last)));
            prop_assert!(is_told, "{seen:?} instead of {all:?}");
        }
        if ends {
            prop_assert_eq!(&seen[seen.len() - 2..seen.len() - 1], &[PeerChange::Restarted]);
        }
    }
}
