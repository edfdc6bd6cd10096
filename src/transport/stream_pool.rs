//! The streams of one connection, kept open for reuse.

use std::sync::Arc;

use super::core::ConnectionCore;
use super::lanes::Lane;
use super::stream::{ReadStream, SendStream};
use crate::error::{CloseCode, CloseReason, StreamError};

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
        Ok(stream)
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
        self.within(found).await?
    }

    /// Gives a sending stream up after an error; the next use opens another one. What it carries
    /// has the outcome `MaybeSent`.
    pub fn discard(&self, stream: &SendStream) {
        stream.discard(CloseCode::NORMAL);
    }

    async fn within<R>(&self, wait: impl Future<Output = R>) -> Result<R, StreamError> {
        let after = self.connection.limits().stream_op_timeout;
        tokio::time::timeout(after, wait).await.map_err(|_| StreamError::TimedOut { after })
    }

    fn closed(&self) -> StreamError {
        let fallback = CloseReason::Local { code: CloseCode::NORMAL };
        StreamError::Closed { reason: self.connection.close_reason().unwrap_or(fallback) }
    }
}
