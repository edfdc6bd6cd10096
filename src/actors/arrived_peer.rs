//! A peer that began a session, for an actor that accepts them.

use ractor::ActorRef;
use tokio::sync::oneshot;

use super::message::peer::PeerMessage;
use crate::identity::CertHash;
use crate::peers::handle::Peer;

/// A peer that began a session: see
/// [`SupervisorMessage::AcceptPeers`](crate::SupervisorMessage::AcceptPeers). The next one comes when this is
/// dropped; dropped without having been [taken](Self::take), because whoever accepts has died or does not
/// want it, its session is given up.
#[derive(Debug)]
pub struct ArrivedPeer {
    peer: Peer,
    actor: ActorRef<PeerMessage>,
    taken: bool,
    /// Dropped with it.
    _dealt_with: oneshot::Sender<()>,
}

impl ArrivedPeer {
    pub(super) fn new(
        peer: Peer,
        actor: ActorRef<PeerMessage>,
        dealt_with: oneshot::Sender<()>,
    ) -> Self {
        Self { peer, actor, taken: false, _dealt_with: dealt_with }
    }

    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> CertHash {
        self.peer.identity()
    }

    /// What both speak.
    #[must_use]
    pub fn protocol(&self) -> &str {
        self.peer.protocol()
    }

    /// Takes it: the session's actor, which holds the session until it is told to
    /// [leave](PeerMessage::Leave) or to close it.
    #[must_use = "the actor holds the session"]
    pub fn take(mut self) -> ActorRef<PeerMessage> {
        self.taken = true;
        self.actor.clone()
    }
}

impl Drop for ArrivedPeer {
    fn drop(&mut self) {
        if !self.taken {
            // One that has ended holds nothing.
            drop(self.actor.cast(PeerMessage::Leave));
        }
    }
}
