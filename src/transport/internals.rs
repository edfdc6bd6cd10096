//! Parts of a connection without MsQuic, for `benches/`: behind the feature `internals`, and no part
//! of the public interface.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::bounds::Bounds;
use super::lane::{Next, SendLane};
use super::link::inbound::{Decoded, From, Inbound, Reading, StreamId};
use super::link::lanes::Lane;
use super::link::room::Cost;
use super::link::share::Share;
use crate::frame::{self, HEADER_BYTES, Piece, Position};

/// The header of a payload of `length` bytes.
#[must_use]
pub fn header(length: usize) -> [u8; HEADER_BYTES] {
    frame::header(length)
}

/// A lane whose submissions are acknowledged where they are made.
#[derive(Debug)]
pub struct Sending(SendLane<()>);

impl Default for Sending {
    fn default() -> Self {
        let bounds = Bounds::default();
        let share = Share::new(&bounds.sending, bounds.limits.lane_bytes_max);
        Self(SendLane::new(share, bounds.large_sending, &Arc::default()))
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
        let group = self.0.group(frames, usize::MAX);
        let cost = Cost::usual(group.cost);
        self.0.try_admit_group(group.cost)
            && self.0.push_group(frames, group.frames, cost, Vec::new()).is_ok()
    }

    /// Takes all submissions that are ready, and acknowledges them; returns how many there were.
    pub fn acknowledge(&self) -> usize {
        let (mut count, mut next) = (0, self.0.next(false));
        while let Next::Submit(batch, _) = next {
            let (_, _, sent) = batch.into_parts();
            let behind = self.0.submitted(false);
            let freed = self.0.completed(sent, true, false);
            next = if let Next::Nothing = behind { freed } else { behind };
            count += 1;
        }
        count
    }
}

/// An inbound queue with one stream, which always ends between two frames.
#[derive(Debug)]
pub struct Receiving {
    inbound: Inbound<()>,
    stream: StreamId,
    now: Instant,
}

impl Default for Receiving {
    fn default() -> Self {
        let bounds = Bounds::default();
        let share = Share::new(&bounds.receiving, bounds.limits.inbound_bytes_max);
        let mut inbound = Inbound::new(share, &bounds.limits);
        let stream = inbound.add(Lane::Data);
        Self { inbound, stream, now: Instant::now() }
    }
}

impl Receiving {
    /// Stores what a receive callback cut out of `bytes` bytes.
    pub fn store(&mut self, pieces: &mut Vec<Piece>, bytes: usize) {
        let (held, position, paused) = (0, Position::Boundary, false);
        let decoded = Decoded { pieces, bytes, held, position, paused };
        drop(self.inbound.store(self.stream, decoded, self.now));
    }

    /// What `ConnectionHandle::recv_many` does; returns how many frames it took.
    pub fn take_many(&mut self, into: &mut Vec<Bytes>, max: usize) -> usize {
        let Reading { found, effects } = self.inbound.take_many(From::All, into, max);
        drop(effects);
        found.and_then(Result::ok).unwrap_or(0)
    }
}
