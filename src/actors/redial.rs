//! What a connector does next: a function of what happened, the time and a random number.
//!
//! ```text
//!  Dialling ──stands──> Up ──lost──> Waiting ──time, a caller, the peer came──> Dialling | Up
//!     └──failed──> Waiting | Done      └──closed here, or for good──> Done
//! ```
//!
//! Knows no actor, no runtime and no connection: what is to be done comes back as [`Effect`]s.

#[cfg(test)]
mod tests;

use std::time::Instant;

use super::target::Redial;
use crate::error::{CloseCode, CloseReason, ConnectError, ErrorKind};
use crate::restart::{BackoffSettings, InvalidRestartSetting, RedialState};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// The dial of a generation failed. Whether the node ends.
    Failed { generation: u64, outlook: Outlook, stopping: bool },
    /// A connection stands: one that was dialled, or one of the peer's.
    Stood { epoch: u64, dialled: bool },
    /// The connection with this epoch is over.
    Over { epoch: u64, end: End },
    /// The wait of a generation is over.
    Due { generation: u64 },
    /// The peer that was at this target has come by itself, and may be there again.
    PeerCame,
    /// Every caller has gone.
    CallersGone,
    /// The target is not to be kept any more.
    Stop,
}

/// What becomes of a caller who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The caller gets the connection that stands.
    Give,
    /// The caller waits.
    Queue,
    /// The caller is to ask the next connector.
    PassOn,
}

/// What becomes of a caller who asks, and what is to be done beside that.
#[derive(Debug, PartialEq)]
pub(super) struct Asked {
    pub(super) answer: Answer,
    pub(super) effects: Vec<Effect>,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Effect {
    /// All who wait get the connection that stands.
    Give,
    /// All who wait are to ask the next connector.
    PassOn,
    /// Those who wait are told why not: all, or those who do not wait for a success.
    Tell { all: bool },
    /// Dial; the result comes with this generation.
    Dial { generation: u64 },
    /// Wait; the end comes with this generation.
    Wait { generation: u64, delay: std::time::Duration },
    /// The work is done.
    Finish,
}

/// What an error of a dial says about the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outlook {
    /// It may pass.
    Passes,
    /// It needs a change on this side.
    Never,
    /// The peer said not to come back.
    Final,
}

impl Outlook {
    pub(super) fn of(error: &ConnectError) -> Self {
        if error.is_final() {
            return Self::Final;
        }
        match error.kind() {
            ErrorKind::Never => Self::Never,
            ErrorKind::Retry | ErrorKind::Unknown => Self::Passes,
        }
    }
}

/// How a connection ended, as far as dialling again goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The application of this side ended it on purpose.
    Wanted,
    /// The peer said not to come back.
    Final,
    /// It was lost.
    Lost,
}

impl End {
    pub(super) fn of(reason: &CloseReason) -> Self {
        let of_the_application = |code: &CloseCode| {
            [CloseCode::NORMAL, CloseCode::GOING_AWAY, CloseCode::FORBIDDEN].contains(code)
                || *code >= CloseCode::APPLICATION
        };
        if matches!(reason, CloseReason::Local { code } if of_the_application(code)) {
            Self::Wanted
        } else if reason.is_final() {
            Self::Final
        } else {
            Self::Lost
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Dialling,
    Up { epoch: u64, since: Instant },
    Waiting,
    Done,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Machine {
    redial: Redial,
    phase: Phase,
    spacing: RedialState,
    /// Of the dial or the wait: what comes of an earlier one changes nothing.
    generation: u64,
    /// A connection stood at some time: from there on it is kept up.
    stood: bool,
    /// One stood that was dialled: what this side is configured with leads to the peer.
    proven: bool,
}

impl Machine {
    /// Dials as generation 0. `before` is whether a connection stood at an earlier connector of the
    /// target, and whether it was dialled.
    pub(super) fn new(
        redial: Redial,
        settings: BackoffSettings,
        before: Option<bool>,
    ) -> Result<Self, InvalidRestartSetting> {
        Ok(Self {
            redial,
            phase: Phase::Dialling,
            spacing: RedialState::new(settings)?,
            generation: 0,
            stood: before.is_some(),
            proven: before == Some(true),
        })
    }

    pub(super) fn redial(&self) -> Redial {
        self.redial
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.phase == Phase::Waiting
    }

    /// Whether a result of this generation still counts.
    pub(super) fn is_dialling(&self, generation: u64) -> bool {
        self.phase == Phase::Dialling && self.generation == generation
    }

    /// `random` is a number from 0 to 1, another for each call.
    pub(super) fn next(&mut self, input: Input, now: Instant, random: f64) -> Vec<Effect> {
        match input {
            Input::Failed { generation, outlook, stopping } if self.is_dialling(generation) => {
                self.on_failed(outlook, stopping, random)
            }
            Input::Stood { epoch, dialled } if self.phase != Phase::Done => {
                self.on_stood(epoch, dialled, now)
            }
            Input::Over { epoch, end } => self.on_over(epoch, end, now, random),
            Input::Due { generation } if self.generation == generation => self.dial_if_waiting(),
            Input::PeerCame => self.dial_if_waiting(),
            Input::CallersGone if self.phase == Phase::Dialling && self.redial == Redial::Never => {
                self.end(vec![])
            }
            Input::Stop => self.end(vec![Effect::Tell { all: true }]),
            Input::Failed { .. } | Input::Stood { .. } | Input::Due { .. } | Input::CallersGone => {
                vec![]
            }
        }
    }

    /// A caller wants the connection; `open` is whether the one that stands is. An explicit call does not
    /// wait for a backoff.
    pub(super) fn asked(&mut self, redial: Redial, open: bool) -> Asked {
        if redial == Redial::Always && self.phase != Phase::Done {
            self.redial = Redial::Always;
        }
        let answer = match self.phase {
            Phase::Up { .. } if open => Answer::Give,
            // Of one that is not open the end is on the way here.
            Phase::Up { .. } | Phase::Dialling | Phase::Waiting => Answer::Queue,
            Phase::Done => Answer::PassOn,
        };
        Asked { answer, effects: self.dial_if_waiting() }
    }

    fn on_stood(&mut self, epoch: u64, dialled: bool, now: Instant) -> Vec<Effect> {
        self.generation += 1;
        self.stood = true;
        if dialled {
            self.proven = true;
            self.spacing.on_stood();
        }
        if self.redial == Redial::Never {
            return self.end(vec![Effect::Give]);
        }
        self.phase = Phase::Up { epoch, since: now };
        vec![Effect::Give]
    }

    fn on_failed(&mut self, outlook: Outlook, stopping: bool, random: f64) -> Vec<Effect> {
        let wanted = match self.redial {
            Redial::Never => false,
            Redial::WhenLost => self.stood,
            Redial::Always => true,
        };
        let worth_it = match outlook {
            Outlook::Passes => true,
            // What is configured here led to the peer before: somebody else has its address for a
            // while, or it shows another certificate. That may pass without anybody at this side.
            Outlook::Never => self.proven,
            Outlook::Final => false,
        };
        if !wanted || !worth_it || stopping {
            return self.end(vec![Effect::Tell { all: true }]);
        }
        let told = Effect::Tell { all: outlook != Outlook::Passes };
        let delay = self.spacing.after_failure(random);
        vec![told, self.wait(delay)]
    }

    fn on_over(&mut self, epoch: u64, end: End, now: Instant, random: f64) -> Vec<Effect> {
        let Phase::Up { epoch: current, since } = self.phase else { return vec![] };
        if epoch != current {
            return vec![];
        }
        match end {
            // Who asked since then wants another one.
            End::Wanted => self.end(vec![Effect::PassOn]),
            End::Final => self.end(vec![Effect::Tell { all: true }]),
            End::Lost => {
                let uptime = now.saturating_duration_since(since);
                let delay = self.spacing.after_loss(uptime, random);
                vec![self.wait(delay)]
            }
        }
    }

    fn wait(&mut self, delay: std::time::Duration) -> Effect {
        self.generation += 1;
        self.phase = Phase::Waiting;
        Effect::Wait { generation: self.generation, delay }
    }

    fn dial_if_waiting(&mut self) -> Vec<Effect> {
        if self.phase != Phase::Waiting {
            return vec![];
        }
        self.generation += 1;
        self.phase = Phase::Dialling;
        vec![Effect::Dial { generation: self.generation }]
    }

    fn end(&mut self, mut effects: Vec<Effect>) -> Vec<Effect> {
        self.generation += 1;
        self.phase = Phase::Done;
        effects.push(Effect::Finish);
        effects
    }
}
