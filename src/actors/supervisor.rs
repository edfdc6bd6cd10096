//! The root of a node: restarts listeners and connectors, and ends everything in order.
//!
//! ```text
//! Running ──Shutdown──> Draining: no new work, connections closed ──all ended or grace──> stopped
//!    └── a child fails too often ──> failed: children are killed, connections are cut
//! ```
//!
//! Invariants: a child is known by a key that never repeats, and restarts are tagged with it, so
//! that a child that was stopped is not resurrected; connections are never restarted; whatever
//! way this actor ends, every connection is closed with a code.

mod drain;
mod listening;
mod peers;
mod restarting;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ractor::{
    Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, DerivedActorRef, RpcReplyPort,
    SupervisionEvent,
};
use tracing::{Instrument, debug, info, warn};

use super::callers::{Caller, ConnectReply};
use super::child::{Child, Kind, Running};
use super::connector::{self, ConnectorActor};
use super::events::{EventBatch, Subscribers};
use super::message::connection::ConnectionMessage;
use super::message::connector::ConnectorMessage;
use super::message::supervisor::{Event, Internal, SupervisorMessage};
use super::peer_children::{PeerCaller, PeerChildren};
use super::target::{Redial, Target};
use super::waiting::Waiting;

use drain::drain;

use super::shared::NodeShared;
use super::tasks::{DRAINED, OwnedTask, answer, finish};
use crate::error::{CloseCode, ConnectError};
use crate::failpoint::{Failpoint, in_actor};
use crate::restart::RestartState;

pub(crate) struct Supervisor;

pub(crate) struct State {
    shared: Arc<NodeShared>,
    myself: ActorRef<SupervisorMessage>,
    children: HashMap<u64, Child>,
    next_key: u64,
    draining: Option<Draining>,
    subscribers: Subscribers,
    peers: PeerChildren,
    /// It ends as it should.
    in_order: bool,
}

/// A shutdown that waits for the connections.
struct Draining {
    /// Of who asked for it first.
    reply: RpcReplyPort<usize>,
    /// What waits; given up with this.
    _wait: OwnedTask,
}

/// How a child ended.
#[derive(Debug, Clone, Copy)]
enum Ended<'a> {
    /// Its work was done.
    Done,
    /// It was stopped or killed before that.
    Early(&'a str),
    /// It panicked, or returned an error.
    Failed(&'a str),
}

#[cfg_attr(feature = "async-trait", ractor::async_trait)]
impl Actor for Supervisor {
    type Msg = SupervisorMessage;
    type State = State;
    type Arguments = Arc<NodeShared>;

    async fn pre_start(
        &self,
        myself: ActorRef<SupervisorMessage>,
        shared: Arc<NodeShared>,
    ) -> Result<State, ActorProcessingErr> {
        in_actor(Failpoint::SupervisorPreStart, || shared.identity()).await;
        Ok(State {
            shared,
            myself,
            children: HashMap::new(),
            next_key: 0,
            draining: None,
            subscribers: Subscribers::default(),
            peers: PeerChildren::default(),
            in_order: false,
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<SupervisorMessage>,
        message: SupervisorMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        in_actor(Failpoint::SupervisorHandle, || state.shared.identity()).await;
        let span = state.shared.span.clone();
        async {
            match message {
                SupervisorMessage::Listen { address, reply } => {
                    state.on_listen(address, reply).await;
                }
                SupervisorMessage::StopListening { address } => state.on_stop_listening(address),
                SupervisorMessage::Connect { target, reply } => {
                    state.on_connect(target, reply).await;
                }
                SupervisorMessage::Disconnect { target } => state.on_disconnect(&target),
                SupervisorMessage::Subscribe { subscriber, reply } => {
                    state.on_subscribe(subscriber, reply);
                }
                SupervisorMessage::Peer { peer, reply } => {
                    answer(reply, state.shared.registry.get(&peer));
                }
                SupervisorMessage::Peers { reply } => answer(reply, state.shared.peers()),
                SupervisorMessage::Connections { reply } => {
                    answer(reply, state.shared.connections());
                }
                SupervisorMessage::Admissions { reply } => {
                    answer(reply, state.shared.transport.admissions());
                }
                SupervisorMessage::Stats { reply } => answer(reply, state.shared.transport.stats()),
                SupervisorMessage::OpenPeer { target, protocol, reply } => {
                    state.on_open_peer(target, protocol, reply);
                }
                SupervisorMessage::AcceptPeers { protocol, acceptor, reply } => {
                    state.on_accept_peers(&protocol, acceptor, reply);
                }
                SupervisorMessage::PeerActor { peer, reply } => {
                    state.on_peer_actor(peer, PeerCaller::Holder(reply)).await;
                }
                SupervisorMessage::FindPeer { peer, protocol, reply } => {
                    state.on_find_peer(peer, &protocol, reply);
                }
                SupervisorMessage::Shutdown { grace, reply } => state.on_shutdown(grace, reply),
                SupervisorMessage::Internal(Internal(event)) => match event {
                    Event::Restart { key } => state.on_restart(key).await?,
                    Event::Bound { key, listener } => state.on_bound(key, listener),
                    Event::CallerGone => state.on_caller_gone(),
                    Event::Drained { cut } => state.on_drained(cut),
                    Event::PeerReady { peer, caller } => state.on_peer_actor(peer, caller).await,
                    Event::RestartPeer { session } => state.on_restart_peer(session).await,
                },
            }
            Ok(())
        }
        .instrument(span)
        .await
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<SupervisorMessage>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        in_actor(Failpoint::SupervisorPostStop, || state.shared.identity()).await;
        // Not only when the state is dropped: after a clean stop it travels to the parent, which
        // may be waiting for this very end.
        state.in_order = true;
        state.end();
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<SupervisorMessage>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let _in_span = state.shared.span.clone().entered();
        match event {
            SupervisionEvent::ActorTerminated(child, _, reason) => match reason.as_deref() {
                Some(DRAINED) => state.on_ended(child.get_id(), Ended::Done),
                reason => state.on_ended(child.get_id(), Ended::Early(reason.unwrap_or("stopped"))),
            },
            SupervisionEvent::ActorFailed(child, cause) => {
                state.on_ended(child.get_id(), Ended::Failed(&cause.to_string()))
            }
            _ => Ok(()),
        }
    }
}

impl State {
    async fn on_connect(&mut self, target: Target, reply: ConnectReply) {
        if self.shared.is_stopping() {
            return answer(reply, Err(ConnectError::Stopped));
        }
        let caller = Caller { reply, redial: target.redial };
        let Err(caller) = self.ask_connector(&target, caller) else { return };
        let current = connector::Current::default();
        let kind = Kind::Connector { target: target.clone(), current: Arc::clone(&current) };
        let mut callers = Waiting::default();
        // The first of an empty list.
        drop(callers.add(caller));
        if let Some(key) = self.add(kind)
            && let Err(error) = self.start_connector(key, target, current, callers).await
        {
            // Its callers have their answer.
            warn!(%error, "a connector does not start");
            self.children.remove(&key);
        }
    }

    fn on_subscribe(
        &mut self,
        subscriber: DerivedActorRef<EventBatch>,
        reply: Option<RpcReplyPort<bool>>,
    ) {
        let subscribed = self.subscribers.add(self.shared.events(), subscriber);
        if let Some(reply) = reply {
            answer(reply, subscribed);
        }
    }

    /// Whoever made a connection for that caller alone looks whether anybody waits.
    fn on_caller_gone(&self) {
        for child in self.children.values().filter(|child| child.kind.is_single()) {
            if let Some(Running::Connector(connector)) = &child.running {
                drop(connector.cast(ConnectorMessage::CallerGone));
            }
        }
    }

    /// Gives `caller` to the connector that keeps `target`; back if there is none.
    fn ask_connector(&mut self, target: &Target, caller: Caller) -> Result<(), Caller> {
        let Some(child) = self.connector_of(target) else { return Err(caller) };
        if let Kind::Connector { target: kept, .. } = &mut child.kind
            && target.redial == Redial::Always
        {
            kept.redial = Redial::Always;
        }
        let message = ConnectorMessage::Connect(caller);
        let unread = match &child.running {
            Some(Running::Connector(actor)) => match actor.cast(message) {
                Err(ractor::MessagingErr::SendErr(unread)) => unread,
                _ => return Ok(()),
            },
            Some(Running::Listener(_)) | None => message,
        };
        // It has ended or waits for its restart: the next one answers.
        if let ConnectorMessage::Connect(caller) = unread {
            child.wait_for_next(caller);
        }
        Ok(())
    }

    /// The connector that keeps `target`, if calls for it share a connection.
    fn connector_of(&mut self, target: &Target) -> Option<&mut Child> {
        let keeps = |child: &&mut Child| match &child.kind {
            Kind::Connector { target: known, .. } => {
                known.redial != Redial::Never && known.is_same(target)
            }
            Kind::Listener { .. } => false,
        };
        (target.redial != Redial::Never).then(|| self.children.values_mut().find(keeps)).flatten()
    }

    fn on_disconnect(&mut self, target: &Target) {
        self.remove(|child| match &child.kind {
            Kind::Connector { target: known, .. } => known.is_same(target),
            Kind::Listener { .. } => false,
        });
    }

    /// Forgets children and stops them; a restart that is due finds nothing.
    fn remove(&mut self, is_it: impl Fn(&Child) -> bool) {
        let keys: Vec<u64> =
            self.children.iter().filter(|(_, child)| is_it(child)).map(|(key, _)| *key).collect();
        for key in keys {
            let Some(child) = self.children.remove(&key) else { continue };
            if let Kind::Listener { listener: Some(listener), .. } = &child.kind {
                // At once: the next call may want the address.
                listener.stop();
            }
            if let Some(running) = &child.running {
                running.stop();
            }
            let mut callers = child.callers;
            let stopping = self.shared.is_stopping();
            for caller in callers.take() {
                let stopped =
                    if stopping { ConnectError::Stopped } else { ConnectError::Disconnected };
                caller.answer(Err(stopped));
            }
        }
    }

    fn add(&mut self, kind: Kind) -> Option<u64> {
        // Validated at the start of the node.
        let restarts = RestartState::new(self.shared.config.restart).ok()?;
        let key = self.next_key;
        self.next_key += 1;
        let child =
            Child { kind, restarts, running: None, timer: None, callers: Waiting::default() };
        self.children.insert(key, child);
        Some(key)
    }

    async fn start_connector(
        &mut self,
        key: u64,
        target: Target,
        current: connector::Current,
        callers: Waiting<Caller>,
    ) -> Result<(), ActorProcessingErr> {
        let arguments = connector::Arguments {
            shared: Arc::clone(&self.shared),
            supervisor: self.myself.get_cell(),
            target,
            callers,
            current,
        };
        let cell: ActorCell = self.myself.get_cell();
        let (actor, _) = Actor::spawn_linked(None, ConnectorActor, arguments, cell).await?;
        self.set_running(key, Running::Connector(actor));
        Ok(())
    }

    fn set_running(&mut self, key: u64, running: Running) {
        match self.children.get_mut(&key) {
            Some(child) => child.running = Some(running),
            None => running.stop(),
        }
    }

    /// A child ended. One that is not in the table is a connection, or was stopped.
    fn on_ended(&mut self, id: ActorId, ended: Ended<'_>) -> Result<(), ActorProcessingErr> {
        if self.peers.is_one(id) {
            self.on_peer_actor_ended(id, ended);
            return Ok(());
        }
        let is_it = |child: &Child| child.running.as_ref().is_some_and(|r| r.id() == id);
        let found = self.children.iter_mut().find(|(_, child)| is_it(child));
        let Some((&key, child)) = found else {
            // Which connection it was is told in its own span, where it is cut.
            match ended {
                Ended::Failed(cause) => warn!(%id, cause, "a connection's actor failed"),
                Ended::Done | Ended::Early(_) => debug!(%id, ?ended, "a connection's actor ended"),
            }
            return Ok(());
        };
        let (done, cause) = match ended {
            Ended::Done => (true, "done"),
            Ended::Early(cause) | Ended::Failed(cause) => (false, cause),
        };
        if done || child.kind.is_single() || self.shared.is_stopping() {
            if let Some(child) = self.children.remove(&key) {
                self.pass_on(child);
            }
            return Ok(());
        }
        child.running = None;
        if let Kind::Listener { listener, .. } = &mut child.kind {
            *listener = None;
        }
        self.on_failed(key, cause)
    }

    /// Callers that came when the connector had just ended get another one.
    fn pass_on(&self, mut ended: Child) {
        let Kind::Connector { target, .. } = ended.kind else { return };
        for caller in ended.callers.take() {
            let target = Target { redial: caller.redial, ..target.clone() };
            let again = SupervisorMessage::Connect { target, reply: caller.reply };
            // Sent to itself; at the end of the node the port is dropped.
            drop(self.myself.cast(again));
        }
    }

    fn on_shutdown(&mut self, grace: Duration, reply: RpcReplyPort<usize>) {
        if self.draining.is_some() {
            // The one who asked first is answered; dropping the port tells the second.
            return;
        }
        info!(?grace, connections = self.shared.registry.len(), "shutting down");
        self.shared.stopping.store(true, Ordering::Release);
        // They finish what is in flight before their connections are closed.
        self.shared.leave_sessions();
        self.remove(|_| true);
        for handle in self.shared.connections() {
            let close = ConnectionMessage::Close { code: CloseCode::GOING_AWAY, reply: None };
            if handle.actor().cast(close).is_err() {
                handle.core().cut(CloseCode::GOING_AWAY);
            }
        }
        let wait = drain(Arc::clone(&self.shared), grace, self.myself.clone());
        self.draining = Some(Draining { reply, _wait: wait });
    }

    fn on_drained(&mut self, cut: usize) {
        if let Some(Draining { reply, .. }) = self.draining.take() {
            answer(reply, cut);
        }
        finish(&self.myself);
    }
}

impl State {
    /// Repeating it changes nothing.
    fn end(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.stop_sessions();
        for handle in self.shared.registry.connections() {
            handle.core().cut(CloseCode::GOING_AWAY);
        }
        self.shared.stopped.send_replace(true);
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if !self.in_order {
            let _in_span = self.shared.span.enter();
            let connections = self.shared.registry.len();
            warn!(connections, "the node's supervisor was killed or failed: the node is cut");
        }
        self.end();
    }
}
