//! When to try again, and when to give up.
//!
//! `RedialState` spaces the dials of a connector, `RestartState` the restarts of a child.
//! Both are plain arithmetic: the caller brings the clock and the random number.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How much longer each further restart inside the window waits. Doubling gets from 50 ms to
/// seconds within the few restarts that are allowed.
const RESTART_DELAY_FACTOR: u32 = 2;

/// The most restarts that a policy may remember per child: 16 bytes each.
const RESTARTS_MAX_CEILING: u32 = 1_000;

/// How many connections in a row may end soon before waits grow: a peer that is restarted a few
/// times, for an upgrade or by hand, is back at once each time.
const SHORT_LIVED_FREE: u32 = 3;

/// The longest wait after the loss of a connection that had stood: random below this, so that the
/// peers of one that restarts do not come back at the same moment.
const LOSS_JITTER_MAX: Duration = Duration::from_millis(100);

/// `seconds` as a time; what is too much for one is the longest there is.
fn saturating(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// A number from 0 to 1. A random number that is none must not make a wait that is none.
fn fraction(random: f64) -> f64 {
    if random.is_nan() { 0.5 } else { random.clamp(0.0, 1.0) }
}

/// A setting with a value that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting} must be {rule}")]
#[non_exhaustive]
pub struct InvalidRestartSetting {
    /// The setting's name.
    pub setting: &'static str,
    /// What holds for every value that works.
    pub rule: &'static str,
}

/// How long to wait between attempts to connect.
///
/// The wait grows from `initial` by `factor` for each attempt that fails. The defaults are those of
/// gRPC's connection backoff, but for `initial` and `cap`: a peer that restarts is back in well
/// under a second, and one that was away for hours is found again within a minute.
///
/// A connection that had stood and is lost is no failed attempt: it is dialled again at once, after
/// up to 100 ms (or `initial`, if that is less) at random. Only where more than three in a row stood
/// for less than `reset_after` the waits behind them grow in the same way.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct BackoffSettings {
    /// The wait before the second attempt. Default 250 ms.
    pub initial: Duration,
    /// How much longer each wait is than the one before, at least 1. Default 1.6.
    pub factor: f64,
    /// By which part a wait is made longer or shorter at random, from 0 to 1, so that many peers
    /// of one that went away do not return at the same moment. Default 0.2, for ±20 %.
    pub jitter: f64,
    /// No wait is longer than this. Default 60 s.
    pub cap: Duration,
    /// A connection that breaks sooner than this counts as one that does not hold, so that a peer
    /// that accepts and drops is not hammered; one that was up for so long ends that series.
    /// Default 10 s.
    pub reset_after: Duration,
}

impl Default for BackoffSettings {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(250),
            factor: 1.6,
            jitter: 0.2,
            cap: Duration::from_secs(60),
            reset_after: Duration::from_secs(10),
        }
    }
}

impl BackoffSettings {
    /// Checks that the settings can work together.
    ///
    /// # Errors
    /// [`InvalidRestartSetting`] for the first that cannot.
    pub fn validate(&self) -> Result<(), InvalidRestartSetting> {
        let require = |holds: bool, setting, rule| {
            holds.then_some(()).ok_or(InvalidRestartSetting { setting, rule })
        };
        require(!self.initial.is_zero(), "initial", "longer than zero")?;
        require(
            self.factor.is_finite() && self.factor >= 1.0,
            "factor",
            "a number that is at least 1",
        )?;
        require((0.0..=1.0).contains(&self.jitter), "jitter", "from 0 to 1")?;
        require(
            self.cap >= saturating(self.initial.as_secs_f64() * (1.0 + self.jitter)),
            "cap",
            "at least initial, made longer by jitter",
        )
    }
}

/// Where a series of attempts stands.
#[derive(Debug, Clone)]
struct BackoffState {
    settings: BackoffSettings,
    /// The next wait, before jitter.
    base: Duration,
    /// The longest `base`. With its jitter it reaches the cap and never passes it: cutting longer
    /// waits off at the cap would bring the peers back together that jitter keeps apart.
    base_max: Duration,
}

impl BackoffState {
    /// A series before its first attempt.
    ///
    /// # Errors
    /// [`InvalidRestartSetting`] if the settings cannot work.
    fn new(settings: BackoffSettings) -> Result<Self, InvalidRestartSetting> {
        settings.validate()?;
        let base_max = saturating(settings.cap.as_secs_f64() / (1.0 + settings.jitter));
        Ok(Self { settings, base: settings.initial.min(base_max), base_max })
    }

    /// How long to wait before the next attempt. `random` is a number from 0 to 1, another for
    /// each call.
    fn next_delay(&mut self, random: f64) -> Duration {
        let BackoffSettings { factor, jitter, cap, .. } = self.settings;
        let base = self.base.as_secs_f64();
        let spread = 1.0 + jitter * (2.0 * fraction(random) - 1.0);
        self.base = saturating(base * factor).min(self.base_max);
        saturating(base * spread).min(cap)
    }

    /// Starts the series anew.
    fn reset(&mut self) {
        self.base = self.settings.initial.min(self.base_max);
    }
}

/// When a connector dials again: one series of waits for dials that fail, and one for connections
/// that do not hold.
#[derive(Debug, Clone)]
pub(crate) struct RedialState {
    failures: BackoffState,
    losses: BackoffState,
    /// Connections in a row that ended sooner than `reset_after`.
    short_lived: u32,
}

impl RedialState {
    /// The state before the first dial.
    ///
    /// # Errors
    /// [`InvalidRestartSetting`] if the settings cannot work.
    pub(crate) fn new(settings: BackoffSettings) -> Result<Self, InvalidRestartSetting> {
        let (failures, losses) = (BackoffState::new(settings)?, BackoffState::new(settings)?);
        Ok(Self { failures, losses, short_lived: 0 })
    }

    /// The wait after a dial that failed.
    pub(crate) fn after_failure(&mut self, random: f64) -> Duration {
        self.failures.next_delay(random)
    }

    /// A connection came to stand: the dials before it are forgiven.
    pub(crate) fn on_stood(&mut self) {
        self.failures.reset();
    }

    /// The wait after the loss of a connection that had stood for `uptime`.
    pub(crate) fn after_loss(&mut self, uptime: Duration, random: f64) -> Duration {
        let BackoffSettings { initial, reset_after, .. } = self.losses.settings;
        if uptime >= reset_after {
            self.short_lived = 0;
            self.losses.reset();
        } else {
            self.short_lived = self.short_lived.saturating_add(1);
        }
        if self.short_lived > SHORT_LIVED_FREE {
            self.losses.next_delay(random)
        } else {
            initial.min(LOSS_JITTER_MAX).mul_f64(fraction(random))
        }
    }
}

/// How often a child may be restarted before its supervisor gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct RestartPolicy {
    /// How many restarts there may be within `window`; one more and the supervisor gives up. With
    /// 0 it gives up at once. Default 5: a cause that passes is gone after that many.
    pub restarts_max: u32,
    /// How long a restart is remembered. Default 30 s.
    pub window: Duration,
    /// The wait before a restart with no other in the window; each further one waits twice as
    /// long. Default 50 ms: what the child held, a port for example, is free again by then.
    pub delay_initial: Duration,
    /// No restart waits longer than this. Default 5 s.
    pub delay_max: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            restarts_max: 5,
            window: Duration::from_secs(30),
            delay_initial: Duration::from_millis(50),
            delay_max: Duration::from_secs(5),
        }
    }
}

impl RestartPolicy {
    /// Checks that the settings can work together.
    ///
    /// # Errors
    /// [`InvalidRestartSetting`] for the first that cannot.
    pub fn validate(&self) -> Result<(), InvalidRestartSetting> {
        let require = |holds: bool, setting, rule| {
            holds.then_some(()).ok_or(InvalidRestartSetting { setting, rule })
        };
        let few = self.restarts_max <= RESTARTS_MAX_CEILING;
        require(few, "restarts_max", "at most 1000")?;
        require(!self.window.is_zero(), "window", "longer than zero")?;
        let ordered = self.delay_initial <= self.delay_max;
        require(ordered, "delay_max", "at least delay_initial")?;
        // Else the waits alone would outlast the window, and a child that always fails would be
        // restarted for ever.
        let waits = (0..self.restarts_max).map(|earlier| self.delay(earlier));
        let total = waits.fold(Duration::ZERO, Duration::saturating_add);
        let rule = "longer than the waits of restarts_max restarts together";
        require(total < self.window, "window", rule)
    }

    /// The wait before a restart that has so many others before it in the window.
    fn delay(&self, earlier: u32) -> Duration {
        let factor = RESTART_DELAY_FACTOR.saturating_pow(earlier);
        self.delay_initial.saturating_mul(factor).min(self.delay_max)
    }
}

/// What to do about a child that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestartDecision {
    /// Restart it after this wait.
    After(Duration),
    /// It fails too often: restarting it does not help.
    GiveUp,
}

/// The recent restarts of one child.
#[derive(Debug, Clone)]
pub(crate) struct RestartState {
    policy: RestartPolicy,
    /// When the child failed, oldest first; never more than `restarts_max`.
    failures: VecDeque<Instant>,
}

impl RestartState {
    /// The state of a child that never failed.
    ///
    /// # Errors
    /// [`InvalidRestartSetting`] if the policy cannot work.
    pub(crate) fn new(policy: RestartPolicy) -> Result<Self, InvalidRestartSetting> {
        policy.validate()?;
        Ok(Self { policy, failures: VecDeque::new() })
    }

    /// Decides about a child that failed at this moment.
    pub(crate) fn record(&mut self, now: Instant) -> RestartDecision {
        let RestartPolicy { restarts_max, window, .. } = self.policy;
        while self.failures.front().is_some_and(|failure| now.duration_since(*failure) >= window) {
            self.failures.pop_front();
        }
        // The ceiling on `restarts_max` keeps this exact.
        let earlier = u32::try_from(self.failures.len()).unwrap_or(u32::MAX);
        if earlier >= restarts_max {
            return RestartDecision::GiveUp;
        }
        self.failures.push_back(now);
        RestartDecision::After(self.policy.delay(earlier))
    }
}
