//! Dials until a session has a link.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng;
use tokio::sync::Notify;

use super::{Dial, Sessions};
use crate::error::{CloseCode, CloseReason, ConnectError};
use crate::lock::lock;
use crate::peers::error::PeerEnded;
use crate::session::effect::Origin;
use crate::session::message::SessionId;
use crate::transport::clock;
use crate::transport::core::ConnectionCore;

/// What is to be done about a session without a link.
struct Next {
    dial: Dial,
    wait: Duration,
    /// Tells that the wait may be another one.
    changed: Arc<Notify>,
}

impl Sessions {
    /// Dials until a link of the session is up, or the session has ended.
    pub(super) fn dial(&self, session: SessionId, not_before: Option<Instant>) {
        {
            let mut peers = lock(&self.peers);
            let Some(entry) = peers.get_mut(&session).filter(|entry| entry.dial.is_some()) else {
                return;
            };
            entry.not_before = not_before;
            if std::mem::replace(&mut entry.dialling, true) {
                return entry.changed.notify_one();
            }
        }
        let myself = self.myself.clone();
        self.runtime.spawn(async move {
            loop {
                let next = myself.upgrade().and_then(|sessions| sessions.next_dial(session));
                let Some(Next { dial, wait, changed }) = next else { return };
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = changed.notified() => continue,
                }
                if !myself.upgrade().is_some_and(|sessions| sessions.wants_link(session)) {
                    return;
                }
                let dialled = dial().await;
                let Some(sessions) = myself.upgrade() else { return };
                if !sessions.dialled(session, dialled) {
                    return;
                }
            }
        });
    }

    fn next_dial(&self, session: SessionId) -> Option<Next> {
        let mut peers = lock(&self.peers);
        let entry = peers.get_mut(&session)?;
        if entry.core.has_link() {
            entry.dialling = false;
            return None;
        }
        let (dial, now) = (entry.dial.clone()?, clock::now());
        let wait = entry.spacing.next(now, rand::rng().random());
        let until = entry.not_before.map(|until| until.saturating_duration_since(now));
        let wait = wait.max(until.unwrap_or_default());
        Some(Next { dial, wait, changed: Arc::clone(&entry.changed) })
    }

    /// Whether the session still needs a link; if not, nobody dials for it from here on.
    fn wants_link(&self, session: SessionId) -> bool {
        let mut peers = lock(&self.peers);
        let Some(entry) = peers.get_mut(&session) else { return false };
        entry.dialling = !entry.core.has_link();
        entry.dialling
    }

    /// Takes the result of a dial; whether another one has to follow.
    fn dialled(
        &self,
        session: SessionId,
        dialled: Result<Arc<ConnectionCore>, ConnectError>,
    ) -> bool {
        let Some(core) = self.peer(session) else {
            // It has ended meanwhile.
            if let Ok(connection) = dialled {
                connection.cut(CloseCode::DROPPED);
            }
            return false;
        };
        match dialled {
            Ok(connection) => {
                if let Some(entry) = lock(&self.peers).get_mut(&session) {
                    entry.dialling = false;
                }
                self.link_up(connection, Origin::Dialled(session));
                false
            }
            Err(error) => {
                let reason = match &error {
                    ConnectError::Closed { reason: CloseReason::Peer { code }, .. } => Some(*code),
                    _ => None,
                };
                core.dial_failed(error);
                if let Some(code) = reason.filter(|code| code.is_final()) {
                    // Whoever says so does not want it back.
                    core.shut(PeerEnded::ByPeer { code });
                    self.decide(|table, at| table.dial_refused(at, session, code));
                    return false;
                }
                self.wants_link(session)
            }
        }
    }
}
