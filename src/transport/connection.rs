//! An established connection, as the transport's user holds it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::core::ConnectionCore;
use super::link::inbound::From;
use super::link::lanes::Lane;
use super::stream_pool::StreamPool;
use crate::error::{CloseCode, CloseReason, RecvError, SendError};
use crate::identity::CertHash;
use crate::never::never;

/// One mutually authenticated QUIC connection. Dropping it without a close ends it at once with
/// [`CloseCode::DROPPED`].
#[derive(Debug)]
pub struct MsQuicNetConnection {
    core: Arc<ConnectionCore>,
    remote_addr: SocketAddr,
    remote_identity: CertHash,
}

impl MsQuicNetConnection {
    /// For a core that is connected; a peer without identity has no connection.
    pub(super) fn new(core: Arc<ConnectionCore>) -> Result<Self, CloseReason> {
        let (Some(remote_addr), Some(remote_identity)) =
            (core.remote_addr(), core.remote_identity())
        else {
            never!("a connection stands of which nobody knows with whom");
            core.look_for_marks();
            return Err(CloseReason::Local { code: CloseCode::INTERNAL });
        };
        Ok(Self { core, remote_addr, remote_identity })
    }

    pub(crate) fn core(&self) -> &Arc<ConnectionCore> {
        &self.core
    }

    /// The address of this end.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        self.core.local_addr().unwrap_or(unknown)
    }

    /// The address of the peer's end.
    #[must_use]
    pub fn remote_addr(&self) -> SocketAddr {
        self.remote_addr
    }

    /// The SHA-256 of our own certificate.
    #[must_use]
    pub fn local_identity(&self) -> CertHash {
        self.core.local_identity()
    }

    /// The SHA-256 of the peer's certificate, whose key it has proven to hold.
    #[must_use]
    pub fn remote_identity(&self) -> CertHash {
        self.remote_identity
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

    /// The streams of this connection.
    #[must_use]
    pub fn streams(&self) -> StreamPool {
        StreamPool::new(Arc::clone(&self.core))
    }

    /// Hands one frame over; waits while the lane is full.
    ///
    /// # Errors
    ///
    /// [`SendError`] if the frame is over the limit, the peer does not read within
    /// `Limits::stream_op_timeout`, or the connection is closed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the frame is taken over whole or not at all.
    pub async fn send(&self, frame: impl AsRef<[u8]>) -> Result<(), SendError> {
        self.core.send(Lane::Data, Bytes::copy_from_slice(frame.as_ref())).await
    }

    /// As [`send`](Self::send), without a copy, on `lane`. Nobody watches here whether a lane
    /// stands still: its senders are told by their own limit.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the frame is taken over whole or not at all.
    pub async fn send_on(&self, lane: Lane, frame: impl Into<Bytes>) -> Result<(), SendError> {
        self.core.send(lane, frame.into()).await
    }

    /// As [`send`](Self::send), without a copy, and waits until the peer's transport has
    /// acknowledged the frame.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send); the error says what became of the frame.
    ///
    /// # Cancel safety
    ///
    /// Cancelled while it waits for room, nothing is sent; later, the frame goes its way.
    pub async fn send_acked(&self, frame: impl Into<Bytes>) -> Result<(), SendError> {
        self.core.send_acked(Lane::Data, frame.into()).await
    }

    /// The next frame, and the time from its first byte to its last.
    ///
    /// When the peer has ended its last stream and everything was taken, one reader is told so once
    /// ([`RecvError::EndOfStream`]): the peer waits for a [`close`](Self::close). Streams that end or are
    /// reset while others live do not show.
    ///
    /// # Errors
    ///
    /// [`RecvError`]: the end of all that the peer sent, the rule that it broke, or why the connection is
    /// closed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe at any byte: a frame is taken only when it is returned.
    pub async fn recv(&self) -> Result<(Bytes, Duration), RecvError> {
        let taken = self.core.recv(From::All).await?;
        Ok((taken.frame, taken.took))
    }

    /// As [`recv`](Self::recv), for the frames of `lane` alone: see
    /// [`ConnectionHandle::recv_on`](crate::ConnectionHandle::recv_on).
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv).
    ///
    /// # Cancel safety
    ///
    /// As for [`recv`](Self::recv).
    pub async fn recv_on(&self, lane: Lane) -> Result<(Bytes, Duration), RecvError> {
        let taken = self.core.recv(From::Lane(lane)).await?;
        Ok((taken.frame, taken.took))
    }

    /// Sends what was accepted, ends both directions, then closes with `code`; cuts what is left
    /// after `Limits::close_time_max`.
    ///
    /// The peer must answer the end of our stream with the end of its own; one that does not is
    /// cut at the limit. Returns the reason that counted: the first one.
    ///
    /// # Cancel safety
    ///
    /// Cancelled, the connection stays half closed until it is dropped.
    pub async fn close(&self, code: CloseCode) -> CloseReason {
        self.core.begin_close(&CloseReason::Local { code });
        let drained = self.core.wait_for(|core| {
            let both = core.is_finished() && core.has_peer_finished();
            (both || core.is_over()).then_some(())
        });
        let _ = tokio::time::timeout(self.core.limits().close_time_max, drained).await;
        self.core.cut(code);
        self.watch_close().await
    }

    /// Waits until the connection is over, every handle is closed and every outcome is known.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only watches.
    pub async fn watch_close(&self) -> CloseReason {
        self.core.closed().await
    }

    /// Why the connection is over, if it is.
    #[must_use]
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.core.close_reason()
    }
}

impl Drop for MsQuicNetConnection {
    fn drop(&mut self) {
        self.core.cut(CloseCode::DROPPED);
    }
}
