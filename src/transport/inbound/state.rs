//! What waits in a connection, and the arithmetic of its bounds. Plain data, under the lock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::delivery::{Deliver, Reader};
use crate::error::{CloseReason, RecvError};
use crate::frame::{HEADER_BYTES, Position, Run};
use crate::transport::bounds::Share;
use crate::transport::stream::ReadStream;

/// What one stream gives before the others have their turn.
const TURN_BYTES: usize = 16 * 1024;

pub(super) enum Item {
    Run(Run),
    Frame(Bytes, Duration),
    End(RecvError),
}

/// The frames of one stream.
pub(super) struct Queue {
    pub(super) id: u64,
    pub(super) stream: Option<Arc<ReadStream>>,
    pub(super) items: VecDeque<Item>,
    /// No more bytes will come.
    pub(super) ended: bool,
    pub(super) paused: bool,
    /// Bytes of its whole frames that wait.
    pub(super) queued: usize,
    /// Bytes of its frame that is not whole.
    pub(super) held: usize,
    pub(super) partial_since: Option<Instant>,
    pub(super) position: Position,
}

impl Queue {
    pub(super) fn new(id: u64) -> Self {
        Self {
            id,
            stream: None,
            items: VecDeque::new(),
            ended: false,
            paused: false,
            queued: 0,
            held: 0,
            partial_since: None,
            position: Position::Boundary,
        }
    }

    fn bytes(&self) -> usize {
        self.queued + self.held
    }

    pub(super) fn is_in_body(&self) -> bool {
        matches!(self.position, Position::InBody { .. })
    }

    /// Bytes up to the next end of a length or a frame, inside of one.
    fn rest(&self) -> usize {
        match self.position {
            Position::Boundary => 0,
            Position::InLength { received } => HEADER_BYTES - received,
            Position::InBody { received, announced } => announced - received,
        }
    }
}

pub(super) struct State {
    pub(super) streams: VecDeque<Queue>,
    pub(super) next_id: u64,
    /// The stream of the last frame that was taken.
    pub(super) taken_from: u64,
    /// Bytes that the first stream gave in its turn.
    pub(super) turn: usize,
    /// Bytes of whole frames that wait, and of those lent to a subscriber.
    pub(super) queued: usize,
    /// Bytes of frames that are not whole.
    pub(super) held: usize,
    /// The stream whose frame may pass the bound.
    pub(super) beyond: Option<u64>,
    pub(super) readers: VecDeque<Reader>,
    /// `None` also while it is at work, outside the lock.
    pub(super) deliver: Option<Deliver>,
    /// Tells whether the subscriber is gone; there is one while there is a subscription.
    pub(super) is_gone: Option<Box<dyn Fn() -> bool + Send>>,
    /// The number of the subscription, so that an earlier one does not come back from its work.
    pub(super) subscription: u64,
    pub(super) delivering: bool,
    /// A reader was told that the peer ended its stream.
    pub(super) end_taken: bool,
    pub(super) closed: Option<CloseReason>,
    pub(super) frames: u64,
    pub(super) bytes: u64,
    pub(super) share: Share,
}

impl State {
    pub(super) fn queue(&mut self, id: u64) -> Option<&mut Queue> {
        self.streams.iter_mut().find(|queue| queue.id == id)
    }

    /// Whether a frame of this stream may pass the bound.
    pub(super) fn may_pass(&self, id: u64) -> bool {
        self.queued == 0 && self.beyond.is_none_or(|owner| owner == id)
    }

    /// What one stream may hold: a flood on one leaves room for the others, if there are any.
    fn share_of_one(&self) -> usize {
        let bytes_max = self.share.bytes();
        if self.streams.iter().filter(|queue| !queue.ended).nth(1).is_none() {
            return bytes_max;
        }
        let busy = self.streams.iter().filter(|queue| queue.bytes() > 0).count();
        bytes_max / (busy.max(1) + 1)
    }

    /// How many more bytes the stream may take over.
    pub(super) fn room(&self, id: u64) -> usize {
        let Some(queue) = self.streams.iter().find(|queue| queue.id == id) else {
            return usize::MAX;
        };
        let total = self.share.bytes().saturating_sub(self.queued + self.held);
        let own = self.share_of_one().saturating_sub(queue.bytes());
        match (total.min(own), queue.rest()) {
            // A frame must come to its end, if nothing stands before it.
            (0, rest) if total > 0 && queue.queued == 0 => rest.min(total),
            (0, rest) if self.may_pass(id) => rest,
            (free, _) => free,
        }
    }

    /// Takes part in the node's budget while anything is held.
    pub(super) fn settle(&mut self) {
        self.share.set_busy(self.queued + self.held > 0);
    }

    /// Why nobody may read here.
    pub(super) fn refusal(&mut self) -> Option<RecvError> {
        if self.is_gone.as_ref().is_some_and(|is_gone| is_gone()) {
            self.end_subscription();
        }
        self.is_gone.is_some().then_some(RecvError::Subscribed)
    }

    /// The answer when nothing is left and nothing will come.
    pub(super) fn over(&self) -> Option<RecvError> {
        self.closed.clone().map(|reason| RecvError::Closed { reason })
    }

    /// Forgets ends of streams while another one may still deliver: whoever reads them all is told
    /// of the last one.
    pub(super) fn skip_ends(&mut self) {
        let at_end = |queue: &Queue| {
            let position = Position::Boundary;
            matches!(queue.items.front(), Some(Item::End(end)) if *end == RecvError::EndOfStream { position })
        };
        while self.streams.len() > 1 {
            let open = |queue: &&Queue| !queue.ended || !queue.items.is_empty();
            let more = self.streams.iter().filter(open).nth(1).is_some();
            let Some(queue) = self.streams.iter_mut().find(|queue| at_end(queue)) else { return };
            if !more {
                return;
            }
            queue.items.pop_front();
            self.drop_empty();
        }
    }

    /// Brings the stream whose turn it is, and that has something, to the front.
    pub(super) fn seek(&mut self) -> bool {
        if self.turn >= TURN_BYTES && self.streams.len() > 1 {
            self.streams.rotate_left(1);
            self.turn = 0;
        }
        for _ in 0..self.streams.len() {
            if self.streams.front().is_some_and(|queue| !queue.items.is_empty()) {
                return true;
            }
            self.streams.rotate_left(1);
            self.turn = 0;
        }
        false
    }

    pub(super) fn take(&mut self) -> Option<Result<(Bytes, Duration), RecvError>> {
        if !self.seek() {
            return None;
        }
        let queue = self.streams.front_mut()?;
        self.taken_from = queue.id;
        let (frame, took, freed) = match queue.items.front_mut()? {
            Item::Run(run) => {
                let before = run.encoded_bytes();
                let frame = run.next().unwrap_or_default();
                let after = run.encoded_bytes();
                if after == 0 {
                    queue.items.pop_front();
                }
                (frame, Duration::ZERO, before - after)
            }
            Item::Frame(frame, took) => {
                let (frame, took) = (std::mem::take(frame), *took);
                queue.items.pop_front();
                let freed = HEADER_BYTES + frame.len();
                (frame, took, freed)
            }
            Item::End(error) => {
                let error = error.clone();
                queue.items.pop_front();
                self.end_taken |= matches!(error, RecvError::EndOfStream { .. });
                self.drop_empty();
                return Some(Err(error));
            }
        };
        queue.queued -= freed;
        self.turn += freed;
        self.queued -= freed;
        self.frames += 1;
        self.bytes += frame.len() as u64;
        self.drop_empty();
        Some(Ok((frame, took)))
    }

    /// Moves frames to `into` until there are `max` or an end comes first; returns how many.
    pub(super) fn take_frames(&mut self, into: &mut Vec<Bytes>, max: usize) -> usize {
        let mut count = 0;
        while count < max && self.seek() {
            let Some(queue) = self.streams.front_mut() else { break };
            let (mut freed, mut bytes, before) = (0, 0, count);
            match queue.items.front_mut() {
                Some(Item::Run(run)) => {
                    let encoded = run.encoded_bytes();
                    for frame in run.by_ref().take(max - count) {
                        bytes += frame.len();
                        into.push(frame);
                        count += 1;
                    }
                    freed += encoded - run.encoded_bytes();
                    if run.encoded_bytes() == 0 {
                        queue.items.pop_front();
                    }
                }
                Some(Item::Frame(frame, _)) => {
                    let frame = std::mem::take(frame);
                    queue.items.pop_front();
                    freed += HEADER_BYTES + frame.len();
                    bytes += frame.len();
                    into.push(frame);
                    count += 1;
                }
                Some(Item::End(_)) | None => break,
            }
            queue.queued -= freed;
            self.turn += freed;
            self.queued -= freed;
            self.frames += (count - before) as u64;
            self.bytes += bytes as u64;
        }
        self.drop_empty();
        count
    }

    /// Everything that waits, for a subscriber; its bytes stay counted until they are returned.
    pub(super) fn take_batch(&mut self) -> (Vec<Bytes>, usize) {
        let (before, mut frames) = (self.queued, Vec::new());
        while let Some(taken) = self.take() {
            // An end is told by the connection's close, not by a frame.
            if let Ok((frame, _)) = taken {
                frames.push(frame);
            }
        }
        let bytes = before - self.queued;
        self.queued = before;
        (frames, bytes)
    }

    pub(super) fn end_subscription(&mut self) {
        self.deliver = None;
        self.is_gone = None;
        self.subscription += 1;
    }

    /// The subscriber is gone: what it did not take waits for readers again.
    pub(super) fn put_batch_back(&mut self, frames: Vec<Bytes>, bytes: usize) {
        let cost: usize = frames.iter().map(|frame| HEADER_BYTES + frame.len()).sum();
        self.queued = self.queued - bytes + cost;
        self.frames -= frames.len() as u64;
        let payload: usize = frames.iter().map(Bytes::len).sum();
        self.bytes -= payload as u64;
        let id = self.next_id;
        self.next_id += 1;
        self.streams.push_front(Queue {
            items: frames.into_iter().map(|f| Item::Frame(f, Duration::ZERO)).collect(),
            ended: true,
            queued: cost,
            ..Queue::new(id)
        });
    }

    /// Queues whose stream is gone and whose items were taken.
    pub(super) fn drop_empty(&mut self) {
        let over = |queue: &Queue| queue.ended && queue.stream.is_none() && queue.items.is_empty();
        if self.streams.iter().any(over) {
            self.streams.retain(|queue| !over(queue));
        }
    }

    pub(super) fn resumable(&mut self) -> Vec<Arc<ReadStream>> {
        if !self.streams.iter().any(|queue| queue.paused) {
            return Vec::new();
        }
        let half_free = self.queued + self.held <= self.share.bytes() / 2;
        let half_of_one = self.share_of_one() / 2;
        let go_on = |queue: &Queue| {
            let has_room = half_free && queue.bytes() <= half_of_one;
            has_room || (queue.queued == 0 && queue.rest() > 0 && self.room(queue.id) > 0)
        };
        let ids: Vec<u64> = self
            .streams
            .iter()
            .filter(|queue| queue.paused && go_on(queue))
            .map(|queue| queue.id)
            .collect();
        let mut resume = Vec::with_capacity(ids.len());
        for queue in self.streams.iter_mut().filter(|queue| ids.contains(&queue.id)) {
            queue.paused = false;
            resume.extend(queue.stream.clone());
        }
        resume
    }
}
