//! How a handler learns that nobody waits for its answer.

use std::sync::OnceLock;

use tokio::sync::Notify;

/// Whether the reply to a request is still wanted.
#[derive(Debug, Default)]
pub(crate) struct Cancelled {
    told: OnceLock<()>,
    notify: Notify,
}

impl Cancelled {
    pub(in crate::peers) fn tell(&self) {
        let _ = self.told.set(());
        self.notify.notify_waiters();
    }

    /// Waits until it is not. Cancel safe.
    pub(crate) async fn wait(&self) {
        let told = self.notify.notified();
        tokio::pin!(told);
        told.as_mut().enable();
        if self.told.get().is_none() {
            told.await;
        }
    }
}
