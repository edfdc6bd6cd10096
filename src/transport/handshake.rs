//! A connection until it stands: who ends it if nobody waits, and its one deadline.

use std::sync::Arc;
use std::time::Instant;

use super::core::ConnectionCore;
use crate::error::{CloseCode, CloseReason};

/// A connection on its way. Ends it if nobody waits for it any more.
pub(super) struct Handshake {
    core: Arc<ConnectionCore>,
    armed: bool,
}

impl Handshake {
    pub(super) fn new(core: Arc<ConnectionCore>) -> Self {
        Self { core, armed: true }
    }

    pub(super) fn core(&self) -> &Arc<ConnectionCore> {
        &self.core
    }

    /// Waits until it is done, at most until `deadline`; then it is given up silently.
    pub(super) async fn done(&self, deadline: Instant) -> Result<(), CloseReason> {
        match tokio::time::timeout_at(deadline.into(), self.core.connected()).await {
            Ok(done) => done,
            Err(_) => {
                self.core.cut_silently(CloseReason::HandshakeTimedOut);
                Err(CloseReason::HandshakeTimedOut)
            }
        }
    }

    /// It is done: the connection has an owner.
    pub(super) fn keep(mut self) -> Arc<ConnectionCore> {
        self.armed = false;
        Arc::clone(&self.core)
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        if self.armed {
            self.core.cut(CloseCode::DROPPED);
        }
    }
}
