//! A lane beside a plain list of what it was given: whatever happens to it, in any order.

use std::collections::VecDeque;

use bytes::Bytes;
use proptest::prelude::*;

use super::{Admission, Freed, Outgoing, Step};
use crate::error::{CloseCode, CloseReason};
use crate::frame::{FrameDecoder, HEADER_BYTES, Piece};
use crate::transport::link::batch::{Batch, PIECE_BYTES_MAX, Payload, Sent};
use crate::transport::link::fair::{Ticket, Turn};
use crate::transport::link::flight::Path;
use crate::transport::link::room::Cost;
use crate::transport::link::share::Share;

#[derive(Debug, Clone)]
enum Act {
    /// A frame that does not wait for room.
    Offer(usize),
    /// Somebody waits for room, and sends when its turn comes.
    Wait(usize),
    /// The first of those who wait gives up.
    GiveUp,
    Submit,
    /// A submission comes back.
    Refuse,
    End {
        acknowledged: bool,
    },
    LoseStream,
    KeepStream,
    Narrow(bool),
    RoundTrip(u32),
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => 0..300_usize,
        2 => 300..40_000_usize,
        1 => 40_000..300_000_usize,
        1 => PIECE_BYTES_MAX..3 * PIECE_BYTES_MAX,
    ]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => length().prop_map(Act::Offer),
        2 => length().prop_map(Act::Wait),
        1 => Just(Act::GiveUp),
        6 => Just(Act::Submit),
        1 => Just(Act::Refuse),
        6 => prop::bool::weighted(0.9).prop_map(|acknowledged| Act::End { acknowledged }),
        1 => Just(Act::LoseStream),
        1 => Just(Act::KeepStream),
        1 => any::<bool>().prop_map(Act::Narrow),
        1 => (0..100_000_u32).prop_map(Act::RoundTrip),
    ]
}

/// What stands around the lane.
struct World {
    lane: Outgoing<u64, u64>,
    waiting: VecDeque<(Ticket, usize)>,
    /// Their turn has come, and they have not been looked at.
    woken: usize,
    on_their_way: VecDeque<Sent>,
    streams: u64,
    /// What each stream has, and whether it is lost.
    wire: Vec<Vec<u8>>,
    accepted: u64,
    narrow: bool,
    /// Of the node's room.
    large: usize,
}

impl World {
    fn new(bytes_max: usize) -> Self {
        Self {
            lane: Outgoing::new(Share::alone(bytes_max)),
            waiting: VecDeque::new(),
            woken: 0,
            on_their_way: VecDeque::new(),
            streams: 0,
            wire: Vec::new(),
            accepted: 0,
            narrow: false,
            large: 0,
        }
    }

    fn freed(&mut self, freed: Freed<u64>) {
        self.woken += freed.wake.len();
        self.large -= freed.large;
    }

    /// Frames are told apart by their first eight bytes, where they have so many.
    fn push(&mut self, length: usize, cost: Cost) {
        let mut frame = vec![0; length];
        let number = self.accepted.to_be_bytes();
        let told = number.len().min(length);
        frame[..told].copy_from_slice(&number[8 - told..]);
        self.lane.push(Payload::Given(Bytes::from(frame)), cost, None);
        self.accepted += 1;
    }

    fn offer(&mut self, length: usize) {
        let bytes = HEADER_BYTES + length;
        let admission = match self.lane.try_take(bytes) {
            Admission::Full if !self.lane.fits(bytes) => match self.lane.try_take_large_turn() {
                Admission::Granted(_) => {
                    self.large += bytes;
                    Admission::Granted(self.lane.has_large(bytes))
                }
                refused => refused,
            },
            admission => admission,
        };
        if let Admission::Granted(cost) = admission {
            self.push(length, cost);
        }
    }

    fn wait(&mut self, length: usize) {
        let bytes = HEADER_BYTES + length;
        if !self.lane.fits(bytes) {
            return;
        }
        let (taken, freed) = self.lane.take(bytes, self.accepted);
        self.freed(freed);
        match taken {
            Ok(()) => self.push(length, Cost::usual(bytes)),
            Err(ticket) => self.waiting.push_back((ticket, length)),
        }
    }

    fn give_up(&mut self) {
        if let Some((ticket, length)) = self.waiting.pop_front() {
            if self.lane.turn(ticket) == Turn::Granted {
                self.woken -= 1;
            }
            let freed = self.lane.forget(ticket, HEADER_BYTES + length);
            self.freed(freed);
        }
    }

    /// Those whose turn has come send.
    fn go_on(&mut self) {
        while let Some(&(ticket, length)) = self.waiting.front()
            && self.lane.turn(ticket) == Turn::Granted
        {
            assert!(self.woken > 0, "it was not told");
            self.woken -= 1;
            self.waiting.pop_front();
            self.push(length, Cost::usual(HEADER_BYTES + length));
        }
        assert_eq!(self.woken, 0, "somebody was told for nothing");
    }

    fn take(&mut self) -> Option<(Batch, u64)> {
        loop {
            match self.lane.next(self.narrow) {
                Step::Submit(batch, stream) => {
                    let stream = stream.unwrap_or_else(|| self.open());
                    return Some((batch, stream));
                }
                Step::Lost(lost) => self.freed(lost.tell()),
                Step::Nothing | Step::Finish => return None,
            }
        }
    }

    fn open(&mut self) -> u64 {
        if self.lane.stream().is_none() {
            self.wire.push(Vec::new());
            self.streams += 1;
        }
        *self.lane.keep_stream(self.streams)
    }

    fn submit(&mut self) -> bool {
        let Some((batch, stream)) = self.take() else { return false };
        let (parts, count, sent) = batch.into_parts();
        let wire = &mut self.wire[usize::try_from(stream).expect("few") - 1];
        parts[..count].iter().for_each(|part| wire.extend_from_slice(part));
        self.lane.submitted();
        self.on_their_way.push_back(sent);
        true
    }

    fn end(&mut self, acknowledged: bool) -> bool {
        let Some(sent) = self.on_their_way.pop_front() else { return false };
        let freed = self.lane.completed(&sent, acknowledged);
        self.freed(freed);
        true
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Offer(length) => self.offer(length),
            Act::Wait(length) => self.wait(length),
            Act::GiveUp => self.give_up(),
            Act::Submit => drop(self.submit()),
            Act::Refuse => {
                if let Some((batch, _)) = self.take() {
                    self.lane.discard_stream(|_| true);
                    let freed = self.lane.came_back(batch).tell();
                    self.freed(freed);
                }
            }
            Act::End { acknowledged } => drop(self.end(acknowledged)),
            Act::LoseStream => drop(self.lane.discard_stream(|_| true)),
            Act::KeepStream => drop(self.open()),
            Act::Narrow(narrow) => self.narrow = narrow,
            Act::RoundTrip(microseconds) => {
                self.lane.set_path(Path::of_round_trip(microseconds, 0))
            }
        }
        self.go_on();
    }

    /// Whole frames on each stream, in the order of their numbers.
    fn check_wire(&self) -> u64 {
        let (mut last, mut frames) = (None, 0);
        for stream in &self.wire {
            let mut decoder = FrameDecoder::new(usize::MAX >> 1);
            let mut look = |frame: &[u8]| {
                frames += 1;
                if let Some(number) = frame.first_chunk::<8>() {
                    let number = u64::from_be_bytes(*number);
                    assert!(last.is_none_or(|last| last < number), "{last:?} before {number}");
                    last = Some(number);
                }
            };
            decoder
                .feed(stream, &mut |piece| match piece {
                    Piece::Run(run) => run.for_each(|frame| look(&frame)),
                    Piece::Frame(frame) => look(&frame),
                })
                .expect("no frame is too long");
        }
        frames
    }
}

proptest! {
    #[test]
    fn whatever_happens_to_a_lane_frames_keep_their_order_and_everything_adds_up(
        bytes_max in prop_oneof![1_000..100_000_usize, 100_000..8_000_000_usize],
        acts in proptest::collection::vec(act(), 0..120),
        cut in any::<bool>(),
    ) {
        let mut world = World::new(bytes_max);
        for act in &acts {
            world.act(act);
        }
        if cut {
            let reason = CloseReason::Local { code: CloseCode::NORMAL };
            let freed = world.lane.shut(&reason);
            world.woken = 0;
            prop_assert_eq!(freed.wake.len(), world.waiting.len());
            world.waiting.clear();
            let freed = world.lane.abandon().tell();
            world.freed(freed);
            prop_assert!(!world.submit(), "nothing is left to send");
            while world.end(false) {}
        } else {
            // Left alone with somebody who acknowledges, it comes to rest and nobody waits.
            loop {
                let accepted = world.accepted;
                let moved = world.submit() | world.end(true);
                world.go_on();
                if !moved && world.accepted == accepted {
                    break;
                }
            }
            prop_assert!(world.waiting.is_empty(), "{:?}", world.waiting);
        }
        let counts = world.lane.counts();
        prop_assert_eq!(counts.accepted, world.accepted);
        let ends = counts.completed + counts.not_sent + counts.maybe_sent;
        prop_assert_eq!(counts.accepted, ends);
        prop_assert_eq!(world.check_wire(), counts.completed + counts.maybe_sent, "{:?}", counts);
        prop_assert_eq!((world.lane.pending(), world.large), (0, 0));
    }
}
