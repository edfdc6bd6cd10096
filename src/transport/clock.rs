//! The time, which tests may stop.

use std::time::Instant;

/// Now, by the runtime's clock: under a paused one, the time that it stands at.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
