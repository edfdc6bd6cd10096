//! The actors of sessions, as their supervisor knows them, and who waits for one.

use std::collections::HashMap;
use std::sync::Arc;

use ractor::{ActorId, ActorRef, DerivedActorRef, RpcReplyPort};
use tokio::sync::{Semaphore, oneshot};

use super::arrived_peer::ArrivedPeer;
use super::message::peer::PeerMessage;
use super::tasks::OwnedTask;
use super::waiting::{CALLERS_MAX, Waiter, Waiting};
use crate::identity::CertHash;
use crate::peers::error::PeerError;
use crate::peers::handle::Peer;
use crate::restart::RestartState;
use crate::session::message::SessionId;

/// Who wants the actor of a session.
#[derive(Debug)]
pub(in crate::actors) enum PeerCaller {
    /// Opened it by message.
    Opener(RpcReplyPort<Result<ActorRef<PeerMessage>, PeerError>>),
    /// Accepts those that come.
    Acceptor(DerivedActorRef<ArrivedPeer>, oneshot::Sender<()>),
    /// Has a handle of it.
    Holder(RpcReplyPort<ActorRef<PeerMessage>>),
    /// Looks for it.
    Finder(RpcReplyPort<Option<ActorRef<PeerMessage>>>),
}

impl PeerCaller {
    /// Gives the actor; whether somebody took it.
    pub(super) fn give(self, peer: &Peer, actor: &ActorRef<PeerMessage>) -> bool {
        let actor = actor.clone();
        match self {
            Self::Opener(reply) => reply.send(Ok(actor)).is_ok(),
            // Dropped on the way it is given up by itself.
            Self::Acceptor(acceptor, dealt_with) => {
                let arrived = ArrivedPeer::new(peer.clone(), actor, dealt_with);
                acceptor.send_message(arrived).is_ok()
            }
            Self::Holder(reply) => reply.send(actor).is_ok(),
            Self::Finder(reply) => reply.send(Some(actor)).is_ok(),
        }
    }

    /// There will be none.
    pub(super) fn refuse(self) {
        match self {
            Self::Opener(reply) => drop(reply.send(Err(PeerError::Stopped))),
            Self::Acceptor(..) => {}
            // The port is dropped, which tells the caller.
            Self::Holder(_) => {}
            Self::Finder(reply) => drop(reply.send(None)),
        }
    }
}

impl Waiter for PeerCaller {
    fn is_gone(&self) -> bool {
        match self {
            Self::Opener(reply) => reply.is_closed(),
            Self::Acceptor(..) => false,
            Self::Holder(reply) => reply.is_closed(),
            Self::Finder(reply) => reply.is_closed(),
        }
    }
}

/// The actor of one session.
pub(super) struct PeerChild {
    /// Holds the session while the actor is started again.
    pub(super) peer: Peer,
    pub(super) restarts: RestartState,
    /// `None` while it waits for its restart.
    pub(super) running: Option<ActorRef<PeerMessage>>,
    /// Dropped with the child.
    pub(super) timer: Option<OwnedTask>,
    /// Who asked for it while nothing runs.
    pub(super) callers: Waiting<PeerCaller>,
}

/// The actors of all sessions that have one.
pub(super) struct PeerChildren {
    pub(super) by_session: HashMap<SessionId, PeerChild>,
    pub(super) by_actor: HashMap<ActorId, SessionId>,
    /// Places for callers whose sessions do not stand yet.
    pub(super) opening: Arc<Semaphore>,
}

impl Default for PeerChildren {
    fn default() -> Self {
        Self {
            by_session: HashMap::new(),
            by_actor: HashMap::new(),
            opening: Arc::new(Semaphore::new(CALLERS_MAX)),
        }
    }
}

impl PeerChildren {
    /// Whether this is the actor of a session.
    pub(super) fn is_one(&self, id: ActorId) -> bool {
        self.by_actor.contains_key(&id)
    }

    /// The session with this peer that has an actor and is not over, or else the last one.
    pub(super) fn find(&mut self, peer: CertHash, protocol: &str) -> Option<&mut PeerChild> {
        let of = self.by_session.values_mut();
        let found = of.filter(|of| of.peer.identity() == peer && of.peer.protocol() == protocol);
        found.max_by_key(|of| of.peer.ended().is_none())
    }

    pub(super) fn remove(&mut self, session: SessionId) -> Option<PeerChild> {
        let child = self.by_session.remove(&session)?;
        if let Some(actor) = &child.running {
            self.by_actor.remove(&actor.get_id());
        }
        Some(child)
    }
}
