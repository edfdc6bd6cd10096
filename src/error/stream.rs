//! What became of a frame, and errors of sending and receiving.

use std::time::Duration;

use bytes::Bytes;

use super::{CloseCode, CloseReason, ErrorKind};
use crate::frame::Position;

/// What became of a frame that was handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The peer's transport acknowledged all of it. Its application may not have seen it yet, and may
    /// never: a peer whose `Limits::frame_bytes_max` is lower than this side's acknowledges the bytes of a
    /// frame beyond it, and closes with `FRAME_TOO_LARGE` right after.
    Completed,
    /// It was not handed to the transport whole, so the peer cannot have it: it is safe to send again.
    /// The payload is handed back.
    NotSent(Bytes),
    /// It was handed to the transport whole, and no acknowledgement came.
    MaybeSent,
}

/// A frame was not sent, or nobody knows.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The payload, or what was to be reserved, is over the limit; nothing was sent.
    #[error("{length} bytes are over the limit of {limit}")]
    TooLarge {
        /// The length in bytes.
        length: usize,
        /// `Limits::frame_bytes_max`, or for many frames what a lane can hold.
        limit: usize,
        /// The payload, handed back.
        frame: Bytes,
    },
    /// The lane is full and the call does not wait (`try_send`); nothing was sent.
    #[error("the lane is full")]
    Full {
        /// The payload, handed back.
        frame: Bytes,
    },
    /// Frames of other connections had the node's room for large frames all the time: their peers do
    /// not read, or there are too many at once. Nothing was sent.
    #[error(
        "not sent within {after:?}: other connections have the node's room for large frames \
         (`Limits::node_large_bytes_max`)"
    )]
    NodeFull {
        /// The limit.
        after: Duration,
        /// The payload, handed back.
        frame: Bytes,
    },
    /// The credit that came with the frame is for another connection, or for fewer bytes.
    #[error("the credit does not cover the frame")]
    Credit {
        /// The payload, handed back.
        frame: Bytes,
    },
    /// The peer did not take it in time.
    #[error("not sent within {after:?}: the peer does not read")]
    TimedOut {
        /// The limit.
        after: Duration,
        /// What became of the frame.
        outcome: Outcome,
    },
    /// The stream that carried the frame was lost: the peer stopped reading it. The connection
    /// lives, and the next frame goes out on another stream.
    #[error("the stream that carried the frame was lost")]
    StreamLost {
        /// What became of the frame.
        outcome: Outcome,
    },
    /// The connection is closed.
    #[error("the connection is closed: {reason}")]
    Closed {
        /// Why.
        reason: CloseReason,
        /// What became of the frame.
        outcome: Outcome,
    },
}

impl SendError {
    /// What a program can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::TooLarge { .. } | Self::Credit { .. } => ErrorKind::Never,
            Self::Full { .. } | Self::NodeFull { .. } => ErrorKind::Retry,
            Self::TimedOut { outcome, .. }
            | Self::StreamLost { outcome }
            | Self::Closed { outcome, .. } => match outcome {
                Outcome::NotSent(_) => ErrorKind::Retry,
                Outcome::MaybeSent | Outcome::Completed => ErrorKind::Unknown,
            },
        }
    }

    /// The payload, where it is certain that none of it was sent.
    #[must_use]
    pub fn into_frame(self) -> Option<Bytes> {
        match self {
            Self::TooLarge { frame, .. }
            | Self::Full { frame }
            | Self::NodeFull { frame, .. }
            | Self::Credit { frame } => Some(frame),
            Self::TimedOut { outcome, .. }
            | Self::StreamLost { outcome }
            | Self::Closed { outcome, .. } => match outcome {
                Outcome::NotSent(frame) => Some(frame),
                Outcome::MaybeSent | Outcome::Completed => None,
            },
        }
    }
}

/// Not every frame of a batch was acknowledged.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{} of {} frames were not acknowledged", unacknowledged(.outcomes), .outcomes.len())]
#[non_exhaustive]
pub struct SendManyError {
    /// What became of each frame, in the order of the batch.
    pub outcomes: Vec<Outcome>,
    /// Why the first of those that were not acknowledged was not.
    pub source: SendError,
}

impl SendManyError {
    /// What a program can do about it; [`ErrorKind::Unknown`] if a frame may have been sent.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self.outcomes.contains(&Outcome::MaybeSent) {
            true => ErrorKind::Unknown,
            false => self.source.kind(),
        }
    }

    /// The payloads of which it is certain that nothing was sent, in their order.
    #[must_use]
    pub fn into_frames(self) -> Vec<Bytes> {
        let not_sent = |outcome| match outcome {
            Outcome::NotSent(frame) => Some(frame),
            Outcome::Completed | Outcome::MaybeSent => None,
        };
        self.outcomes.into_iter().filter_map(not_sent).collect()
    }
}

fn unacknowledged(outcomes: &[Outcome]) -> usize {
    outcomes.iter().filter(|outcome| **outcome != Outcome::Completed).count()
}

/// No frame came, and none will from where this one was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// The peer ended its stream. Inside a frame this is the peer's fault; no part is delivered.
    #[error("the peer ended its stream {position}")]
    EndOfStream {
        /// Where.
        position: Position,
    },
    /// The peer reset its stream.
    #[error("the peer reset its stream with {code}, {position}")]
    Reset {
        /// The code of the reset.
        code: CloseCode,
        /// Where.
        position: Position,
    },
    /// A length prefix over the limit; the connection was closed with `FRAME_TOO_LARGE`.
    #[error("the peer announced a frame of {announced} bytes, the limit is {limit}")]
    FrameTooLarge {
        /// The announced length in bytes.
        announced: u64,
        /// `Limits::frame_bytes_max`.
        limit: usize,
    },
    /// A frame took longer than the limit; the connection was closed with `FRAME_TIMEOUT`.
    #[error("a frame was not whole within {after:?}: {position}")]
    FrameTimedOut {
        /// `Limits::frame_time_max`.
        after: Duration,
        /// How far it came.
        position: Position,
    },
    /// The connection is closed, and everything that had arrived was delivered.
    #[error("the connection is closed: {reason}")]
    Closed {
        /// Why.
        reason: CloseReason,
    },
    /// So many readers wait by message already.
    #[error("{limit} readers wait for the frames of this connection already")]
    TooManyReaders {
        /// How many may wait.
        limit: usize,
    },
    /// Frames of this connection go to a subscriber; only one reader is possible.
    #[error("the frames of this connection go to a subscriber")]
    Subscribed,
}

impl RecvError {
    /// What a program can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Reset { .. } | Self::TooManyReaders { .. } => ErrorKind::Retry,
            Self::EndOfStream { position: Position::Boundary } => ErrorKind::Retry,
            Self::EndOfStream { .. }
            | Self::FrameTooLarge { .. }
            | Self::FrameTimedOut { .. }
            | Self::Closed { .. }
            | Self::Subscribed => ErrorKind::Never,
        }
    }
}

/// A stream could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The peer allowed or opened none in time.
    #[error("no stream within {after:?}")]
    TimedOut {
        /// The limit.
        after: Duration,
    },
    /// The connection is closed.
    #[error("the connection is closed: {reason}")]
    Closed {
        /// Why.
        reason: CloseReason,
    },
}

impl StreamError {
    /// What a program can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::TimedOut { .. } => ErrorKind::Retry,
            Self::Closed { .. } => ErrorKind::Never,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_frame_that_was_not_sent_is_handed_back() {
        let reason = CloseReason::TimedOut;
        let frame = Bytes::from_static(b"x");
        let error =
            SendError::Closed { reason: reason.clone(), outcome: Outcome::NotSent(frame.clone()) };
        assert_eq!(error.kind(), ErrorKind::Retry);
        assert_eq!(error.into_frame(), Some(frame));
        let error = SendError::Closed { reason, outcome: Outcome::MaybeSent };
        assert_eq!(error.kind(), ErrorKind::Unknown);
        assert_eq!(error.into_frame(), None);
    }

    #[test]
    fn a_batch_is_worth_another_try_unless_a_frame_may_have_been_sent() {
        let frame = Bytes::from_static(b"x");
        let not_sent = Outcome::NotSent(frame.clone());
        let source = SendError::StreamLost { outcome: not_sent.clone() };
        let outcomes = vec![Outcome::Completed, not_sent.clone()];
        let error = SendManyError { outcomes, source: source.clone() };
        assert_eq!(error.to_string(), "1 of 2 frames were not acknowledged");
        assert_eq!(error.kind(), ErrorKind::Retry);
        assert_eq!(error.into_frames(), std::slice::from_ref(&frame));
        let outcomes = vec![not_sent.clone(), Outcome::MaybeSent, not_sent];
        let error = SendManyError { outcomes, source };
        assert_eq!(error.kind(), ErrorKind::Unknown);
        assert_eq!(error.into_frames(), [frame.clone(), frame]);
    }
}
