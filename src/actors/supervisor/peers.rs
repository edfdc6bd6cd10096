//! Actors of sessions: opened and accepted by message, started again where they fail.
//!
//! A session is no part of its actor: one that fails again and again is not started any more, and the session
//! goes on as long as somebody holds it.

use std::sync::Arc;
use std::time::Instant;

use ractor::{Actor, ActorId, ActorRef, ActorStatus, DerivedActorRef, RpcReplyPort};
use tokio::sync::oneshot;
use tracing::{debug, error, warn};

use super::{Ended, State};
use crate::actors::arrived_peer::ArrivedPeer;
use crate::actors::events::NodeEvent;
use crate::actors::message::peer::PeerMessage;
use crate::actors::message::supervisor::{Event, Internal, SupervisorMessage};
use crate::actors::peer_actor::{Arguments, PeerActor};
use crate::actors::peer_children::{PeerCaller, PeerChild};
use crate::actors::peers::{Peers, accept, open};
use crate::actors::target::Target;
use crate::actors::tasks::{OwnedTask, answer};
use crate::actors::waiting::{CALLERS_MAX, Waiting};
use crate::identity::CertHash;
use crate::peers::error::PeerError;
use crate::peers::handle::Peer;
use crate::restart::{RestartDecision, RestartState};
use crate::session::message::SessionId;

type Opened = RpcReplyPort<Result<ActorRef<PeerMessage>, PeerError>>;

impl State {
    pub(super) fn on_open_peer(&self, target: Target, protocol: String, reply: Opened) {
        let Ok(place) = Arc::clone(&self.peers.opening).try_acquire_owned() else {
            return answer(reply, Err(PeerError::TooManyCallers(CALLERS_MAX)));
        };
        let (shared, supervisor) = (Arc::clone(&self.shared), self.myself.clone());
        tokio::spawn(async move {
            match open(supervisor.clone(), &shared, target, &protocol).await {
                Ok(peer) => ready(&supervisor, peer, PeerCaller::Opener(reply)),
                Err(error) => answer(reply, Err(error)),
            }
            drop(place);
        });
    }

    pub(super) fn on_accept_peers(
        &self,
        protocol: &str,
        acceptor: DerivedActorRef<ArrivedPeer>,
        reply: Option<RpcReplyPort<bool>>,
    ) {
        let accepts = !self.shared.is_stopping();
        if accepts {
            let peers = accept(&self.shared, protocol, None);
            tokio::spawn(pass_on(peers, acceptor, self.myself.clone()));
        }
        if let Some(reply) = reply {
            answer(reply, accepts);
        }
    }

    pub(super) fn on_find_peer(
        &mut self,
        peer: CertHash,
        protocol: &str,
        reply: RpcReplyPort<Option<ActorRef<PeerMessage>>>,
    ) {
        match self.peers.find(peer, protocol) {
            Some(child) => child.ask(PeerCaller::Finder(reply)),
            None => answer(reply, None),
        }
    }

    /// Gives the actor of a session, which is started if there is none.
    pub(super) async fn on_peer_actor(&mut self, peer: Peer, caller: PeerCaller) {
        if self.shared.is_stopping() {
            return caller.refuse();
        }
        let session = peer.core().id;
        if let Some(child) = self.peers.by_session.get_mut(&session) {
            return child.ask(caller);
        }
        // Validated at the start of the node.
        let Ok(restarts) = RestartState::new(self.shared.config.restart) else {
            return caller.refuse();
        };
        let callers = Waiting::default();
        let child = PeerChild { peer: peer.clone(), restarts, running: None, timer: None, callers };
        self.peers.by_session.insert(session, child);
        let Some(actor) = self.start_peer(session).await else {
            drop(self.peers.remove(session));
            return caller.refuse();
        };
        if !caller.give(&peer, &actor) {
            // Nobody knows it.
            drop(actor.cast(PeerMessage::Leave));
        }
    }

    async fn start_peer(&mut self, session: SessionId) -> Option<ActorRef<PeerMessage>> {
        let child = self.peers.by_session.get_mut(&session)?;
        let arguments = Arguments {
            peer: child.peer.clone(),
            node: self.shared.identity(),
            reserve_time_max: self.shared.config.limits.stream_op_timeout,
            span: self.shared.span.clone(),
        };
        let supervisor = self.myself.get_cell();
        let started = Actor::spawn_linked(None, PeerActor, arguments, supervisor).await;
        let (actor, _) =
            started.inspect_err(|error| warn!(%error, "no actor of a session")).ok()?;
        self.peers.by_actor.insert(actor.get_id(), session);
        child.running = Some(actor.clone());
        Some(actor)
    }

    pub(super) fn on_peer_actor_ended(&mut self, id: ActorId, ended: Ended<'_>) {
        let Some(session) = self.peers.by_actor.remove(&id) else { return };
        let Some(child) = self.peers.by_session.get_mut(&session) else { return };
        child.running = None;
        let cause = match ended {
            Ended::Done => "done",
            Ended::Early(cause) | Ended::Failed(cause) => cause,
        };
        let done = matches!(ended, Ended::Done) || child.peer.ended().is_some();
        if done || self.shared.is_stopping() {
            debug!(%id, "an actor of a session ended");
            return self.forget_peer(session);
        }
        self.peer_actor_failed(session, cause);
    }

    fn peer_actor_failed(&mut self, session: SessionId, cause: &str) {
        let Some(child) = self.peers.by_session.get_mut(&session) else { return };
        match child.restarts.record(Instant::now()) {
            RestartDecision::After(delay) => {
                let peer = child.peer.identity().short();
                warn!(%peer, cause, ?delay, "the actor of a session failed and is started again");
                let myself = self.myself.clone();
                child.timer = Some(OwnedTask::spawn(async move {
                    tokio::time::sleep(delay).await;
                    let event = Event::RestartPeer { session };
                    drop(myself.cast(SupervisorMessage::Internal(Internal(event))));
                }));
            }
            RestartDecision::GiveUp => {
                let peer = child.peer.identity().short();
                error!(%peer, cause, "the actor of a session fails again and again: it is given up");
                self.forget_peer(session);
            }
        }
    }

    /// The session has no actor any more. Callers that came when it had just ended get another one.
    fn forget_peer(&mut self, session: SessionId) {
        let Some(mut child) = self.peers.remove(session) else { return };
        for caller in child.callers.take() {
            ready(&self.myself, child.peer.clone(), caller);
        }
    }

    pub(super) async fn on_restart_peer(&mut self, session: SessionId) {
        let Some(child) = self.peers.by_session.get_mut(&session) else { return };
        child.timer = None;
        let peer = child.peer.clone();
        let Some(actor) = self.start_peer(session).await else {
            return self.peer_actor_failed(session, "it does not start");
        };
        let child = self.peers.by_session.get_mut(&session);
        let callers = child.map(|child| child.callers.take()).unwrap_or_default();
        let protocol = peer.protocol().to_owned();
        self.shared.emit(NodeEvent::PeerActorRestarted { peer: peer.identity(), protocol });
        for caller in callers {
            caller.give(&peer, &actor);
        }
    }
}

impl PeerChild {
    /// Gives the actor that runs, or the next one.
    fn ask(&mut self, caller: PeerCaller) {
        let has_ended = |actor: &&ActorRef<PeerMessage>| {
            matches!(actor.get_status(), ActorStatus::Stopping | ActorStatus::Stopped)
        };
        match self.running.as_ref().filter(|actor| !has_ended(actor)) {
            Some(actor) => drop(caller.give(&self.peer, actor)),
            None => {
                if let Err(caller) = self.callers.add(caller) {
                    caller.refuse();
                }
            }
        }
    }
}

/// Somebody wants the actor of a session that stands. At the end of the node the caller is dropped.
fn ready(supervisor: &ActorRef<SupervisorMessage>, peer: Peer, caller: PeerCaller) {
    let event = Event::PeerReady { peer, caller };
    drop(supervisor.cast(SupervisorMessage::Internal(Internal(event))));
}

/// Gives peers that come to `acceptor`, one at a time, as long as it lives.
async fn pass_on(
    mut peers: Peers,
    acceptor: DerivedActorRef<ArrivedPeer>,
    supervisor: ActorRef<SupervisorMessage>,
) {
    let actor = acceptor.get_cell();
    let passing = async {
        while let Some(peer) = peers.next().await {
            let (dealt_with, is_dealt_with) = oneshot::channel();
            ready(&supervisor, peer, PeerCaller::Acceptor(acceptor.clone(), dealt_with));
            // Nothing is ever sent through it.
            let _ = is_dealt_with.await;
        }
    };
    tokio::select! {
        () = passing => {}
        // It fails for no limit.
        _ = actor.wait(None) => {}
    }
}
