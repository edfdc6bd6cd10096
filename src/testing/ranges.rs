//! A set of numbers that are nearly all there: kept as runs, so that its size is the number of gaps.

use std::fmt;
use std::ops::RangeInclusive;

/// Runs that are kept: a ledger of a thousand lanes stays below 100 MiB, whatever is lost.
const RUNS_MAX: usize = 4_096;

/// A set of numbers as runs without a gap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges {
    /// In order, and never touching.
    runs: std::collections::BTreeMap<u64, u64>,
    count: u64,
    /// Numbers below this one are told of no more: there were too many gaps.
    forgotten_below: u64,
}

/// What an insertion found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inserted {
    /// It was not there.
    Fresh,
    /// It was there.
    Again,
    /// Too much is missing to know.
    Forgotten,
}

impl Ranges {
    /// How many numbers are in it.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether `number` is in it; below [`forgotten_below`](Self::forgotten_below) it may not be.
    #[must_use]
    pub fn contains(&self, number: u64) -> bool {
        self.run_of(number).is_some()
    }

    /// Its runs, in order.
    pub fn runs(&self) -> impl Iterator<Item = RangeInclusive<u64>> {
        self.runs.iter().map(|(first, last)| *first..=*last)
    }

    /// Numbers below this one are not all known: more gaps were there than are kept.
    #[must_use]
    pub fn forgotten_below(&self) -> u64 {
        self.forgotten_below
    }

    pub(super) fn insert(&mut self, number: u64) -> Inserted {
        if number < self.forgotten_below {
            return Inserted::Forgotten;
        }
        if self.contains(number) {
            return Inserted::Again;
        }
        self.add(number..=number);
        while self.runs.len() > RUNS_MAX {
            let oldest = self.runs.pop_first();
            let next = self.runs.first_key_value().map(|(first, _)| *first);
            // The gap behind the oldest run is closed: what is in it will not be known again.
            if let (Some((first, last)), Some(next)) = (oldest, next) {
                self.forgotten_below = next;
                // The run stays, as one with the next, without the gap in the count.
                let end = self.runs.remove(&next).unwrap_or(last);
                self.runs.insert(first, end);
            }
        }
        Inserted::Fresh
    }

    /// Adds a run of numbers that are not in it.
    fn add(&mut self, run: RangeInclusive<u64>) {
        let (mut first, mut last) = run.into_inner();
        self.count += last - first + 1;
        let before = first.checked_sub(1).and_then(|before| self.run_of(before));
        if let Some((begins, _)) = before {
            first = begins;
        }
        if let Some(end) = last.checked_add(1).and_then(|next| self.runs.remove(&next)) {
            last = end;
        }
        self.runs.insert(first, last);
    }

    fn run_of(&self, number: u64) -> Option<(u64, u64)> {
        let (first, last) = self.runs.range(..=number).next_back()?;
        (number <= *last).then_some((*first, *last))
    }

    /// What is missing of the numbers from 0 to `end` (excluded), without those of `others`.
    pub(super) fn missing_below(&self, end: u64, others: &Self) -> Self {
        let mut missing = Self::default();
        let mut next = 0;
        let mut both: Vec<_> = self.runs().chain(others.runs()).collect();
        both.sort_by_key(|run| *run.start());
        for run in both.into_iter().chain([end..=u64::MAX]) {
            let until = (*run.start()).min(end);
            if next < until {
                missing.add(next..=until - 1);
            }
            next = next.max(run.end().saturating_add(1));
        }
        missing
    }
}

/// How many runs a text names.
const RUNS_SHOWN: usize = 8;

/// The first few runs.
impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, run) in self.runs().take(RUNS_SHOWN).enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            match (run.start(), run.end()) {
                (first, last) if first == last => write!(f, "{comma}{first}")?,
                (first, last) => write!(f, "{comma}{first} to {last}")?,
            }
        }
        if self.runs.len() > RUNS_SHOWN { f.write_str(", …") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn of(numbers: impl IntoIterator<Item = u64>) -> Ranges {
        let mut ranges = Ranges::default();
        for number in numbers {
            ranges.insert(number);
        }
        ranges
    }

    proptest! {
        /// The oracle: a set of all of them.
        #[test]
        fn runs_hold_what_a_set_of_all_numbers_holds(
            numbers in proptest::collection::vec(prop_oneof![0_u64..60, Just(u64::MAX)], 0..80),
            others in proptest::collection::vec(0_u64..60, 0..20),
            end in 0_u64..70,
        ) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for number in &numbers {
                let fresh = set.insert(*number);
                let expected = if fresh { Inserted::Fresh } else { Inserted::Again };
                prop_assert_eq!(ranges.insert(*number), expected);
            }
            prop_assert_eq!(ranges.count(), set.len() as u64);
            prop_assert!((0..70).all(|number| ranges.contains(number) == set.contains(&number)));
            let touching = ranges.runs().zip(ranges.runs().skip(1)).any(|(a, b)| a.end() + 1 >= *b.start());
            prop_assert!(!touching);
            let missing = ranges.missing_below(end, &of(others.clone()));
            let expected: Vec<u64> =
                (0..end).filter(|it| !set.contains(it) && !others.contains(it)).collect();
            prop_assert_eq!(missing.runs().flatten().collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn with_too_many_gaps_the_oldest_are_forgotten_and_that_is_told() {
        let gaps = RUNS_MAX as u64 + 100;
        let mut ranges = of((0..gaps).map(|number| number * 2));
        assert_eq!(ranges.runs.len(), RUNS_MAX);
        assert_eq!(ranges.count(), gaps);
        assert_eq!(ranges.forgotten_below(), 200);
        assert_eq!(ranges.insert(101), Inserted::Forgotten, "it may have come");
        assert_eq!(ranges.insert(2 * gaps - 3), Inserted::Fresh);
        assert_eq!(ranges.insert(2 * gaps - 2), Inserted::Again);
    }

    #[test]
    fn a_text_names_the_first_runs() {
        assert_eq!(of([1, 2, 3, 7]).to_string(), "1 to 3, 7");
        assert!(of((0..20).map(|it| it * 2)).to_string().ends_with("14, …"));
    }
}
