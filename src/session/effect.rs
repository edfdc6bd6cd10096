//! What the table is told, and what it wants to be done.

use std::time::{Duration, Instant};

use super::flow::{FlowState, PerFlow};
use super::message::{Cancel, EndedReason, Message, PeerLimits, Refused, SessionId, Taken};
use crate::error::CloseCode;
use crate::identity::CertHash;

/// A connection, as the table's owner names it. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LinkId(pub(crate) u64);

/// What the sessions' flows say. A session that is not known there yet has received nothing.
pub(crate) trait Counters {
    /// What this side received and took, and what it grants.
    fn inbound(&self, session: SessionId) -> PerFlow<FlowState>;
    /// The last number that this side accepted for sending.
    fn accepted(&self, session: SessionId) -> PerFlow<u64>;
}

/// When something happens, and what the flows say then.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    /// The time.
    pub(crate) now: Instant,
    /// The flows of all sessions.
    pub(crate) counters: &'a dyn Counters,
}

/// How a link came to stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// This side dialled it, for this session. At most one dial of a session is under way at a time.
    Dialled(SessionId),
    /// The peer dialled it.
    Accepted,
}

/// What the application says of a peer that wants to begin a session
/// ([`Node::accept_with`](crate::Node::accept_with)).
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "it is the answer"]
pub enum Admission {
    /// It may.
    Accept,
    /// It may not.
    Refuse {
        /// Why, for programs. One that is [final](CloseCode::is_final) refuses for good, whatever
        /// `is_final` says.
        code: CloseCode,
        /// The peer is not to come back: whoever asked there for this session is told so, and it is not
        /// dialled again.
        is_final: bool,
        /// Why, for people: up to 200 bytes of it.
        text: String,
    },
}

impl Admission {
    /// Not now: the peer may come back.
    pub fn refuse(code: CloseCode, text: impl Into<String>) -> Self {
        Self::Refuse { code, is_final: false, text: text.into() }
    }

    /// Never: the peer does not come back by itself.
    pub fn refuse_for_good(code: CloseCode, text: impl Into<String>) -> Self {
        Self::Refuse { code, is_final: true, text: text.into() }
    }
}

/// So that who need not wait for an answer says it as it is.
impl IntoFuture for Admission {
    type Output = Self;
    type IntoFuture = std::future::Ready<Self>;

    fn into_future(self) -> Self::IntoFuture {
        std::future::ready(self)
    }
}

/// Why a session is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EndReason {
    /// This side closed it, and the peer's application took everything.
    Closed,
    /// This side closed it, and not everything was taken in time.
    CloseTimedOut,
    /// It was without a link for too long.
    Time,
    /// Another incarnation of the peer has come.
    PeerRestarted,
    /// The peer ended it.
    Peer(EndedReason, CloseCode),
    /// The peer broke the protocol.
    ProtocolError,
    /// The peer refuses it for good.
    Refused(Refused),
    /// This side's application gave it up.
    GivenUp,
}

/// A bound that held something back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bite {
    /// A session that a peer wanted was refused.
    Sessions,
    /// One that ended was forgotten before its time.
    Tombstones,
    /// What was remembered of a peer was forgotten.
    Identities,
    /// A replaced start of a peer was forgotten.
    Incarnations,
    /// A session was without a connection for too long.
    SessionTime,
    /// A connection took too long to become a session's.
    HelloTime,
    /// A close took too long.
    CloseTime,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The link's session stream carries this.
    Send(LinkId, Message),
    /// The link is of no further use. It is not told as lost afterwards.
    CloseLink(LinkId, CloseCode),
    /// The application says whether the peer may: `Table::admitted`.
    AskAdmit {
        /// To be named in the answer.
        link: LinkId,
        /// Who wants it.
        peer: CertHash,
        /// What for.
        protocol: String,
    },
    /// The peer began a session.
    Began {
        /// This side's id of it.
        session: SessionId,
        /// With whom.
        peer: CertHash,
        /// What for.
        protocol: String,
    },
    /// The session's frames go over this link from here on: each flow is resumed by what the peer said.
    Attach {
        /// The session.
        session: SessionId,
        /// The peer's id of it.
        theirs: SessionId,
        /// The link.
        link: LinkId,
        /// Stands in the heads of the streams.
        generation: u64,
        /// What the peer takes.
        limits: PeerLimits,
        /// What the peer received, took and grants.
        flows: PerFlow<FlowState>,
    },
    /// The session's frames go over this link no more.
    Detach {
        /// The session.
        session: SessionId,
        /// The link it had.
        link: LinkId,
    },
    /// The session has no link and none in sight: dial, until a link is up or the session has ended.
    NeedLink {
        /// The session.
        session: SessionId,
        /// The peer does not want to be dialled before.
        not_before: Option<Instant>,
    },
    /// The peer took frames, or grants more.
    Taken(SessionId, Taken),
    /// The peer does not want an answer any more.
    Cancel(SessionId, Cancel),
    /// The peer sends nothing behind these numbers: `Table::drained` once the application has taken it.
    PeerClosing {
        /// The session.
        session: SessionId,
        /// The application's reason.
        code: CloseCode,
        /// The last numbers.
        finals: PerFlow<u64>,
    },
    /// The peer stops; it takes over nothing behind these numbers.
    GoingAway {
        /// The session.
        session: SessionId,
        /// For how long it does not want to be dialled.
        delay: Duration,
        /// The last numbers.
        last: PerFlow<u64>,
    },
    /// The peer refused a link of the session; it may be tried again.
    Refused(SessionId, Refused),
    /// A bound held something back: to be counted.
    Limited(Bite),
    /// The session is over.
    Ended {
        /// The session.
        session: SessionId,
        /// Why.
        reason: EndReason,
        /// What the peer received and took in the end, where it said so.
        flows: Option<PerFlow<FlowState>>,
    },
}

/// Why there is no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OpenError {
    /// The node has as many sessions as it may.
    #[error("the node has {0} sessions, as many as it may")]
    Full(usize),
    /// The node stops.
    #[error("the node is shutting down")]
    GoingAway,
    /// No protocol has this name.
    #[error("a protocol's name has 1 to 64 bytes, this one has {0}")]
    Name(usize),
}
