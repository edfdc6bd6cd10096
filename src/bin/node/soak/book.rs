//! What was accepted and taken in each direction of each session, and what breaks a promise.
//!
//! Pure: whoever sends and takes frames says so here, and is told at once what must not be.

use std::collections::BTreeMap;
use std::fmt;

use moorline::{DeliveryCounts, Lane, PeerEnded};

/// One direction of one session; stands in each of its frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct StreamId(pub(crate) u64);

/// What broke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// From whom to whom, and in which of their sessions.
    pub(crate) stream: String,
    pub(crate) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.stream, self.what)
    }
}

/// All directions of sessions that are not over at both ends, and the sums of all there were.
#[derive(Debug, Default)]
pub(crate) struct Book {
    streams: BTreeMap<StreamId, Stream>,
    last: u64,
    pub(crate) totals: Totals,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Totals {
    /// Directions of sessions.
    pub(crate) streams: u64,
    /// Frames, without requests.
    pub(crate) accepted: u64,
    pub(crate) taken: u64,
    pub(crate) delivered: u64,
    pub(crate) not_sent: u64,
    pub(crate) maybe_sent: u64,
    pub(crate) requests: u64,
    pub(crate) answers: u64,
}

#[derive(Debug)]
struct Stream {
    name: String,
    accepted: [u64; 3],
    taken: [u64; 3],
    asked: u64,
    /// The last [`REQUESTS`] of them.
    requests: BTreeMap<u64, Request>,
    sent: Option<Sent>,
    taking_ended: bool,
}

/// So many requests of a direction are remembered: far more than are in flight.
const REQUESTS: u64 = 10_000;

#[derive(Debug, Clone, Copy, Default)]
struct Request {
    was_handled: bool,
    /// Its caller was told that no handler had it.
    is_refused: bool,
}

/// How the sending end ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sent {
    /// With the session.
    Ended(PeerEnded, [DeliveryCounts; 3]),
    /// With its process: nobody knows.
    Killed,
}

impl Book {
    /// A direction of a session begins.
    pub(crate) fn open(&mut self, name: String) -> StreamId {
        self.last += 1;
        self.totals.streams += 1;
        let stream = Stream {
            name,
            accepted: [0; 3],
            taken: [0; 3],
            asked: 0,
            requests: BTreeMap::new(),
            sent: None,
            taking_ended: false,
        };
        self.streams.insert(StreamId(self.last), stream);
        StreamId(self.last)
    }

    /// The next frame's number on the lane. One task sends on each lane.
    pub(crate) fn next(&self, id: StreamId, lane: Lane) -> u64 {
        self.streams.get(&id).map_or(0, |stream| stream.accepted[index(lane)] + 1)
    }

    /// It was accepted.
    pub(crate) fn accepted(&mut self, id: StreamId, lane: Lane) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.accepted[index(lane)] += 1;
            self.totals.accepted += 1;
        }
    }

    /// A frame was taken.
    pub(crate) fn taken(&mut self, id: StreamId, lane: Lane, number: u64) -> Result<(), Violation> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Err(unknown(id));
        };
        let next = stream.taken[index(lane)] + 1;
        if number != next {
            let how = if number < next { "came twice, or out of order" } else { "came too early" };
            let what = format!("{lane:?} frame {number} {how}: {next} was to come");
            return Err(stream.violation(what));
        }
        stream.taken[index(lane)] = number;
        self.totals.taken += 1;
        Ok(())
    }

    /// The next request's number.
    pub(crate) fn ask(&mut self, id: StreamId) -> u64 {
        self.totals.requests += 1;
        self.streams.get_mut(&id).map_or(0, |stream| {
            stream.asked += 1;
            stream.requests.insert(stream.asked, Request::default());
            stream.requests.remove(&stream.asked.saturating_sub(REQUESTS));
            stream.asked
        })
    }

    /// A handler has a request. (They come in the order in which they were accepted, not asked.)
    pub(crate) fn handled(&mut self, id: StreamId, number: u64) -> Result<(), Violation> {
        let Some(stream) = self.streams.get_mut(&id) else { return Err(unknown(id)) };
        let wrong = match stream.requests.get_mut(&number) {
            None => "was not asked, or long ago",
            Some(Request { was_handled: true, .. }) => "came twice",
            Some(Request { is_refused: true, .. }) => {
                "was handled, and its caller was told that not"
            }
            Some(request) => {
                request.was_handled = true;
                return Ok(());
            }
        };
        Err(stream.violation(format!("request {number} {wrong}")))
    }

    /// A request met its end: with its answer, or an error that says whether it may have been handled.
    pub(crate) fn answered(
        &mut self,
        id: StreamId,
        number: u64,
        end: Result<u64, bool>,
    ) -> Result<(), Violation> {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        let Some(request) = stream.requests.get_mut(&number) else { return Ok(()) };
        let wrong = match end {
            Ok(answer) if answer != number => "has the answer of another one",
            Ok(_) if !request.was_handled => "was answered by nobody",
            Ok(_) => {
                self.totals.answers += 1;
                return Ok(());
            }
            Err(false) if request.was_handled => "was handled, and its caller is told that not",
            Err(may_have_run) => {
                request.is_refused = !may_have_run;
                return Ok(());
            }
        };
        Err(stream.violation(format!("request {number} {wrong}")))
    }

    /// Nothing more is sent; `Ended` with the session's own counts.
    pub(crate) fn sending_ended(&mut self, id: StreamId, sent: Sent) -> Result<(), Violation> {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.sent.get_or_insert(sent);
        }
        self.close(id)
    }

    /// Nothing more is taken.
    pub(crate) fn taking_ended(&mut self, id: StreamId) -> Result<(), Violation> {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.taking_ended = true;
        }
        self.close(id)
    }

    /// Looks at a direction that is over at both ends.
    fn close(&mut self, id: StreamId) -> Result<(), Violation> {
        let over = |stream: &Stream| stream.sent.is_some() && stream.taking_ended;
        if !self.streams.get(&id).is_some_and(over) {
            return Ok(());
        }
        let Some(stream) = self.streams.remove(&id) else { return Ok(()) };
        let Some(Sent::Ended(reason, counts)) = &stream.sent else { return Ok(()) };
        for lane in Lane::ALL {
            let of = counts[index(lane)];
            let (accepted, taken) = (stream.accepted[index(lane)], stream.taken[index(lane)]);
            if of.accepted != of.delivered + of.not_sent + of.maybe_sent {
                let what = format!("the outcomes of {lane:?} do not add up: {of:?}");
                return Err(stream.violation(what));
            }
            self.totals.delivered += of.delivered;
            self.totals.not_sent += of.not_sent;
            self.totals.maybe_sent += of.maybe_sent;
            // Requests go on the data lane, and are counted with its frames.
            if lane == Lane::Data {
                continue;
            }
            let wrong = of.accepted != accepted
                || of.delivered > taken
                || taken > accepted - of.not_sent.min(accepted)
                || (*reason == PeerEnded::Closed && of.delivered != accepted);
            if wrong {
                let what = format!(
                    "of {accepted} {lane:?} frames {taken} were taken, and the outcomes are {of:?} ({reason})"
                );
                return Err(stream.violation(what));
            }
        }
        Ok(())
    }

    /// Directions that are not over at both ends, each with the frames that wait to be taken.
    pub(crate) fn left(&self) -> impl Iterator<Item = String> {
        self.streams.values().map(|stream| {
            let waiting: String =
                Lane::ALL.iter().filter_map(|lane| stream.waiting(*lane)).collect();
            format!("{}{waiting}", stream.name)
        })
    }
}

impl Stream {
    fn waiting(&self, lane: Lane) -> Option<String> {
        let (accepted, taken) = (self.accepted[index(lane)], self.taken[index(lane)]);
        let first = taken + 1;
        (taken < accepted).then(|| format!(", {lane:?} frame {first} of {accepted} was not taken"))
    }

    fn violation(&self, what: String) -> Violation {
        Violation { stream: self.name.clone(), what }
    }
}

fn index(lane: Lane) -> usize {
    usize::from(u8::from(lane))
}

fn unknown(id: StreamId) -> Violation {
    let what = "a frame of a session that is over at both ends was taken".to_owned();
    Violation { stream: format!("stream {}", id.0), what }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(accepted: u64, delivered: u64) -> DeliveryCounts {
        let mut counts = DeliveryCounts::default();
        (counts.accepted, counts.delivered) = (accepted, delivered);
        counts
    }

    fn sent(book: &mut Book, frames: u64) -> StreamId {
        let id = book.open("0 to 1".into());
        (0..frames).for_each(|_| book.accepted(id, Lane::Bulk));
        id
    }

    #[test]
    fn a_frame_that_is_missing_twice_or_out_of_order_is_named() {
        let mut book = Book::default();
        let id = sent(&mut book, 3);
        book.taken(id, Lane::Bulk, 1).expect("the first one");
        for (number, how) in [(1, "twice"), (3, "too early")] {
            let what =
                book.taken(id, Lane::Bulk, number).expect_err("not the second one").to_string();
            assert!(what.contains(how) && what.contains("0 to 1"), "{what}");
        }
        book.taken(id, Lane::Bulk, 2).expect("the second one");
    }

    #[test]
    fn a_frame_that_nobody_takes_is_named() {
        let mut book = Book::default();
        let id = sent(&mut book, 3);
        book.taken(id, Lane::Bulk, 1).expect("the first one");
        let left: Vec<_> = book.left().collect();
        assert_eq!(left, ["0 to 1, Bulk frame 2 of 3 was not taken"]);
    }

    #[test]
    fn a_session_that_was_closed_has_delivered_everything() {
        for delivered in [2, 3] {
            let mut book = Book::default();
            let id = sent(&mut book, 3);
            (1..=3).for_each(|number| book.taken(id, Lane::Bulk, number).expect("in order"));
            book.taking_ended(id).expect("one end");
            let of = [counts(0, 0), counts(0, 0), counts(3, delivered)];
            let mut of = Sent::Ended(PeerEnded::Closed, of);
            if let Sent::Ended(_, counts) = &mut of {
                counts[index(Lane::Bulk)].maybe_sent = 3 - delivered;
            }
            assert_eq!(book.sending_ended(id, of).is_ok(), delivered == 3);
            assert_eq!(book.left().count(), 0);
        }
    }

    #[test]
    fn what_was_delivered_was_taken_and_what_was_not_sent_was_not() {
        let ends = |delivered, not_sent, maybe_sent, taken| {
            let mut book = Book::default();
            let id = sent(&mut book, 4);
            (1..=taken).for_each(|number| book.taken(id, Lane::Bulk, number).expect("in order"));
            book.taking_ended(id).expect("one end");
            let mut of = [DeliveryCounts::default(); 3];
            of[index(Lane::Bulk)] = counts(4, delivered);
            of[index(Lane::Bulk)].not_sent = not_sent;
            of[index(Lane::Bulk)].maybe_sent = maybe_sent;
            book.sending_ended(id, Sent::Ended(PeerEnded::TimedOut, of))
        };
        assert_eq!(ends(1, 2, 1, 2), Ok(()), "one of those that may be sent was taken");
        ends(3, 0, 1, 2).expect_err("more were delivered than taken");
        ends(1, 2, 1, 3).expect_err("one that was not sent was taken");
        ends(1, 2, 0, 1).expect_err("one has no outcome");
    }

    #[test]
    fn a_request_is_handled_once_and_its_end_says_the_truth() {
        let mut book = Book::default();
        let id = book.open("0 to 1".into());
        let numbers: Vec<_> = (0..5).map(|_| book.ask(id)).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5]);
        book.handled(id, 1).expect("the first one");
        book.answered(id, 1, Ok(1)).expect("its answer");
        book.handled(id, 1).expect_err("twice");
        book.handled(id, 2).expect("the second one");
        book.answered(id, 2, Err(false)).expect_err("it was handled");
        book.answered(id, 3, Err(false)).expect("it never came");
        book.handled(id, 3).expect_err("its caller was told otherwise");
        book.answered(id, 4, Ok(4)).expect_err("nobody answered");
        book.handled(id, 5).expect("the last one");
        book.handled(id, 4).expect("accepted behind it");
        book.answered(id, 5, Ok(4)).expect_err("the answer of another one");
    }

    #[test]
    fn of_a_sender_that_was_killed_nothing_is_expected_but_order() {
        let mut book = Book::default();
        let id = sent(&mut book, 2);
        book.sending_ended(id, Sent::Killed).expect("nobody knows");
        book.taken(id, Lane::Bulk, 1).expect("it had come");
        book.taking_ended(id).expect("the other one is gone with its sender");
        book.taken(id, Lane::Bulk, 2).expect_err("nobody takes any more");
    }
}
