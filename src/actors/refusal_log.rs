//! Refused connections in the log: a stranger can cause as many as he likes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tracing::{debug, info};

use crate::error::AcceptError;

/// Refusals that are logged at info within [`WINDOW`]: enough to see who it is.
const LOGGED_MAX: u32 = 10;

/// How long that goes for.
const WINDOW: Duration = Duration::from_secs(10);

/// Counts the refusals of one listener.
#[derive(Debug, Default)]
pub(super) struct RefusalLog {
    window: Option<Instant>,
    logged: u32,
    /// Logged at debug alone, since the last sum.
    left_out: u64,
}

impl RefusalLog {
    /// Logs a refusal at this moment.
    pub(super) fn refused(&mut self, now: Instant, remote: SocketAddr, error: &AcceptError) {
        if let Some(more) = self.next_window(now) {
            info!(more, "refused and not logged until here");
        }
        if self.is_logged() {
            info!(%remote, %error, "refused");
        } else {
            debug!(%remote, %error, "refused");
        }
    }

    /// Begins another window if the last one is over; how many were left out before it, if any.
    fn next_window(&mut self, now: Instant) -> Option<u64> {
        if self.window.is_some_and(|began| now.duration_since(began) < WINDOW) {
            return None;
        }
        (self.window, self.logged) = (Some(now), 0);
        let left_out = std::mem::take(&mut self.left_out);
        (left_out > 0).then_some(left_out)
    }

    fn is_logged(&mut self) -> bool {
        if self.logged < LOGGED_MAX {
            self.logged += 1;
            return true;
        }
        self.left_out += 1;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_logged_ten_at_a_time_and_summed_up() {
        let (mut log, began) = (RefusalLog::default(), Instant::now());
        let mut at = |seconds| {
            let sum = log.next_window(began + Duration::from_secs(seconds));
            (sum, (0..1_000).filter(|_| log.is_logged()).count())
        };
        assert_eq!(at(0), (None, 10));
        assert_eq!(at(9), (None, 0));
        assert_eq!(at(10), (Some(1_990), 10));
        assert_eq!(at(60), (Some(990), 10));
    }
}
