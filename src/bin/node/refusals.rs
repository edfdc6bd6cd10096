//! Which refusals are shown: a stranger can cause as many as he likes.

use std::time::Duration;

use tokio::time::Instant;

/// Refusals that are shown within [`WINDOW`]: enough to see who it is.
const TOLD_MAX: u32 = 10;

/// How long that goes for, and how often the others are summed up.
const WINDOW: Duration = Duration::from_secs(10);

/// Counts the refusals of the current window.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    window: Option<Instant>,
    told: u32,
    untold: u64,
}

impl Refusals {
    /// Counts one; whether it is to be shown. First ask for [`Refusals::untold`].
    pub(crate) fn is_told(&mut self, now: Instant) -> bool {
        if self.window.is_none_or(|began| now >= began + WINDOW) {
            (self.window, self.told) = (Some(now), 0);
        }
        if self.told < TOLD_MAX {
            self.told += 1;
            return true;
        }
        self.untold += 1;
        false
    }

    /// How many of a window that is over were not shown; once.
    pub(crate) fn untold(&mut self, now: Instant) -> u64 {
        let over = self.window.is_some_and(|began| now >= began + WINDOW);
        if over { std::mem::take(&mut self.untold) } else { 0 }
    }

    /// How many were not shown, of the current window as well; once.
    pub(crate) fn rest(&mut self) -> u64 {
        std::mem::take(&mut self.untold)
    }

    /// When there is a sum to be shown, if there is.
    fn sum_at(&self) -> Option<Instant> {
        self.window.filter(|_| self.untold > 0).map(|began| began + WINDOW)
    }

    /// Returns when there is a sum to be shown. Cancel safe.
    pub(crate) async fn window_ends(&self) {
        match self.sum_at() {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_shown_ten_at_a_time_and_summed_up() {
        let (mut refusals, began) = (Refusals::default(), Instant::now());
        let mut at = |seconds| {
            let now = began + Duration::from_secs(seconds);
            let sum = refusals.untold(now);
            (sum, (0..1_000).filter(|_| refusals.is_told(now)).count())
        };
        assert_eq!(at(0), (0, 10));
        assert_eq!(at(9), (0, 0));
        assert_eq!(at(10), (1_990, 10));
        assert_eq!((refusals.rest(), refusals.rest()), (990, 0));
    }

    #[test]
    fn a_sum_is_waited_for_only_where_there_is_one() {
        let (mut refusals, began) = (Refusals::default(), Instant::now());
        assert_eq!(refusals.sum_at(), None);
        for _ in 0..TOLD_MAX {
            assert!(refusals.is_told(began));
        }
        assert_eq!(refusals.sum_at(), None);
        assert!(!refusals.is_told(began));
        assert_eq!(refusals.sum_at(), Some(began + WINDOW));
        assert_eq!((refusals.untold(began + WINDOW), refusals.sum_at()), (1, None));
    }
}
