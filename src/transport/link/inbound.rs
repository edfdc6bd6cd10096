//! Frames in: what waits on one connection, which stream may bring more, which reader gets what.
//!
//! ```text
//! RECEIVE ─ budget ─> decoder ─ store ─> queues, one a stream ─ take, lend ─> readers
//!             └── no room: the stream is paused ── room again, or a reader that waits ──> resumed
//! ```
//!
//! Invariants: what waits stays within the share, but for a part of it that every open stream may
//! hold, and for frames that hungry readers wait for, one at a time, whose bytes were granted from the
//! room that the node's connections have together; no stream is paused while a reader waits for it and
//! could have its next frame; every frame is given to one reader, in the order of its stream; what a
//! reader did not take comes first again; nothing is kept that arrives behind the end.

mod frames;
mod queue;
mod reading;
mod room;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use slab::Slab;

use self::frames::Returned;
pub(crate) use self::frames::{Lent, Taken};
pub(in crate::transport) use self::queue::GUARANTEED_PART;
use self::queue::{Item, Mark, PIECE_BYTES, Queue};
use crate::config::Limits;
use crate::error::RecvError;
use crate::frame::{HEADER_BYTES, Piece, Position};
use crate::never::{never, take_off};
use crate::transport::fault::{Fault, planted};
use crate::transport::link::lanes::Lane;
use crate::transport::link::patience::Patience;
use crate::transport::link::room::Short;
use crate::transport::link::share::Share;
use crate::transport::link::watch::Watch;

/// Names a stream, also when another one has taken its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamId {
    slot: usize,
    serial: u64,
}

/// Whose frames a reader wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    All,
    Lane(Lane),
    Stream(StreamId),
}

/// What the decoder of a stream made of the bytes it was given.
#[derive(Debug)]
pub(in crate::transport) struct Decoded<'a> {
    /// Drained.
    pub(in crate::transport) pieces: &'a mut Vec<Piece>,
    /// How many bytes there were.
    pub(in crate::transport) bytes: usize,
    /// Bytes of the frame that is not whole.
    pub(in crate::transport) held: usize,
    pub(in crate::transport) position: Position,
    /// Bytes were left behind.
    pub(in crate::transport) paused: bool,
}

/// What is to be done once the lock is released.
#[derive(Debug)]
#[must_use = "somebody waits for it"]
pub(in crate::transport) struct Effects<S> {
    /// Streams that go on.
    pub(in crate::transport) resume: Vec<S>,
    /// A stream had to pause.
    pub(in crate::transport) paused: Option<Short>,
    /// Lanes of which readers may find something, by [`Lane`].
    pub(in crate::transport) wake: [bool; 3],
    /// A frame is not whole that nobody watches: [`Inbound::look`] is to be called.
    pub(in crate::transport) watch: bool,
    /// A reader came to the end of all that the peer sent.
    pub(in crate::transport) end_taken: bool,
    /// Bytes to take from the node's room for large frames: [`Inbound::granted`] must follow.
    pub(in crate::transport) ask: Option<usize>,
    /// Bytes to give back to it.
    pub(in crate::transport) give_back: usize,
}

impl<S> Default for Effects<S> {
    fn default() -> Self {
        Self {
            resume: Vec::new(),
            paused: None,
            wake: [false; 3],
            watch: false,
            end_taken: false,
            ask: None,
            give_back: 0,
        }
    }
}

impl<S> Effects<S> {
    /// Those of a later change as well.
    pub(in crate::transport) fn add(&mut self, later: Self) {
        self.resume.extend(later.resume);
        self.paused = later.paused.or(self.paused);
        for (wake, also) in self.wake.iter_mut().zip(later.wake) {
            *wake |= also;
        }
        self.watch |= later.watch;
        self.end_taken |= later.end_taken;
        self.ask = later.ask.or(self.ask);
        self.give_back += later.give_back;
    }
}

/// What reading found, and what follows from it.
#[derive(Debug)]
#[must_use = "somebody waits for it"]
pub(in crate::transport) struct Reading<R, S> {
    pub(in crate::transport) found: R,
    pub(in crate::transport) effects: Effects<S>,
}

/// What the end of a stream means.
#[derive(Debug)]
#[must_use = "somebody waits for it"]
pub(in crate::transport) struct EndedStream<S> {
    /// It was the last one of a peer that has finished.
    pub(in crate::transport) finished: bool,
    pub(in crate::transport) effects: Effects<S>,
}

/// What [`Inbound::look`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::transport) enum Look {
    /// Nothing to watch: it will be told again.
    Nothing,
    /// Look again then.
    At(Instant),
    /// The sender stopped inside a frame, for that long.
    Overdue { after: Duration, position: Position },
}

/// Frames and bytes that readers took, and what waits for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct InboundCounts {
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
    /// Streams that the peer gave up.
    pub(crate) resets: u64,
    /// Bytes that wait, or are lent, or belong to frames that are not whole.
    pub(crate) waiting: usize,
}

/// What waits for a frame and found nothing.
#[derive(Debug, Default)]
struct Hungry {
    all: bool,
    lanes: [bool; 3],
}

/// The lane whose turn it is, and the bytes it gave in it.
#[derive(Debug, Default)]
struct LaneTurn {
    lane: usize,
    given: usize,
}

/// The stream whose frame may pass the share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beyond {
    Nobody,
    /// So many bytes were asked for.
    Asked(usize),
    Owner(StreamId),
}

/// See the module. `S` is what can be resumed.
#[derive(Debug)]
pub(in crate::transport) struct Inbound<S> {
    queues: Slab<Queue<S>>,
    next_serial: u64,
    /// Streams that have something, by lane, in the order of their turn.
    rings: [VecDeque<usize>; 3],
    turn: LaneTurn,
    /// Frames that were taken and came back, by lane and number.
    returned: [BTreeMap<u64, Returned>; 3],
    /// The number of the next frame that is taken, by lane.
    next_number: [u64; 3],
    /// What whole frames cost that wait, and those that are lent.
    queued: usize,
    lent: usize,
    /// Bytes of frames that are not whole.
    held: usize,
    /// Streams of which more may come.
    open: usize,
    /// Streams that hold anything.
    busy: usize,
    /// Streams that are inside a frame and not paused.
    unfinished: usize,
    /// In the order in which they were paused.
    paused: VecDeque<StreamId>,
    beyond: Beyond,
    /// Bytes of the node's room for large frames that are ours.
    extra: usize,
    hungry: Hungry,
    /// The peer ended a stream between two frames since it began the last one.
    ended_well: bool,
    /// The peer ended its last stream.
    finished: bool,
    /// A reader was told so.
    end_taken: bool,
    patience: Patience,
    /// Of frames that are not whole: who watches calls [`Inbound::look`].
    watch: Watch,
    /// Why nothing more will come.
    over: Option<RecvError>,
    counts: InboundCounts,
    share: Share,
}

// What the streams' callbacks do.
impl<S: Clone> Inbound<S> {
    pub(in crate::transport) fn new(share: Share, limits: &Limits) -> Self {
        Self {
            queues: Slab::new(),
            next_serial: 0,
            rings: Default::default(),
            turn: LaneTurn::default(),
            returned: Default::default(),
            next_number: [0; 3],
            queued: 0,
            lent: 0,
            held: 0,
            open: 0,
            busy: 0,
            unfinished: 0,
            paused: VecDeque::new(),
            beyond: Beyond::Nobody,
            extra: 0,
            hungry: Hungry::default(),
            ended_well: false,
            finished: false,
            end_taken: false,
            patience: Patience::new(limits.frame_time_max, limits.frame_rate_min),
            watch: Watch::default(),
            over: None,
            counts: InboundCounts::default(),
            share,
        }
    }

    /// A queue for one more stream.
    pub(in crate::transport) fn add(&mut self, lane: Lane) -> StreamId {
        let serial = self.next_serial;
        self.next_serial += 1;
        let slot = self.queues.insert(Queue::new(serial, lane));
        self.open += 1;
        (self.ended_well, self.finished, self.end_taken) = (false, false, false);
        StreamId { slot, serial }
    }

    /// Ties the queue to what can be resumed.
    pub(in crate::transport) fn attach(&mut self, id: StreamId, stream: S) {
        match self.queue_mut(id) {
            Some(queue) => queue.stream = Some(stream),
            None => never!("there is no queue for a stream that was added"),
        }
    }

    /// How many of `total` bytes the stream may take over.
    pub(in crate::transport) fn budget(&self, id: StreamId, total: usize) -> usize {
        if self.over.is_some() {
            return total;
        }
        let Some(queue) = self.queue(id) else {
            never!("a stream brings {} bytes behind its end", total);
            return total;
        };
        let owner = self.beyond == Beyond::Owner(id);
        let beyond = match queue.position {
            Position::InBody { .. } if owner => queue.rest(),
            // Nothing is known of a frame before its length is.
            Position::InLength { .. } => queue.rest(),
            Position::InBody { .. } | Position::Boundary => 0,
        };
        total.min(self.room(queue).max(beyond))
    }

    /// Stores what the stream's decoder cut.
    pub(in crate::transport) fn store(
        &mut self,
        id: StreamId,
        decoded: Decoded<'_>,
        now: Instant,
    ) -> Effects<S> {
        let mut effects = Effects::default();
        let Decoded { pieces, bytes, held, position, paused } = decoded;
        if self.over.is_some() {
            // Readers may have been told that nothing more comes.
            pieces.clear();
            return effects;
        }
        let Some(queue) = lookup(&mut self.queues, id) else {
            never!("a stream brings {} frames behind its end", pieces.len());
            pieces.clear();
            return effects;
        };
        never!(!queue.open, "a stream brings {} bytes behind its end", bytes);
        let (lane, whole, mark) = (queue.lane, !pieces.is_empty(), queue.mark());
        for piece in pieces.drain(..) {
            let item = match piece {
                Piece::Run(run) => Item::Run(run),
                Piece::Frame(frame) => {
                    let began = queue.began.take();
                    Item::Frame(frame, began.map_or(Duration::ZERO, |began| now - began))
                }
            };
            queue.queued += item.cost();
            queue.items.push_back(item);
        }
        if whole || position == Position::Boundary {
            queue.began = None;
        }
        if position != Position::Boundary {
            queue.began.get_or_insert(now);
        }
        (queue.position, queue.held) = (position, held);
        if paused && !std::mem::replace(&mut queue.paused, true) {
            self.paused.push_back(id);
            let reduced = self.share.is_reduced();
            effects.paused = Some(if reduced { Short::Share } else { Short::Bound });
        }
        if whole && !std::mem::replace(&mut queue.in_ring, true) {
            self.rings[lane as usize].push_back(id.slot);
        }
        if whole && self.beyond == Beyond::Owner(id) {
            self.beyond = Beyond::Nobody;
        }
        effects.wake[lane as usize] = whole;
        self.account(id, mark);
        if self.unfinished > 0 {
            if !planted(Fault::DeadlineBehindOthers) {
                self.patience.moved(now, bytes);
            }
            self.patience.wait(now);
        } else if !planted(Fault::DeadlineOutlivesPause) {
            self.patience.rest();
        }
        self.settle(&mut effects);
        effects
    }

    /// The stream ended: what is not whole never will be.
    pub(in crate::transport) fn end(&mut self, id: StreamId, how: StreamEnd) -> EndedStream<S> {
        let mut effects = Effects::default();
        let Some(queue) = lookup(&mut self.queues, id) else {
            never!("a stream ends that is not there");
            return EndedStream { finished: false, effects };
        };
        if !queue.open {
            return EndedStream { finished: false, effects };
        }
        let mark = queue.mark();
        (queue.open, queue.paused, queue.held, queue.began) = (false, false, 0, None);
        queue.position = Position::Boundary;
        self.account(id, mark);
        take_off!(self.open, 1, "open streams");
        self.paused.retain(|paused| *paused != id);
        if self.beyond == Beyond::Owner(id) {
            self.beyond = Beyond::Nobody;
        }
        match how {
            StreamEnd::Finished => self.ended_well = true,
            StreamEnd::Reset => self.counts.resets += 1,
            StreamEnd::Gone => {}
        }
        // The end of another stream may be known later than the end that says it all.
        self.finished = self.open == 0 && self.ended_well;
        self.settle(&mut effects);
        EndedStream { finished: self.finished, effects }
    }

    /// The stream's handle is gone.
    pub(in crate::transport) fn remove(&mut self, id: StreamId) -> Effects<S> {
        let EndedStream { effects, .. } = self.end(id, StreamEnd::Gone);
        if let Some(queue) = lookup(&mut self.queues, id) {
            queue.stream = None;
            self.forget_if_done(id.slot);
        }
        effects
    }

    /// Nothing more will come, for `error`: readers get what is left, then that. The first one counts.
    pub(in crate::transport) fn close(&mut self, error: RecvError) -> Effects<S> {
        self.over.get_or_insert(error);
        Effects { wake: [true; 3], ..Effects::default() }
    }

    /// `bytes` of the node's room for large frames are ours, as was asked for.
    pub(in crate::transport) fn granted(&mut self, bytes: usize) -> Effects<S> {
        let mut effects = Effects::default();
        never!(self.beyond != Beyond::Asked(bytes), "{} bytes for {:?}", bytes, self.beyond);
        self.extra += bytes;
        self.beyond = Beyond::Nobody;
        self.settle(&mut effects);
        effects
    }

    /// The room that is ours is given back, whatever for: the connection is over.
    pub(in crate::transport) fn release_extra(&mut self) -> usize {
        std::mem::take(&mut self.extra)
    }

    /// Whether a frame is overdue; otherwise when to look again.
    pub(in crate::transport) fn look(&mut self, now: Instant) -> Look {
        let can_go_on = |queue: &&Queue<S>| {
            queue.is_unfinished() && (self.room(queue) > 0 || self.is_owner(queue))
        };
        let unfinished = self.queues.iter().map(|(_, queue)| queue).filter(can_go_on);
        let oldest = unfinished.min_by_key(|queue| queue.began).map(|queue| queue.position);
        let anything = self.watch.look(|| oldest.is_some());
        let Some(position) = oldest.filter(|_| anything) else {
            if !planted(Fault::DeadlineOutlivesPause) {
                self.patience.rest();
            }
            return Look::Nothing;
        };
        let deadline = self.patience.wait(now);
        if now < deadline {
            return Look::At(deadline);
        }
        Look::Overdue { after: self.patience.limit(), position }
    }
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::transport) enum StreamEnd {
    /// Behind its last frame.
    Finished,
    /// The peer gave it up.
    Reset,
    /// With its handle, or by a rule that was broken.
    Gone,
}

impl<S: Clone> Inbound<S> {
    /// Streams of which anything is remembered.
    #[cfg(test)]
    pub(in crate::transport) fn streams(&self) -> usize {
        self.queues.len()
    }

    /// Forgets a queue from which nothing will come.
    fn forget_if_done(&mut self, slot: usize) {
        if planted(Fault::EndedStreamsStay) {
            return;
        }
        let done = self.queues.get(slot).is_some_and(|queue| {
            !queue.open && queue.stream.is_none() && queue.items.is_empty() && !queue.in_ring
        });
        if done {
            self.queues.remove(slot);
        }
    }

    fn queue(&self, id: StreamId) -> Option<&Queue<S>> {
        self.queues.get(id.slot).filter(|queue| queue.serial == id.serial)
    }

    fn queue_mut(&mut self, id: StreamId) -> Option<&mut Queue<S>> {
        lookup(&mut self.queues, id)
    }
}

fn lookup<S>(queues: &mut Slab<Queue<S>>, id: StreamId) -> Option<&mut Queue<S>> {
    queues.get_mut(id.slot).filter(|queue| queue.serial == id.serial)
}
