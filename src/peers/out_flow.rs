//! One flow out, as many threads use it: the ledger of what was accepted, its room, and the stream of the
//! connection that it goes over now.
//!
//! Whoever finds nobody submitting submits; each acknowledgement and each grant of the peer's submits the
//! next. What a change brings with it is done outside the lock: nothing of a caller's runs under it.

mod ending;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::sync::Notify;

use super::kept::{Kept, Left};
use super::room::Keeping;
use crate::config::FLOW_GRANT_MIN;
use crate::failpoint::flow_fault;
use crate::lock::lock;
use crate::session::flow::FlowState;
use crate::session::flow_out::{Entry, Fate, FlowOut, FlowViolation, Outcomes};
use crate::session::frame_head::{FRAME_HEAD_BYTES_MAX, FrameHead};
use crate::transport::Limit;
use crate::transport::core::ConnectionCore;
use crate::transport::link::fair::{Granted, Ticket, Turn};
use crate::transport::link::flight::Path;
use crate::transport::link::room::Room;
use crate::transport::session_streams::{OutStream, Parts};

/// Bytes that are counted for somebody who waits by message for what becomes of a frame: as for frames of
/// connections.
pub(super) const OUTCOME_BYTES: usize = crate::transport::link::outcome::OUTCOME_BYTES;

/// See the module.
pub(super) struct OutFlow {
    state: Mutex<State>,
    /// More was taken, or the flow is over.
    progress: Notify,
}

struct State {
    ledger: FlowOut<Kept>,
    room: Room<Waker>,
    keeping: Arc<Keeping>,
    /// What it kept when it lost its connection; 0 with one.
    carried: usize,
    /// Of the connection that it goes over; 0 for none.
    generation: u64,
    stream: Option<Arc<OutStream<ConnectionCore>>>,
    in_flight: usize,
    in_flight_bytes: usize,
    /// Of the connection, as it was last known.
    path: Path,
    /// Somebody is handing over.
    submitting: bool,
    /// Nothing is accepted any more.
    shut: bool,
    unsent: Vec<Bytes>,
}

/// Why a frame was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotAccepted {
    /// By which limit.
    Full(Limit),
    Shut,
}

/// What is to be handed over next.
pub(super) struct Submission {
    /// Number of the first frame that it carries.
    pub(super) first: u64,
    pub(super) stream: Option<Arc<OutStream<ConnectionCore>>>,
    pub(super) parts: Parts,
    pub(super) bytes: usize,
}

impl OutFlow {
    /// Keeps up to `bytes_max`, as far as all sessions of the node may. It has no connection yet.
    pub(super) fn new(keeping: &Arc<Keeping>, bytes_max: usize) -> Self {
        let state = State {
            ledger: FlowOut::new(flow_fault()),
            room: Room::wide(keeping.share(bytes_max)),
            keeping: Arc::clone(keeping),
            carried: 0,
            generation: 0,
            stream: None,
            in_flight: 0,
            in_flight_bytes: 0,
            path: Path::default(),
            submitting: false,
            shut: false,
            unsent: Vec::new(),
        };
        Self { state: Mutex::new(state), progress: Notify::new() }
    }

    // ---- frames in

    /// Room that a payload of `length` bytes takes.
    pub(super) fn cost(length: usize) -> usize {
        FRAME_HEAD_BYTES_MAX + length
    }

    /// Takes room without waiting.
    pub(super) fn try_admit(&self, cost: usize) -> Result<(), NotAccepted> {
        let mut state = lock(&self.state);
        match (state.shut, state.room.try_take(cost)) {
            (true, true) => {
                // Nobody waits for room of a flow that is shut.
                drop(state.room.give_back(cost));
                Err(NotAccepted::Shut)
            }
            (true, false) => Err(NotAccepted::Shut),
            (false, true) => Ok(()),
            (false, false) => Err(NotAccepted::Full(state.short())),
        }
    }

    /// Takes room, in the order of asking; an error is [`NotAccepted::Shut`]. Cancel safe.
    pub(super) async fn admit(&self, cost: usize) -> Result<(), NotAccepted> {
        let mut waits = Waits { flow: self, cost, ticket: None };
        poll_fn(|context| waits.poll(context)).await
    }

    /// Gives room back that was not used.
    pub(super) fn give_back(&self, cost: usize) {
        let granted = lock(&self.state).room.give_back(cost);
        wake(granted);
    }

    /// Takes a frame over for which room was taken, and tells its number, and whether something may go out now
    /// and nobody is at it; `register` is called with the number before anybody else can know it. A frame
    /// that is not taken over comes back.
    pub(super) fn push(
        &self,
        head: FrameHead,
        frame: Bytes,
        register: impl FnOnce(u64),
    ) -> Result<(u64, bool), Bytes> {
        let cost = Self::cost(frame.len());
        let state = lock(&self.state);
        if state.shut {
            drop(state);
            self.give_back(cost);
            return Err(frame);
        }
        Ok(State::accept(state, head, frame, register))
    }

    /// As [`push`](Self::push), and takes the room for it if that is there.
    pub(super) fn offer(
        &self,
        head: FrameHead,
        frame: Bytes,
    ) -> Result<(u64, bool), (NotAccepted, Bytes)> {
        let cost = Self::cost(frame.len());
        let mut state = lock(&self.state);
        if state.shut {
            return Err((NotAccepted::Shut, frame));
        }
        if !state.room.try_take(cost) {
            return Err((NotAccepted::Full(state.short()), frame));
        }
        Ok(State::accept(state, head, frame, |_| {}))
    }

    // ---- handing over

    /// What to hand over next to the connection of this generation, if this caller is the one to do it:
    /// [`OutFlow::handed_over`] must follow. It counts as submitted from here on, since the peer may say
    /// that it has it before the handing over returns.
    pub(super) fn next(
        &self,
        generation: u64,
        path: Path,
        left: impl Fn(u64) -> Left,
    ) -> Option<Submission> {
        let mut released = Vec::new();
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let is_its = generation > 0 && state.generation == generation;
        state.path = path;
        if state.submitting || !is_its || !state.may_submit() {
            return None;
        }
        // A link that breaks again and again gets on by each frame that it carries.
        let had = if state.stream.is_none() { state.ledger.had_of_next() } else { 0 };
        let (first, kept) = state.ledger.next_to_submit_mut()?;
        let (parts, bytes) =
            (kept.parts(had, left), usize::try_from(kept.bytes()).unwrap_or(usize::MAX));
        state.submitting = true;
        state.ledger.submitted();
        state.in_flight += 1;
        state.in_flight_bytes += bytes;
        state.ledger.release_taken(&mut |_, kept| released.push(kept));
        let granted = state.release(&released);
        let stream = state.stream.clone();
        drop(guard);
        wake(granted);
        Some(Submission { first: first + had, stream, parts, bytes })
    }

    /// The submission was handed over on this stream; otherwise its connection is ending.
    pub(super) fn handed_over(
        &self,
        generation: u64,
        stream: Option<Arc<OutStream<ConnectionCore>>>,
    ) {
        let mut state = lock(&self.state);
        state.submitting = false;
        if state.generation == generation && state.stream.is_none() {
            state.stream = stream;
        }
    }

    /// A submission on the connection of this generation met its end there.
    pub(super) fn acknowledged(&self, generation: u64, bytes: usize) {
        let mut state = lock(&self.state);
        if state.generation == generation {
            state.in_flight = state.in_flight.saturating_sub(1);
            state.in_flight_bytes = state.in_flight_bytes.saturating_sub(bytes);
        }
    }

    // ---- connections

    /// It goes over the connection of this generation from here on, behind what the peer received.
    pub(super) fn attach(&self, generation: u64, peer: FlowState) -> Result<(), FlowViolation> {
        let mut released = Vec::new();
        let mut state = lock(&self.state);
        let mut granted = state.detach();
        granted.extend(state.attach(generation));
        let resumed = state.ledger.resume(peer, |_, kept| released.push(kept));
        granted.extend(state.release(&released));
        drop(state);
        self.told(granted);
        resumed
    }

    /// It goes over no connection.
    pub(super) fn detach(&self) {
        let granted = lock(&self.state).detach();
        wake(granted);
    }

    /// The peer says how far it is.
    pub(super) fn taken(&self, peer: FlowState) -> Result<(), FlowViolation> {
        let mut released = Vec::new();
        let mut state = lock(&self.state);
        let result = state.ledger.taken(peer, |_, kept| released.push(kept));
        let granted = state.release(&released);
        drop(state);
        self.told(granted);
        result
    }

    // ---- the end

    /// Nothing is accepted any more.
    pub(super) fn shut(&self) {
        let mut state = lock(&self.state);
        state.shut = true;
        let waiting = state.room.shut();
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    // ---- facts

    /// What became of a frame that was accepted; waits until that is known. Cancel safe.
    pub(super) async fn fate(&self, number: u64) -> Fate {
        loop {
            let progress = self.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            if let Some(fate) = lock(&self.state).ledger.fate(number) {
                return fate;
            }
            progress.await;
        }
    }

    pub(super) fn outcomes(&self) -> Outcomes {
        lock(&self.state).ledger.outcomes()
    }

    pub(super) fn last_accepted(&self) -> u64 {
        lock(&self.state).ledger.last_accepted()
    }

    pub(super) fn last_submitted(&self) -> u64 {
        lock(&self.state).ledger.last_submitted()
    }

    pub(super) fn fate_now(&self, number: u64) -> Option<Fate> {
        lock(&self.state).ledger.fate(number)
    }

    fn told(&self, granted: Granted<Waker>) {
        wake(granted);
        self.progress.notify_waiters();
    }
}

impl State {
    /// Adds a frame for which room was taken; see [`OutFlow::push`].
    fn accept(
        mut state: MutexGuard<'_, Self>,
        head: FrameHead,
        frame: Bytes,
        register: impl FnOnce(u64),
    ) -> (u64, bool) {
        let cost = OutFlow::cost(frame.len());
        let (number, copied) = state.append(head, frame, cost);
        register(number);
        let may_go = state.may_go();
        drop(state);
        drop(copied);
        (number, may_go)
    }

    /// Adds a frame for which room was taken; tells its number. A payload that was copied comes back, to be
    /// dropped outside of the lock.
    fn append(&mut self, head: FrameHead, frame: Bytes, cost: usize) -> (u64, Option<Bytes>) {
        self.room.begin();
        let mut frame = Some(frame);
        let mut copied = None;
        // What goes out together may not be more than the peer takes.
        let together = self.ledger.granted().max(FLOW_GRANT_MIN as u64);
        let appended = self.ledger.extend_last(|number, kept| {
            if kept.is_full() || kept.bytes() + cost as u64 > together {
                return None;
            }
            copied = frame.take().and_then(|frame| kept.push(number, head, frame, cost));
            Some(number)
        });
        if let Some(number) = appended.flatten() {
            return (number, copied);
        }
        let mut kept = Kept::new();
        let number = self.ledger.last_accepted() + 1;
        copied = frame.take().and_then(|frame| kept.push(number, head, frame, cost));
        // It takes everything that is not shut.
        drop(self.ledger.push(kept));
        (number, copied)
    }

    /// Whether something may go out now and nobody is at it: who is looks again behind that.
    fn may_go(&self) -> bool {
        !self.submitting
            && self.generation > 0
            && self.may_submit()
            && self.ledger.next_to_submit().is_some()
    }

    /// As on a lane of a connection: what is not full gathers while enough is on its way.
    fn may_submit(&self) -> bool {
        let is_full = || {
            let next = self.ledger.next_to_submit();
            self.ledger.is_followed() || next.is_some_and(|(_, kept)| kept.is_full())
        };
        self.path.may_submit(self.in_flight, self.in_flight_bytes, is_full)
    }

    fn attach(&mut self, generation: u64) -> Granted<Waker> {
        self.generation = generation;
        self.keeping.carry(std::mem::take(&mut self.carried), 0);
        self.room.move_to(self.keeping.budget(true))
    }

    fn detach(&mut self) -> Granted<Waker> {
        let had_one = std::mem::take(&mut self.generation) > 0;
        self.stream = None;
        (self.in_flight, self.in_flight_bytes) = (0, 0);
        self.ledger.link_lost();
        if !had_one {
            return Vec::new();
        }
        self.carried = self.room.used();
        self.keeping.carry(0, self.carried);
        self.room.move_to(self.keeping.budget(false))
    }

    /// Which limit keeps a frame from being accepted.
    fn short(&self) -> Limit {
        match (self.room.is_reduced(), self.generation > 0) {
            (false, _) => Limit::FlowBytes,
            (true, true) => Limit::KeptBytes,
            (true, false) => Limit::AbsentBytes,
        }
    }

    fn release(&mut self, released: &[Kept]) -> Granted<Waker> {
        let cost = released.iter().map(|kept| kept.cost).sum();
        let outcomes = self.ledger.outcomes();
        let at_rest = outcomes.delivered == outcomes.accepted;
        self.room.free(cost, at_rest)
    }
}

fn wake(granted: Granted<Waker>) {
    granted.into_iter().for_each(|grant| grant.waiter.wake());
}

/// Whoever waits for room, until it has it or gives up.
struct Waits<'a> {
    flow: &'a OutFlow,
    cost: usize,
    ticket: Option<Ticket>,
}

impl Waits<'_> {
    fn poll(&mut self, context: &Context<'_>) -> Poll<Result<(), NotAccepted>> {
        let mut state = lock(&self.flow.state);
        if state.shut {
            return Poll::Ready(Err(NotAccepted::Shut));
        }
        let Some(ticket) = self.ticket else {
            let (taken, granted) = state.room.take(self.cost, context.waker().clone());
            drop(state);
            self.ticket = taken.err();
            wake(granted);
            return if self.ticket.is_none() { Poll::Ready(Ok(())) } else { Poll::Pending };
        };
        match state.room.turn(ticket) {
            Turn::Waiting => {
                state.room.renew(ticket, context.waker().clone());
                Poll::Pending
            }
            Turn::Granted => {
                self.ticket = None;
                Poll::Ready(Ok(()))
            }
            Turn::Shut => Poll::Ready(Err(NotAccepted::Shut)),
        }
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            let granted = lock(&self.flow.state).room.forget(ticket, self.cost);
            wake(granted);
        }
    }
}
