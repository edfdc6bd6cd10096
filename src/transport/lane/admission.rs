//! Waiting for room.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::SendLane;
use crate::frame::HEADER_BYTES;
use crate::lock::lock;
use crate::sync::Mutex;
use crate::transport::fault::{Fault, planted};
use crate::transport::link::fair::{Ticket, Turn};
use crate::transport::link::outgoing::{Admission, Group, Outgoing};
use crate::transport::link::room::{Cost, Short};
use crate::transport::node_room::WaitsForRoom;

impl<S: Clone> SendLane<S> {
    /// Reserves admission for one frame of `length` bytes without waiting.
    pub(in crate::transport) fn try_admit(&self, length: usize) -> Admission {
        let bytes = HEADER_BYTES + length;
        let mut state = self.state.lock();
        let admission = state.try_take(bytes);
        if admission != Admission::Full || state.fits(bytes) {
            return admission;
        }
        let turn = state.try_take_large_turn();
        drop(state);
        match turn {
            Admission::Granted(_) if self.node.try_take(bytes) => self.has_large(bytes),
            Admission::Granted(_) => {
                let freed = self.state.lock().leave_large_turn();
                self.freed(freed);
                Admission::Full
            }
            Admission::Full | Admission::Shut => turn,
        }
    }

    /// Why there was no admission for a frame of `length` bytes.
    pub(in crate::transport) fn short(&self, length: usize) -> Short {
        self.state.lock().short(HEADER_BYTES + length)
    }

    /// Reserves admission for one frame, in the order of asking; `at_node` is called when it is the
    /// node's room that is waited for. Cancel safe.
    pub(in crate::transport) async fn admit(
        &self,
        length: usize,
        at_node: impl FnOnce(),
    ) -> Admission {
        let bytes = HEADER_BYTES + length;
        if self.state.lock().fits(bytes) {
            let mut waits = Waits { lane: self, bytes, ticket: None };
            return poll_fn(|context| waits.poll(context)).await;
        }
        let mut turn = LargeTurn { lane: self, has: Has::Nothing };
        if poll_fn(|context| turn.poll(context)).await == Turn::Shut {
            return Admission::Shut;
        }
        at_node();
        let mut waits = AtNode::ask(self, bytes);
        if poll_fn(|context| waits.poll(context)).await == Turn::Shut {
            return Admission::Shut;
        }
        // Both are the frame's from here on, which gives them back behind it.
        waits.taken();
        turn.has = Has::Nothing;
        self.has_large(bytes)
    }

    /// The turn and so much of the node's room were taken.
    fn has_large(&self, bytes: usize) -> Admission {
        Admission::Granted(self.state.lock().has_large(bytes))
    }

    /// Gives admission back that was not used.
    pub(in crate::transport) fn give_back(&self, cost: Cost) {
        if cost.bytes > 0 {
            let freed = self.state.lock().give_back(cost);
            self.freed(freed);
        }
    }

    /// How many of the first frames may be admitted together, and what they cost.
    pub(in crate::transport) fn group(&self, frames: &VecDeque<Bytes>, length_max: usize) -> Group {
        Outgoing::<S, Waker>::group(frames, length_max, self.bytes_max)
    }

    /// Reserves `cost` bytes of the lane's own room without waiting.
    pub(in crate::transport) fn try_admit_group(&self, cost: usize) -> bool {
        matches!(self.state.lock().try_take(cost), Admission::Granted(_))
    }
}

/// Whoever waits for room of the lane, until it has it or gives up.
struct Waits<'a, S: Clone> {
    lane: &'a SendLane<S>,
    bytes: usize,
    ticket: Option<Ticket>,
}

impl<S: Clone> Waits<'_, S> {
    fn poll(&mut self, context: &Context<'_>) -> Poll<Admission> {
        let granted = Poll::Ready(Admission::Granted(Cost::usual(self.bytes)));
        let mut state = self.lane.state.lock();
        let Some(ticket) = self.ticket else {
            let (taken, freed) = state.take(self.bytes, context.waker().clone());
            drop(state);
            self.ticket = taken.err();
            self.lane.freed(freed);
            return if self.ticket.is_none() { granted } else { Poll::Pending };
        };
        match state.turn(ticket) {
            Turn::Waiting => {
                if planted(Fault::WakerComesBehindTheLook) {
                    drop(state);
                    state = self.lane.state.lock();
                }
                state.renew(ticket, context.waker().clone());
                Poll::Pending
            }
            Turn::Granted => {
                self.ticket = None;
                granted
            }
            Turn::Shut => Poll::Ready(Admission::Shut),
        }
    }
}

impl<S: Clone> Drop for Waits<'_, S> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            let freed = self.lane.state.lock().forget(ticket, self.bytes);
            self.lane.freed(freed);
        }
    }
}

/// Whoever waits to be the one whose frame goes beside the lane's room, or is.
struct LargeTurn<'a, S: Clone> {
    lane: &'a SendLane<S>,
    has: Has,
}

enum Has {
    Nothing,
    Asked(Ticket),
    Turn,
}

impl<S: Clone> LargeTurn<'_, S> {
    fn poll(&mut self, context: &Context<'_>) -> Poll<Turn> {
        let mut state = self.lane.state.lock();
        match self.has {
            Has::Nothing => match state.take_large_turn(context.waker().clone()) {
                Ok(()) => {
                    self.has = Has::Turn;
                    Poll::Ready(Turn::Granted)
                }
                Err(ticket) => {
                    self.has = Has::Asked(ticket);
                    Poll::Pending
                }
            },
            Has::Asked(ticket) => match state.large_turn(ticket) {
                Turn::Waiting => {
                    state.renew_large_turn(ticket, context.waker().clone());
                    Poll::Pending
                }
                Turn::Granted => {
                    self.has = Has::Turn;
                    Poll::Ready(Turn::Granted)
                }
                Turn::Shut => Poll::Ready(Turn::Shut),
            },
            Has::Turn => Poll::Ready(Turn::Granted),
        }
    }
}

impl<S: Clone> Drop for LargeTurn<'_, S> {
    fn drop(&mut self) {
        let mut state = self.lane.state.lock();
        let freed = match self.has {
            Has::Nothing => return,
            Has::Asked(ticket) => state.forget_large_turn(ticket),
            Has::Turn => state.leave_large_turn(),
        };
        drop(state);
        self.lane.freed(freed);
    }
}

/// Whoever has the turn and waits for room of the node.
struct AtNode<'a, S: Clone> {
    lane: &'a SendLane<S>,
    bytes: usize,
    place: Arc<Place>,
    ticket: Option<Ticket>,
}

/// Where the node's room puts what it grants.
struct Place(Mutex<Standing>);

struct Standing {
    stands: Stands,
    waker: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stands {
    Waiting,
    Granted,
    /// The one who asked has gone, or has used it.
    Gone,
}

impl WaitsForRoom for Place {
    fn granted(&self, bytes: usize) -> usize {
        let mut place = lock(&self.0);
        if place.stands == Stands::Gone {
            return bytes;
        }
        place.stands = Stands::Granted;
        let waker = place.waker.take();
        drop(place);
        if let Some(waker) = waker {
            waker.wake();
        }
        0
    }
}

impl<'a, S: Clone> AtNode<'a, S> {
    fn ask(lane: &'a SendLane<S>, bytes: usize) -> Self {
        let place = Arc::new(Place(Mutex::new(Standing { stands: Stands::Waiting, waker: None })));
        let weak: Weak<Place> = Arc::downgrade(&place);
        let ticket = lane.node.take(bytes, weak).err();
        if ticket.is_none() {
            lock(&place.0).stands = Stands::Granted;
        }
        Self { lane, bytes, place, ticket }
    }

    fn poll(&mut self, context: &Context<'_>) -> Poll<Turn> {
        let mut state = self.lane.state.lock();
        if state.shut_reason().is_some() {
            return Poll::Ready(Turn::Shut);
        }
        if planted(Fault::ShutMissesWhoComes) {
            drop(state);
            state = self.lane.state.lock();
        }
        state.waits_at_node(context.waker().clone());
        drop(state);
        let mut place = lock(&self.place.0);
        if place.stands == Stands::Granted {
            return Poll::Ready(Turn::Granted);
        }
        place.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// What was granted has an owner.
    fn taken(&self) {
        lock(&self.place.0).stands = Stands::Gone;
    }
}

impl<S: Clone> Drop for AtNode<'_, S> {
    fn drop(&mut self) {
        let stood = std::mem::replace(&mut lock(&self.place.0).stands, Stands::Gone);
        match (stood, self.ticket) {
            (Stands::Granted, _) => self.lane.node.give_back(self.bytes),
            (Stands::Waiting, Some(ticket)) => self.lane.node.forget(ticket),
            (Stands::Waiting, None) | (Stands::Gone, _) => return,
        }
        self.lane.state.alarm().look();
    }
}
