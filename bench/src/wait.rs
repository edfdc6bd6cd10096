//! Waiting, always with a limit and a name.

use std::time::Duration;

use anyhow::{Result, anyhow};

/// How long anything between two ends on loopback may take before a figure is worthless.
pub(crate) const STEP_TIME_MAX: Duration = Duration::from_secs(10);

/// Awaits `future` for at most `limit`.
pub(crate) async fn within<T>(
    limit: Duration,
    what: &str,
    future: impl Future<Output = T>,
) -> Result<T> {
    let done = tokio::time::timeout(limit, future).await;
    done.map_err(|_| anyhow!("waited {limit:?} for {what}, in vain"))
}
