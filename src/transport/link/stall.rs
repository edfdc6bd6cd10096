//! Whether the lanes move.
//!
//! Invariant: a lane stands still only if no frame of it, nor of a lane that goes before it, met its end
//! for the whole limit while it had some that were on their way, or that the library did not take.

use std::time::{Duration, Instant};

/// What a lane has that was not sent to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::transport) struct Progress {
    /// Anything.
    pub(in crate::transport) busy: bool,
    /// How many submissions have met their end so far.
    pub(in crate::transport) ended: u64,
}

/// Since when each lane stands still, and how many of its submissions had met their end then.
#[derive(Debug, Default)]
pub(in crate::transport) struct Still([Option<(Instant, u64)>; 3]);

impl Still {
    /// Whether a lane stands still for `limit`; the most urgent lane comes first.
    pub(in crate::transport) fn look(
        &mut self,
        lanes: [Progress; 3],
        now: Instant,
        limit: Duration,
    ) -> bool {
        let (mut moved, mut stalled) = (false, false);
        for (Progress { busy, ended }, last) in lanes.into_iter().zip(&mut self.0) {
            moved |= last.is_some_and(|(_, before)| before != ended);
            let since = last.filter(|_| busy && !moved).map_or(now, |(since, _)| since);
            stalled |= now.saturating_duration_since(since) >= limit;
            *last = Some((since, ended));
        }
        stalled
    }

    /// Nothing is on its way.
    pub(in crate::transport) fn rest(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    fn lanes(ended: [u64; 3]) -> [Progress; 3] {
        ended.map(|ended| Progress { busy: true, ended })
    }

    #[test]
    fn a_lane_that_is_busy_and_ends_nothing_stands_still_at_the_limit() {
        let (mut still, start) = (Still::default(), Instant::now());
        let only_bulk = [false, false, true].map(|busy| Progress { busy, ended: 7 });
        assert!(!still.look(only_bulk, start, LIMIT));
        assert!(!still.look(only_bulk, start + LIMIT - Duration::from_millis(1), LIMIT));
        assert!(still.look(only_bulk, start + LIMIT, LIMIT));
    }

    #[test]
    fn a_lane_waits_behind_those_that_go_before_it_and_not_behind_others() {
        let start = Instant::now();
        // Data moves, so bulk may wait; control goes before data, and may not.
        for (moving, stalls) in [(0, false), (1, true), (2, true)] {
            let (mut still, mut ended, mut stalled) = (Still::default(), [0; 3], false);
            for step in 0..=6 {
                ended[moving] += 1;
                stalled = still.look(lanes(ended), start + LIMIT / 6 * step, LIMIT);
            }
            assert_eq!(stalled, stalls, "lane {moving} moves");
        }
    }

    #[test]
    fn a_lane_that_rested_begins_anew() {
        let (mut still, start) = (Still::default(), Instant::now());
        assert!(!still.look(lanes([0; 3]), start, LIMIT));
        still.rest();
        assert!(!still.look(lanes([0; 3]), start + 2 * LIMIT, LIMIT));
        let idle = [Progress { busy: false, ended: 0 }; 3];
        assert!(!still.look(idle, start + 4 * LIMIT, LIMIT));
        assert!(!still.look(lanes([0; 3]), start + 4 * LIMIT, LIMIT), "idle until now");
    }
}
