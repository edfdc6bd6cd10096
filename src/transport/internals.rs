//! Parts of a connection without MsQuic, for `benches/`: behind the feature `internals`, and no part
//! of the public interface.

use std::collections::VecDeque;

use bytes::Bytes;

use super::bounds::{Bounds, Share};
use super::inbound::Inbound;
use super::lane::{SendLane, Step};
use crate::frame::{self, HEADER_BYTES, Piece, Position};

/// The header of a payload of `length` bytes.
#[must_use]
pub fn header(length: usize) -> [u8; HEADER_BYTES] {
    frame::header(length)
}

/// A lane whose submissions are acknowledged where they are made.
#[derive(Debug)]
pub struct Sending(SendLane);

impl Default for Sending {
    fn default() -> Self {
        let bounds = Bounds::default();
        Self(SendLane::new(Share::new(&bounds.sending, bounds.limits.lane_bytes_max)))
    }
}

impl Sending {
    /// What `ConnectionHandle::send` does for one frame; returns whether there was room.
    pub fn offer(&self, frame: Bytes) -> bool {
        self.0.offer(frame).is_ok()
    }

    /// What `ConnectionHandle::send_many` does for the first group of `frames`; returns whether
    /// there was room.
    pub fn offer_group(&self, frames: &mut VecDeque<Bytes>) -> bool {
        let (count, cost) = self.0.group(frames, usize::MAX);
        self.0.try_admit_group(cost) && self.0.push_group(frames, count, cost, || None).is_ok()
    }

    /// Takes all submissions that are ready, and acknowledges them; returns how many there were.
    pub fn acknowledge(&self) -> usize {
        let mut count = 0;
        while let Step::Submit(request) = self.0.next() {
            self.0.submitted(Ok(()));
            let (_, _, sent) = request.into_parts();
            self.0.completed(sent, true);
            count += 1;
        }
        count
    }
}

/// An inbound queue with one stream, which always ends between two frames.
#[derive(Debug)]
pub struct Receiving {
    inbound: Inbound,
    stream: u64,
}

impl Default for Receiving {
    fn default() -> Self {
        let bounds = Bounds::default();
        let share = Share::new(&bounds.receiving, bounds.limits.inbound_bytes_max);
        let inbound = Inbound::new(share, Box::new(|| ()));
        let stream = inbound.add_stream();
        Self { inbound, stream }
    }
}

impl Receiving {
    /// Stores what a receive callback cut.
    pub fn store(&self, pieces: &mut Vec<Piece>) {
        self.inbound.store(self.stream, pieces, 0, Position::Boundary, false);
    }

    /// What `ConnectionHandle::recv_many` does; returns how many frames it took.
    pub fn take_many(&self, into: &mut Vec<Bytes>, max: usize) -> usize {
        self.inbound.take_many(into, max).and_then(Result::ok).unwrap_or(0)
    }
}
