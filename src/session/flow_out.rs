//! Frames of one flow on their way out: the ledger of what was accepted.
//!
//! ```text
//!  1 ..= taken ..= received ..= submitted ..= accepted      (numbers of frames, without gaps)
//!  delivered      the peer has  on a connection   nobody has seen it
//! ```
//!
//! The flow outlives connections, which borrow it: what is not taken stays here, and goes again over
//! the next one from what the peer received on. `submitted` never goes back; where the present
//! connection stands is `next`.
//!
//! Invariant: accepted = delivered + not sent + maybe sent, once the flow is over.

mod broken;

use std::collections::VecDeque;

use super::flow::FlowState;
use super::flow_fault::{FlowFault, Planted};
pub(crate) use super::flow_violation::FlowViolation;

/// Consecutive frames that are submitted together.
pub(crate) trait Entry {
    /// How many; at least one.
    fn frames(&self) -> u64;
    /// Encoded bytes, heads included.
    fn bytes(&self) -> u64;
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The peer's application took it.
    Delivered,
    /// The peer's application did not take it, and never will.
    NotSent,
    /// It was on a connection; nobody can say.
    MaybeSent,
}

/// Frames of a flow by what became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Outcomes {
    /// All that were taken over.
    pub(crate) accepted: u64,
    /// See [`Fate::Delivered`].
    pub(crate) delivered: u64,
    /// See [`Fate::NotSent`].
    pub(crate) not_sent: u64,
    /// See [`Fate::MaybeSent`].
    pub(crate) maybe_sent: u64,
}

#[derive(Debug)]
struct Slot<E> {
    first: u64,
    last: u64,
    entry: E,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct FlowOut<E> {
    /// What is not taken to its end, in order.
    slots: VecDeque<Slot<E>>,
    /// How many of them the present connection has.
    next: usize,
    /// Bytes of those.
    outstanding: u64,
    accepted: u64,
    submitted: u64,
    received: u64,
    taken: u64,
    /// What the peer said last on the present connection; none without one.
    said: Option<FlowState>,
    /// The most that the peer granted.
    granted: u64,
    /// The peer takes over nothing behind this number.
    cut: Option<u64>,
    /// Up to here nobody can say, once it is over.
    maybe: Option<u64>,
    fault: Planted,
}

impl<E> Default for FlowOut<E> {
    fn default() -> Self {
        Self {
            slots: VecDeque::new(),
            next: 0,
            outstanding: 0,
            accepted: 0,
            submitted: 0,
            received: 0,
            taken: 0,
            said: None,
            granted: 0,
            cut: None,
            maybe: None,
            fault: Planted::default(),
        }
    }
}

impl<E: Entry> FlowOut<E> {
    /// Before its first frame.
    pub(crate) fn new(fault: Planted) -> Self {
        Self { fault, ..Self::default() }
    }

    /// Takes frames over, and tells the number of the first; hands them back where none are taken any
    /// more.
    pub(crate) fn push(&mut self, entry: E) -> Result<u64, E> {
        if self.maybe.is_some() || self.cut.is_some() {
            return Err(entry);
        }
        let first = self.accepted + 1;
        self.accepted += entry.frames();
        self.slots.push_back(Slot { first, last: self.accepted, entry });
        Ok(first)
    }

    /// Lets `append` put frames behind those of the last entry, if no connection ever had that; with
    /// the number of the first frame that `append` adds.
    pub(crate) fn extend_last<T>(&mut self, append: impl FnOnce(u64, &mut E) -> T) -> Option<T> {
        if self.maybe.is_some() || self.cut.is_some() {
            return None;
        }
        let slot = self.slots.back_mut().filter(|slot| slot.first > self.submitted)?;
        let result = append(self.accepted + 1, &mut slot.entry);
        slot.last = slot.first + slot.entry.frames() - 1;
        self.accepted = slot.last;
        Some(result)
    }

    /// The next entry that may go, with the number of its first frame. Beyond what the peer grants
    /// only one entry alone may: an entry of several frames must fit the grant.
    pub(crate) fn next_to_submit(&self) -> Option<(u64, &E)> {
        let credit = self.said?.credit;
        let slot = self.slots.get(self.next).filter(|slot| self.is_wanted(slot))?;
        let fits = self.outstanding.saturating_add(slot.entry.bytes()) <= credit;
        (fits || self.outstanding == 0 && credit > 0).then_some((slot.first, &slot.entry))
    }

    /// As [`next_to_submit`](Self::next_to_submit), to make it ready for that.
    pub(crate) fn next_to_submit_mut(&mut self) -> Option<(u64, &mut E)> {
        self.next_to_submit()?;
        let slot = self.slots.get_mut(self.next)?;
        Some((slot.first, &mut slot.entry))
    }

    /// Of the entry that goes next, the frames that the peer has: where a stream begins with it, it begins
    /// behind them. One is left in any case.
    pub(crate) fn had_of_next(&self) -> u64 {
        self.slots.get(self.next).map_or(0, |slot| {
            (self.received + 1).saturating_sub(slot.first).min(slot.last - slot.first)
        })
    }

    fn is_wanted(&self, slot: &Slot<E>) -> bool {
        self.cut.is_none_or(|cut| slot.first <= cut)
    }

    /// The present connection has the entry that [`next_to_submit`](Self::next_to_submit) named.
    /// [`release_taken`](Self::release_taken) may have something then.
    pub(crate) fn submitted(&mut self) {
        let Some(slot) = self.slots.get(self.next) else { return };
        self.outstanding += slot.entry.bytes();
        self.submitted = self.submitted.max(slot.last);
        self.next += 1;
    }

    /// Something waits that the present connection does not have: for credit, or for its turn.
    pub(crate) fn is_waiting(&self) -> bool {
        self.slots.get(self.next).is_some_and(|slot| self.is_wanted(slot))
    }

    /// Whether nothing can be added to the entry that goes next.
    pub(crate) fn is_followed(&self) -> bool {
        self.next + 1 < self.slots.len()
    }

    /// Nothing can be submitted until the next [`resume`](Self::resume).
    pub(crate) fn link_lost(&mut self) {
        self.said = None;
    }

    /// Goes on over another connection, behind what the peer's Hello says to have received. That may
    /// be older than what is known here.
    ///
    /// # Errors
    ///
    /// [`FlowViolation`]: the peer cannot have that.
    pub(crate) fn resume(
        &mut self,
        peer: FlowState,
        mut release: impl FnMut(u64, E),
    ) -> Result<(), FlowViolation> {
        self.said = None;
        self.advance(self.heard(peer), &mut release)?;
        // A Hello may have left before the last word of a grant, which is said again.
        self.granted = self.granted.max(peer.credit);
        self.said = Some(peer);
        self.next = self.slots.partition_point(|slot| slot.last <= self.received);
        self.break_promise(&mut release);
        self.outstanding = self.slots.iter().take(self.next).map(|slot| slot.entry.bytes()).sum();
        Ok(())
    }

    /// The peer says on the present connection how far it is. Entries that were taken to their end go to
    /// `release`, with the number of their first frame.
    ///
    /// # Errors
    ///
    /// [`FlowViolation`]: the peer cannot have that.
    pub(crate) fn taken(
        &mut self,
        peer: FlowState,
        release: impl FnMut(u64, E),
    ) -> Result<(), FlowViolation> {
        let Some(before) = self.said else { return Ok(()) };
        let went_back = peer.received < before.received
            || peer.taken < before.taken
            || peer.credit < before.credit;
        if went_back {
            return Err(FlowViolation::WentBack { before, after: peer });
        }
        self.advance(peer, release)?;
        self.granted = self.granted.max(peer.credit);
        self.said = Some(peer);
        Ok(())
    }

    fn advance(
        &mut self,
        peer: FlowState,
        mut release: impl FnMut(u64, E),
    ) -> Result<(), FlowViolation> {
        let FlowState { received, taken, .. } = peer;
        if taken > received || received > self.submitted {
            let submitted = self.submitted;
            return Err(FlowViolation::NeverSent { received, taken, submitted });
        }
        self.received = self.received.max(received);
        self.taken = self.taken.max(taken);
        self.release_taken(&mut release);
        Ok(())
    }

    /// Entries that were taken to their end go to `release`. A connection's frames have no gaps: what it
    /// does not have goes over it all the same, although the peer got it over an earlier one meanwhile, and
    /// is released behind that. Without a connection nothing has to.
    pub(crate) fn release_taken(&mut self, release: &mut dyn FnMut(u64, E)) {
        while self.said.is_none() || self.next > 0 {
            let Some(slot) = self.pop_taken() else { break };
            if self.next > 0 {
                self.next -= 1;
                if !self.fault.is(FlowFault::CreditKept) {
                    self.outstanding -= slot.entry.bytes();
                }
            }
            release(slot.first, slot.entry);
        }
    }

    fn pop_taken(&mut self) -> Option<Slot<E>> {
        self.slots.front().filter(|slot| slot.last <= self.taken)?;
        self.slots.pop_front()
    }

    /// The peer takes over nothing behind `last`: what is there was not sent, goes to `unsent`, and
    /// nothing more is accepted.
    ///
    /// # Errors
    ///
    /// [`FlowViolation`]: the peer said before that it has more.
    pub(crate) fn cut(
        &mut self,
        last: u64,
        mut unsent: impl FnMut(u64, E),
    ) -> Result<(), FlowViolation> {
        if last < self.received || self.cut.is_some_and(|cut| cut != last) {
            let after = FlowState { received: last, taken: 0, credit: 0 };
            let before = FlowState { received: self.cut.unwrap_or(self.received), ..after };
            return Err(FlowViolation::WentBack { before, after });
        }
        self.cut = Some(last);
        let kept = self.slots.partition_point(|slot| slot.first <= last);
        let had = self.slots.iter().take(self.next).skip(kept);
        self.outstanding -= had.map(|slot| slot.entry.bytes()).sum::<u64>();
        self.next = self.next.min(kept);
        for slot in self.slots.drain(kept..) {
            unsent(slot.first, slot.entry);
        }
        Ok(())
    }

    /// The session is over, and this is what the peer received and took in the end, if that is known.
    /// What is left goes to `left`; [`fate`](Self::fate) tells of each of its frames what became of it.
    pub(crate) fn end(&mut self, known: Option<FlowState>, mut left: impl FnMut(u64, E)) {
        if self.maybe.is_some() {
            return;
        }
        // A peer that says more than it can have says nothing of use.
        let known = known.filter(|known| known.received <= self.submitted);
        let taken = known.map_or(0, |known| known.taken.min(known.received));
        self.taken = self.taken.max(taken);
        let seen = known.map_or(self.submitted, |known| known.received.max(self.received));
        self.maybe = Some(seen.min(self.cut.unwrap_or(seen)).max(self.taken));
        self.said = None;
        (self.next, self.outstanding) = (0, 0);
        for slot in std::mem::take(&mut self.slots) {
            left(slot.first, slot.entry);
        }
    }

    /// What became of a frame that was accepted; none while that is open.
    pub(crate) fn fate(&self, number: u64) -> Option<Fate> {
        if number <= self.taken {
            Some(Fate::Delivered)
        } else if self.cut.is_some_and(|cut| number > cut) {
            Some(Fate::NotSent)
        } else {
            let maybe = self.maybe?;
            Some(if number <= maybe { Fate::MaybeSent } else { Fate::NotSent })
        }
    }

    /// Frames by what became of them; those of which that is open are accepted alone.
    pub(crate) fn outcomes(&self) -> Outcomes {
        let open_to = self.maybe.or(self.cut).unwrap_or(self.accepted).min(self.accepted);
        Outcomes {
            accepted: self.accepted,
            delivered: self.taken,
            not_sent: self.accepted - open_to,
            maybe_sent: self.maybe.map_or(0, |maybe| maybe - self.taken),
        }
    }

    /// The most that the peer granted: an entry of several frames must not be larger.
    pub(crate) fn granted(&self) -> u64 {
        self.granted
    }

    /// The last number that was accepted.
    pub(crate) fn last_accepted(&self) -> u64 {
        self.accepted
    }

    /// The last number that any connection had.
    pub(crate) fn last_submitted(&self) -> u64 {
        self.submitted
    }

    /// The last number that the peer is known to have received.
    pub(crate) fn last_received(&self) -> u64 {
        self.received
    }

    /// The last number that the peer's application is known to have taken.
    pub(crate) fn last_taken(&self) -> u64 {
        self.taken
    }
}
