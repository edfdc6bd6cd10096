//! Callers by message that do not wait any more.

use std::time::Duration;

use ractor::RpcReplyPort;

/// How often it is looked whether a caller still waits: no port tells so by itself, and a thousand may wait.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Waits until nobody waits for the answer. Cancel safe.
pub(super) async fn is_gone<T>(reply: &RpcReplyPort<T>) {
    while !reply.is_closed() {
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
