//! Which link a session has: one of its two sides decides, by what the other one says it holds.
//!
//! No rule of fixed inputs could: one side may believe in a connection that the other has lost, and only
//! the other one knows. Its Hello says so: which generation it has heard of, and which it holds.

use super::message::Incarnation;
use crate::identity::CertHash;

/// A side of a session, as it is compared.
pub(super) type Side = (CertHash, Incarnation);

/// Whether `me` attaches the links of a session with `peer`.
pub(super) fn decides(me: Side, peer: Side) -> bool {
    me > peer
}

/// Who dialled a link, and the number of the dial: of one dialler, a later one was begun when the earlier
/// one was gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dial {
    Mine(u64),
    Theirs(u64),
}

impl Dial {
    /// The dial shows that its dialler has lost what came of `other`.
    fn follows(self, other: Self) -> bool {
        match (self, other) {
            (Self::Mine(later), Self::Mine(earlier))
            | (Self::Theirs(later), Self::Theirs(earlier)) => later > earlier,
            (Self::Mine(_), Self::Theirs(_)) | (Self::Theirs(_), Self::Mine(_)) => false,
        }
    }
}

/// The link that a session has at the side that decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Current {
    pub(super) generation: u64,
    pub(super) dial: Dial,
}

/// A link that the session could have, and what its Hello said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) dial: Dial,
    /// The highest generation that the peer has heard of.
    pub(super) known: u64,
    /// The generation that the peer holds; 0 for none.
    pub(super) held: u64,
}

/// What becomes of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Attach,
    Duplicate,
    /// The peer has heard of what was never said.
    Impossible,
}

/// Judges a candidate. `generation` is the highest that was given.
pub(super) fn judge(current: Option<Current>, generation: u64, candidate: Candidate) -> Verdict {
    if candidate.known > generation || candidate.held > candidate.known {
        return Verdict::Impossible;
    }
    let Some(current) = current else { return Verdict::Attach };
    if candidate.held == current.generation {
        return Verdict::Duplicate;
    }
    // The peer has heard of the current one and does not hold it, or dialled behind it: it is dead,
    // whatever this side believes. Else the word of it may still be under way.
    let lost = candidate.known == current.generation || candidate.dial.follows(current.dial);
    if lost { Verdict::Attach } else { Verdict::Duplicate }
}
