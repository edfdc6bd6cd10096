//! Room that is reserved for frames before they are taken over, and given back behind them.

use std::collections::VecDeque;

use bytes::Bytes;

use super::Outgoing;
use super::effects::{Admission, Freed, Group};
use crate::frame::HEADER_BYTES;
use crate::never::{never, take_off};
use crate::transport::link::fair::{Ticket, Turn};
use crate::transport::link::room::{Cost, Short};

/// Frames that are admitted together: less than the least room of a lane.
const GROUP_BYTES: usize = 64 * 1024;

impl<S, W> Outgoing<S, W> {
    /// Whether `bytes` are to be had in the lane's own room, and not beside it.
    pub(in crate::transport) fn fits(&self, bytes: usize) -> bool {
        self.room.fits(bytes)
    }

    /// Why `bytes` were not to be had.
    pub(in crate::transport) fn short(&self, bytes: usize) -> Short {
        let for_turn = self.large_turn.used() > 0;
        if self.room.fits(bytes) || for_turn { self.room.short() } else { Short::Beside }
    }

    /// Reserves `bytes` of the lane's own room without waiting.
    pub(in crate::transport) fn try_take(&mut self, bytes: usize) -> Admission {
        match self.shut {
            Some(_) => Admission::Shut,
            None if self.room.try_take(bytes) => Admission::Granted(Cost::usual(bytes)),
            None => Admission::Full,
        }
    }

    /// As [`Outgoing::try_take`]; otherwise `waiter` waits for them.
    pub(in crate::transport) fn take(
        &mut self,
        bytes: usize,
        waiter: W,
    ) -> (Result<(), Ticket>, Freed<W>) {
        let (taken, granted) = self.room.take(bytes, waiter);
        let mut freed = Freed::wake(granted);
        if self.shut.is_some() {
            freed.wake.extend(self.room.shut());
        }
        (taken, freed)
    }

    pub(in crate::transport) fn turn(&self, ticket: Ticket) -> Turn {
        self.room.turn(ticket)
    }

    /// Another one waits in the place of the asker.
    pub(in crate::transport) fn renew(&mut self, ticket: Ticket, waiter: W) {
        self.room.renew(ticket, waiter);
    }

    /// The asker goes: `bytes` come back if it had them.
    pub(in crate::transport) fn forget(&mut self, ticket: Ticket, bytes: usize) -> Freed<W> {
        Freed::wake(self.room.forget(ticket, bytes))
    }

    /// Gives admission back that was not used.
    pub(in crate::transport) fn give_back(&mut self, cost: Cost) -> Freed<W> {
        if cost.is_large {
            self.free_large(cost.bytes)
        } else {
            Freed::wake(self.room.give_back(cost.bytes))
        }
    }

    // ---- beside the lane's own room

    /// Takes the turn for a frame beyond the share. [`Outgoing::has_large`] or
    /// [`Outgoing::leave_large_turn`] must follow.
    pub(in crate::transport) fn try_take_large_turn(&mut self) -> Admission {
        match self.shut {
            Some(_) => Admission::Shut,
            None if self.large_turn.try_take(1) => Admission::Granted(Cost::usual(0)),
            None => Admission::Full,
        }
    }

    /// As [`Outgoing::try_take_large_turn`]; otherwise `waiter` waits for it.
    pub(in crate::transport) fn take_large_turn(&mut self, waiter: W) -> Result<(), Ticket> {
        self.large_turn.take(1, waiter)
    }

    pub(in crate::transport) fn large_turn(&self, ticket: Ticket) -> Turn {
        self.large_turn.turn(ticket)
    }

    /// Another one waits in the place of the asker.
    pub(in crate::transport) fn renew_large_turn(&mut self, ticket: Ticket, waiter: W) {
        self.large_turn.renew(ticket, waiter);
    }

    /// The asker goes: its turn comes back if it had it.
    pub(in crate::transport) fn forget_large_turn(&mut self, ticket: Ticket) -> Freed<W> {
        Freed::wake(match self.large_turn.turn(ticket) {
            Turn::Waiting | Turn::Shut => self.large_turn.forget(ticket),
            Turn::Granted => self.large_turn.give_back(1),
        })
    }

    /// Gives the turn back that came to nothing.
    pub(in crate::transport) fn leave_large_turn(&mut self) -> Freed<W> {
        self.at_node = None;
        Freed::wake(self.large_turn.give_back(1))
    }

    /// Who has the turn waits for the node's room, and is to know if the lane shuts.
    pub(in crate::transport) fn waits_at_node(&mut self, waiter: W) {
        self.at_node = Some(waiter);
    }

    /// `bytes` of the node's room are this lane's, and so is the turn until they have gone back.
    pub(in crate::transport) fn has_large(&mut self, bytes: usize) -> Cost {
        never!(self.large_turn.used() == 0, "{} bytes beside the room for nobody's turn", bytes);
        never!(self.large > 0, "{} bytes beside {} others", bytes, self.large);
        self.at_node = None;
        self.large += bytes;
        Cost { bytes, is_large: true }
    }

    pub(super) fn free_large(&mut self, bytes: usize) -> Freed<W> {
        take_off!(self.large, bytes, "bytes beside the room");
        let is_last = bytes > 0 && self.large == 0;
        let granted = if is_last { self.large_turn.give_back(1) } else { Vec::new() };
        Freed { large: bytes, ..Freed::wake(granted) }
    }

    // ---- several at once

    /// How many of the first frames may be admitted together, and what they cost.
    pub(in crate::transport) fn group(
        frames: &VecDeque<Bytes>,
        length_max: usize,
        bytes_max: usize,
    ) -> Group {
        let mut group = Group { frames: 0, cost: 0 };
        for frame in frames {
            let cost = HEADER_BYTES + frame.len();
            if frame.len() > length_max || group.cost + cost > GROUP_BYTES.min(bytes_max) {
                break;
            }
            group = Group { frames: group.frames + 1, cost: group.cost + cost };
        }
        group
    }
}
