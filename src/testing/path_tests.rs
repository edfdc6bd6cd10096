//! A path against plain oracles, for whatever comes when, under whatever conditions.

use proptest::prelude::*;

use super::super::share::Share;
use super::*;

const ROOM: usize = usize::MAX;

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Datagrams by the time since the one before, in microseconds, and their length.
fn arrivals() -> impl Strategy<Value = Vec<(u64, usize)>> {
    proptest::collection::vec((0_u64..3_000, 0_usize..1_600), 1..200)
}

fn some_conditions() -> impl Strategy<Value = Conditions> {
    let shares = [0_u32..100, 0..100, 0..100, 0..100].prop_map(|all| all.map(Share::percent));
    let times = [0_u64..50, 0..50, 0..50].prop_map(|all| all.map(millis));
    let limit = proptest::option::of((1_u64..10_000_000, 0_u64..200_000));
    let mtu = proptest::option::of(600_u16..1_600);
    (shares, times, limit, mtu, any::<bool>()).prop_map(|(shares, times, limit, mtu, bursty)| {
        let loss = if bursty {
            Loss::Bursts(GilbertElliott::bursts(shares[0], 4))
        } else {
            Loss::Independent(shares[0])
        };
        Conditions {
            loss,
            delay: times[0],
            jitter: times[1],
            reorder: shares[1],
            reorder_by: times[2],
            duplicate: shares[2],
            corrupt: shares[3],
            limit: limit
                .map(|(bytes_a_second, queue_bytes)| RateLimit { bytes_a_second, queue_bytes }),
            mtu,
            black_hole: false,
        }
    })
}

/// What becomes of each datagram, with the moment it came.
fn played(
    path: &mut Path,
    arrivals: &[(u64, usize)],
    conditions: &Conditions,
) -> Vec<(Duration, usize, Option<Departure>)> {
    let mut now = Duration::ZERO;
    let mut enter = |&(after, length): &(u64, usize)| {
        now += Duration::from_micros(after);
        (now, length, path.enter(now, length, conditions, ROOM))
    };
    arrivals.iter().map(&mut enter).collect()
}

proptest! {
    #[test]
    fn every_datagram_is_accounted_for(
        seed in any::<u64>(), arrivals in arrivals(), conditions in some_conditions(),
    ) {
        let mut path = Path::new(seed, 28);
        let fates = played(&mut path, &arrivals, &conditions);
        prop_assert_eq!(path.counters.entered, arrivals.len() as u64);
        prop_assert!(path.counters.balance(), "{:?}", path.counters);
        for (_, length, departure) in fates {
            let Some(departure) = departure else { continue };
            path.gone(u64::from(departure.copies), length as u64, length % 2 == 0);
        }
        prop_assert_eq!(path.counters.waiting, 0);
        prop_assert!(path.counters.balance(), "{:?}", path.counters);
    }

    #[test]
    fn the_same_seed_does_the_same(
        seed in any::<u64>(), arrivals in arrivals(), conditions in some_conditions(),
    ) {
        let once = played(&mut Path::new(seed, 28), &arrivals, &conditions);
        let again = played(&mut Path::new(seed, 28), &arrivals, &conditions);
        prop_assert_eq!(once, again);
    }

    #[test]
    fn what_is_not_reordered_leaves_in_order_and_within_its_times(
        seed in any::<u64>(), arrivals in arrivals(), conditions in some_conditions(),
    ) {
        let mut last = Duration::ZERO;
        for (came, length, departure) in played(&mut Path::new(seed, 28), &arrivals, &conditions) {
            let Some(Departure { at, flip, reordered, copies }) = departure else { continue };
            let least = came + conditions.delay;
            prop_assert!(at >= least);
            if reordered {
                prop_assert!(at >= last.max(least) + conditions.reorder_by);
            } else {
                prop_assert!(at >= last);
                last = at;
            }
            // Whoever waits longest came behind a full queue and was sent by the bottleneck.
            let queue = conditions.limit.map_or(Duration::ZERO, |limit| {
                let bytes = limit.queue_bytes + 2 * 1_600;
                Duration::from_secs_f64(bytes as f64 / limit.bytes_a_second as f64)
            });
            let most = least + conditions.jitter + conditions.reorder_by + queue + millis(1);
            prop_assert!(at <= most, "{at:?} > {most:?}");
            prop_assert!(flip.is_none_or(|bit| bit < length * 8));
            prop_assert!(copies == 1 || copies == 2);
            prop_assert!(conditions.mtu.is_none_or(|mtu| length + 28 <= usize::from(mtu)));
        }
    }

    /// The oracle: a queue that is emptied byte by byte, in whole nanoseconds a byte.
    #[test]
    fn a_bottleneck_is_a_queue_that_empties_at_its_rate(
        arrivals in arrivals(), nanos_a_byte in 1_u64..2_000, queue_bytes in 0_u64..50_000,
    ) {
        let rate = 1_000_000_000 / nanos_a_byte;
        let nanos_a_byte = 1e9 / rate as f64;
        let limit = Some(RateLimit { bytes_a_second: rate, queue_bytes });
        let conditions = Conditions { limit, ..Conditions::default() };
        let (mut backlog, mut before) = (0.0_f64, Duration::ZERO);
        for (came, length, departure) in played(&mut Path::new(1, 28), &arrivals, &conditions) {
            backlog = (backlog - (came - before).as_nanos() as f64 / nanos_a_byte).max(0.0);
            before = came;
            let full = backlog + length as f64 - queue_bytes as f64;
            // Rounding decides where it is closer than a byte.
            if full.abs() > 1.0 && backlog > 1.0 {
                prop_assert_eq!(departure.is_none(), full > 0.0, "{} bytes wait", backlog);
            }
            let Some(departure) = departure else { continue };
            backlog += length as f64;
            let expected = backlog * nanos_a_byte;
            let took = (departure.at - came).as_nanos() as f64;
            prop_assert!((took - expected).abs() < 2_000.0 + nanos_a_byte, "{took} {expected}");
        }
    }

    /// One seed, one fate: what a small loss loses, a larger one loses too, and conditions that were on
    /// before change nothing.
    #[test]
    fn what_a_small_loss_loses_a_larger_one_loses_too(
        seed in any::<u64>(), small in 0_u32..=100, more in 0_u32..=100, before in some_conditions(),
    ) {
        let lost = |percent| {
            let loss = Loss::Independent(Share::percent(percent));
            let conditions = Conditions { loss, ..Conditions::default() };
            let mut path = Path::new(seed, 28);
            played(&mut path, &[(1, 100); 20], &before);
            let fates = played(&mut path, &[(1, 100); 100], &conditions);
            fates.into_iter().map(|(_, _, it)| it.is_none()).collect::<Vec<_>>()
        };
        let (few, many) = (lost(small), lost(small + more));
        prop_assert!(few.iter().zip(&many).all(|(few, many)| !few || *many));
    }

    #[test]
    fn what_cannot_be_held_is_lost_and_counted(seed in any::<u64>(), room in 0_usize..3_000) {
        let conditions =
            Conditions { delay: millis(1), duplicate: Share::percent(50), ..Conditions::default() };
        let mut path = Path::new(seed, 28);
        for _ in 0..20 {
            if let Some(departure) = path.enter(millis(5), 1_000, &conditions, room) {
                prop_assert!(1_000 * usize::from(departure.copies) <= room);
            }
        }
        prop_assert!(path.counters.balance());
        prop_assert_eq!(path.counters.not_held + path.counters.waiting - path.counters.duplicated, 20);
    }
}

#[test]
fn an_untouched_path_passes_everything_at_once_and_as_it_is() {
    let mut path = Path::new(3, 28);
    for length in [0, 1, 1_472, 65_507] {
        let departure = path.enter(millis(7), length, &Conditions::default(), 0);
        let as_it_is = Departure { at: millis(7), flip: None, reordered: false, copies: 1 };
        assert_eq!(departure, Some(as_it_is));
    }
}

#[test]
fn shares_are_met_over_many_datagrams() {
    let conditions = Conditions {
        loss: Loss::Independent(Share::percent(10)),
        reorder: Share::percent(20),
        duplicate: Share::percent(30),
        corrupt: Share::percent(40),
        ..Conditions::default()
    };
    let mut path = Path::new(11, 28);
    for _ in 0..100_000 {
        path.enter(millis(1), 100, &conditions, ROOM);
    }
    let counters = path.counters;
    let near = |count: u64, expected: u64| count.abs_diff(expected) < 700;
    assert!(near(counters.lost, 10_000), "{counters:?}");
    assert!(near(counters.reordered, 18_000), "{counters:?}");
    assert!(near(counters.duplicated, 27_000), "{counters:?}");
    assert!(near(counters.corrupted, 36_000), "{counters:?}");
}

#[test]
fn bursts_lose_their_share_in_rows_of_their_length() {
    for (percent, length) in [(30, 8), (10, 4), (50, 20)] {
        let loss = Loss::Bursts(GilbertElliott::bursts(Share::percent(percent), length));
        let conditions = Conditions { loss, ..Conditions::default() };
        let mut path = Path::new(5, 28);
        let mut rows = 0_u64;
        let mut in_row = false;
        for _ in 0..200_000 {
            let lost = path.enter(millis(1), 100, &conditions, ROOM).is_none();
            rows += u64::from(lost && !in_row);
            in_row = lost;
        }
        let lost = path.counters.lost;
        let share = lost as f64 / 200_000.0;
        assert!((share - f64::from(percent) / 100.0).abs() < 0.02, "{percent}: {share}");
        let mean = lost as f64 / rows as f64;
        assert!((mean / f64::from(length) - 1.0).abs() < 0.1, "{length}: {mean}");
    }
}

#[test]
fn the_next_ones_are_lost_or_the_next_bytes_pass() {
    let mut path = Path::new(1, 28);
    let passes = |path: &mut Path, length| {
        path.enter(millis(1), length, &Conditions::default(), ROOM).is_some()
    };
    path.lose_next(2);
    assert_eq!([(); 3].map(|()| passes(&mut path, 10)), [false, false, true]);
    assert_eq!(path.left_to_lose(), 0);
    path.pass_next(Some(25));
    assert_eq!([(); 4].map(|()| passes(&mut path, 10)), [true, true, false, false]);
    assert!(!passes(&mut path, 1), "what was too much ends it");
    path.pass_next(None);
    assert!(passes(&mut path, 10));
    assert_eq!(path.counters.black_holed, 5);
}
