//! Requests at both ends, over a flow whose connections break.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::session::flow_out::Fate;
use crate::session::frame_head::ReplyStatus;
use crate::session::handling::{Arrived, Hand, Handling};
use crate::session::requests::{Reply, RequestEnd, RequestError, Requests};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_request_has_one_end() {
    let now = Instant::now();
    let mut requests = Requests::new(2);
    requests.issue((1, 1), now + SECOND);
    requests.issue((1, 4), now + 2 * SECOND);
    assert_eq!(requests.check_room(), Err(RequestError::TooMany(2)));
    assert_eq!(requests.left((1, 1), now), Some(SECOND));

    let reply = requests.replied((1, 4), ReplyStatus::Reply, 4);
    assert_eq!(reply, Ok(Reply::End(RequestEnd::Reply)));
    assert_eq!(requests.replied((1, 4), ReplyStatus::NoReply, 4), Ok(Reply::Late));
    assert_eq!(requests.cancel((1, 4), 4), None);

    assert_eq!(requests.next_deadline(), Some(now + SECOND));
    let late = RequestEnd::DeadlineExceeded { may_have_run: true };
    assert_eq!(requests.expire(now + SECOND, |_| 1), [((1, 1), late)]);
    assert_eq!(requests.left((1, 1), now), None, "a void frame goes in its place");
    assert_eq!((requests.in_flight(), requests.next_deadline()), (0, None));
}

#[test]
fn a_reply_to_what_was_never_asked_is_a_violation() {
    let now = Instant::now();
    let mut requests = Requests::new(9);
    requests.issue((0, 7), now + SECOND);
    let never = |lane, number| Err(RequestError::NeverAsked { lane, number });
    for (lane, number, submitted) in [(0, 8, 8), (0, 0, 8), (1, 1, 8), (9, 1, 8), (0, 7, 6)] {
        let reply = requests.replied((lane, number), ReplyStatus::Reply, submitted);
        assert_eq!(reply, never(lane, number));
    }
    assert_eq!(requests.replied((0, 3), ReplyStatus::Reply, 8), Ok(Reply::Late));
}

#[test]
fn each_end_says_whether_the_handler_may_have_run() {
    let now = Instant::now();
    let mut requests = Requests::new(9);
    requests.peer_takes(3);
    (1..4).for_each(|number| requests.issue((2, number), now + SECOND));
    assert!(requests.check_room().is_err(), "the peer takes three");
    assert_eq!(requests.cancel((2, 3), 2).map(RequestEnd::may_have_run), Some(false));
    let ends =
        requests.end(|(_, number)| if number == 1 { Fate::MaybeSent } else { Fate::NotSent });
    assert_eq!(ends, [((2, 1), RequestEnd::SessionLost), ((2, 2), RequestEnd::NotSent)]);
    let ran = |end: RequestEnd| end.may_have_run();
    assert!(ran(RequestEnd::Reply) && ran(RequestEnd::NoReply) && ran(RequestEnd::SessionLost));
    assert!(!ran(RequestEnd::Refused) && !ran(RequestEnd::NotSent));
}

#[test]
fn a_cancel_may_come_before_its_request() {
    let now = Instant::now();
    let mut handling = Handling::new(4, 2);
    assert!(!handling.cancel((0, 5)));
    assert_eq!(handling.arrived((0, 5), SECOND, now), Arrived::Forget);
    // Of more than are remembered the oldest is forgotten; one that passed is no more.
    for number in [6, 7, 8] {
        handling.cancel((0, number));
    }
    assert_eq!(handling.arrived((0, 6), SECOND, now), Arrived::Wait);
    handling.passed(0, 7);
    assert_eq!(handling.arrived((0, 8), SECOND, now), Arrived::Forget);
    assert!(!handling.cancel((9, 1)), "there is no such lane");
}

#[test]
fn a_handler_that_was_told_holds_its_place_until_it_lets_go() {
    let now = Instant::now();
    let mut handling = Handling::new(2, 2);
    handling.arrived((0, 1), SECOND, now);
    handling.arrived((0, 2), 2 * SECOND, now);
    assert_eq!(handling.arrived((0, 3), SECOND, now), Arrived::Refuse);
    assert_eq!(handling.hand((0, 1), now), Hand::Handle(now + SECOND));
    assert_eq!(handling.hand((0, 1), now), Hand::Forget, "once");
    assert_eq!(handling.next_deadline(), Some(now + SECOND));
    assert_eq!(handling.expire(now + SECOND), [(0, 1)]);
    assert_eq!(handling.in_flight(), 2);
    assert!(!handling.finish((0, 1)), "nobody waits for the reply");
    assert_eq!(handling.hand((0, 2), now + 3 * SECOND), Hand::TooLate);
    handling.arrived((0, 4), SECOND, now);
    handling.hand((0, 4), now);
    assert!(handling.cancel((0, 4)) && !handling.cancel((0, 4)), "told once");
    handling.arrived((0, 5), SECOND, now);
    handling.hand((0, 5), now);
    assert_eq!(handling.end(), [(0, 5)]);
}

/// What is under way to the handler, and from it.
#[derive(Debug, Clone, Copy)]
enum There {
    Request(u64),
    Cancel(u64),
}

proptest! {
    /// Requests, cancels and replies cross in any order: each request is handled at most once and has
    /// one end, and who is told that no handler ran is told the truth.
    #[test]
    fn each_request_is_handled_at_most_once_and_has_one_end(
        steps in proptest::collection::vec((0_u8..8, any::<u8>()), 0..150),
    ) {
        let mut now = Instant::now();
        let (mut requests, mut handling) = (Requests::new(8), Handling::new(6, 64));
        let (mut there, mut back) = (Vec::new(), Vec::new());
        // Requests in order; a cancel may overtake them.
        let mut queue: VecDeque<u64> = VecDeque::new();
        let (mut issued, mut submitted) = (0, 0);
        let mut handled = BTreeSet::new();
        let mut running = Vec::new();
        let mut ends: BTreeMap<u64, RequestEnd> = BTreeMap::new();
        let mut end = |number: u64, end: RequestEnd| ends.insert(number, end).is_none();
        for (what, choice) in steps {
            match what {
                0 if requests.check_room().is_ok() => {
                    issued += 1;
                    requests.issue((0, issued), now + Duration::from_millis(u64::from(choice)));
                    queue.push_back(issued);
                }
                1 => if let Some(number) = queue.pop_front() {
                    submitted = number;
                    if requests.left((0, number), now).is_some() {
                        there.push(There::Request(number));
                    }
                },
                2 if issued > 0 => {
                    let number = u64::from(choice) % issued + 1;
                    if let Some(cancelled) = requests.cancel((0, number), submitted) {
                        prop_assert!(end(number, cancelled));
                        there.extend((number <= submitted).then_some(There::Cancel(number)));
                    }
                }
                3 if !there.is_empty() => {
                    // The first request, or any cancel.
                    let index = usize::from(choice) % there.len();
                    let index = match there[index] {
                        There::Cancel(_) => index,
                        There::Request(_) => there.iter()
                            .position(|way| matches!(way, There::Request(_)))
                            .unwrap_or(index),
                    };
                    match there.remove(index) {
                        There::Cancel(number) => drop(handling.cancel((0, number))),
                        There::Request(number) => {
                            match handling.arrived((0, number), Duration::from_millis(100), now) {
                                Arrived::Wait => running.push(number),
                                Arrived::Refuse => back.push((number, ReplyStatus::Refused)),
                                Arrived::Forget => {}
                            }
                        }
                    }
                }
                4 if !running.is_empty() => {
                    let number = running[usize::from(choice) % running.len()];
                    match handling.hand((0, number), now) {
                        Hand::Handle(_) => prop_assert!(handled.insert(number)),
                        Hand::TooLate => back.push((number, ReplyStatus::DeadlineExceeded)),
                        Hand::Forget => {}
                    }
                }
                5 if !handled.is_empty() => {
                    let number = handled.iter().copied().nth(usize::from(choice) % handled.len());
                    let number = number.expect("one of them");
                    if handling.finish((0, number)) {
                        back.push((number, ReplyStatus::Reply));
                    }
                }
                6 if !back.is_empty() => {
                    let (number, status) = back.remove(usize::from(choice) % back.len());
                    let reply = requests.replied((0, number), status, submitted);
                    match reply.expect("it was asked") {
                        Reply::End(ended) => prop_assert!(end(number, ended)),
                        Reply::Late => {}
                    }
                }
                7 => {
                    now += Duration::from_millis(u64::from(choice));
                    handling.expire(now);
                    for ((_, number), ended) in requests.expire(now, |_| submitted) {
                        prop_assert!(end(number, ended));
                    }
                }
                _ => {}
            }
        }
        let fate = |number| if number <= submitted { Fate::MaybeSent } else { Fate::NotSent };
        for ((_, number), ended) in requests.end(|(_, number)| fate(number)) {
            prop_assert!(end(number, ended));
        }
        prop_assert_eq!(ends.keys().copied().collect::<Vec<_>>(), (1..=issued).collect::<Vec<_>>());
        for (number, ended) in ends {
            prop_assert!(ended.may_have_run() || !handled.contains(&number), "{}: {:?}", number, ended);
        }
    }
}
