//! A connection as a `Sink` and a `Stream` of frames, for code that is written against those.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_core::Stream;
use futures_sink::Sink;

use super::handle::ConnectionHandle;
use crate::error::{RecvError, SendError};
use crate::transport::core::From;

impl ConnectionHandle {
    /// Sends whatever it is given: for code that is written against `futures::Sink`.
    #[must_use]
    pub fn sink(&self) -> FrameSink {
        FrameSink::new(self.clone())
    }

    /// Gives whatever comes: for code that is written against `futures::Stream`. Frames go to
    /// whoever asks first, this or another reader.
    #[must_use]
    pub fn stream(&self) -> FrameStream {
        FrameStream::new(self.clone())
    }
}

type Waiting<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Sends every frame it is given, in order; made by [`ConnectionHandle::sink`].
///
/// A frame is taken over when the lane has room: `flush` waits for that, not for the peer. Closing
/// the sink flushes it and leaves the connection open. Dropped, it drops a frame that still waits
/// for room.
pub struct FrameSink {
    connection: ConnectionHandle,
    waiting: Option<Waiting<Result<(), SendError>>>,
}

/// Gives every frame that comes; made by [`ConnectionHandle::stream`].
///
/// It ends with the error that tells why nothing more comes, then with `None`. It takes nothing ahead:
/// dropped, it loses no frame.
pub struct FrameStream {
    connection: ConnectionHandle,
    waiting: Option<Waiting<Result<Bytes, RecvError>>>,
    over: bool,
}

impl FrameSink {
    pub(super) fn new(connection: ConnectionHandle) -> Self {
        Self { connection, waiting: None }
    }
}

impl Sink<Bytes> for FrameSink {
    type Error = SendError;

    fn poll_ready(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), SendError>> {
        let Some(waiting) = &mut self.waiting else { return Poll::Ready(Ok(())) };
        let sent = ready!(waiting.as_mut().poll(context));
        self.waiting = None;
        Poll::Ready(sent)
    }

    fn start_send(mut self: Pin<&mut Self>, frame: Bytes) -> Result<(), SendError> {
        match self.connection.try_send(frame) {
            Err(SendError::Full { frame }) => {
                let connection = self.connection.clone();
                self.waiting = Some(Box::pin(async move { connection.send(frame).await }));
                Ok(())
            }
            result => result,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.poll_ready(context)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.poll_ready(context)
    }
}

impl FrameStream {
    pub(super) fn new(connection: ConnectionHandle) -> Self {
        Self { connection, waiting: None, over: false }
    }
}

impl Stream for FrameStream {
    type Item = Result<Bytes, RecvError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.over {
            return Poll::Ready(None);
        }
        let received = match &mut this.waiting {
            Some(waiting) => ready!(waiting.as_mut().poll(context)),
            None => {
                let budget = ready!(tokio::task::coop::poll_proceed(context));
                match this.connection.core().try_recv(From::All).transpose() {
                    Some(received) => {
                        budget.made_progress();
                        received.map(|received| received.frame)
                    }
                    None => {
                        let connection = this.connection.clone();
                        let waiting = Box::pin(async move { connection.recv().await });
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

impl std::fmt::Debug for FrameSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameSink").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for FrameStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameStream").field("connection", &self.connection).finish_non_exhaustive()
    }
}
