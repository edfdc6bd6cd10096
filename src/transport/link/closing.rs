//! How a connection ends in order: who ends which direction when, and who says the code.
//!
//! ```text
//!          close                     both ends finished, or the limit
//! Ready ──────────────> Draining ─────────────────────────────> cut
//!   └─> PeerFinished ──────┘ its frames were read
//! ```
//!
//! Who begins to close drains and, once both directions have ended, says the code; the other side only
//! answers the end of the frames with the end of its own. A peer that ended its frames is answered when
//! its end was read, or when nobody reads.
//!
//! Invariants: a connection drains once, and its reason is that of who began; a code of ours is said
//! once; a peer that does not answer is cut at the limit.

use crate::error::{CloseCode, CloseReason};

/// See the module.
#[derive(Debug)]
pub(crate) struct Closing(Phase);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Ready,
    /// The peer sends no more; its frames are being read, and so many had been taken.
    PeerFinished {
        taken: u64,
    },
    /// No new frames.
    Draining {
        code: CloseCode,
        began_here: bool,
    },
}

/// How far both directions are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Directions {
    /// The peer ended its last stream between two frames.
    pub(crate) peer_finished: bool,
    /// A reader has seen that end.
    pub(crate) end_taken: bool,
    /// Everything of ours was acknowledged, and the ends of our streams as well.
    pub(crate) finished: bool,
    /// Frames that were taken so far.
    pub(crate) taken: u64,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    Nothing,
    /// Look again when readers have had time to come back for more ([`Closing::readers_gone`]).
    WaitForReaders,
    /// Nobody has to come back.
    StopWaiting,
    /// Accept no more frames, for this reason, and end our direction behind what was accepted; when the
    /// limit of a close is over, [`Closing::too_late`]. Then look at once whether that was all.
    Drain(CloseReason),
    /// End the connection now.
    Cut(CloseCode),
}

impl Default for Closing {
    fn default() -> Self {
        Self(Phase::Ready)
    }
}

impl Closing {
    /// This side wants to close.
    pub(crate) fn close(&mut self, code: CloseCode, of: Directions) -> Act {
        match self.0 {
            Phase::Draining { began_here: true, .. } => Act::Nothing,
            Phase::Draining { began_here: false, .. } => {
                // It answers already: now it says the code as well.
                self.0 = Phase::Draining { code, began_here: true };
                self.look(of)
            }
            Phase::Ready | Phase::PeerFinished { .. } => self.drain(code, true),
        }
    }

    /// The peer ended its frames.
    pub(crate) fn peer_finished(&mut self, of: Directions) -> Act {
        match self.0 {
            // The reader may have been faster than the notice.
            Phase::Ready if of.peer_finished && of.end_taken => {
                self.drain(CloseCode::NORMAL, false)
            }
            Phase::Ready => self.wait_for_readers(of),
            Phase::PeerFinished { .. } => Act::Nothing,
            Phase::Draining { .. } => self.look(of),
        }
    }

    /// A reader saw the end of the peer's frames: it has answered every frame it wanted to answer.
    pub(crate) fn end_taken(&mut self, of: Directions) -> Act {
        match self.0 {
            Phase::Ready | Phase::PeerFinished { .. } if of.peer_finished && of.end_taken => {
                self.drain(CloseCode::NORMAL, false)
            }
            Phase::Ready | Phase::PeerFinished { .. } | Phase::Draining { .. } => Act::Nothing,
        }
    }

    /// Readers had time. If none has taken a frame meanwhile, nobody will take the end.
    pub(crate) fn readers_gone(&mut self, of: Directions) -> Act {
        let Phase::PeerFinished { taken } = self.0 else { return Act::Nothing };
        if !of.peer_finished {
            self.0 = Phase::Ready;
            Act::StopWaiting
        } else if taken == of.taken {
            self.drain(CloseCode::NORMAL, false)
        } else {
            self.wait_for_readers(of)
        }
    }

    /// Whether both directions have ended behind everything that was accepted.
    pub(crate) fn look(&self, of: Directions) -> Act {
        match self.0 {
            Phase::Draining { code, began_here: true } if of.peer_finished && of.finished => {
                Act::Cut(code)
            }
            Phase::Ready | Phase::PeerFinished { .. } | Phase::Draining { .. } => Act::Nothing,
        }
    }

    /// The limit of a close is over.
    pub(crate) fn too_late(&self) -> Act {
        match self.0 {
            Phase::Draining { code, began_here: true } => Act::Cut(code),
            // The peer ended its frames and does not close: that is not our application's wish.
            Phase::Draining { began_here: false, .. } => Act::Cut(CloseCode::HALF_CLOSED),
            Phase::Ready | Phase::PeerFinished { .. } => Act::Nothing,
        }
    }

    fn drain(&mut self, code: CloseCode, began_here: bool) -> Act {
        self.0 = Phase::Draining { code, began_here };
        Act::Drain(match began_here {
            true => CloseReason::Local { code },
            false => CloseReason::Peer { code },
        })
    }

    fn wait_for_readers(&mut self, of: Directions) -> Act {
        self.0 = Phase::PeerFinished { taken: of.taken };
        Act::WaitForReaders
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Directions =
        Directions { peer_finished: false, end_taken: false, finished: false, taken: 7 };
    const PEER_FINISHED: Directions = Directions { peer_finished: true, ..OPEN };
    const END_TAKEN: Directions = Directions { end_taken: true, ..PEER_FINISHED };
    const BOTH: Directions = Directions { finished: true, ..END_TAKEN };
    const CODE: CloseCode = CloseCode::GOING_AWAY;

    fn drains_for_us() -> Act {
        Act::Drain(CloseReason::Local { code: CODE })
    }

    fn drains_for_the_peer() -> Act {
        Act::Drain(CloseReason::Peer { code: CloseCode::NORMAL })
    }

    #[test]
    fn who_begins_drains_and_says_the_code_when_both_have_ended() {
        let mut closing = Closing::default();
        assert_eq!(closing.close(CODE, OPEN), drains_for_us());
        assert_eq!(closing.look(OPEN), Act::Nothing);
        assert_eq!(closing.look(Directions { finished: true, ..OPEN }), Act::Nothing);
        assert_eq!(closing.close(CloseCode::NORMAL, OPEN), Act::Nothing, "once");
        assert_eq!(closing.peer_finished(BOTH), Act::Cut(CODE));
        assert_eq!(closing.too_late(), Act::Cut(CODE));
    }

    #[test]
    fn a_peer_that_ended_is_answered_when_its_end_was_read_and_says_the_code() {
        let mut closing = Closing::default();
        assert_eq!(closing.peer_finished(PEER_FINISHED), Act::WaitForReaders);
        assert_eq!(closing.end_taken(END_TAKEN), drains_for_the_peer());
        assert_eq!(closing.look(BOTH), Act::Nothing, "the peer says it");
        assert_eq!(closing.too_late(), Act::Cut(CloseCode::HALF_CLOSED));
    }

    #[test]
    fn a_reader_may_be_faster_than_the_notice_of_the_end() {
        let mut closing = Closing::default();
        assert_eq!(
            closing.end_taken(Directions { peer_finished: false, ..END_TAKEN }),
            Act::Nothing
        );
        assert_eq!(closing.peer_finished(END_TAKEN), drains_for_the_peer());
    }

    #[test]
    fn readers_that_come_back_are_waited_for_and_others_are_not() {
        let mut closing = Closing::default();
        assert_eq!(closing.peer_finished(PEER_FINISHED), Act::WaitForReaders);
        let read = Directions { taken: 8, ..PEER_FINISHED };
        assert_eq!(closing.readers_gone(read), Act::WaitForReaders);
        assert_eq!(closing.readers_gone(read), drains_for_the_peer());
        assert_eq!(closing.readers_gone(read), Act::Nothing);
    }

    #[test]
    fn a_peer_that_begins_again_has_not_ended() {
        let mut closing = Closing::default();
        assert_eq!(closing.peer_finished(PEER_FINISHED), Act::WaitForReaders);
        assert_eq!(closing.readers_gone(OPEN), Act::StopWaiting);
        assert_eq!(closing.too_late(), Act::Nothing);
        assert_eq!(closing.peer_finished(PEER_FINISHED), Act::WaitForReaders);
    }

    #[test]
    fn who_answers_may_close_as_well_and_says_its_code_then() {
        let mut closing = Closing::default();
        closing.peer_finished(PEER_FINISHED);
        closing.end_taken(END_TAKEN);
        assert_eq!(closing.close(CODE, END_TAKEN), Act::Nothing);
        assert_eq!(closing.look(BOTH), Act::Cut(CODE));
        assert_eq!(closing.too_late(), Act::Cut(CODE));
    }
}
