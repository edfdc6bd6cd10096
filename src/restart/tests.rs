//! Waits of dials and restarts, by example and at random.

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
