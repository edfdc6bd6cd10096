//! A connection as a `Sink` and a `Stream` of frames, for code that is written against those.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_core::Stream;
use futures_sink::Sink;

use super::handle::ConnectionHandle;
use crate::error::{RecvError, SendError};

/// Frames taken from the connection at once; the stream keeps them until it is asked.
const FRAMES_AHEAD: usize = 64;

type Waiting<T> = Pin<Box<dyn Future<Output = T> + Send>>;

type Taken = (Vec<Bytes>, Result<usize, RecvError>);

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
/// It ends with the error that tells why nothing more comes, then with `None`. Dropped, it drops
/// up to 64 frames that it has taken and nobody asked for.
pub struct FrameStream {
    connection: ConnectionHandle,
    taken: VecDeque<Bytes>,
    waiting: Option<Waiting<Taken>>,
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
        Self { connection, taken: VecDeque::new(), waiting: None, over: false }
    }
}

impl Stream for FrameStream {
    type Item = Result<Bytes, RecvError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(frame) = this.taken.pop_front() {
                return Poll::Ready(Some(Ok(frame)));
            }
            if this.over {
                return Poll::Ready(None);
            }
            let waiting = this.waiting.get_or_insert_with(|| {
                let connection = this.connection.clone();
                Box::pin(async move {
                    let mut frames = Vec::with_capacity(FRAMES_AHEAD);
                    let result = connection.recv_many(&mut frames, FRAMES_AHEAD).await;
                    (frames, result)
                })
            });
            let (frames, result) = ready!(waiting.as_mut().poll(context));
            this.waiting = None;
            this.taken = frames.into();
            if let Err(error) = result {
                this.over = true;
                return Poll::Ready(Some(Err(error)));
            }
        }
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
