//! Waiting, always with a limit and a name.

use std::time::Duration;

/// Nothing happened within the limit.
#[derive(Debug, thiserror::Error)]
#[error("waited {limit:?} for {what}, in vain")]
pub(crate) struct Unanswered {
    what: String,
    limit: Duration,
}

/// Awaits `future` for at most `limit`.
pub(crate) async fn within<T>(
    limit: Duration,
    what: impl Into<String>,
    future: impl Future<Output = T>,
) -> Result<T, Unanswered> {
    tokio::time::timeout(limit, future).await.map_err(|_| Unanswered { what: what.into(), limit })
}
