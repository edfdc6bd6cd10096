//! What can go wrong with a peer, one type an operation.

use bytes::Bytes;

use super::delivery::Delivery;
use crate::error::{CloseCode, ConnectError, ErrorKind};
use crate::session::effect::{EndReason, OpenError};

/// The session is over, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerEnded {
    /// This side closed it, and the peer's application took everything.
    #[error("closed by this side; everything was taken")]
    Closed,
    /// This side closed it, and not everything was taken in time.
    #[error("closed by this side; the peer's application did not take everything in time")]
    CloseTimedOut,
    /// This side closes it, and the peer's application has not taken everything yet: told to who sends
    /// meanwhile, and never of a session that is over.
    #[error("this side closes it: nothing more is accepted")]
    Closing,
    /// The peer closes it, closed it, or gave it up.
    #[error("ended by the peer: {code}")]
    ByPeer {
        /// What the peer's application said.
        code: CloseCode,
    },
    /// It was without a connection for too long.
    #[error("without a connection for too long")]
    TimedOut,
    /// The peer has started anew: it knows nothing of this session.
    #[error("the peer has restarted")]
    PeerRestarted,
    /// One side broke the protocol.
    #[error("a peer broke the protocol of sessions")]
    ProtocolError,
    /// The peer does not want it.
    #[error("refused by the peer: {code}; {text}")]
    Refused {
        /// Why, for programs.
        code: CloseCode,
        /// Why, for people.
        text: String,
    },
    /// This side gave it up: its last handle was dropped, or its node has ended.
    #[error("given up by this side")]
    GivenUp,
}

impl From<EndReason> for PeerEnded {
    fn from(reason: EndReason) -> Self {
        use crate::session::message::EndedReason;
        match reason {
            EndReason::Closed => Self::Closed,
            EndReason::CloseTimedOut => Self::CloseTimedOut,
            EndReason::Time => Self::TimedOut,
            EndReason::PeerRestarted | EndReason::Peer(EndedReason::Replaced, _) => {
                Self::PeerRestarted
            }
            EndReason::Peer(EndedReason::Time, _) => Self::TimedOut,
            EndReason::Peer(EndedReason::ProtocolError, _) | EndReason::ProtocolError => {
                Self::ProtocolError
            }
            EndReason::Peer(
                EndedReason::Closed | EndedReason::GivenUp | EndedReason::Unknown,
                code,
            ) => Self::ByPeer { code },
            EndReason::Refused(refused) => Self::Refused { code: refused.code, text: refused.text },
            EndReason::GivenUp => Self::GivenUp,
        }
    }
}

/// Before the reason is known nothing but this side's own wish ends it.
impl From<Option<EndReason>> for PeerEnded {
    fn from(reason: Option<EndReason>) -> Self {
        reason.map_or(Self::GivenUp, Self::from)
    }
}

/// A frame was not accepted, or not delivered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerSendError {
    /// The payload is over what one of both sides takes.
    #[error("{length} bytes are over the limit of {limit}")]
    TooLarge {
        /// The length in bytes.
        length: usize,
        /// The lower limit of both sides, in bytes.
        limit: usize,
        /// The payload, handed back.
        frame: Bytes,
    },
    /// As much is kept as may be, and the call does not wait.
    #[error("the lane is full: the peer's application does not take what was sent")]
    Full {
        /// The payload, handed back.
        frame: Bytes,
    },
    /// The session is over, or closes.
    #[error("the session is over: {ended}")]
    Ended {
        /// Why.
        ended: PeerEnded,
        /// The payload, handed back.
        frame: Bytes,
    },
    /// It was accepted, and the session ended before the peer's application took it.
    #[error("not delivered ({delivery:?}): the session has ended")]
    NotDelivered {
        /// What became of it.
        delivery: Delivery,
    },
    /// The credit does not cover it, or is another session's.
    #[error("the credit does not cover the frame, or is another session's")]
    Credit {
        /// The payload, handed back.
        frame: Bytes,
    },
}

impl PeerSendError {
    /// Whether sending again can help. To a peer whose session is over that means another session.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::TooLarge { .. } | Self::Credit { .. } => ErrorKind::Never,
            Self::Full { .. } | Self::Ended { .. } => ErrorKind::Retry,
            Self::NotDelivered { delivery } => match delivery {
                Delivery::NotSent => ErrorKind::Retry,
                Delivery::Delivered | Delivery::MaybeSent => ErrorKind::Unknown,
            },
        }
    }
}

/// Not all frames of one message were accepted, or delivered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{source}")]
#[non_exhaustive]
pub struct PeerSendManyError {
    /// What became of each frame, in order, if all were accepted; none otherwise.
    pub deliveries: Vec<Delivery>,
    /// Those that were not accepted, handed back: all of them, or the last ones where the session ended
    /// while they were.
    pub frames: Vec<Bytes>,
    /// What was wrong with the first one of those.
    pub source: PeerSendError,
}

impl PeerSendManyError {
    /// Whether sending again can help: see [`PeerSendError::kind`].
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.source.kind()
    }
}

/// A request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The payload is over what one of both sides takes.
    #[error("{length} bytes are over the limit of {limit}")]
    TooLarge {
        /// The length in bytes.
        length: usize,
        /// The lower limit of both sides, in bytes.
        limit: usize,
    },
    /// As many are in flight as one of both sides allows.
    #[error("{in_flight} requests are in flight, as many as may be")]
    TooMany {
        /// How many.
        in_flight: usize,
    },
    /// The peer did not hand it to a handler: it has too many.
    #[error("refused by the peer: it handles as many requests as it may")]
    Refused,
    /// The peer's handler dropped it.
    #[error("the peer's handler let go of it without an answer")]
    NoReply,
    /// Its time was over.
    #[error("no answer in time")]
    DeadlineExceeded {
        /// The peer's handler may have run.
        may_have_run: bool,
    },
    /// The peer never received it.
    #[error("never sent: the session is over")]
    NotSent,
    /// The session ended before an answer.
    #[error("the session ended before an answer")]
    SessionLost,
}

impl RequestError {
    /// Whether the peer's handler may have run.
    #[must_use]
    pub fn may_have_run(&self) -> bool {
        match self {
            Self::NoReply | Self::SessionLost => true,
            Self::DeadlineExceeded { may_have_run } => *may_have_run,
            Self::TooLarge { .. } | Self::TooMany { .. } | Self::Refused | Self::NotSent => false,
        }
    }

    /// Whether asking again can help.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::TooLarge { .. } => ErrorKind::Never,
            Self::TooMany { .. } | Self::Refused | Self::NotSent => ErrorKind::Retry,
            Self::NoReply | Self::DeadlineExceeded { .. } | Self::SessionLost => ErrorKind::Unknown,
        }
    }
}

/// There is no session with a peer.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The first dial failed.
    #[error("cannot reach the peer")]
    Connect(#[source] ConnectError),
    /// The peer, or this side, ended it before it stood.
    #[error("no session: {0}")]
    Ended(PeerEnded),
    /// A target for a peer names its identity ([`Target::expect`](crate::Target::expect)).
    #[error("the target does not say whom to expect; give it the peer's identity")]
    NobodyExpected,
    /// The node has as many sessions as it may.
    #[error("the node has {0} sessions, as many as it may")]
    Full(usize),
    /// A protocol's name has 1 to 64 bytes.
    #[error("a protocol's name has 1 to 64 bytes, this one has {0}")]
    Name(usize),
    /// The node has ended, or is ending.
    #[error("the node is shutting down")]
    Stopped,
    /// As many callers wait for peers by message as may.
    #[error("{0} callers wait for peers already")]
    TooManyCallers(usize),
}

impl PeerError {
    /// Whether asking again can help.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Connect(error) => error.kind(),
            Self::Ended(PeerEnded::Refused { code, .. }) if code.is_final() => ErrorKind::Never,
            Self::NobodyExpected | Self::Name(_) | Self::Stopped => ErrorKind::Never,
            Self::Ended(_) | Self::Full(_) | Self::TooManyCallers(_) => ErrorKind::Retry,
        }
    }
}

impl From<OpenError> for PeerError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Full(sessions) => Self::Full(sessions),
            OpenError::GoingAway => Self::Stopped,
            OpenError::Name(length) => Self::Name(length),
        }
    }
}
