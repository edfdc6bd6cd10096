//! What the actor of a session can be asked.

use std::time::Duration;

use bytes::Bytes;
use ractor::{ActorId, DerivedActorRef, RpcReplyPort};

use crate::actors::peer_batch::PeerBatch;
use crate::actors::watching::PeerNews;
use crate::error::CloseCode;
use crate::peers::credit::PeerCredit;
use crate::peers::delivery::DeliveryCounts;
use crate::peers::error::{PeerEnded, PeerSendError, PeerSendManyError, RequestError};
use crate::peers::handle::{Peer, Receipt};
use crate::transport::Lane;

/// What the actor of a session can be asked: all that a [`Peer`] can.
///
/// The actor keeps nothing: frames, requests, subscriptions and watches are the session's. Where it fails and
/// is started again none of them is lost. What was in its mailbox is not done then, and its reply ports are
/// dropped: of a frame this means that it was not accepted. (Where there is no port nobody is told.)
///
/// It holds the session until [`Leave`](Self::Leave), or the end of the session and a minute more, in
/// which what was not sent can be taken.
#[derive(Debug)]
#[non_exhaustive]
pub enum PeerMessage {
    /// Room for the frames of a message, as [`Peer::reserve_on`] gives it.
    Reserve {
        /// For a message on this lane.
        lane: Lane,
        /// For so many frames.
        frames: usize,
        /// Of so many bytes together.
        length: usize,
        /// Told the credit when there is room, or [`PeerSendError::Full`]: after
        /// `Limits::stream_op_timeout`, or at once where 1,024 callers wait already.
        reply: RpcReplyPort<Result<PeerCredit, PeerSendError>>,
    },
    /// Accept one frame. The credit bounds what can be queued.
    Send {
        /// The payload.
        frame: Bytes,
        /// Room for it.
        credit: PeerCredit,
        /// Told once the peer's application has taken it, or why not.
        reply: Option<RpcReplyPort<Result<(), PeerSendError>>>,
    },
    /// Accept many frames, in order: all of them, or none. Frames of others may come between them.
    SendMany {
        /// The payloads.
        frames: Vec<Bytes>,
        /// Room for all of them.
        credit: PeerCredit,
        /// Told once the peer's application has taken all of them, or what became of each.
        reply: Option<RpcReplyPort<Result<(), PeerSendManyError>>>,
    },
    /// Accept one frame, and tell so at once.
    SendTracked {
        /// The payload.
        frame: Bytes,
        /// Room for it.
        credit: PeerCredit,
        /// Told what tells later what became of it.
        reply: RpcReplyPort<Result<Receipt, PeerSendError>>,
    },
    /// Ask the peer. It is cancelled within 250 ms once nobody waits for the answer.
    Request {
        /// On which lane.
        lane: Lane,
        /// The payload.
        frame: Bytes,
        /// How long the answer may take, however many connections that takes.
        time: Duration,
        /// Told the answer; at once [`RequestError::TooMany`] where 1,024 requests by message wait already.
        reply: RpcReplyPort<Result<Bytes, RequestError>>,
    },
    /// Give what the peer sends to an actor from here on.
    Subscribe {
        /// Gets it in batches; the next batch comes when the one before it is dropped.
        subscriber: DerivedActorRef<PeerBatch>,
        /// Told whether it worked: there is one subscriber at most.
        reply: Option<RpcReplyPort<bool>>,
    },
    /// End the subscription; what was not taken is what the next reader gets.
    Unsubscribe {
        /// Told whether there was one.
        reply: Option<RpcReplyPort<bool>>,
    },
    /// Tell an actor what happens to the peer from here on, beginning with whether it has a connection.
    Watch {
        /// Is told; the next word comes when the one before it is dropped.
        watcher: DerivedActorRef<PeerNews>,
        /// Told whether it worked: at most 64 actors watch a peer.
        reply: Option<RpcReplyPort<bool>>,
    },
    /// End a watch. What is on its way still comes.
    Unwatch {
        /// Of which actor.
        watcher: ActorId,
    },
    /// End the session once everything was taken. Repeating it changes nothing.
    Close {
        /// The code the peer is told.
        code: CloseCode,
        /// Told how it ended; dropped without an answer where 1,024 callers wait already.
        reply: Option<RpcReplyPort<PeerEnded>>,
    },
    /// Let go of the session: it ends at once, unless somebody else holds it. The actor ends.
    Leave,
    /// Give frames that were accepted and not sent, once the session is over.
    TakeUnsent {
        /// Told them, each once; if the caller is gone they stay.
        reply: RpcReplyPort<Vec<(Lane, Bytes)>>,
    },
    /// Tell what became of the frames and requests of each of [`Lane::ALL`].
    Deliveries {
        /// Told the numbers.
        reply: RpcReplyPort<[DeliveryCounts; 3]>,
    },
    /// Give a handle, which holds the session as well.
    Handle {
        /// Told the handle.
        reply: RpcReplyPort<Peer>,
    },
    /// From the session and the actor's own timers.
    Internal(Internal),
}

/// What only the actor tells itself.
#[derive(Debug)]
#[allow(unnameable_types, reason = "opaque: only the actor makes one")]
pub struct Internal(pub(in crate::actors) Event);

#[derive(Debug)]
pub(in crate::actors) enum Event {
    /// The session is over.
    Over,
    /// And has been so for a while.
    Done,
}
