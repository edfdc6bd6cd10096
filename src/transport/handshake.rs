//! A connection until it stands: who ends it if nobody waits, and its one deadline.

use std::sync::Arc;
use std::time::Instant;

use super::core::{ConnectionCore, Direction};
use super::counts::Limit;
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

    /// When it has taken as long as it may, for one that the peer began: since the peer asked, however
    /// long nobody accepted it.
    pub(super) fn deadline(&self) -> Instant {
        self.core.started() + self.core.limits().handshake_time_max
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

    /// As [`done`](Self::done), for one that the peer began: who shows no certificate for
    /// `Limits::handshake_answer_max` is given up before the deadline.
    pub(super) async fn done_by_peer(&self) -> Result<(), CloseReason> {
        let (core, deadline) = (&self.core, self.deadline());
        let answer = deadline.min(core.started() + core.limits().handshake_answer_max);
        let done = match tokio::time::timeout_at(answer.into(), core.connected()).await {
            Ok(done) => done,
            Err(_) if core.has_answered() => self.done(deadline).await,
            Err(_) => {
                core.was_silent();
                return self.done(answer).await;
            }
        };
        done.inspect_err(|reason| {
            if *reason == CloseReason::HandshakeTimedOut {
                core.reached(Limit::HandshakeTime);
            }
        })
    }

    /// It is done: the connection has an owner.
    pub(super) fn keep(mut self) -> Arc<ConnectionCore> {
        self.armed = false;
        Arc::clone(&self.core)
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let code = CloseCode::DROPPED;
        if self.core.direction() == Direction::Outbound && !self.core.has_answered() {
            // Nobody may be there, and a handle that tells is kept until the idle time.
            self.core.cut_silently(CloseReason::Local { code });
        } else {
            // It keeps a place for us.
            self.core.cut(code);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Limits;
    use crate::identity::NetCredential;
    use crate::transport::bounds::Bounds;
    use crate::transport::registration::{LiveHandle, RegistrationWrapper};
    use crate::transport::simulator::joined::Joined;

    #[tokio::test]
    async fn the_deadline_of_an_inbound_handshake_begins_when_the_peer_asks() {
        let limit = Duration::from_millis(400);
        let limits = Limits { handshake_time_max: limit, ..Limits::default() };
        let registration = RegistrationWrapper::open().expect("a registration");
        let credential = NetCredential::generate_self_signed(&["test"], &[]).expect("one");
        let live = LiveHandle::new(&registration);
        let bounds = Arc::new(Bounds::new(limits));
        let core = ConnectionCore::new(live, Direction::Inbound, credential, None, &bounds);
        let asked = core.started();
        // not synchronisation: the application takes its time before it accepts
        tokio::time::sleep(limit / 2).await;
        let handshake = Handshake::new(core);
        let done = handshake.done(handshake.deadline()).await;
        assert_eq!(done, Err(CloseReason::HandshakeTimedOut));
        let took = asked.elapsed();
        assert!((limit..limit * 4 / 3).contains(&took), "{took:?}");
        assert_eq!(handshake.core().close_reason(), Some(CloseReason::HandshakeTimedOut));
        assert_eq!(handshake.done_by_peer().await, Err(CloseReason::HandshakeTimedOut));
        assert_eq!(bounds.stats().limits.handshake_time_max, 1);
    }

    #[tokio::test]
    async fn a_peer_that_speaks_as_its_handshake_is_given_up_hears_why() {
        let (world, [dialled, accepted]) = Joined::new(&Limits::default());
        accepted.core().cut_silently(CloseReason::HandshakeTimedOut);
        world.run_until_idle().await;
        let code = CloseCode::HANDSHAKE_TIMEOUT;
        assert_eq!(dialled.close_reason(), Some(CloseReason::Peer { code }));
        assert_eq!(accepted.close_reason(), Some(CloseReason::HandshakeTimedOut));
    }
}
