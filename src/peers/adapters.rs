//! A peer as a `Sink` and a `Stream` of frames, for code that is written against those.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_core::Stream;
use futures_sink::Sink;

use super::error::{PeerEnded, PeerSendError};
use super::handle::{Incoming, Peer};
use crate::transport::Lane;

impl Peer {
    /// Sends whatever it is given: for code that is written against `futures::Sink`.
    #[must_use]
    pub fn sink(&self) -> PeerSink {
        PeerSink { peer: self.clone(), waiting: None }
    }

    /// Gives whatever comes: for code that is written against `futures::Stream`. Frames go to
    /// whoever asks first, this or another reader.
    #[must_use]
    pub fn stream(&self) -> PeerStream {
        PeerStream { peer: self.clone(), waiting: None, over: false }
    }
}

type Waiting<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Sends every frame it is given, in order; made by [`Peer::sink`].
///
/// A frame is accepted when there is room: `flush` waits for that, not for the peer. Closing the sink
/// flushes it and leaves the session open. Dropped, it drops a frame that still waits for room.
pub struct PeerSink {
    peer: Peer,
    waiting: Option<Waiting<Result<(), PeerSendError>>>,
}

/// Gives everything that comes; made by [`Peer::stream`].
///
/// It ends with the error that tells why nothing more comes, then with `None`. It takes nothing ahead:
/// dropped, it loses no frame.
pub struct PeerStream {
    peer: Peer,
    waiting: Option<Waiting<Result<Incoming, PeerEnded>>>,
    over: bool,
}

impl Sink<Bytes> for PeerSink {
    type Error = PeerSendError;

    fn poll_ready(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), PeerSendError>> {
        let Some(waiting) = &mut self.waiting else { return Poll::Ready(Ok(())) };
        let sent = ready!(waiting.as_mut().poll(context));
        self.waiting = None;
        Poll::Ready(sent)
    }

    fn start_send(mut self: Pin<&mut Self>, frame: Bytes) -> Result<(), PeerSendError> {
        match self.peer.try_send(frame) {
            Err(PeerSendError::Full { frame }) => {
                let peer = self.peer.clone();
                self.waiting = Some(Box::pin(async move { peer.send(frame).await }));
                Ok(())
            }
            result => result,
        }
    }

    fn poll_flush(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), PeerSendError>> {
        self.poll_ready(context)
    }

    fn poll_close(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), PeerSendError>> {
        self.poll_ready(context)
    }
}

impl Stream for PeerStream {
    type Item = Result<Incoming, PeerEnded>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.over {
            return Poll::Ready(None);
        }
        let received = match &mut this.waiting {
            Some(waiting) => ready!(waiting.as_mut().poll(context)),
            None => {
                let budget = ready!(tokio::task::coop::poll_proceed(context));
                match this.peer.take_now(&Lane::ALL) {
                    Some(incoming) => {
                        budget.made_progress();
                        Ok(incoming)
                    }
                    None => {
                        let peer = this.peer.clone();
                        let waiting = Box::pin(async move { peer.recv().await });
                        ready!(this.waiting.insert(waiting).as_mut().poll(context))
                    }
                }
            }
        };
        this.waiting = None;
        this.over = received.is_err();
        Poll::Ready(Some(received))
    }
}

impl std::fmt::Debug for PeerSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerSink").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for PeerStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerStream").field("peer", &self.peer).finish_non_exhaustive()
    }
}
