//! Whether a peer has a connection, as those are told who watch it.
//!
//! ```text
//! down ──Up──> up ──Down──> down        up or down ──(Restarted)──Ended──> ended
//! ```
//!
//! Pure. [`Status`] is what is true, [`Watching`] what one of them was told: it is told the way from there to
//! what is true, which is never long. Who is slow misses what came and went meanwhile, and nothing else.

#[cfg(test)]
mod tests;

use super::error::PeerEnded;
use crate::error::{CloseCode, CloseReason, Side};
use crate::session::effect::EndReason;

/// What happened to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerChange {
    /// It has a connection, for the first time or again.
    Up,
    /// It has no connection for now; what was accepted for it is kept.
    Down {
        /// Why its connection was lost; none if it never had one.
        reason: Option<CloseReason>,
        /// Which side ended that connection; none where nobody did, or it never had one.
        side: Option<Side>,
    },
    /// Its process, or its node, has started anew: it knows nothing of this session, which has ended.
    Restarted,
    /// The session is over.
    Ended {
        /// Why.
        reason: PeerEnded,
    },
}

impl PeerChange {
    fn down(reason: Option<CloseReason>) -> Self {
        let side = reason.as_ref().and_then(CloseReason::side);
        Self::Down { reason, side }
    }
}

/// What happens to a session.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// It has a connection, another one than before.
    Up,
    /// Its connection is lost for this reason; none: it has left one that lives, for another one or because
    /// it ends.
    Down(Option<CloseReason>),
    /// It is over.
    Ended(EndReason),
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Status {
    /// Connections that it had.
    ups: u64,
    is_up: bool,
    /// Why it has none, or why the one before was lost.
    lost: Option<CloseReason>,
    ended: Option<PeerEnded>,
}

impl Status {
    /// Whether it ever had a connection.
    pub(crate) fn was_up(&self) -> bool {
        self.ups > 0
    }

    /// What is to be told of it, in order.
    pub(crate) fn step(&mut self, step: Step) -> Vec<PeerChange> {
        let mut changes = Vec::new();
        match step {
            Step::Up => {
                self.lose(CloseReason::Local { code: CloseCode::DUPLICATE }, &mut changes);
                self.ups += 1;
                self.is_up = true;
                changes.push(PeerChange::Up);
            }
            Step::Down(Some(reason)) => self.lose(reason, &mut changes),
            // What comes next says why.
            Step::Down(None) => {}
            Step::Ended(reason) => {
                self.lose(as_closed(&reason), &mut changes);
                let reason = PeerEnded::from(reason);
                if reason == PeerEnded::PeerRestarted {
                    changes.push(PeerChange::Restarted);
                }
                changes.push(PeerChange::Ended { reason: reason.clone() });
                self.ended = Some(reason);
            }
        }
        changes
    }

    fn lose(&mut self, reason: CloseReason, changes: &mut Vec<PeerChange>) {
        if std::mem::take(&mut self.is_up) {
            self.lost = Some(reason.clone());
            changes.push(PeerChange::down(Some(reason)));
        }
    }
}

/// Why the connection of a session is left with the session's end.
fn as_closed(reason: &EndReason) -> CloseReason {
    let local = |code| CloseReason::Local { code };
    match reason {
        EndReason::Closed | EndReason::CloseTimedOut | EndReason::Time | EndReason::GivenUp => {
            local(CloseCode::NORMAL)
        }
        EndReason::PeerRestarted => local(CloseCode::STALE_INCARNATION),
        EndReason::ProtocolError => local(CloseCode::PROTOCOL_ERROR),
        EndReason::Peer(_, code) => CloseReason::Peer { code: *code },
        EndReason::Refused(refused) => CloseReason::Peer { code: refused.code },
    }
}

/// What somebody who watches a peer was told.
#[derive(Debug, Default)]
pub(crate) struct Watching {
    told: Told,
    /// Connections that it knows of.
    ups: u64,
    restarted: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Told {
    #[default]
    Nothing,
    Up,
    Down,
    Ended,
}

impl Watching {
    /// What it is to be told next; none: it knows what is true.
    pub(crate) fn next(&mut self, status: &Status) -> Option<PeerChange> {
        match self.told {
            Told::Nothing | Told::Down if status.is_up => {
                (self.told, self.ups) = (Told::Up, status.ups);
                Some(PeerChange::Up)
            }
            Told::Nothing => self.lose(status),
            Told::Up if !status.is_up || self.ups != status.ups => self.lose(status),
            Told::Up | Told::Down => {
                let reason = status.ended.clone()?;
                if reason == PeerEnded::PeerRestarted
                    && !std::mem::replace(&mut self.restarted, true)
                {
                    return Some(PeerChange::Restarted);
                }
                self.told = Told::Ended;
                Some(PeerChange::Ended { reason })
            }
            Told::Ended => None,
        }
    }

    /// Nothing comes any more.
    pub(crate) fn is_over(&self) -> bool {
        self.told == Told::Ended
    }

    fn lose(&mut self, status: &Status) -> Option<PeerChange> {
        self.told = Told::Down;
        Some(PeerChange::down(status.lost.clone()))
    }
}
