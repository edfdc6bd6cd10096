//! Which of a peer's addresses is tried when (RFC 8305). No clock: the caller brings it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Connection Attempt Delay (RFC 8305, section 5): the next address is tried beside those that have
/// not answered.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Addresses that are tried; a name may have any number.
const ADDRESSES_MAX: usize = 16;

/// The addresses that were not tried yet.
#[derive(Debug)]
pub(super) struct Race {
    waiting: VecDeque<SocketAddr>,
    delay: Duration,
    due: Instant,
}

impl Race {
    /// For `addresses`, the preferred one first; all are tried within half of `limit`.
    pub(super) fn new(addresses: &[SocketAddr], now: Instant, limit: Duration) -> Self {
        let waiting = interleaved(addresses);
        let count = u32::try_from(waiting.len()).unwrap_or(u32::MAX).max(1);
        Self { waiting, delay: ATTEMPT_DELAY.min(limit / 2 / count), due: now }
    }

    /// The address to try next, if it is time. Who has answered and is about to accept is given the
    /// time of an attempt: a second connection to the same peer would be of no use.
    pub(super) fn next(&mut self, now: Instant, one_has_answered: bool) -> Option<SocketAddr> {
        if now < self.due {
            return None;
        }
        self.due = now + self.delay;
        if one_has_answered { None } else { self.waiting.pop_front() }
    }

    /// When [`next`](Self::next) has something to say, if it ever has.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.waiting.is_empty()).then_some(self.due)
    }

    /// An attempt failed: the next one does not wait.
    pub(super) fn failed(&mut self, now: Instant) {
        self.due = now;
    }
}

/// One of each family in turn, beginning with that of the first (RFC 8305, section 4), each once.
fn interleaved(addresses: &[SocketAddr]) -> VecDeque<SocketAddr> {
    let mut once: Vec<SocketAddr> = Vec::new();
    for address in addresses {
        if !once.contains(address) {
            once.push(*address);
        }
        if once.len() == ADDRESSES_MAX {
            break;
        }
    }
    let first_is_v4 = once.first().is_some_and(SocketAddr::is_ipv4);
    let (first, other): (Vec<_>, Vec<_>) =
        once.into_iter().partition(|address| address.is_ipv4() == first_is_v4);
    let (mut first, mut other) = (first.into_iter(), other.into_iter());
    let mut order = VecDeque::new();
    loop {
        let pair = [first.next(), other.next()];
        if pair == [None, None] {
            return order;
        }
        order.extend(pair.into_iter().flatten());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);
    const MILLISECOND: Duration = Duration::from_millis(1);

    fn v4(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 4433).into()
    }

    fn v6(last: u16) -> SocketAddr {
        ([0x2001, 0xdb8, 0, 0, 0, 0, 0, last], 4433).into()
    }

    #[test]
    fn families_take_turns_and_the_preferred_one_begins() {
        assert_eq!(interleaved(&[v6(1), v6(2), v4(1)]), [v6(1), v4(1), v6(2)]);
        assert_eq!(interleaved(&[v4(1), v4(2), v4(1), v6(1)]), [v4(1), v6(1), v4(2)]);
        assert_eq!(interleaved(&[]), []);
        let many: Vec<SocketAddr> = (0..100).map(v4).collect();
        assert_eq!(interleaved(&many).len(), ADDRESSES_MAX);
    }

    #[test]
    fn the_next_address_is_tried_after_the_delay_or_at_once_after_a_failure() {
        let start = Instant::now();
        let mut race = Race::new(&[v6(1), v4(1), v6(2)], start, LIMIT);
        assert_eq!(race.next(start, false), Some(v6(1)));
        assert_eq!(race.next(start + ATTEMPT_DELAY - MILLISECOND, false), None);
        let second = start + ATTEMPT_DELAY;
        assert_eq!((race.due(), race.next(second, false)), (Some(second), Some(v4(1))));
        race.failed(second + MILLISECOND);
        assert_eq!(race.next(second + MILLISECOND, false), Some(v6(2)));
        assert_eq!((race.due(), race.next(second + LIMIT, false)), (None, None));
    }

    #[test]
    fn who_has_answered_is_given_time_to_accept() {
        let start = Instant::now();
        let mut race = Race::new(&[v6(1), v4(1)], start, LIMIT);
        assert_eq!(race.next(start, false), Some(v6(1)));
        let due = start + ATTEMPT_DELAY;
        assert_eq!((race.next(due, true), race.due()), (None, Some(due + ATTEMPT_DELAY)));
        race.failed(due + MILLISECOND);
        assert_eq!(race.next(due + MILLISECOND, false), Some(v4(1)));
    }

    #[test]
    fn every_address_is_tried_within_half_of_a_short_limit() {
        let (mut now, limit) = (Instant::now(), Duration::from_millis(320));
        let end = now + limit / 2;
        let all: Vec<SocketAddr> = (0..16).map(v4).collect();
        let mut race = Race::new(&all, now, limit);
        let mut tried = Vec::new();
        while let Some(due) = race.due() {
            now = due;
            tried.extend(race.next(now, false));
        }
        assert_eq!(tried, all);
        assert!(now <= end);
    }
}
