//! The frames of one stream of the peer's, and where the stream stands.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::frame::{HEADER_BYTES, Position, Run};
use crate::transport::link::lanes::Lane;

/// What it costs to remember one piece, in bytes: its place in the queue, and the allocation that it
/// shares with no other. Counted against the bounds, so that many tiny pieces are no way around them.
pub(in crate::transport) const PIECE_BYTES: usize = 128;

/// The part of the share that each stream may hold whatever the others do: so no lane waits for the
/// reader of another one.
pub(in crate::transport) const GUARANTEED_PART: usize = 32;

/// Frames that wait: whole ones that arrived together, or one alone.
#[derive(Debug)]
pub(super) enum Item {
    Run(Run),
    /// With the time from its first byte to its last.
    Frame(Bytes, Duration),
}

impl Item {
    /// What it counts for.
    pub(super) fn cost(&self) -> usize {
        PIECE_BYTES
            + match self {
                Self::Run(run) => run.encoded_bytes(),
                Self::Frame(frame, _) => HEADER_BYTES + frame.len(),
            }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Queue<S> {
    /// Tells it from those that had its place before.
    pub(super) serial: u64,
    pub(super) lane: Lane,
    /// What can be resumed, while the stream's handle is there.
    pub(super) stream: Option<S>,
    pub(super) items: VecDeque<Item>,
    /// More bytes may come.
    pub(super) open: bool,
    /// Bytes were left behind for want of room.
    pub(super) paused: bool,
    /// It has a place in the ring of its lane.
    pub(super) in_ring: bool,
    /// A reader of this stream alone found nothing.
    pub(super) hungry: bool,
    /// What its items cost.
    pub(super) queued: usize,
    /// Bytes of its frame that is not whole.
    pub(super) held: usize,
    /// When that frame began.
    pub(super) began: Option<Instant>,
    pub(super) position: Position,
}

impl<S> Queue<S> {
    pub(super) fn new(serial: u64, lane: Lane) -> Self {
        Self {
            serial,
            lane,
            stream: None,
            items: VecDeque::new(),
            open: true,
            paused: false,
            in_ring: false,
            hungry: false,
            queued: 0,
            held: 0,
            began: None,
            position: Position::Boundary,
        }
    }

    /// What it counts for.
    pub(super) fn cost(&self) -> usize {
        self.queued + self.held
    }

    /// Inside a frame that may go on: its sender can be waited for.
    pub(super) fn is_unfinished(&self) -> bool {
        self.open && !self.paused && self.position != Position::Boundary
    }

    /// Its part in the sums over all queues.
    pub(super) fn mark(&self) -> Mark {
        Mark {
            queued: self.queued,
            held: self.held,
            busy: self.cost() > 0,
            unfinished: self.is_unfinished(),
        }
    }

    /// Bytes up to the next end of a length or of a frame, inside of one.
    pub(super) fn rest(&self) -> usize {
        match self.position {
            Position::Boundary => 0,
            Position::InLength { received } => HEADER_BYTES - received,
            Position::InBody { received, announced } => announced - received,
        }
    }
}

/// What a queue adds to the sums over all of them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mark {
    pub(super) queued: usize,
    pub(super) held: usize,
    pub(super) busy: bool,
    pub(super) unfinished: bool,
}
