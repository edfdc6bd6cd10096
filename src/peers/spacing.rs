//! When a session's peer is dialled again.
//!
//! A connection that stood and is lost is dialled at once, after a random moment, and one that does not hold
//! no oftener than the node's backoff begins with; dials that fail, and connections of which no session
//! came, are spaced by the whole of it.

use std::time::{Duration, Instant};

use crate::restart::{BackoffSettings, RedialState};

/// How often a session is tried again at least until its time without a connection is over.
const TRIES_MIN: u32 = 12;

/// See the module.
#[derive(Debug)]
pub(super) struct Spacing {
    /// None with settings that cannot work: then it waits for the longest.
    redial: Option<RedialState>,
    longest: Duration,
    /// The longest wait behind a connection that stood: frames wait for the next one.
    longest_lost: Duration,
    /// Since when the session has the connection that it has.
    since: Option<Instant>,
    tried: bool,
}

impl Spacing {
    /// Before the first dial of a session that may be without a connection for `session_time`.
    pub(super) fn new(settings: BackoffSettings, session_time: Duration) -> Self {
        let least = settings.initial.mul_f64(1.0 + settings.jitter.clamp(0.0, 1.0));
        let longest = settings.cap.min(session_time / TRIES_MIN).max(least);
        let redial = RedialState::new(BackoffSettings { cap: longest, ..settings }).ok();
        Self { redial, longest, longest_lost: least, since: None, tried: false }
    }

    /// The session has a connection.
    pub(super) fn attached(&mut self, now: Instant) {
        (self.since, self.tried) = (Some(now), true);
        if let Some(redial) = &mut self.redial {
            redial.on_stood();
        }
    }

    /// How long to wait before the next dial; `random` is a number from 0 to 1, another for each call.
    pub(super) fn next(&mut self, now: Instant, random: f64) -> Duration {
        let first = !std::mem::replace(&mut self.tried, true);
        let Some(redial) = &mut self.redial else { return self.longest };
        match self.since.take() {
            Some(since) => {
                let uptime = now.saturating_duration_since(since);
                redial.after_loss(uptime, random).min(self.longest_lost)
            }
            None if first => Duration::ZERO,
            None => redial.after_failure(random),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn millis(spacing: &mut Spacing, now: Instant) -> u128 {
        spacing.next(now, 0.5).as_millis()
    }

    #[test]
    fn the_first_dial_and_that_behind_a_loss_go_out_at_once_and_those_behind_failures_wait_longer()
    {
        let (mut spacing, now) = (Spacing::new(BackoffSettings::default(), MINUTE), Instant::now());
        assert_eq!(millis(&mut spacing, now), 0);
        assert_eq!([(); 2].map(|()| millis(&mut spacing, now)), [250, 400]);
        spacing.attached(now);
        assert_eq!(millis(&mut spacing, now + MINUTE), 50, "random below 100 ms");
        assert_eq!([(); 2].map(|()| millis(&mut spacing, now)), [250, 400], "from the beginning");
        // Never so long that the session is over before somebody looks.
        for _ in 0..20 {
            spacing.next(now, 0.5);
        }
        assert!(spacing.next(now, 1.0) <= MINUTE / TRIES_MIN);
    }

    #[test]
    fn a_peer_whose_connections_do_not_hold_is_waited_for() {
        let (mut spacing, now) = (Spacing::new(BackoffSettings::default(), MINUTE), Instant::now());
        let waits = [(); 6].map(|()| {
            spacing.attached(now);
            millis(&mut spacing, now + Duration::from_secs(1))
        });
        assert_eq!(waits, [50, 50, 50, 250, 300, 300]);
    }
}
