//! What a connection can be asked, and how its handle asks.

use bytes::Bytes;
use ractor::{ActorRef, DerivedActorRef, RpcReplyPort};

use crate::actors::frame_batch::{FrameBatch, ReceivedFrame};
use crate::actors::handle::ConnectionHandle;
use crate::actors::sending::credit::Credit;
use crate::actors::stats::ConnectionStats;
use crate::error::{CloseCode, CloseReason, RecvError, SendError, SendManyError};
use crate::transport::Lane;
use crate::transport::core::{Deadline, Notice};

/// What a connection can be asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectionMessage {
    /// Send one frame. The credit bounds what can be queued; the reply comes with the outcome.
    Send {
        /// The payload.
        frame: Bytes,
        /// Room for it, from [`ConnectionHandle::reserve`].
        credit: Credit,
        /// Told when the peer's transport has acknowledged the frame, or why not.
        reply: Option<RpcReplyPort<Result<(), SendError>>>,
    },
    /// Send many frames, in order; frames of others may come between them.
    ///
    /// All of them are taken over, or, if the credit does not cover them together or one is over
    /// `Limits::frame_bytes_max`, none.
    SendMany {
        /// The payloads.
        frames: Vec<Bytes>,
        /// Room for all of them, from [`ConnectionHandle::reserve_many`].
        credit: Credit,
        /// Told once the end of every frame is known: all were acknowledged, or which were not.
        reply: Option<RpcReplyPort<Result<(), SendManyError>>>,
    },
    /// Room for the frames of a [`Send`](Self::Send) or [`SendMany`](Self::SendMany), as
    /// [`ConnectionHandle::reserve_on`] gives it.
    Reserve {
        /// For a message on this lane.
        lane: Lane,
        /// For so many frames.
        frames: usize,
        /// Of so many bytes together.
        length: usize,
        /// Told the credit when there is room, at most after `Limits::stream_op_timeout`; at once
        /// [`SendError::Full`] where 1,024 callers wait already.
        reply: RpcReplyPort<Result<Credit, SendError>>,
    },
    /// Give the next frame. If the caller is gone when it comes, the frame stays for the next.
    Recv {
        /// On which lane; `None` for all of them.
        lane: Option<Lane>,
        /// Told the frame, or why there is none.
        reply: RpcReplyPort<Result<ReceivedFrame, RecvError>>,
    },
    /// Give every frame to an actor from here on; other readers are refused.
    Subscribe {
        /// Gets the frames in batches; a batch that is dropped opens the peer's window again.
        subscriber: DerivedActorRef<FrameBatch>,
        /// Told whether it worked: there is one subscriber at most.
        reply: Option<RpcReplyPort<bool>>,
    },
    /// Drain and close. Repeating it changes nothing.
    Close {
        /// The code the peer is told.
        code: CloseCode,
        /// Told the reason when it is over.
        reply: Option<RpcReplyPort<CloseReason>>,
    },
    /// Tell when it is over.
    WatchClose {
        /// Told the reason; dropped without an answer where 1,024 callers wait already.
        reply: RpcReplyPort<CloseReason>,
    },
    /// How it is doing.
    Stats {
        /// Told the numbers.
        reply: RpcReplyPort<ConnectionStats>,
    },
    /// From the connection's own callbacks and timers.
    Internal(Internal),
}

/// What only the connection tells itself.
#[derive(Debug)]
#[allow(unnameable_types, reason = "opaque: only the connection makes one")]
pub struct Internal(pub(in crate::actors) Event);

#[derive(Debug)]
pub(in crate::actors) enum Event {
    Transport(Notice),
    Deadline(Deadline),
    ReadersGone,
    CloseDeadline,
    #[cfg(test)]
    Panic,
}

impl ConnectionMessage {
    #[cfg(test)]
    pub(in crate::actors) fn panic() -> Self {
        Self::Internal(Internal(Event::Panic))
    }
}

impl ConnectionHandle {
    /// The actor that owns the connection, for those who talk to it by message.
    #[must_use]
    pub fn actor(&self) -> ActorRef<ConnectionMessage> {
        self.cell().clone().into()
    }

    /// Accepts no more frames, sends those that were accepted, ends both directions and closes
    /// with `code`; cut after `Limits::close_time_max`. Returns the reason that counted: the first.
    ///
    /// A connector that keeps this peer takes it as the end of its work.
    ///
    /// # Cancel safety
    ///
    /// The close goes on when it is cancelled.
    pub async fn close(&self, code: CloseCode) -> CloseReason {
        if self.actor().cast(ConnectionMessage::Close { code, reply: None }).is_err() {
            self.core().cut(code);
        }
        self.closed().await
    }
}
