//! A connection as applications hold it: the fast path to its lanes, and to its actor.
//!
//! Frames go past the mailbox: `send` writes into the lane that the connection's streams read,
//! `recv` takes from the queue that they fill. The actor owns their life and every decision.

mod lanes;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use ractor::ActorCell;

use super::sending::credit::{Covered, Credit};
use super::stats::{ConnectionStats, stats};
use crate::error::{CloseReason, RecvError, SendError};
use crate::identity::CertHash;
use crate::transport::core::{ConnectionCore, From};
use crate::transport::{Direction, Lane, MsQuicNetConnection};

/// One connection of a node. Cheap to clone; dropping it changes nothing: the connection ends by
/// [`close`](Self::close), by its peer, or with its node.
#[derive(Clone)]
pub struct ConnectionHandle {
    core: Arc<ConnectionCore>,
    actor: ActorCell,
    epoch: u64,
    ends: Ends,
}

/// Who and where the ends of a connection are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    peer: CertHash,
    remote: SocketAddr,
    local: SocketAddr,
}

impl Ends {
    pub(super) fn of(connection: &MsQuicNetConnection) -> Self {
        Self {
            peer: connection.remote_identity(),
            remote: connection.remote_addr(),
            local: connection.local_addr(),
        }
    }
}

/// A handle that keeps nothing alive.
pub(super) struct WeakHandle {
    core: Weak<ConnectionCore>,
    actor: ActorCell,
    epoch: u64,
    ends: Ends,
}

impl WeakHandle {
    pub(super) fn upgrade(&self) -> Option<ConnectionHandle> {
        let core = self.core.upgrade()?;
        Some(ConnectionHandle::new(core, self.actor.clone(), self.epoch, self.ends))
    }
}

impl ConnectionHandle {
    pub(super) fn new(core: Arc<ConnectionCore>, actor: ActorCell, epoch: u64, ends: Ends) -> Self {
        Self { core, actor, epoch, ends }
    }

    pub(super) fn downgrade(&self) -> WeakHandle {
        let Self { core, actor, epoch, ends } = self;
        WeakHandle { core: Arc::downgrade(core), actor: actor.clone(), epoch: *epoch, ends: *ends }
    }

    pub(super) fn core(&self) -> &Arc<ConnectionCore> {
        &self.core
    }

    /// Who the peer is.
    #[must_use]
    pub fn peer(&self) -> CertHash {
        self.ends.peer
    }

    /// The number of this connection; never repeats within a node.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The address of the peer's end.
    #[must_use]
    pub fn remote_addr(&self) -> SocketAddr {
        self.ends.remote
    }

    /// The address of this end.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.ends.local
    }

    /// Which end dialled.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.core.direction()
    }

    /// The peer's certificate as DER.
    #[must_use]
    pub fn remote_certificate(&self) -> Bytes {
        self.core.remote_certificate()
    }

    /// The application protocol both ends agreed on.
    #[must_use]
    pub fn alpn_negotiated(&self) -> &str {
        self.core.alpn()
    }

    /// The actor, for those who know what it can be asked.
    pub(super) fn cell(&self) -> &ActorCell {
        &self.actor
    }

    /// Hands one frame over; waits while the lane is full, at most for
    /// `Limits::stream_op_timeout`.
    ///
    /// What became of it is counted in [`stats`](Self::stats); use
    /// [`send_acked`](Self::send_acked) to be told.
    ///
    /// # Errors
    ///
    /// [`SendError`]: too large, timed out, or closed with the real reason. In all of them the
    /// frame was not sent and is handed back.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the frame is taken over whole or not at all.
    pub async fn send(&self, frame: impl Into<Bytes>) -> Result<(), SendError> {
        self.send_on(Lane::Data, frame).await
    }

    /// As [`send`](Self::send), for a frame in two parts: see [`send_parts_on`](Self::send_parts_on).
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send). The frame that is handed back has both parts, copied.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the frame is taken over whole or not at all.
    pub async fn send_parts(&self, head: &[u8], body: impl Into<Bytes>) -> Result<(), SendError> {
        self.send_parts_on(Lane::Data, head, body).await
    }

    /// As [`send`](Self::send) for each of `frames`, from the front, with one call.
    ///
    /// A frame leaves `frames` when it is taken over, or in the error.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send), for the frame at the front; those behind it are left in
    /// `frames`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what is still in `frames` was not taken over.
    pub async fn send_many(&self, frames: &mut VecDeque<Bytes>) -> Result<(), SendError> {
        self.send_many_on(Lane::Data, frames).await
    }

    /// As [`send`](Self::send), without waiting.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] hands the frame back if the lane has no room.
    pub fn try_send(&self, frame: impl Into<Bytes>) -> Result<(), SendError> {
        self.try_send_on(Lane::Data, frame)
    }

    /// Hands one frame over and waits until the peer's transport has acknowledged all of it: not
    /// that the peer's application has processed it, nor that its side takes a frame of that size
    /// ([`Outcome::Completed`](crate::Outcome)).
    ///
    /// # Errors
    ///
    /// [`SendError`] says what became of the frame: `NotSent` is safe to send again, `MaybeSent`
    /// is not.
    ///
    /// # Cancel safety
    ///
    /// Cancelled while it waits for room, nothing is sent; later, the frame goes its way and is
    /// counted.
    pub async fn send_acked(&self, frame: impl Into<Bytes>) -> Result<(), SendError> {
        self.send_acked_on(Lane::Data, frame).await
    }

    /// Room for one frame of up to `length` bytes, for a [`ConnectionMessage::Send`](crate::ConnectionMessage::Send).
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send), with an empty frame.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn reserve(&self, length: usize) -> Result<Credit, SendError> {
        self.reserve_many(1, length).await
    }

    /// Room for up to `frames` frames of up to `length` bytes together, for a
    /// [`ConnectionMessage::SendMany`](crate::ConnectionMessage::SendMany). Waits until all of it is free.
    ///
    /// Each frame takes 132 bytes of the lane beside its own: the 4 in front of it, and 128 for what is
    /// remembered until its outcome. Frames that need less give the rest back as soon as the message is
    /// handled.
    ///
    /// # Errors
    ///
    /// As for [`reserve`](Self::reserve); [`SendError::TooLarge`] also where more than one frame,
    /// with the 132 bytes of each, could never fit `Limits::lane_bytes_max`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn reserve_many(&self, frames: usize, length: usize) -> Result<Credit, SendError> {
        self.reserve_on(Lane::Data, frames, length).await
    }

    /// As [`reserve_many`](Self::reserve_many), without waiting: for the handler of an actor.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] if the lane has no room for all of it.
    pub fn try_reserve_many(&self, frames: usize, length: usize) -> Result<Credit, SendError> {
        self.try_reserve_on(Lane::Data, frames, length)
    }

    /// The next frame, of whatever lane. Streams that the peer ends or resets do not show here: an
    /// error is final.
    ///
    /// # Errors
    ///
    /// [`RecvError`]: which rule the peer broke, or why the connection is closed, after everything that
    /// had arrived was delivered; [`RecvError::Subscribed`] while an actor gets the frames.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe at any byte and whatever else its task does: a frame is taken only when it is
    /// returned.
    pub async fn recv(&self) -> Result<Bytes, RecvError> {
        Ok(self.core.recv(From::All).await?.frame)
    }

    /// Appends up to `max` frames to `into`, at least one; returns how many.
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv); then nothing was appended.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: frames are taken only when they are appended, and then it returns.
    pub async fn recv_many(&self, into: &mut Vec<Bytes>, max: usize) -> Result<usize, RecvError> {
        self.core.recv_many(From::All, into, max.max(1)).await
    }

    /// As [`recv`](Self::recv), for the frames of `lane` alone. What other lanes bring waits for their
    /// readers, and delays this one no more than their streams do on the path.
    ///
    /// Which lane a stream of the peer's belongs to follows from its number (docs/wire-format.md); a
    /// peer that has only one stream sends on [`Lane::Data`].
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv).
    ///
    /// # Cancel safety
    ///
    /// As for [`recv`](Self::recv).
    pub async fn recv_on(&self, lane: Lane) -> Result<Bytes, RecvError> {
        Ok(self.core.recv(From::Lane(lane)).await?.frame)
    }

    pub(super) fn frame_bytes_max(&self, lane: Lane) -> usize {
        self.core.frame_bytes_max(lane)
    }

    /// Takes a frame over for which `credit` is.
    pub(super) fn send_with_credit(&self, frame: Bytes, credit: Credit) -> Result<(), SendError> {
        let lane = credit.lane();
        let Covered { frame, cost } = credit.spend(&self.core, frame)?;
        self.core.send_admitted(lane, frame, cost, None)
    }

    /// Waits until the connection is over, its handles are closed and every outcome is known.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only watches.
    pub async fn closed(&self) -> CloseReason {
        self.core.closed().await
    }

    /// Why the connection is over, if it is.
    #[must_use]
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.core.close_reason()
    }

    /// How the connection is doing. Never waits.
    #[must_use]
    pub fn stats(&self) -> ConnectionStats {
        stats(&self.core)
    }
}

/// The same connection of the same node. As a key of a map a handle does not change, which
/// `clippy::mutable_key_type` cannot see.
impl PartialEq for ConnectionHandle {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.core, &other.core)
    }
}

impl Eq for ConnectionHandle {}

impl std::hash::Hash for ConnectionHandle {
    fn hash<S: std::hash::Hasher>(&self, state: &mut S) {
        (self.peer(), self.epoch).hash(state);
    }
}

impl std::fmt::Debug for ConnectionHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectionHandle")
            .field("peer", &self.ends.peer)
            .field("epoch", &self.epoch)
            .field("remote", &self.ends.remote)
            .finish_non_exhaustive()
    }
}
