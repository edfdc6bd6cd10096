//! What waits for its time, in the order in which it leaves.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// What the bytes of a proxy's datagrams that wait come to at most, in both directions: more than
/// 120 ms of 500 MiB/s.
pub const HELD_BYTES_MAX: usize = 64 << 20;

/// What each datagram is counted with beyond its bytes, so that many small ones are bounded as well.
const OVERHEAD_BYTES: usize = 128;

/// Datagrams that wait; of those with the same time the first one that came leaves first.
#[derive(Debug)]
pub(super) struct Held<T> {
    waiting: BinaryHeap<Reverse<Waiting<T>>>,
    next: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Waiting<T> {
    at: Duration,
    number: u64,
    bytes: usize,
    what: T,
}

impl<T> Held<T> {
    pub(super) fn new() -> Self {
        Self { waiting: BinaryHeap::new(), next: 0, bytes: 0 }
    }

    /// Bytes of a datagram that may still come.
    pub(super) fn room(&self) -> usize {
        // Two copies of one datagram may come at once.
        HELD_BYTES_MAX.saturating_sub(self.bytes + 2 * OVERHEAD_BYTES)
    }

    /// Whether it is the first to leave.
    pub(super) fn push(&mut self, at: Duration, bytes: usize, what: T) -> bool {
        let bytes = bytes + OVERHEAD_BYTES;
        let first = self.first().is_none_or(|first| at < first);
        self.waiting.push(Reverse(Waiting { at, number: self.next, bytes, what }));
        self.next += 1;
        self.bytes += bytes;
        first
    }

    /// When the first one leaves.
    pub(super) fn first(&self) -> Option<Duration> {
        self.waiting.peek().map(|first| first.0.at)
    }

    /// The first one whose time has come.
    pub(super) fn pop(&mut self, now: Duration) -> Option<T> {
        self.first().filter(|at| *at <= now)?;
        let Reverse(first) = self.waiting.pop()?;
        self.bytes -= first.bytes;
        Some(first.what)
    }
}

impl<T> Waiting<T> {
    fn key(&self) -> (Duration, u64) {
        (self.at, self.number)
    }
}

impl<T> Ord for Waiting<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl<T> PartialOrd for Waiting<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Waiting<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<T> Eq for Waiting<T> {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The oracle: a stable sort.
        #[test]
        fn what_waits_leaves_by_its_time_and_then_as_it_came(
            times in proptest::collection::vec(0_u64..20, 0..100), now in 0_u64..25,
        ) {
            let mut held = Held::new();
            for (number, at) in times.iter().enumerate() {
                held.push(Duration::from_secs(*at), 10, number);
            }
            let mut expected: Vec<usize> = (0..times.len()).collect();
            expected.sort_by_key(|number| times[*number]);
            expected.retain(|number| times[*number] <= now);
            let mut left = Vec::new();
            while let Some(number) = held.pop(Duration::from_secs(now)) {
                left.push(number);
            }
            prop_assert_eq!(left, expected);
            let later = times.iter().filter(|at| **at > now).min();
            prop_assert_eq!(held.first(), later.map(|at| Duration::from_secs(*at)));
        }
    }

    #[test]
    fn there_is_room_again_when_something_has_left() {
        let mut held = Held::new();
        let room = held.room();
        held.push(Duration::ZERO, room, ());
        assert_eq!(held.room(), 0);
        held.pop(Duration::ZERO).unwrap();
        assert_eq!(held.room(), room);
    }
}
