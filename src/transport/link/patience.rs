//! How long a frame may stay unfinished.
//!
//! A leaky bucket over all the bytes of a connection: it holds a limit of time, runs empty as time
//! passes, and every byte that arrives, of whichever stream, puts time back. So the deadline is met
//! only by a sender that stopped inside a frame (or sends a byte a second), never by a slow link nor by
//! a stream that waits behind a busier one.

use std::time::{Duration, Instant};

/// See the module.
#[derive(Debug)]
pub(crate) struct Patience {
    limit: Duration,
    /// Bytes that are worth a second.
    rate_min: usize,
    deadline: Option<Instant>,
}

impl Patience {
    pub(crate) fn new(limit: Duration, rate_min: usize) -> Self {
        Self { limit, rate_min, deadline: None }
    }

    /// Bytes arrived.
    pub(crate) fn moved(&mut self, now: Instant, bytes: usize) {
        if let Some(deadline) = &mut self.deadline {
            let full = now + self.limit;
            let worth = Duration::from_secs(1)
                .saturating_mul(u32::try_from(bytes).unwrap_or(u32::MAX))
                / u32::try_from(self.rate_min.max(1)).unwrap_or(u32::MAX);
            *deadline = deadline.checked_add(worth).map_or(full, |later| later.min(full));
        }
    }

    /// Something is unfinished that can go on: the deadline by which more must come.
    pub(crate) fn wait(&mut self, now: Instant) -> Instant {
        *self.deadline.get_or_insert(now + self.limit)
    }

    /// The next wait has the whole limit again.
    pub(crate) fn rest(&mut self) {
        self.deadline = None;
    }

    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(12);
    const RATE: usize = 1024;

    /// Seconds until the deadline, if `bytes` arrive each second from the beginning; `None` if it is
    /// not met within an hour.
    fn lasts(bytes: usize) -> Option<u64> {
        let begun = Instant::now();
        let mut patience = Patience::new(LIMIT, RATE);
        patience.wait(begun);
        (1..3_600).find(|second| {
            let now = begun + Duration::from_secs(*second);
            let over = patience.wait(now) <= now;
            patience.moved(now, bytes);
            over
        })
    }

    #[test]
    fn a_sender_that_stops_has_the_limit() {
        assert_eq!(lasts(0), Some(12));
    }

    #[test]
    fn a_byte_a_second_is_no_progress() {
        assert_eq!(lasts(1), Some(13));
        assert_eq!(lasts(RATE / 2), Some(23));
    }

    #[test]
    fn the_least_rate_is_enough_for_ever() {
        assert_eq!(lasts(RATE), None);
    }

    #[test]
    fn what_came_long_ago_is_worth_no_more_than_the_limit() {
        let begun = Instant::now();
        let mut patience = Patience::new(LIMIT, RATE);
        patience.wait(begun);
        patience.moved(begun, usize::MAX);
        assert_eq!(patience.wait(begun), begun + LIMIT);
    }

    #[test]
    fn a_rest_gives_the_whole_limit_again() {
        let begun = Instant::now();
        let mut patience = Patience::new(LIMIT, RATE);
        patience.wait(begun);
        patience.rest();
        let later = begun + Duration::from_secs(60);
        assert_eq!(patience.wait(later), later + LIMIT);
    }
}
