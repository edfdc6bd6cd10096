//! Frames in: performs what [`Inbound`] says, and lets readers wait.
//!
//! Invariant: nothing of anybody else runs under the lock: streams are resumed, readers woken and other
//! connections given room behind it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::intake::{Perform, Waited};
use super::readers::{IsGone, Reader, Received, Subscriber};
use super::{ConnectionCore, Deadline, Notice};
use crate::error::{CloseCode, CloseReason, RecvError};
use crate::frame::Position;
use crate::transport::clock;
use crate::transport::fault::{Fault, planted};
use crate::transport::link::inbound::{Effects, From, Inbound, InboundCounts, Lent, Look, Reading};
use crate::transport::link::lanes::Lane;
use crate::transport::link::room::Short;
use crate::transport::node_room::WaitsForRoom;
use crate::transport::stream::{InStream, StreamOwner};

// What readers call.
impl ConnectionCore {
    /// Takes the next frame of `from`. Nothing is awaited behind the taking.
    pub(crate) async fn recv(&self, from: From) -> Result<Received, RecvError> {
        loop {
            // A reader that never has to wait would keep its runtime's thread for itself.
            tokio::task::consume_budget().await;
            if let Some(taken) = self.try_recv(from)? {
                if planted(Fault::AwaitBehindTaking) {
                    tokio::task::yield_now().await;
                }
                return Ok(taken);
            }
            if self.end_untold.swap(false, Ordering::AcqRel) {
                return Err(RecvError::EndOfStream { position: Position::Boundary });
            }
            self.wait_for_frame(from).await;
        }
    }

    /// As [`ConnectionCore::recv`], for many frames at once.
    pub(crate) async fn recv_many(
        &self,
        from: From,
        into: &mut Vec<Bytes>,
        max: usize,
    ) -> Result<usize, RecvError> {
        loop {
            tokio::task::consume_budget().await;
            let reading = self.intake.as_reader(|inbound| inbound.take_many(from, into, max))?;
            self.after_taking(from, reading.effects);
            if let Some(taken) = reading.found {
                return taken;
            }
            self.wait_for_frame(from).await;
        }
    }

    /// The next frame of `from`, if there is one.
    pub(crate) fn try_recv(&self, from: From) -> Result<Option<Received>, RecvError> {
        let Reading { found, effects } = self.intake.as_reader(|inbound| inbound.take(from))?;
        self.after_taking(from, effects);
        found.transpose()
    }

    /// The next frame of `stream` alone.
    pub(in crate::transport) async fn recv_from_stream(
        &self,
        stream: &InStream<Self>,
    ) -> Result<(Bytes, Duration), RecvError> {
        let from = From::Stream(stream.id());
        loop {
            tokio::task::consume_budget().await;
            if let Some(taken) = self.try_recv(from)? {
                return Ok((taken.frame, taken.took));
            }
            if let Some(end) = stream.ended_with()
                && !self.intake.frames.lock().inbound.has_something(from)
            {
                return Err(end);
            }
            self.wait_for_frame(from).await;
        }
    }

    /// Waits until something may be there; where no owner watches deadlines, the reader does.
    async fn wait_for_frame(&self, from: From) {
        let look = |inbound: &mut Inbound<Arc<InStream<Self>>>| match self.has_owner() {
            true => Look::Nothing,
            false => inbound.look(clock::now()),
        };
        if self.intake.wait(from, look).await == Waited::Overdue {
            self.check_frames();
        }
    }

    /// Gives the next result of `from` to `reader`, now or when it comes; behind those that asked
    /// before.
    pub(crate) fn read_later(&self, from: From, reader: Box<dyn Reader>) {
        self.intake.read_later(from, reader, self);
    }

    /// Gives every frame to `subscriber` from here on. There is one reader: others are refused.
    pub(crate) fn subscribe(&self, subscriber: Box<dyn Subscriber>, is_gone: IsGone) -> bool {
        self.intake.subscribe(subscriber, is_gone, self)
    }

    /// Frames that were lent and reached nobody come first again.
    pub(crate) fn put_back(&self, lent: Lent) {
        let effects = self.intake.frames.lock().inbound.put_back(lent);
        self.perform(effects);
        self.intake.deliver(self);
    }

    /// A subscriber is done with frames that count for `cost`.
    pub(crate) fn return_lent(&self, cost: usize) {
        let effects = self.intake.frames.lock().inbound.return_lent(cost);
        self.perform(effects);
        self.intake.deliver(self);
    }

    /// Streams of the peer's of which anything is remembered.
    #[cfg(test)]
    pub(in crate::transport) fn streams_remembered(&self) -> usize {
        self.intake.frames.lock().inbound.streams()
    }

    pub(crate) fn inbound_counts(&self) -> InboundCounts {
        self.intake.frames.lock().inbound.counts()
    }

    /// The oldest stream of the peer's that can still deliver.
    pub(in crate::transport) fn first_stream(&self) -> Option<Arc<InStream<Self>>> {
        self.intake.frames.lock().inbound.first_stream()
    }

    /// Performs what taking asks for, and passes the wake-up on if more is there.
    fn after_taking(&self, from: From, effects: Effects<Arc<InStream<Self>>>) {
        self.perform(effects);
        self.intake.pass_on(from);
    }
}

// What follows from a change.
impl ConnectionCore {
    /// The connection is over: readers get what is left, then `reason`.
    pub(super) fn close_inbound(&self, reason: &CloseReason) {
        let (effects, ticket) = {
            let mut state = self.intake.frames.lock();
            let effects = state.inbound.close(RecvError::Closed { reason: reason.clone() });
            (effects, state.ticket.take())
        };
        if let Some(ticket) = ticket {
            self.bounds.large.forget(ticket);
        }
        self.perform(effects);
        self.intake.waiting.wake_everybody();
        self.intake.deliver(self);
    }

    /// A frame is not whole: somebody must watch whether it goes on.
    fn frame_began(&self) {
        if self.has_owner() {
            self.notify(Notice::Began(Deadline::Frames));
        } else {
            // Readers look after it themselves.
            self.intake.waiting.wake_everybody();
        }
    }

    /// Ends the connection if a frame is not whole for too long; otherwise tells when to look
    /// again, if there is anything to look at.
    pub(super) fn check_frames(&self) -> Option<Instant> {
        let look = self.intake.frames.lock().inbound.look(clock::now());
        match look {
            Look::Nothing => None,
            Look::At(next) => Some(next),
            Look::Overdue { after, position } => {
                let error = RecvError::FrameTimedOut { after, position };
                self.fail_inbound(error, CloseCode::FRAME_TIMEOUT);
                None
            }
        }
    }
}

impl ConnectionCore {
    /// Does what is to be done outside the lock, but for what is asked for.
    fn perform_once(&self, effects: Effects<Arc<InStream<Self>>>) {
        for stream in effects.resume {
            stream.resume();
        }
        if let Some(short) = effects.paused {
            self.had_to_pause(short);
        }
        for lane in Lane::ALL {
            if effects.wake[lane as usize] {
                self.intake.waiting.wake(lane);
            }
        }
        if effects.watch {
            self.frame_began();
        }
        if effects.end_taken {
            self.end_taken.store(true, Ordering::Release);
            // An owner answers the end; where there is none, a reader is told.
            self.end_untold.store(!self.has_owner(), Ordering::Release);
            self.intake.waiting.wake_everybody();
            self.notify(Notice::EndTaken);
        }
        if effects.give_back > 0 {
            self.bounds.large.give_back(effects.give_back);
        }
    }
}

impl Perform<Arc<InStream<Self>>> for ConnectionCore {
    fn perform(&self, mut effects: Effects<Arc<InStream<Self>>>) {
        loop {
            let ask = effects.ask;
            self.perform_once(effects);
            let Some(bytes) = ask else { break };
            let mut state = self.intake.frames.lock();
            let waiter = self.weak.clone();
            match self.bounds.large.take(bytes, waiter) {
                Ok(()) => effects = state.inbound.granted(bytes),
                Err(ticket) => {
                    state.ticket = Some(ticket);
                    self.had_to_pause(Short::Beside);
                    break;
                }
            }
        }
        self.look_for_marks();
    }
}

impl WaitsForRoom for ConnectionCore {
    fn granted(&self, bytes: usize) -> usize {
        let mut effects = {
            let mut state = self.intake.frames.lock();
            state.ticket = None;
            state.inbound.granted(bytes)
        };
        // The one who gave it to us goes on with what we do not need.
        let unused = std::mem::take(&mut effects.give_back);
        self.perform(effects);
        unused
    }
}
