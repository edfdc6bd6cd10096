//! The time, which tests may stop.

use std::time::{Duration, Instant};

/// Now, by the runtime's clock: under a paused one, the time that it stands at.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Later than anybody waits, and sooner than any clock overflows.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// In so long: a caller may give any time, [`Duration::MAX`] for one without an end.
pub(crate) fn after(time: Duration) -> Instant {
    now() + time.min(FAR)
}
