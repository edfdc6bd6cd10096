//! How often each of many may do something.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Each has what gathers with time, up to a burst. Remembers those that have less than all of it, and of
/// more than a bound forgets those that have the most.
#[derive(Debug)]
pub(super) struct Rates<K> {
    /// What one time costs.
    every: Duration,
    burst: Duration,
    max: usize,
    /// When each has all of its burst again.
    until: HashMap<K, Instant>,
    order: BTreeSet<(Instant, K)>,
}

impl<K: Copy + Eq + Hash + Ord> Rates<K> {
    /// So many a minute and so many at once, of which `max` are remembered.
    pub(super) fn new(a_minute: usize, burst: usize, max: usize) -> Self {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX).max(1);
        let every = Duration::from_secs(60) / number(a_minute);
        let burst = every.saturating_mul(number(burst));
        Self { every, burst, max, until: HashMap::new(), order: BTreeSet::new() }
    }

    /// Whether `who` may once more, which counts if so.
    pub(super) fn allows(&mut self, who: K, now: Instant) -> bool {
        while let Some((until, whole)) = self.order.first().copied().filter(|it| it.0 <= now) {
            self.order.remove(&(until, whole));
            self.until.remove(&whole);
        }
        let before = self.until.get(&who).copied();
        let next = before.unwrap_or(now) + self.every;
        if next > now + self.burst {
            return false;
        }
        if let Some(before) = before {
            self.order.remove(&(before, who));
        }
        self.until.insert(who, next);
        self.order.insert((next, who));
        if self.until.len() > self.max
            && let Some((_, least)) = self.order.pop_first()
        {
            self.until.remove(&least);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_burst_and_then_what_comes_with_time() {
        let (mut rates, now) = (Rates::new(60, 3, 10), Instant::now());
        let count =
            |rates: &mut Rates<u8>, who, now| (0..10).filter(|_| rates.allows(who, now)).count();
        assert_eq!(count(&mut rates, 1, now), 3);
        assert_eq!(count(&mut rates, 2, now), 3, "another one");
        assert_eq!(count(&mut rates, 1, now + Duration::from_millis(999)), 0);
        assert_eq!(count(&mut rates, 1, now + Duration::from_secs(2)), 2);
        assert_eq!(count(&mut rates, 1, now + Duration::from_secs(9)), 3, "never more than that");
        assert_eq!((rates.until.len(), rates.order.len()), (1, 1), "the other one has all of it");
    }

    #[test]
    fn of_more_than_are_remembered_those_that_have_the_most_are_forgotten() {
        let (mut rates, now) = (Rates::new(60, 3, 2), Instant::now());
        (0..3).for_each(|_| assert!(rates.allows(0, now)));
        for stranger in 1..100 {
            assert!(rates.allows(stranger, now));
        }
        assert_eq!((rates.until.len(), rates.order.len()), (2, 2));
        assert!(!rates.allows(0, now), "it has used its burst up");
    }
}
