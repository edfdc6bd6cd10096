//! The streams of one connection, kept open for reuse.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::core::ConnectionCore;
use super::counts::Limit;
use super::link::lanes::Lane;
use super::stream::{InStream, OutStream};
use crate::error::{CloseCode, CloseReason, RecvError, SendError, StreamError};

/// A unidirectional stream of ours.
pub struct SendStream {
    stream: Arc<OutStream<ConnectionCore>>,
    connection: Arc<ConnectionCore>,
}

/// A unidirectional stream of the peer's.
pub struct ReadStream {
    stream: Arc<InStream<ConnectionCore>>,
    connection: Arc<ConnectionCore>,
}

impl std::fmt::Debug for SendStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.stream.fmt(f)
    }
}

impl std::fmt::Debug for ReadStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.stream.fmt(f)
    }
}

/// Streams of one connection: opened or accepted on demand, reused while they work, replaced
/// after an error.
#[derive(Debug, Clone)]
pub struct StreamPool {
    connection: Arc<ConnectionCore>,
}

impl StreamPool {
    pub(super) fn new(connection: Arc<ConnectionCore>) -> Self {
        Self { connection }
    }

    /// The stream frames go out on; opens one if there is none, or the last one failed.
    ///
    /// # Errors
    ///
    /// [`StreamError`] if the peer allows no stream within `Limits::stream_op_timeout`, or the
    /// connection is closed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a stream that was opened meanwhile stays in the pool.
    pub async fn acquire_send(&self) -> Result<Arc<SendStream>, StreamError> {
        let connection = &self.connection;
        let stream = connection.send_stream(Lane::Data, false).map_err(|_| self.closed())?;
        let started = connection.wait_for(|connection| {
            let over = connection.close_reason().map(|reason| Err(StreamError::Closed { reason }));
            let started = |started: bool| started.then_some(()).ok_or_else(|| self.closed());
            over.or_else(|| stream.has_started().map(started))
        });
        self.within(started).await??;
        Ok(Arc::new(SendStream { stream, connection: Arc::clone(connection) }))
    }

    /// The oldest stream of the peer's that can deliver; waits for one if there is none.
    ///
    /// # Errors
    ///
    /// [`StreamError`] if the peer opens none within `Limits::stream_op_timeout`, or the
    /// connection is closed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it takes nothing.
    pub async fn acquire_recv(&self) -> Result<Arc<ReadStream>, StreamError> {
        let found = self.connection.wait_for(|connection| {
            let over =
                || connection.close_reason().map(|reason| Err(StreamError::Closed { reason }));
            connection.first_stream().map(Ok).or_else(over)
        });
        let stream = self.within(found).await??;
        Ok(Arc::new(ReadStream { stream, connection: Arc::clone(&self.connection) }))
    }

    /// Gives a sending stream up after an error; the next use opens another one. What it carries
    /// has the outcome `MaybeSent`.
    pub fn discard(&self, stream: &SendStream) {
        stream.stream.discard(CloseCode::NORMAL);
    }

    async fn within<R>(&self, wait: impl Future<Output = R>) -> Result<R, StreamError> {
        let after = self.connection.limits().stream_op_timeout;
        tokio::time::timeout(after, wait).await.map_err(|_| {
            self.connection.reached(Limit::StreamOperation);
            StreamError::TimedOut { after }
        })
    }

    fn closed(&self) -> StreamError {
        let fallback = CloseReason::Local { code: CloseCode::NORMAL };
        StreamError::Closed { reason: self.connection.close_reason().unwrap_or(fallback) }
    }
}

/// Hands `buffer` over as one frame on `stream`'s connection and waits for admission.
///
/// # Errors
///
/// [`SendError`] says whether anything was sent.
///
/// # Cancel safety
///
/// Cancel safe: a frame is taken over whole or not at all.
pub async fn write_buffer_to_stream(
    stream: &SendStream,
    buffer: impl Into<Bytes>,
) -> Result<(), SendError> {
    stream.connection.send(stream.stream.lane(), buffer.into()).await
}

/// The next frame of `stream` alone, and how long it took from its first byte to its last.
///
/// # Errors
///
/// An end of the stream is an error that says where it was; a length over the limit is refused
/// before anything is allocated.
///
/// # Cancel safety
///
/// Cancel safe at any byte: a frame is taken only when it is returned.
pub async fn read_message_from_stream(stream: &ReadStream) -> Result<(Bytes, Duration), RecvError> {
    stream.connection.recv_from_stream(&stream.stream).await
}
