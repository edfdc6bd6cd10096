//! Admission: room that is reserved for frames before they are taken over, and given back behind them.

use std::collections::VecDeque;

use bytes::Bytes;

use super::SendLane;
use super::room::{Admission, Cost, Room};
use super::state::State;
use crate::frame::HEADER_BYTES;
use crate::lock::lock;

/// Admission that is taken ahead for small frames.
const POCKET_BYTES: usize = 8 * 1024;

/// Frames that are admitted together: less than the least room of a lane.
const GROUP_BYTES: usize = 64 * 1024;

/// Whoever waits for admission, until it has it or gives up.
struct Waits<'a, S>(&'a SendLane<S>);

impl<S> Drop for Waits<'_, S> {
    fn drop(&mut self) {
        lock(&self.0.state).limit.waited();
    }
}

impl<S: Clone> SendLane<S> {
    /// Reserves admission for one frame of `length` bytes without waiting.
    pub(in crate::transport) fn try_admit(&self, length: usize) -> Admission {
        let bytes = HEADER_BYTES + length;
        match self.room.try_take(bytes) {
            Admission::Full => {}
            admission => return admission,
        }
        let mut state = lock(&self.state);
        if state.limit.fits(bytes) {
            match self.room.widen(&mut state.limit, bytes) {
                true => self.room.try_take(bytes),
                false => Admission::Full,
            }
        } else {
            let admission = self.room.try_take_large(bytes);
            if let Admission::Granted(_) = admission {
                state.limit.has_large(bytes);
            }
            admission
        }
    }

    /// Reserves admission for one frame, in the order of asking; `at_node` is called when it is the
    /// node's room that is waited for. Cancel safe.
    pub(in crate::transport) async fn admit(
        &self,
        length: usize,
        at_node: impl FnOnce(),
    ) -> Admission {
        let bytes = HEADER_BYTES + length;
        let (pocket, fits) = {
            let mut state = lock(&self.state);
            let fits = state.limit.fits(bytes);
            state.limit.wait(if fits { bytes } else { 0 });
            if fits {
                self.room.widen(&mut state.limit, bytes);
            }
            (std::mem::take(&mut state.pocket), fits)
        };
        let _waits = Waits(self);
        self.room.give_back(pocket);
        if fits {
            return self.room.take(bytes).await;
        }
        let admission = self.room.take_large(bytes, at_node).await;
        if let Admission::Granted(_) = admission {
            lock(&self.state).limit.has_large(bytes);
        }
        admission
    }

    /// Gives admission back that was not used.
    pub(in crate::transport) fn give_back(&self, cost: Cost) {
        if !cost.is_large {
            self.room.give_back(cost.bytes);
        } else if cost.bytes > 0 {
            let is_last = lock(&self.state).limit.give_back_large(cost.bytes);
            self.room.give_back_large(cost.bytes, is_last);
        }
    }

    /// How many of the first frames may be admitted together, and what they cost.
    pub(in crate::transport) fn group(
        &self,
        frames: &VecDeque<Bytes>,
        length_max: usize,
    ) -> (usize, usize) {
        let (mut count, mut total) = (0, 0);
        for frame in frames {
            let cost = HEADER_BYTES + frame.len();
            if frame.len() > length_max || total + cost > GROUP_BYTES.min(self.bytes_max) {
                break;
            }
            count += 1;
            total += cost;
        }
        (count, total)
    }

    /// Reserves `cost` bytes without waiting.
    pub(in crate::transport) fn try_admit_group(&self, cost: usize) -> bool {
        matches!(self.room.try_take(cost), Admission::Granted(_))
    }
}

impl<S> State<S> {
    /// Takes `cost` out of the pocket or the room.
    pub(super) fn pay(&mut self, cost: usize, room: &Room) -> bool {
        if self.pocket < cost {
            let ahead = cost <= POCKET_BYTES / 4
                && matches!(room.try_take(POCKET_BYTES), Admission::Granted(_));
            if !ahead {
                return matches!(room.try_take(cost), Admission::Granted(_));
            }
            self.pocket += POCKET_BYTES;
        }
        self.pocket -= cost;
        true
    }

    /// Collects freed admission; returns what is to be given back by now.
    pub(super) fn free(&mut self, cost: usize, room: &Room) -> usize {
        self.freed += cost;
        if self.in_flight == 0 && self.queue.is_empty() {
            let freed = std::mem::take(&mut self.freed) + std::mem::take(&mut self.pocket);
            room.rest(&mut self.limit, freed)
        } else if self.freed >= self.limit.now() / 8 {
            self.limit.settle(std::mem::take(&mut self.freed))
        } else {
            0
        }
    }
}
