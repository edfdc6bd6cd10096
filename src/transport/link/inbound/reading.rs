//! What readers do: take frames, borrow them, and put back what they did not take after all.

use std::time::Duration;

use bytes::Bytes;

use super::frames::{Lent, Returned, Taken};
use super::{
    Effects, From, HEADER_BYTES, Inbound, InboundCounts, Item, LaneTurn, PIECE_BYTES, Reading,
    RecvError, StreamId, lookup,
};
use crate::marks::mark;
use crate::never::{never, take_off};
use crate::transport::fault::{Fault, planted};
use crate::transport::link::lanes::Lane;

/// What one lane or stream gives before the others have their turn, in bytes.
const TURN_BYTES: usize = 16 * 1024;

/// What a frame that came back counts for.
pub(super) fn cost_of(frame: &Bytes) -> usize {
    PIECE_BYTES + HEADER_BYTES + frame.len()
}

impl<S: Clone> Inbound<S> {
    /// The next frame, or why there will be none; nothing if one may still come.
    pub(in crate::transport) fn take(
        &mut self,
        from: From,
    ) -> Reading<Option<Result<Taken, RecvError>>, S> {
        let mut effects = Effects::default();
        let taken = match self.next(from) {
            Some(taken) => {
                self.feed(from);
                Some(Ok(taken))
            }
            None => {
                self.starve(from);
                self.over.clone().map(Err)
            }
        };
        self.settle(&mut effects);
        Reading { found: taken, effects }
    }

    /// As [`Inbound::take`], for up to `max` frames that are appended to `into`; how many there were.
    pub(in crate::transport) fn take_many(
        &mut self,
        from: From,
        into: &mut Vec<Bytes>,
        max: usize,
    ) -> Reading<Option<Result<usize, RecvError>>, S> {
        let mut effects = Effects::default();
        let mut count = 0;
        while count < max {
            match self.next_run(from, max - count, into) {
                0 => break,
                more => count += more,
            }
        }
        let taken = if count > 0 {
            self.feed(from);
            Some(Ok(count))
        } else {
            self.starve(from);
            self.over.clone().map(Err)
        };
        self.settle(&mut effects);
        Reading { found: taken, effects }
    }

    /// Everything that waits in the lane whose turn it is; `None` if nothing does.
    pub(in crate::transport) fn lend(&mut self) -> Reading<Option<Lent>, S> {
        let mut effects = Effects::default();
        let lent = self.lane_with_something().map(|lane| {
            self.turn = LaneTurn { lane: (lane as usize + 1) % Lane::ALL.len(), given: 0 };
            self.lend_lane(lane)
        });
        match &lent {
            Some(_) => self.feed(From::All),
            // A subscriber that holds more than half of what may wait has enough to do.
            None if self.lent <= self.share.bytes() / 2 => self.starve(From::All),
            None => {}
        }
        self.settle(&mut effects);
        Reading { found: lent, effects }
    }

    fn lend_lane(&mut self, lane: Lane) -> Lent {
        let first = self.returned[lane as usize].keys().next().copied();
        let first = first.unwrap_or(self.next_number[lane as usize]);
        let tries = self.returned[lane as usize].values().map(|it| it.tries).max().unwrap_or(0);
        let (mut frames, before) = (Vec::new(), self.queued);
        while self.number_of_next(lane) == Some(first + frames.len() as u64)
            && let Some(taken) = self.next(From::Lane(lane))
        {
            frames.push(taken.frame);
        }
        if self.has_frames(lane) {
            mark!("frames are lent up to a gap");
        }
        let cost = before - self.queued;
        self.lent += cost;
        Lent { frames, lane, first, cost, tries }
    }

    /// A subscriber is done with frames that count for `cost`.
    pub(in crate::transport) fn return_lent(&mut self, cost: usize) -> Effects<S> {
        let mut effects = Effects::default();
        take_off!(self.lent, cost, "bytes that are lent");
        self.settle(&mut effects);
        effects
    }

    /// Frames that were lent and reached nobody: they come first again. (For one that was taken, as
    /// lent for nothing.)
    pub(in crate::transport) fn put_back(&mut self, back: Lent) -> Effects<S> {
        let mut effects = Effects::default();
        let Lent { mut frames, lane, first, cost, tries } = back;
        take_off!(self.lent, cost, "bytes that are lent");
        if planted(Fault::BackInAnotherOrder) {
            frames.reverse();
        }
        for (number, frame) in (first..).zip(frames) {
            self.queued += cost_of(&frame);
            take_off!(self.counts.frames, 1, "frames that were taken");
            take_off!(self.counts.bytes, frame.len() as u64, "bytes that were taken");
            let tries = tries.saturating_add(1);
            let twice = self.returned[lane as usize].insert(number, Returned { frame, tries });
            never!(twice.is_some(), "frame {} of {:?} comes back twice", number, lane);
        }
        never!(
            self.returned[lane as usize].range(self.next_number[lane as usize]..).next().is_some(),
            "a frame of {:?} comes back that nobody took",
            lane
        );
        self.end_taken = false;
        effects.wake[lane as usize] = true;
        self.settle(&mut effects);
        effects
    }

    /// Whether [`Inbound::take`] would find something.
    pub(in crate::transport) fn has_something(&self, from: From) -> bool {
        self.over.is_some()
            || match from {
                From::All => self.lane_with_something().is_some(),
                From::Lane(lane) => self.has_frames(lane),
                From::Stream(id) => self.queue(id).is_some_and(|queue| !queue.items.is_empty()),
            }
    }

    /// Whether the stream can still deliver.
    pub(in crate::transport) fn is_open(&self, id: StreamId) -> bool {
        self.queue(id).is_some_and(|queue| queue.open || !queue.items.is_empty())
    }

    /// The oldest stream that can still deliver.
    pub(in crate::transport) fn first_stream(&self) -> Option<S> {
        let open = self.queues.iter().map(|(_, queue)| queue).filter(|queue| queue.open);
        open.min_by_key(|queue| queue.serial).and_then(|queue| queue.stream.clone())
    }

    pub(in crate::transport) fn counts(&self) -> InboundCounts {
        InboundCounts { waiting: self.total(), ..self.counts }
    }

    /// Whether readers have come to the end of what the peer sent.
    pub(super) fn is_end_reached(&self) -> bool {
        let reads = self.hungry.all || self.hungry.lanes.contains(&true);
        reads && self.queued == 0 && self.lent == 0
    }

    /// A reader found nothing: it waits.
    fn starve(&mut self, from: From) {
        match from {
            From::All => self.hungry.all = true,
            From::Lane(lane) => self.hungry.lanes[lane as usize] = true,
            From::Stream(id) => {
                if let Some(queue) = lookup(&mut self.queues, id) {
                    queue.hungry = true;
                }
            }
        }
    }

    /// A reader found something.
    fn feed(&mut self, from: From) {
        match from {
            From::All => self.hungry.all = false,
            From::Lane(lane) => self.hungry.lanes[lane as usize] = false,
            From::Stream(id) => {
                if let Some(queue) = lookup(&mut self.queues, id) {
                    queue.hungry = false;
                }
            }
        }
    }

    fn has_frames(&self, lane: Lane) -> bool {
        !self.returned[lane as usize].is_empty() || !self.rings[lane as usize].is_empty()
    }

    /// The lane whose turn it is among those that have something.
    fn lane_with_something(&self) -> Option<Lane> {
        let LaneTurn { lane, given } = self.turn;
        let from = if given >= TURN_BYTES { lane + 1 } else { lane };
        let lanes = (from..from + Lane::ALL.len()).map(|lane| Lane::ALL[lane % Lane::ALL.len()]);
        lanes.into_iter().find(|lane| self.has_frames(*lane))
    }

    /// The number of the frame that [`Inbound::next`] would take from the lane.
    fn number_of_next(&self, lane: Lane) -> Option<u64> {
        let returned = self.returned[lane as usize].keys().next().copied();
        returned.or_else(|| self.has_frames(lane).then_some(self.next_number[lane as usize]))
    }

    fn next(&mut self, from: From) -> Option<Taken> {
        let lane = match from {
            From::All => self.lane_with_something()?,
            From::Lane(lane) => lane,
            From::Stream(id) => {
                let lane = self.queue(id)?.lane;
                return self.next_of(id.slot, lane);
            }
        };
        self.begin_turn(lane);
        if let Some((number, Returned { frame, .. })) = self.returned[lane as usize].pop_first() {
            mark!("a frame that came back is the next");
            take_off!(self.queued, cost_of(&frame), "bytes that wait");
            self.count(lane, 1, frame.len(), HEADER_BYTES + frame.len());
            return Some(Taken { frame, lane, number, took: Duration::ZERO });
        }
        let slot = *self.rings[lane as usize].front()?;
        self.next_of(slot, lane)
    }

    /// As [`Inbound::next`], for as many of up to `max` frames as stand together.
    fn next_run(&mut self, from: From, max: usize, into: &mut Vec<Bytes>) -> usize {
        let run = match from {
            From::Stream(_) => None,
            From::Lane(lane) => Some(lane),
            From::All => self.lane_with_something(),
        };
        let Some(lane) = run.filter(|lane| self.returned[*lane as usize].is_empty()) else {
            return self.next(from).map_or(0, |taken| {
                into.push(taken.frame);
                1
            });
        };
        self.begin_turn(lane);
        let Some(slot) = self.rings[lane as usize].front().copied() else { return 0 };
        let Some(queue) = self.queues.get_mut(slot) else {
            never!("it is the turn of a stream that is not there");
            return 0;
        };
        let id = StreamId { slot, serial: queue.serial };
        let mark = queue.mark();
        let Some(Item::Run(run)) = queue.items.front_mut() else {
            return self.next_of(slot, lane).map_or(0, |taken| {
                into.push(taken.frame);
                1
            });
        };
        let (encoded, before) = (run.encoded_bytes(), into.len());
        into.extend(run.by_ref().take(max));
        let left = run.encoded_bytes();
        take_off!(queue.queued, encoded - left, "bytes of a stream");
        if left == 0 {
            queue.items.pop_front();
            take_off!(queue.queued, PIECE_BYTES, "bytes of a stream");
        }
        let count = into.len() - before;
        let payload = encoded - left - count * HEADER_BYTES;
        self.account(id, mark);
        self.count(lane, count, payload, encoded - left);
        self.next_number[lane as usize] += count as u64;
        self.after_taking(slot, lane);
        count
    }

    fn next_of(&mut self, slot: usize, lane: Lane) -> Option<Taken> {
        let Some(queue) = self.queues.get_mut(slot) else {
            never!("it is the turn of a stream that is not there");
            return None;
        };
        let id = StreamId { slot, serial: queue.serial };
        let mark = queue.mark();
        let (frame, took, is_last) = match queue.items.front_mut()? {
            Item::Run(run) => {
                let frame = run.next();
                never!(frame.is_none(), "a run without a frame waits");
                (frame.unwrap_or_default(), Duration::ZERO, run.encoded_bytes() == 0)
            }
            Item::Frame(frame, took) => (std::mem::take(frame), *took, true),
        };
        take_off!(queue.queued, HEADER_BYTES + frame.len(), "bytes of a stream");
        if is_last {
            queue.items.pop_front();
            take_off!(queue.queued, PIECE_BYTES, "bytes of a stream");
        }
        let number = self.next_number[lane as usize];
        self.next_number[lane as usize] += 1;
        self.account(id, mark);
        self.count(lane, 1, frame.len(), HEADER_BYTES + frame.len());
        self.after_taking(slot, lane);
        Some(Taken { frame, lane, number, took })
    }

    fn begin_turn(&mut self, lane: Lane) {
        if self.turn.lane != lane as usize || self.turn.given >= TURN_BYTES {
            self.turn = LaneTurn { lane: lane as usize, given: 0 };
        }
    }

    fn count(&mut self, lane: Lane, frames: usize, payload: usize, given: usize) {
        self.counts.frames += frames as u64;
        self.counts.bytes += payload as u64;
        if self.turn.lane == lane as usize {
            self.turn.given += given;
        }
    }

    /// A stream that gave all it had leaves the ring of its lane; otherwise the next one may have its
    /// turn.
    fn after_taking(&mut self, slot: usize, lane: Lane) {
        let ring = &mut self.rings[lane as usize];
        let Some(queue) = self.queues.get_mut(slot) else {
            never!("a frame was taken from a stream that is not there");
            return;
        };
        never!(!queue.in_ring, "a frame was taken from a stream that has no turn");
        if queue.items.is_empty() {
            never!(queue.queued > 0, "{} bytes of nothing wait", queue.queued);
            queue.in_ring = false;
            // A reader of one stream alone takes it from wherever it stands.
            match ring.front() == Some(&slot) {
                true => drop(ring.pop_front()),
                false => ring.retain(|other| *other != slot),
            }
            self.forget_if_done(slot);
        } else if self.turn.given >= TURN_BYTES && ring.front() == Some(&slot) {
            ring.rotate_left(1);
        }
    }
}
