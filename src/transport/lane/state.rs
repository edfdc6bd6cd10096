//! What a lane has accepted, and what of it goes out next.

use std::collections::VecDeque;

use bytes::Bytes;

use super::batch::{Batch, PIECE_BYTES_MAX, Payload, Sent};
use super::outcome::{OutcomeCounts, OutcomeSink};
use super::room::{Cost, Limit, Room};
use crate::error::CloseReason;
use crate::frame::HEADER_BYTES;

/// Submissions in flight while there is enough on its way.
pub(super) const SUBMISSIONS: usize = 8;

/// Below this many unacknowledged bytes a frame never waits for an acknowledgement: fewer than
/// three packets may be acknowledged late (RFC 9000, section 13.2.1).
const PROMPT_BYTES: usize = 3 * 1200;

/// The fastest path that is kept busy: 1 GiB/s. With a round trip of 50 ms that are 50 MiB in flight,
/// so that the limits of the lane decide.
pub(super) const BYTES_PER_MICROSECOND: usize = 1074;

/// What a narrow lane keeps in flight besides one batch: 0.2 ms at 1 GiB/s.
const NARROW_BYTES: usize = 64 * 1024;

/// Submissions in flight at most: MsQuic walks a list of those it has not taken over yet.
const SUBMISSIONS_MAX: usize = 64;

/// A batch between its taking and its handing over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Submitting {
    /// The number of the stream it is meant for.
    pub(super) stream: u64,
    pub(super) continues: bool,
    pub(super) splits: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finish {
    No,
    Wanted,
    Asked,
    Done,
}

/// What is behind the lock of a lane.
pub(super) struct State<S> {
    pub(super) queue: VecDeque<Batch>,
    pub(super) stream: Option<S>,
    /// Counts the streams that were kept, the present one included.
    pub(super) streams: u64,
    /// The stream that has the beginning of a frame whose rest is at the front of the queue.
    pub(super) begun_on: Option<u64>,
    pub(super) in_flight: usize,
    pub(super) in_flight_bytes: usize,
    /// Bytes that were accepted and not handed over.
    pub(super) queued_bytes: usize,
    /// Bytes in flight up to which a full batch never waits.
    pub(super) enough: usize,
    /// The same without what queues on the path add.
    pub(super) enough_at_least: usize,
    /// The lane gives way to others: what is on its way delays them.
    pub(super) narrow: bool,
    pub(super) limit: Limit,
    /// Admission that was taken ahead for small frames, so that most of them cost one lock.
    pub(super) pocket: usize,
    /// Admission of finished frames, given back in larger steps so that waiting senders wake
    /// seldom.
    pub(super) freed: usize,
    /// What the batch was that somebody is about to hand over.
    pub(super) submitting: Option<Submitting>,
    /// Submissions that met their end.
    pub(super) ended: u64,
    pub(super) shut: Option<CloseReason>,
    /// What was not handed over was given up.
    pub(super) abandoned: bool,
    pub(super) finish: Finish,
    pub(super) counts: OutcomeCounts,
    pub(super) bytes_sent: u64,
}

impl<S> State<S> {
    pub(super) fn new(limit: Limit) -> Self {
        Self {
            queue: VecDeque::new(),
            stream: None,
            streams: 0,
            begun_on: None,
            in_flight: 0,
            in_flight_bytes: 0,
            queued_bytes: 0,
            enough: 0,
            enough_at_least: 0,
            narrow: false,
            limit,
            pocket: 0,
            freed: 0,
            submitting: None,
            ended: 0,
            shut: None,
            abandoned: false,
            finish: Finish::No,
            counts: OutcomeCounts::default(),
            bytes_sent: 0,
        }
    }

    /// A payload that was copied comes back.
    pub(super) fn push(
        &mut self,
        frame: Payload<'_>,
        cost: Cost,
        sink: Option<OutcomeSink>,
        room: &Room,
    ) -> Option<Bytes> {
        self.counts.accepted += 1;
        self.queued_bytes += HEADER_BYTES + frame.len();
        room.begin(&mut self.limit);
        if self.queue.back().is_none_or(Batch::is_full) {
            self.queue.push_back(Batch::default());
        }
        let batch = self.queue.back_mut()?;
        if frame.body().len() <= PIECE_BYTES_MAX {
            return batch.push(frame, cost, sink);
        }
        let pieces = batch.split(frame, cost, sink);
        self.queue.extend(pieces);
        None
    }

    /// Whether whoever made a batch is to hand it over: nobody else is at it.
    pub(super) fn wants_pump(&self) -> bool {
        self.submitting.is_none() && self.may_submit()
    }

    pub(super) fn may_submit(&self) -> bool {
        if self.narrow {
            return self.in_flight_bytes < NARROW_BYTES.max(self.enough_at_least);
        }
        let full = || self.queue.front().is_some_and(Batch::is_full);
        self.in_flight < SUBMISSIONS
            || (self.in_flight < SUBMISSIONS_MAX
                && (self.in_flight_bytes < PROMPT_BYTES
                    || (self.in_flight_bytes < self.enough && full())))
    }

    /// Takes the rest of a frame out of the queue whose beginning went out on a stream that is lost:
    /// what was to be remembered of it.
    pub(super) fn take_lost_rest(&mut self) -> Option<Sent> {
        let on = self.stream.as_ref().map(|_| self.streams);
        if !self.queue.front().is_some_and(|front| front.continues) || self.begun_on == on {
            return None;
        }
        let mut lost = Sent::default();
        while self.queue.front().is_some_and(|front| front.continues)
            && let Some(batch) = self.queue.pop_front()
        {
            self.queued_bytes -= batch.sent.bytes;
            lost.frames += batch.sent.frames;
            lost.cost += batch.sent.cost;
            lost.large += batch.sent.large;
            lost.sinks.extend(batch.sent.sinks);
            if !batch.splits {
                break;
            }
        }
        self.counts.not_sent += lost.frames;
        Some(lost)
    }
}
