//! When to try again, and when to give up.
//!
//! `RedialState` spaces the dials of a connector, `RestartState` the restarts of a child.
//! Both are plain arithmetic: the caller brings the clock and the random number.

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    fn backoff() -> BackoffState {
        BackoffState::new(BackoffSettings::default()).unwrap()
    }

    fn restarts(policy: RestartPolicy) -> RestartState {
        RestartState::new(policy).unwrap()
    }

    #[test]
    fn waits_grow_by_the_factor_from_the_initial_one() {
        let mut backoff = backoff();
        let waits: Vec<u128> = (0..5).map(|_| backoff.next_delay(0.5).as_millis()).collect();
        assert_eq!(waits, [250, 400, 640, 1_024, 1_638]);
    }

    #[test]
    fn longest_waits_are_spread_below_the_cap() {
        let mut backoff = backoff();
        for _ in 0..100 {
            backoff.next_delay(0.5);
        }
        assert!(backoff.next_delay(1.0).abs_diff(Duration::from_secs(60)) < MILLISECOND);
        assert!(backoff.next_delay(0.0).abs_diff(Duration::from_secs(40)) < MILLISECOND);
    }

    fn redials() -> RedialState {
        RedialState::new(BackoffSettings::default()).unwrap()
    }

    #[test]
    fn a_lost_connection_is_dialled_at_once_and_failures_before_it_are_forgiven() {
        let mut redials = redials();
        for wait in [250, 400, 640] {
            assert_eq!(redials.after_failure(0.5), wait * MILLISECOND);
        }
        redials.on_stood();
        let long = Duration::from_secs(10);
        assert_eq!(redials.after_loss(long, 0.0), Duration::ZERO);
        assert_eq!(redials.after_loss(long, 1.0), LOSS_JITTER_MAX);
        assert_eq!(redials.after_failure(0.5), 250 * MILLISECOND);
        let settings = BackoffSettings { initial: MILLISECOND, ..BackoffSettings::default() };
        let mut quick = RedialState::new(settings).unwrap();
        assert_eq!(quick.after_loss(long, 1.0), MILLISECOND, "never longer than after a failure");
    }

    #[test]
    fn only_connections_that_do_not_hold_several_times_in_a_row_make_waits_grow() {
        let mut redials = redials();
        let short = Duration::from_secs(10) - MILLISECOND;
        let waits: Vec<u128> = (0..6).map(|_| redials.after_loss(short, 0.5).as_millis()).collect();
        assert_eq!(waits, [50, 50, 50, 250, 400, 640]);
        // A dial between them is no new beginning: the peer accepts, and drops again.
        redials.on_stood();
        assert_eq!(redials.after_loss(short, 0.5).as_millis(), 1_024);
        assert_eq!(redials.after_loss(Duration::from_secs(10), 0.5).as_millis(), 50);
        let again: Vec<u128> = (0..4).map(|_| redials.after_loss(short, 0.5).as_millis()).collect();
        assert_eq!(again, [50, 50, 50, 250]);
    }

    #[test]
    fn the_longest_times_there_are_work() {
        let longest = Duration::MAX;
        for (initial, jitter) in [(longest, 0.0), (longest, 1.0), (MILLISECOND, 0.2)] {
            let settings = BackoffSettings {
                initial,
                jitter,
                cap: longest,
                reset_after: longest,
                factor: f64::MAX,
            };
            let mut redials = RedialState::new(settings).unwrap();
            for random in [0.0, 0.5, 1.0, f64::NAN] {
                for _ in 0..5 {
                    assert!(redials.after_failure(random) <= longest);
                    assert!(redials.after_loss(longest, random) <= LOSS_JITTER_MAX);
                    assert!(redials.after_loss(Duration::ZERO, random) <= longest);
                }
            }
        }
        let settings =
            BackoffSettings { initial: longest, cap: longest - MILLISECOND, ..Default::default() };
        assert_eq!(settings.validate().unwrap_err().setting, "cap");
        let policy = RestartPolicy { window: longest, delay_max: longest, ..Default::default() };
        let mut restarts = restarts(policy);
        assert!(matches!(restarts.record(Instant::now()), RestartDecision::After(_)));
    }

    #[test]
    fn random_number_that_is_none_still_waits() {
        for random in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 2.0] {
            let wait = backoff().next_delay(random);
            assert!((200..=300).contains(&wait.as_millis()), "{random}: {wait:?}");
        }
    }

    #[test]
    fn backoff_settings_that_cannot_work_are_named() {
        let good = BackoffSettings::default();
        let cases = [
            (BackoffSettings { initial: Duration::ZERO, ..good }, "initial"),
            (BackoffSettings { factor: 0.9, ..good }, "factor"),
            (BackoffSettings { factor: f64::NAN, ..good }, "factor"),
            (BackoffSettings { factor: f64::INFINITY, ..good }, "factor"),
            (BackoffSettings { jitter: 1.1, ..good }, "jitter"),
            (BackoffSettings { jitter: f64::NAN, ..good }, "jitter"),
            (BackoffSettings { cap: MILLISECOND, ..good }, "cap"),
        ];
        for (settings, setting) in cases {
            assert_eq!(BackoffState::new(settings).unwrap_err().setting, setting);
        }
        assert_eq!(good.validate(), Ok(()));
    }

    #[test]
    fn child_is_restarted_up_to_the_limit_and_then_given_up() {
        let (mut state, now) = (restarts(RestartPolicy::default()), Instant::now());
        for wait in [50, 100, 200, 400, 800] {
            assert_eq!(state.record(now), RestartDecision::After(wait * MILLISECOND));
        }
        assert_eq!(state.record(now), RestartDecision::GiveUp);
    }

    #[test]
    fn window_slides() {
        let (mut state, start) = (restarts(RestartPolicy::default()), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for seconds in [0, 1, 2, 3, 4] {
            assert!(matches!(state.record(at(seconds)), RestartDecision::After(_)));
        }
        assert_eq!(state.record(at(30) - MILLISECOND), RestartDecision::GiveUp);
        // The first has left the window and makes room for one.
        assert_eq!(state.record(at(30)), RestartDecision::After(800 * MILLISECOND));
        assert_eq!(state.record(at(30)), RestartDecision::GiveUp);
        assert_eq!(state.record(at(90)), RestartDecision::After(50 * MILLISECOND));
    }

    #[test]
    fn child_that_fails_seldom_is_restarted_for_ever() {
        let (mut state, mut now) = (restarts(RestartPolicy::default()), Instant::now());
        for _ in 0..1_000 {
            assert!(matches!(state.record(now), RestartDecision::After(_)));
            now += Duration::from_secs(6);
        }
        assert_eq!(state.failures.len(), 5);
    }

    #[test]
    fn no_restarts_allowed_means_giving_up_at_once() {
        let policy = RestartPolicy { restarts_max: 0, ..RestartPolicy::default() };
        assert_eq!(restarts(policy).record(Instant::now()), RestartDecision::GiveUp);
    }

    #[test]
    fn restart_settings_that_cannot_work_are_named() {
        let good = RestartPolicy::default();
        let cases = [
            (RestartPolicy { restarts_max: 1_001, ..good }, "restarts_max"),
            (RestartPolicy { window: Duration::ZERO, ..good }, "window"),
            (RestartPolicy { delay_max: MILLISECOND, ..good }, "delay_max"),
            (RestartPolicy { window: Duration::from_millis(1_550), ..good }, "window"),
            (
                RestartPolicy { delay_initial: Duration::MAX, delay_max: Duration::MAX, ..good },
                "window",
            ),
        ];
        for (policy, setting) in cases {
            assert_eq!(RestartState::new(policy).unwrap_err().setting, setting);
        }
        let error = RestartState::new(cases[0].0).unwrap_err();
        assert_eq!(error.to_string(), "restarts_max must be at most 1000");
    }

    prop_compose! {
        fn any_backoff()(
            initial in 1_u64..10_000,
            factor in 1.0_f64..20.0,
            jitter in 0.0_f64..=1.0,
            cap in 20_000_u64..10_000_000,
        ) -> BackoffSettings {
            BackoffSettings {
                initial: Duration::from_millis(initial),
                factor,
                jitter,
                cap: Duration::from_millis(cap),
                ..BackoffSettings::default()
            }
        }
    }

    proptest! {
        #[test]
        fn wait_is_within_its_jitter_and_never_over_the_cap(
            settings in any_backoff(),
            randoms in proptest::collection::vec(0.0_f64..1.0, 1..80),
        ) {
            let mut jittered = BackoffState::new(settings).unwrap();
            let mut steady = jittered.clone();
            for random in randoms {
                let (wait, middle) = (jittered.next_delay(random), steady.next_delay(0.5));
                let slack = Duration::from_micros(1);
                prop_assert!(wait <= settings.cap);
                prop_assert!(wait + slack >= middle.mul_f64(1.0 - settings.jitter));
                prop_assert!(wait <= middle.mul_f64(1.0 + settings.jitter) + slack);
            }
        }

        #[test]
        fn waits_never_shrink_until_the_series_starts_anew(
            settings in any_backoff(),
            random in 0.0_f64..1.0,
        ) {
            let mut backoff = BackoffState::new(settings).unwrap();
            let first = backoff.next_delay(random);
            let mut last = first;
            for _ in 0..60 {
                let wait = backoff.next_delay(random);
                prop_assert!(wait >= last);
                last = wait;
            }
            backoff.reset();
            prop_assert_eq!(backoff.next_delay(random), first);
        }

        #[test]
        fn no_window_has_more_restarts_than_allowed(
            restarts_max in 0_u32..6,
            gaps in proptest::collection::vec(0_u64..20_000, 1..60),
        ) {
            let policy = RestartPolicy { restarts_max, ..RestartPolicy::default() };
            let mut state = restarts(policy);
            let (mut now, mut restarted) = (Instant::now(), Vec::new());
            for gap in gaps {
                now += Duration::from_millis(gap);
                let recent = restarted
                    .iter()
                    .filter(|restart| now.duration_since(**restart) < policy.window)
                    .count();
                match state.record(now) {
                    RestartDecision::After(wait) => {
                        prop_assert!(recent < restarts_max as usize);
                        prop_assert!(wait >= policy.delay_initial && wait <= policy.delay_max);
                        restarted.push(now);
                    }
                    RestartDecision::GiveUp => prop_assert_eq!(recent, restarts_max as usize),
                }
                prop_assert!(state.failures.len() <= restarts_max as usize);
            }
        }
    }
}
