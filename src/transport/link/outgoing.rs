//! Frames out: of many callers on one stream, in order.
//!
//! ```text
//! take room (bytes) ─> push: batches ─> in flight ─> Completed | MaybeSent
//!                          └── closed before it left ─────────> NotSent
//! ```
//!
//! Small frames that wait are copied behind each other into one batch, large payloads travel as they
//! are. There is no timer: an idle lane sends at once, a busy one gathers while it waits for
//! acknowledgements. A frame beyond the lane's share is admitted beside its room, one at a time, out of
//! room that the node's lanes have together.
//!
//! Invariants: bytes admitted and unfinished never pass the room (one larger frame alone is
//! admitted beside it); every accepted frame is counted by exactly one outcome; batches leave in the
//! order of admission; the pieces of a large frame go out on one stream or not at all.

mod admission;
mod effects;
mod ending;
#[cfg(test)]
mod model;
mod submitting;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use bytes::Bytes;

use super::batch::{Batch, PIECE_BYTES_MAX, Payload};
use super::fair::FairRoom;
use super::flight::Path;
use super::outcome::{OutcomeCounts, OutcomeSink};
use super::room::{Cost, Room};
use super::share::Share;
use super::stall::Progress;
use crate::error::CloseReason;
use crate::frame::HEADER_BYTES;
use crate::never::never;
use effects::Submitting;
pub(in crate::transport) use effects::{Admission, Ended, Freed, Group, Step};

/// One lane. `S` is what frames go out on, `W` wakes somebody who waits for room.
pub(in crate::transport) struct Outgoing<S, W> {
    queue: VecDeque<Batch>,
    stream: Option<S>,
    /// Counts the streams that were kept, the present one included.
    streams: u64,
    /// The stream that has the beginning of a frame whose rest is at the front of the queue.
    begun_on: Option<u64>,
    in_flight: usize,
    in_flight_bytes: usize,
    /// Bytes that were accepted and not handed over.
    queued_bytes: usize,
    path: Path,
    /// The lane gives way to others: what is on its way delays them.
    narrow: bool,
    room: Room<W>,
    /// One unit: a frame beyond the share is alone.
    large_turn: FairRoom<W>,
    /// Bytes of the node's room that this lane has.
    large: usize,
    /// Who has the turn and waits for the node's room.
    at_node: Option<W>,
    /// What the batch was that somebody is about to hand over.
    submitting: Option<Submitting>,
    /// Submissions that met their end.
    ended: u64,
    shut: Option<CloseReason>,
    /// What was not handed over was given up.
    abandoned: bool,
    finish: Finish,
    counts: OutcomeCounts,
    bytes_sent: u64,
}

/// The end of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finish {
    No,
    Wanted,
    Asked,
    Done,
}

impl<S, W> Outgoing<S, W> {
    pub(in crate::transport) fn new(share: Share) -> Self {
        Self {
            queue: VecDeque::new(),
            stream: None,
            streams: 0,
            begun_on: None,
            in_flight: 0,
            in_flight_bytes: 0,
            queued_bytes: 0,
            path: Path::default(),
            narrow: false,
            room: Room::new(share),
            large_turn: FairRoom::new(1),
            large: 0,
            at_node: None,
            submitting: None,
            ended: 0,
            shut: None,
            abandoned: false,
            finish: Finish::No,
            counts: OutcomeCounts::default(),
            bytes_sent: 0,
        }
    }

    /// Takes over a frame for which `cost` was admitted. A payload that was copied comes back: whoever
    /// holds a lock drops it behind that, for it is the caller's.
    #[inline]
    pub(in crate::transport) fn push(
        &mut self,
        frame: Payload<'_>,
        cost: Cost,
        sink: Option<OutcomeSink>,
    ) -> Option<Bytes> {
        never!(self.shut.is_some(), "a lane that is shut takes a frame over");
        debug_assert!(self.adds_up());
        self.counts.accepted += 1;
        self.queued_bytes += HEADER_BYTES + frame.len();
        self.room.begin();
        if self.queue.back().is_none_or(Batch::is_full) {
            self.queue.push_back(Batch::default());
        }
        let Some(batch) = self.queue.back_mut() else {
            never!("there is no batch to add a frame to");
            return None;
        };
        if frame.body().len() <= PIECE_BYTES_MAX {
            return batch.push(frame, cost, sink);
        }
        let pieces = batch.split(frame, cost, sink);
        self.queue.extend(pieces);
        debug_assert!(self.adds_up());
        None
    }

    /// What is told of it all is the sum of its parts.
    fn adds_up(&self) -> bool {
        let queued = self.queue.iter().map(|batch| batch.sent.bytes).sum::<usize>();
        let large = self.queue.iter().map(|batch| batch.sent.large).sum::<usize>();
        let ended = self.counts.completed + self.counts.not_sent + self.counts.maybe_sent;
        queued == self.queued_bytes
            && large <= self.large
            && (self.large == 0 || self.large_turn.used() == 1)
            && (self.in_flight > 0) == (self.in_flight_bytes > 0)
            && ended <= self.counts.accepted
    }

    /// On a long path more batches are in flight.
    pub(in crate::transport) fn set_path(&mut self, path: Path) {
        self.path = path;
    }

    /// The stream to send on, if there is one.
    pub(in crate::transport) fn stream(&self) -> Option<&S> {
        self.stream.as_ref()
    }

    /// Keeps `stream` for the next sends unless there is one.
    pub(in crate::transport) fn keep_stream(&mut self, stream: S) -> &S {
        let Self { stream: kept, streams, .. } = self;
        kept.get_or_insert_with(|| {
            *streams += 1;
            stream
        })
    }

    /// Why no frame is accepted any more.
    pub(in crate::transport) fn shut_reason(&self) -> Option<&CloseReason> {
        self.shut.as_ref()
    }

    /// Bytes that were accepted and have not met their end.
    pub(in crate::transport) fn pending(&self) -> usize {
        self.queued_bytes + self.in_flight_bytes
    }

    pub(in crate::transport) fn counts(&self) -> OutcomeCounts {
        self.counts
    }

    /// Bytes of payload that the peer acknowledged.
    pub(in crate::transport) fn bytes_sent(&self) -> u64 {
        self.bytes_sent
    }

    /// Whether anything is on its way or wants to be, and how many submissions have met their end so far.
    pub(in crate::transport) fn progress(&self) -> Progress {
        Progress { busy: self.in_flight > 0 || !self.queue.is_empty(), ended: self.ended }
    }
}
