//! Readers by message: one frame for a reply port, all of them for an actor.

use std::sync::{Arc, Weak};

use ractor::{ActorStatus, DerivedActorRef, RpcReplyPort};

use super::frame_batch::{FrameBatch, ReceivedFrame};
use super::handle::{ConnectionHandle, WeakHandle};
use super::tasks::answer;
use crate::error::RecvError;
use crate::transport::Lane;
use crate::transport::core::{ConnectionCore, From, IsGone, Lent, Reader, Received, Subscriber};

type Reply = RpcReplyPort<Result<ReceivedFrame, RecvError>>;

/// Answers `reply` with the next frame, of one lane or of all.
pub(super) fn read_later(core: &Arc<ConnectionCore>, lane: Option<Lane>, reply: Reply) {
    let reader = Box::new(PortReader { core: Arc::downgrade(core), reply });
    core.read_later(lane.map_or(From::All, From::Lane), reader);
}

/// Gives every frame of `connection` to `subscriber` from here on.
pub(super) fn subscribe(
    connection: &ConnectionHandle,
    subscriber: DerivedActorRef<FrameBatch>,
    reply: Option<RpcReplyPort<bool>>,
) {
    let cell = subscriber.get_cell();
    let is_gone: IsGone =
        Arc::new(move || matches!(cell.get_status(), ActorStatus::Stopping | ActorStatus::Stopped));
    let weak = connection.downgrade();
    let to = ActorSubscriber { subscriber, connection: weak, is_gone: Arc::clone(&is_gone) };
    let subscribed = connection.core().subscribe(Box::new(to), is_gone);
    if let Some(reply) = reply {
        answer(reply, subscribed);
    }
}

/// Answers one reader by message.
struct PortReader {
    core: Weak<ConnectionCore>,
    reply: Reply,
}

impl Reader for PortReader {
    fn is_gone(&self) -> bool {
        self.reply.is_closed()
    }

    fn give(self: Box<Self>, result: Result<Received, RecvError>) -> Result<(), Received> {
        let Self { core, reply } = *self;
        let result = match (result, core.upgrade()) {
            (Ok(received), Some(core)) => Ok(ReceivedFrame::new(core, received)),
            (Ok(received), None) => return Err(received),
            (Err(error), _) => Err(error),
        };
        match reply.send(result) {
            Err(ractor::MessagingErr::SendErr(Ok(frame))) => frame.refuse().map_or(Ok(()), Err),
            _ => Ok(()),
        }
    }
}

/// Gives every frame to an actor.
struct ActorSubscriber {
    subscriber: DerivedActorRef<FrameBatch>,
    /// Weak, because the connection keeps its subscriber.
    connection: WeakHandle,
    is_gone: IsGone,
}

impl Subscriber for ActorSubscriber {
    fn give(&mut self, lent: Lent) -> Result<(), Lent> {
        let Some(connection) = self.connection.upgrade() else { return Err(lent) };
        let batch = FrameBatch::new(connection, Arc::clone(&self.is_gone), lent);
        match self.subscriber.send_message(batch) {
            Err(ractor::MessagingErr::SendErr(batch)) => Err(batch.refuse()),
            // A batch that a subscriber of the wrong type got has gone back by its drop.
            _ => Ok(()),
        }
    }
}
