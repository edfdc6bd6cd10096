//! What the table keeps of each session and each link.

use std::time::Instant;

use crate::error::CloseCode;
use crate::identity::CertHash;
use crate::session::effect::LinkId;
use crate::session::flow::PerFlow;
use crate::session::message::{Hello, Incarnation, SessionId};

/// Whose deadline it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    Link(LinkId),
    Session(SessionId),
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) peer: CertHash,
    pub(super) protocol: String,
    /// The peer's id of it.
    pub(super) theirs: Option<SessionId>,
    /// The peer's.
    pub(super) incarnation: Option<Incarnation>,
    /// The application asked for it: it is dialled.
    pub(super) opened: bool,
    /// The highest generation that was attached here.
    pub(super) generation: u64,
    /// The highest generation that this side heard of.
    pub(super) known: u64,
    pub(super) link: Option<LinkId>,
    /// Without a link for too long.
    pub(super) lost_until: Option<Instant>,
    pub(super) closing: Option<Closing>,
    /// The peer closes.
    pub(super) draining: Option<Draining>,
    pub(super) deadline: Option<Instant>,
}

/// This side closes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Closing {
    pub(super) code: CloseCode,
    pub(super) until: Instant,
    /// What the peer's application took, once it is done.
    pub(super) taken: Option<PerFlow<u64>>,
}

/// The peer closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Draining {
    /// The application has not taken everything.
    Open,
    /// It has.
    Done,
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) peer: CertHash,
    /// What this side dialled it for, and the number of the dial.
    pub(super) dialled: Option<(SessionId, u64)>,
    pub(super) nonce: u64,
    pub(super) stage: Stage,
    /// What the peer said last.
    pub(super) hello: Option<Hello>,
    /// What this side said last.
    pub(super) said: Option<Said>,
    pub(super) admit: Admit,
    /// What the peer was told to be over: by this side's id, and by its own.
    pub(super) told: Option<(SessionId, SessionId)>,
    pub(super) deadline: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Meeting,
    Attached(SessionId),
    /// The peer closes it; with this code it is closed here if the peer does not.
    Leaving(CloseCode),
}

/// What a Hello said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) mine: Option<SessionId>,
    pub(super) yours: Option<SessionId>,
    pub(super) echo: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admit {
    No,
    Asked,
    Yes,
}

impl Session {
    pub(super) fn new(peer: CertHash, protocol: String, opened: bool) -> Self {
        Self {
            peer,
            protocol,
            theirs: None,
            incarnation: None,
            opened,
            generation: 0,
            known: 0,
            link: None,
            lost_until: None,
            closing: None,
            draining: None,
            deadline: None,
        }
    }
}
