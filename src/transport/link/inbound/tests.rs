//! A model of the peer, the library and the readers around [`Inbound`], driven at random.

mod branches;
mod deadlines;

use std::collections::VecDeque;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::frame::{self, FrameDecoder};
use crate::transport::link::fair::FairRoom;
use crate::transport::link::share::Budget;

/// Bytes in front of a payload that tell which stream and frame it is.
const MARK: usize = 8;

/// One stream of the peer's, and what the library holds of it.
struct Stream {
    id: StreamId,
    lane: Lane,
    decoder: FrameDecoder,
    /// What the peer has still to send.
    unsent: VecDeque<u8>,
    /// What the library has and the callback has not taken over: at most its window.
    buffered: VecDeque<u8>,
    paused: bool,
    ended: bool,
    /// Frames that are to come, in order.
    expected: VecDeque<Bytes>,
    sent: u32,
}

struct Model {
    inbound: Inbound<usize>,
    streams: Vec<Stream>,
    window: usize,
    frame_bytes_max: usize,
    room: FairRoom<()>,
    /// What is asked of it is granted at once; otherwise it is remembered.
    grants: bool,
    asked: Option<usize>,
    share: usize,
    now: Instant,
    lent: Vec<Lent>,
    end_taken: bool,
    ended_well: bool,
}

impl Model {
    fn new(share: usize, frame_bytes_max: usize, window: usize) -> Self {
        let limits = Limits { frame_bytes_max, ..Limits::default() };
        let budget = std::sync::Arc::new(Budget::new(usize::MAX));
        Self {
            inbound: Inbound::new(Share::new(&budget, share), &limits),
            streams: Vec::new(),
            window,
            frame_bytes_max,
            room: FairRoom::new(usize::MAX),
            grants: true,
            asked: None,
            share,
            now: Instant::now(),
            lent: Vec::new(),
            end_taken: false,
            ended_well: false,
        }
    }

    fn open(&mut self) -> usize {
        let lane = Lane::of_ordinal(self.streams.len() as u64);
        let id = self.inbound.add(lane);
        self.inbound.attach(id, self.streams.len());
        self.streams.push(Stream {
            id,
            lane,
            decoder: FrameDecoder::new(self.frame_bytes_max),
            unsent: VecDeque::new(),
            buffered: VecDeque::new(),
            paused: false,
            ended: false,
            expected: VecDeque::new(),
            sent: 0,
        });
        (self.end_taken, self.ended_well) = (false, false);
        self.streams.len() - 1
    }

    /// The peer has one more frame of `length` bytes for the stream.
    fn queue(&mut self, at: usize, length: usize) {
        let stream = &mut self.streams[at];
        let mut payload = vec![at as u8; length.clamp(MARK, self.frame_bytes_max)];
        payload[..4].copy_from_slice(&(at as u32).to_be_bytes());
        payload[4..MARK].copy_from_slice(&stream.sent.to_be_bytes());
        stream.sent += 1;
        stream.unsent.extend(frame::header(payload.len()));
        stream.unsent.extend(&payload);
        stream.expected.push_back(payload.into());
    }

    /// The path brings up to `bytes` more, and the library tells of what it has.
    fn arrive(&mut self, at: usize, bytes: usize) -> bool {
        let stream = &mut self.streams[at];
        let room = self.window - stream.buffered.len();
        let arriving = bytes.min(room).min(stream.unsent.len());
        stream.buffered.extend(stream.unsent.drain(..arriving));
        let mut moved = arriving > 0;
        if !stream.paused && !stream.buffered.is_empty() && !stream.ended {
            let total = stream.buffered.len();
            let budget = self.inbound.budget(stream.id, total);
            assert!(budget <= total);
            let part: Vec<u8> = stream.buffered.drain(..budget).collect();
            let mut pieces = Vec::new();
            stream.decoder.feed(&part, &mut |piece| pieces.push(piece)).unwrap();
            let (held, position) = (stream.decoder.held_bytes(), stream.decoder.position());
            let paused = budget < total;
            stream.paused = paused;
            moved |= budget > 0;
            let pieces = &mut pieces;
            let decoded = Decoded { pieces, bytes: budget, held, position, paused };
            let effects = self.inbound.store(stream.id, decoded, self.now);
            self.perform(effects);
            return self.arrive(at, 0) || moved;
        }
        moved
    }

    fn perform(&mut self, mut effects: Effects<usize>) {
        loop {
            for at in effects.resume.drain(..) {
                assert!(self.streams[at].paused, "resumed a stream that was not paused");
                self.streams[at].paused = false;
            }
            self.end_taken |= effects.end_taken;
            let granted = self.room.give_back(effects.give_back);
            assert_eq!(granted, [], "one connection alone never waits for itself");
            let Some(bytes) = effects.ask else { return };
            if !self.grants {
                self.asked = Some(bytes);
                return;
            }
            self.room.take(bytes, ()).expect("it is all ours");
            effects = self.inbound.granted(bytes);
        }
    }

    fn take(&mut self, from: From) -> bool {
        let Reading { found: taken, effects } = self.inbound.take(from);
        self.perform(effects);
        match taken {
            Some(Ok(taken)) => {
                self.check(taken.lane, &taken.frame, from);
                true
            }
            Some(Err(error)) => panic!("{error}"),
            None => false,
        }
    }

    fn take_many(&mut self, from: From, max: usize) -> bool {
        let mut frames = Vec::new();
        let Reading { found: taken, effects } = self.inbound.take_many(from, &mut frames, max);
        self.perform(effects);
        for frame in &frames {
            let lane = self.streams[stream_of(frame)].lane;
            self.check(lane, frame, from);
        }
        assert!(frames.len() <= max);
        taken.is_some_and(|taken| taken.unwrap() == frames.len() && !frames.is_empty())
    }

    fn check(&mut self, lane: Lane, frame: &Bytes, from: From) {
        let stream = &mut self.streams[stream_of(frame)];
        assert_eq!(stream.lane, lane);
        match from {
            From::All => {}
            From::Lane(wanted) => assert_eq!(wanted, lane),
            From::Stream(id) => assert_eq!(id, stream.id),
        }
        assert_eq!(
            stream.expected.pop_front().as_ref(),
            Some(frame),
            "lost, twice or out of order"
        );
    }

    fn lend(&mut self) {
        let Reading { found: lent, effects } = self.inbound.lend();
        self.perform(effects);
        self.lent.extend(lent);
    }

    /// The subscriber deals with the oldest batch it has, or refuses it.
    fn end_batch(&mut self, refuse: bool) -> bool {
        let Some(lent) = (!self.lent.is_empty()).then(|| self.lent.remove(0)) else { return false };
        if refuse {
            // Those behind it were lent later, so they go back as well.
            for lent in std::iter::once(lent).chain(std::mem::take(&mut self.lent)) {
                let effects = self.inbound.put_back(lent);
                self.perform(effects);
            }
        } else {
            for frame in &lent.frames {
                self.check(lent.lane, frame, From::All);
            }
            let effects = self.inbound.return_lent(lent.cost);
            self.perform(effects);
        }
        true
    }

    fn end(&mut self, at: usize, how: StreamEnd) {
        let stream = &mut self.streams[at];
        if stream.ended {
            return;
        }
        stream.ended = true;
        self.ended_well |= how == StreamEnd::Finished;
        let id = stream.id;
        let whole = self.whole_frames_stored(at);
        let stream = &mut self.streams[at];
        stream.expected.truncate(whole);
        (stream.unsent, stream.buffered) = Default::default();
        let EndedStream { effects, .. } = self.inbound.end(id, how);
        self.perform(effects);
        let effects = self.inbound.remove(id);
        self.perform(effects);
    }

    /// Frames of the stream that were stored and not taken yet.
    fn whole_frames_stored(&self, at: usize) -> usize {
        let stream = &self.streams[at];
        let mut left = stream.unsent.len()
            + stream.buffered.len()
            + match stream.decoder.position() {
                Position::Boundary => 0,
                Position::InLength { received } => received,
                Position::InBody { received, .. } => HEADER_BYTES + received,
            };
        let mut whole = stream.expected.len();
        for frame in stream.expected.iter().rev() {
            if left == 0 {
                break;
            }
            left -= HEADER_BYTES + frame.len();
            whole -= 1;
        }
        assert_eq!(left, 0);
        whole
    }

    /// What must hold at any moment.
    fn assert_consistent(&self) {
        let inbound = &self.inbound;
        let queues = || inbound.queues.iter().map(|(_, queue)| queue);
        let returned: usize = inbound.returned.iter().map(|lane| lane.len()).sum();
        let queued: usize = queues().map(|queue| queue.queued).sum();
        assert!(inbound.queued >= queued, "what came back counts too");
        assert_eq!(inbound.queued == queued, returned == 0);
        assert_eq!(inbound.held, queues().map(|queue| queue.held).sum::<usize>());
        assert_eq!(inbound.busy, queues().filter(|queue| queue.cost() > 0).count());
        assert_eq!(inbound.open, queues().filter(|queue| queue.open).count());
        assert_eq!(inbound.unfinished, queues().filter(|queue| queue.is_unfinished()).count());
        assert_eq!(inbound.lent, self.lent.iter().map(|lent| lent.cost).sum::<usize>());
        let rings: usize = inbound.rings.iter().map(VecDeque::len).sum();
        assert_eq!(rings, queues().filter(|queue| !queue.items.is_empty()).count());
        for stream in self.streams.iter().filter(|stream| !stream.ended) {
            let queue = inbound.queue(stream.id).expect("it is open");
            assert_eq!(queue.paused, stream.paused, "both know who is paused");
        }
        // What is remembered beside the frames: a piece or two for every region of the library's.
        let pieces: usize = queues().map(|queue| queue.items.len()).sum::<usize>() + returned;
        let guaranteed = (self.share / GUARANTEED_PART).max(HEADER_BYTES) * 2 * self.streams.len();
        let allowed = self.share
            + guaranteed
            + inbound.extra
            + inbound.lent.min(self.share)
            + pieces * PIECE_BYTES
            + 4 * self.streams.len();
        assert!(inbound.total() <= allowed, "{} of {allowed}", inbound.total());
    }

    /// A reader that reads gets every frame, whatever happened before.
    fn drain(&mut self, from: From) {
        while self.end_batch(false) {}
        let wanted = |stream: &Stream| match from {
            From::All => true,
            From::Lane(lane) => stream.lane == lane,
            From::Stream(id) => stream.id == id,
        };
        while self.streams.iter().any(|stream| wanted(stream) && !stream.expected.is_empty()) {
            let mut moved = self.take(from);
            for at in 0..self.streams.len() {
                moved |= self.arrive(at, usize::MAX);
            }
            moved |= self.take(from);
            self.assert_consistent();
            assert!(moved, "a reader that reads got nothing: {:#?}", self.inbound);
        }
    }
}

fn stream_of(frame: &Bytes) -> usize {
    u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize
}

#[derive(Debug, Clone)]
enum Action {
    Open,
    Queue { at: usize, length: usize },
    Arrive { at: usize, bytes: usize },
    Take(u8),
    TakeMany { from: u8, max: usize },
    TakeOfStream(usize),
    Lend,
    EndBatch { refuse: bool },
    End { at: usize, reset: bool },
    Drain(u8),
}

fn action() -> impl Strategy<Value = Action> {
    let length = prop_oneof![4 => 0..300_usize, 2 => 300..5_000_usize, 1 => Just(usize::MAX)];
    let bytes = prop_oneof![2 => 1..40_usize, 3 => 40..3_000_usize, 1 => Just(usize::MAX)];
    prop_oneof![
        1 => Just(Action::Open),
        8 => (any::<usize>(), length).prop_map(|(at, length)| Action::Queue { at, length }),
        10 => (any::<usize>(), bytes).prop_map(|(at, bytes)| Action::Arrive { at, bytes }),
        4 => (0..4_u8).prop_map(Action::Take),
        3 => (0..4_u8, 1..50_usize).prop_map(|(from, max)| Action::TakeMany { from, max }),
        1 => any::<usize>().prop_map(Action::TakeOfStream),
        2 => Just(Action::Lend),
        3 => prop::bool::weighted(0.2).prop_map(|refuse| Action::EndBatch { refuse }),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(at, reset)| Action::End { at, reset }),
        1 => (0..4_u8).prop_map(Action::Drain),
    ]
}

fn from(number: u8) -> From {
    match number {
        0 => From::All,
        lane => From::Lane(Lane::ALL[usize::from(lane) - 1]),
    }
}

fn run(share: usize, frame_bytes_max: usize, window: usize, actions: Vec<Action>) {
    let mut model = Model::new(share, frame_bytes_max, window);
    for _ in 0..3 {
        model.open();
    }
    for action in actions {
        let count = model.streams.len();
        match action {
            Action::Open if count < 12 => drop(model.open()),
            Action::Open => {}
            Action::Queue { at, length } if !model.streams[at % count].ended => {
                model.queue(at % count, length);
            }
            Action::Queue { .. } => {}
            Action::Arrive { at, bytes } => drop(model.arrive(at % count, bytes)),
            Action::Take(number) if model.lent.is_empty() => drop(model.take(from(number))),
            Action::TakeMany { from: number, max } if model.lent.is_empty() => {
                model.take_many(from(number), max);
            }
            Action::TakeOfStream(at) if model.lent.is_empty() => {
                // What came back from its lane may stand before it.
                let id = model.streams[at % count].id;
                let lane = model.streams[at % count].lane as usize;
                if model.inbound.returned[lane].is_empty() {
                    model.take(From::Stream(id));
                }
            }
            Action::Take(_) | Action::TakeMany { .. } | Action::TakeOfStream(_) => {}
            Action::Lend => model.lend(),
            Action::EndBatch { refuse } => drop(model.end_batch(refuse)),
            Action::End { at, reset: true } if count > 1 => model.end(at % count, StreamEnd::Reset),
            Action::End { at, .. } => {
                let at = at % count;
                let stream = &model.streams[at];
                // An end comes behind everything else.
                if stream.unsent.is_empty()
                    && stream.buffered.is_empty()
                    && stream.decoder.position() == Position::Boundary
                {
                    model.end(at, StreamEnd::Finished);
                }
            }
            Action::Drain(number) => model.drain(from(number)),
        }
        model.assert_consistent();
    }
    model.drain(From::All);
    assert_eq!(model.inbound.queued, 0);
    assert_eq!(model.inbound.extra, 0, "room for large frames is given back");
    for at in 0..model.streams.len() {
        model.end(at, StreamEnd::Finished);
    }
    model.take(From::All);
    assert_eq!(model.end_taken, model.ended_well, "a reader that came to the end is told");
    assert!(model.inbound.queues.is_empty(), "nothing is left of streams that ended");
}

proptest! {
    #[test]
    fn whatever_happens_no_frame_is_lost_and_a_reader_that_reads_gets_the_next(
        share in prop_oneof![Just(1 << 10), 1_024..100_000_usize],
        frame_bytes_max in prop_oneof![MARK..200_usize, 200..20_000_usize],
        window in prop_oneof![1..100_usize, 100..60_000_usize],
        actions in prop::collection::vec(action(), 1..150),
    ) {
        run(share, frame_bytes_max, window, actions);
    }
}

/// The two lanes of one connection, each with frames larger than the share, and a reader of all.
#[test]
fn lanes_whose_frames_are_larger_than_the_share_take_turns() {
    let mut model = Model::new(1 << 16, 1 << 18, 1 << 14);
    let (data, bulk) = (model.open(), {
        model.open();
        model.open()
    });
    for _ in 0..3 {
        model.queue(data, 1 << 18);
        model.queue(bulk, (1 << 18) - 1);
    }
    for _ in 0..100 {
        model.arrive(data, 1 << 12);
        model.arrive(bulk, 1 << 12);
    }
    model.drain(From::All);
}

#[test]
fn a_lane_that_nobody_reads_keeps_no_other_from_its_reader() {
    let mut model = Model::new(1 << 16, 1 << 18, 1 << 14);
    let data = model.open();
    let control = model.open();
    for _ in 0..10 {
        model.queue(data, 1 << 16);
        model.queue(control, 1 << 15);
    }
    for _ in 0..100 {
        model.arrive(data, usize::MAX);
    }
    model.drain(From::Lane(Lane::Control));
    assert_eq!(model.streams[data].expected.len(), 10);
}

#[test]
fn tiny_frames_count_for_what_it_costs_to_remember_them() {
    let mut model = Model::new(1 << 16, 1 << 10, 1 << 20);
    let data = model.open();
    for _ in 0..10_000 {
        model.queue(data, MARK);
        // Each comes alone.
        model.arrive(data, HEADER_BYTES + MARK);
    }
    let items: usize = model.inbound.queues.iter().map(|(_, queue)| queue.items.len()).sum();
    assert!(items <= (1 << 16) / PIECE_BYTES + 1, "{items} pieces");
}

#[test]
fn streams_that_end_leave_nothing_behind_and_cost_the_same_however_many_there_were() {
    let mut model = Model::new(1 << 16, 1 << 10, 1 << 10);
    for _ in 0..1_000 {
        let at = model.open();
        model.queue(at, 100);
        model.arrive(at, usize::MAX);
        model.end(at, StreamEnd::Reset);
    }
    // Beyond the share nothing is taken over, so that what is remembered is bounded as well.
    let left = model.inbound.queues.len();
    let allowed = (1 << 16) * (GUARANTEED_PART + 1) / GUARANTEED_PART;
    assert!(left <= allowed / (100 + PIECE_BYTES) + 1, "{left} queues");
    assert_eq!(model.inbound.counts().resets, 1_000);
    for stream in &mut model.streams {
        stream.unsent.clear();
    }
    model.drain(From::All);
    assert!(model.inbound.queues.is_empty());
}
