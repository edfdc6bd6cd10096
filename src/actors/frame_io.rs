//! A lane as a stream of bytes, for code that is written against `AsyncRead` and `AsyncWrite`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::handle::ConnectionHandle;
use super::message::connection::ConnectionMessage;
use super::sending::credit::Credit;
use crate::error::{CloseCode, CloseReason, RecvError, SendError};
use crate::transport::Lane;
use crate::transport::core::From as Of;

/// The most that one write puts into a frame: enough to amortise it, and within a lane's least room.
const WRITE_BYTES_MAX: usize = 32 * 1024;

impl ConnectionHandle {
    /// One lane as bytes in and out: for code that is written against `AsyncRead` and `AsyncWrite`. The
    /// connection is closed when it is shut down or dropped.
    #[must_use = "its drop closes the connection"]
    pub fn into_io(self, lane: Lane) -> FrameIo {
        FrameIo::new(self, lane)
    }
}

type Waiting<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A lane of a connection as bytes; made by [`ConnectionHandle::into_io`].
///
/// What is written goes out in frames, and the payloads of frames are read one behind the other; where
/// one ends does not show. `flush` waits for nothing: what is written is on its way. `shutdown` closes
/// the connection with `NORMAL` when the peer has everything; so does its drop, which waits for nobody.
/// A close by the peer with `NORMAL` or `GOING_AWAY` is the end of the bytes, any other end an error.
pub struct FrameIo {
    connection: ConnectionHandle,
    lane: Lane,
    /// What is left of the frame that is being read.
    rest: Bytes,
    reading: Option<Waiting<Result<Bytes, RecvError>>>,
    /// Waits for room; what is written is only taken when there is some.
    writing: Option<Waiting<Result<Credit, SendError>>>,
    closing: Option<Waiting<CloseReason>>,
}

impl FrameIo {
    pub(super) fn new(connection: ConnectionHandle, lane: Lane) -> Self {
        let (reading, writing, closing) = (None, None, None);
        Self { connection, lane, rest: Bytes::new(), reading, writing, closing }
    }

    /// The connection it is on.
    #[must_use]
    pub fn connection(&self) -> &ConnectionHandle {
        &self.connection
    }

    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, RecvError>> {
        let received = match &mut self.reading {
            Some(reading) => ready!(reading.as_mut().poll(context)),
            None => {
                let budget = ready!(tokio::task::coop::poll_proceed(context));
                let received = self.connection.core().try_recv(Of::Lane(self.lane));
                if let Some(received) = received.transpose() {
                    budget.made_progress();
                    return Poll::Ready(received.map(|received| received.frame));
                }
                let (connection, lane) = (self.connection.clone(), self.lane);
                let reading = Box::pin(async move { connection.recv_on(lane).await });
                ready!(self.reading.insert(reading).as_mut().poll(context))
            }
        };
        self.reading = None;
        Poll::Ready(received)
    }
}

impl AsyncRead for FrameIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // An empty frame would look like the end.
        while self.rest.is_empty() {
            match ready!(self.poll_frame(context)) {
                Ok(frame) => self.rest = frame,
                Err(error) if is_orderly(&error) => return Poll::Ready(Ok(())),
                Err(error) => return Poll::Ready(Err(read_error(error))),
            }
        }
        let budget = ready!(tokio::task::coop::poll_proceed(context));
        budget.made_progress();
        let count = self.rest.len().min(into.remaining());
        into.put_slice(&self.rest[..count]);
        self.rest.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FrameIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let count =
            bytes.len().min(WRITE_BYTES_MAX).min(this.connection.frame_bytes_max(this.lane));
        if count == 0 {
            return Poll::Ready(Ok(0));
        }
        // A writer that never has to wait would keep its runtime's thread for itself.
        let budget = ready!(tokio::task::coop::poll_proceed(context));
        let (connection, lane) = (&this.connection, this.lane);
        let waiting = this.writing.get_or_insert_with(|| {
            let connection = connection.clone();
            Box::pin(async move { connection.reserve_on(lane, 1, count).await })
        });
        let credit = ready!(waiting.as_mut().poll(context));
        budget.made_progress();
        this.writing = None;
        // It may be for less than what is to be written by now.
        let sent = credit.and_then(|credit| {
            let count = count.min(credit.length());
            let frame = Bytes::copy_from_slice(&bytes[..count]);
            this.connection.send_with_credit(frame, credit).map(|()| count)
        });
        Poll::Ready(sent.map_err(write_error))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let connection = &this.connection;
        let closing = this.closing.get_or_insert_with(|| {
            let connection = connection.clone();
            Box::pin(async move { connection.close(CloseCode::NORMAL).await })
        });
        let reason = ready!(closing.as_mut().poll(context));
        let in_order = matches!(
            reason,
            CloseReason::Local { .. } | CloseReason::Peer { code: CloseCode::NORMAL }
        );
        Poll::Ready(if in_order { Ok(()) } else { Err(read_error(RecvError::Closed { reason })) })
    }
}

impl Drop for FrameIo {
    fn drop(&mut self) {
        let close = ConnectionMessage::Close { code: CloseCode::NORMAL, reply: None };
        // A connection whose actor is gone is over.
        drop(self.connection.actor().cast(close));
    }
}

impl std::fmt::Debug for FrameIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameIo")
            .field("connection", &self.connection)
            .field("lane", &self.lane)
            .finish_non_exhaustive()
    }
}

/// Whether the peer has said all it had to say.
fn is_orderly(error: &RecvError) -> bool {
    let RecvError::Closed { reason } = error else { return false };
    matches!(reason.code(), Some(CloseCode::NORMAL | CloseCode::GOING_AWAY))
}

fn read_error(error: RecvError) -> io::Error {
    let kind = match &error {
        RecvError::Closed { reason: CloseReason::TimedOut } => io::ErrorKind::TimedOut,
        RecvError::Closed { .. } => io::ErrorKind::ConnectionReset,
        RecvError::EndOfStream { .. }
        | RecvError::Reset { .. }
        | RecvError::FrameTooLarge { .. }
        | RecvError::FrameTimedOut { .. } => io::ErrorKind::InvalidData,
        RecvError::Subscribed | RecvError::TooManyReaders { .. } => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

fn write_error(error: SendError) -> io::Error {
    let kind = match &error {
        SendError::Closed { .. } => io::ErrorKind::BrokenPipe,
        SendError::TimedOut { .. } | SendError::NodeFull { .. } => io::ErrorKind::TimedOut,
        SendError::TooLarge { .. }
        | SendError::Full { .. }
        | SendError::Credit { .. }
        | SendError::StreamLost { .. } => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}
