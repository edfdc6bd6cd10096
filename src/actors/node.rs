//! A node as applications hold it: handles to its supervisor, and a view of its registry.

mod peers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ractor::{Actor, ActorCell, ActorRef};

use super::events::Events;
use super::handle::ConnectionHandle;
use super::message::supervisor::SupervisorMessage;
use super::shared::NodeShared;
use super::supervisor::Supervisor;
use super::target::{Redial, Target};
use crate::config::NodeConfig;
use crate::error::{CloseCode, ConnectError, ListenError, NodeError};
use crate::identity::CertHash;
use crate::transport::{AdmissionCounts, MsQuicTransport, NodeStats, poll_when_idle};

/// How long the registration may take to close once its last handle is gone.
const REGISTRATION_CLOSE_MAX: Duration = Duration::from_secs(5);

/// How long clones of a node that is closed are given to go: a task that ends with the node drops
/// its own soon.
const CLONES_GONE_MAX: Duration = Duration::from_secs(1);

/// A supervised set of listeners, connectors and connections under one identity.
///
/// Cheap to clone. When the last clone is dropped the node ends at once and its connections are
/// closed with `GOING_AWAY`; [`shutdown`](Self::shutdown) ends it in order.
#[derive(Debug, Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<NodeShared>,
    supervisor: ActorRef<SupervisorMessage>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Before the supervisor's end kills the connections' actors: the peers learn the reason.
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.stop_sessions();
        for handle in self.shared.registry.connections() {
            handle.core().cut(CloseCode::GOING_AWAY);
        }
        self.supervisor.stop(None);
    }
}

impl Node {
    /// Starts a node. It has a connection to nobody yet.
    ///
    /// # Errors
    ///
    /// [`NodeError::Config`] if `config` cannot work.
    ///
    /// # Cancel safety
    ///
    /// Cancelled, nothing is left behind.
    pub async fn spawn(config: NodeConfig) -> Result<Self, NodeError> {
        Self::spawn_under(config, None).await
    }

    /// As [`spawn`](Self::spawn), supervised by an actor of the application: it is told when the
    /// node ends, and the node ends with it.
    ///
    /// # Errors
    ///
    /// As for [`spawn`](Self::spawn).
    ///
    /// # Cancel safety
    ///
    /// Cancelled, nothing is left behind.
    pub async fn spawn_linked(config: NodeConfig, parent: ActorCell) -> Result<Self, NodeError> {
        Self::spawn_under(config, Some(parent)).await
    }

    async fn spawn_under(config: NodeConfig, parent: Option<ActorCell>) -> Result<Self, NodeError> {
        config.validate()?;
        let action = "let its workers poll";
        poll_when_idle(config.latency.idle_us())
            .map_err(|source| NodeError::Library { action, source })?;
        let transport = MsQuicTransport::with_limits(config.limits.clone())?;
        let shared = NodeShared::new(config, transport);
        let arguments = Arc::clone(&shared);
        let spawned = match parent {
            Some(parent) => Actor::spawn_linked(None, Supervisor, arguments, parent).await,
            None => Actor::spawn(None, Supervisor, arguments).await,
        };
        let (supervisor, _) = spawned.map_err(NodeError::Spawn)?;
        Ok(Self { inner: Arc::new(Inner { shared, supervisor }) })
    }

    /// Who this node is.
    #[must_use]
    pub fn identity(&self) -> CertHash {
        self.shared().identity()
    }

    /// The actor at the root, for those who talk to it by message.
    #[must_use]
    pub fn supervisor(&self) -> &ActorRef<SupervisorMessage> {
        &self.inner.supervisor
    }

    /// Listens on `address`; returns the bound one. The listener is restarted if it fails.
    ///
    /// # Errors
    ///
    /// [`ListenError`] names the address and what is wrong.
    ///
    /// # Cancel safety
    ///
    /// Cancelled, it does not listen.
    pub async fn listen(&self, address: SocketAddr) -> Result<SocketAddr, ListenError> {
        let ask = |reply| SupervisorMessage::Listen { address, reply };
        let not_taken = |bound: Result<SocketAddr, _>| {
            if let Ok(bound) = bound {
                self.stop_listening(bound);
            }
        };
        self.ask(ask, not_taken).await.unwrap_or(Err(ListenError::Stopped))
    }

    /// Stops listening on a bound address; its connections live on.
    pub fn stop_listening(&self, address: SocketAddr) {
        // A node that has ended does not listen.
        drop(self.supervisor().cast(SupervisorMessage::StopListening { address }));
    }

    /// Connects to `target` and, as its [`Redial`](crate::Redial) says, keeps it connected. Calls
    /// for the same target share one connection, except with `Redial::Never`.
    ///
    /// It returns when the peer has accepted: a peer that gives no sign within 250 ms, or four
    /// round trips, is taken to have accepted.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]: one variant for each way it can fail, all with the peer's address.
    ///
    /// # Cancel safety
    ///
    /// Cancelled, the attempt for a target that is kept goes on, and
    /// [`disconnect`](Self::disconnect) ends it. With [`Redial::Never`](crate::Redial) it is given up,
    /// and a connection that came to stand meanwhile is closed.
    pub async fn connect(
        &self,
        target: impl Into<Target>,
    ) -> Result<ConnectionHandle, ConnectError> {
        let target = target.into();
        let single = target.redial == Redial::Never;
        let ask = |reply| SupervisorMessage::Connect { target, reply };
        let not_taken = |connected: Result<ConnectionHandle, _>| match connected {
            Ok(connection) if single => connection.core().cut(CloseCode::DROPPED),
            _ => {}
        };
        let gone = CallerGone { node: self, armed: single };
        let connected = self.ask(ask, not_taken).await.unwrap_or(Err(ConnectError::Stopped));
        gone.answered();
        connected
    }

    /// Stops keeping `target` connected; an open connection lives on.
    pub fn disconnect(&self, target: impl Into<Target>) {
        // A node that has ended keeps nobody.
        let target = target.into();
        drop(self.supervisor().cast(SupervisorMessage::Disconnect { target }));
    }

    /// The active connection to `peer`: the newest that carries plain frames.
    #[must_use]
    pub fn connection(&self, peer: &CertHash) -> Option<ConnectionHandle> {
        let newest = self.shared().registry.get(peer)?;
        if !newest.core().carries_session() {
            return Some(newest);
        }
        let plain = self.connections().into_iter().filter(|it| it.peer() == *peer);
        plain.max_by_key(ConnectionHandle::epoch)
    }

    /// The active connection of each peer, of those that carry no session.
    #[must_use]
    pub fn peers(&self) -> Vec<ConnectionHandle> {
        self.shared().peers()
    }

    /// The open connections that carry no session: what goes over one that does is its [`Peer`](crate::Peer)'s.
    /// [`connection_count`](Self::connection_count) counts both.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionHandle> {
        self.shared().connections()
    }

    /// How many connections are open, with those that carry sessions.
    #[must_use]
    pub fn connection_count(&self) -> usize {
        self.shared().registry.len()
    }

    /// What became of the peers that asked for a connection.
    #[must_use]
    pub fn admissions(&self) -> AdmissionCounts {
        self.shared().transport.admissions()
    }

    /// How the node is doing.
    #[must_use]
    pub fn stats(&self) -> NodeStats {
        self.shared().transport.stats()
    }

    /// The events from here on.
    #[must_use]
    pub fn subscribe(&self) -> Events {
        self.shared().events()
    }

    /// Ends the node in order: no new connections, what was accepted is sent, connections are
    /// closed with `GOING_AWAY`; what is left after `grace` is cut. Then every handle is closed,
    /// and with the last clone of this node the MsQuic registration.
    ///
    /// # Errors
    ///
    /// [`NodeError::GraceExceeded`] if connections had to be cut; [`NodeError::Stopped`] if the
    /// node has ended, or another call is at it.
    ///
    /// # Cancel safety
    ///
    /// The shutdown goes on when it is cancelled, as long as a clone of the node lives: the drop of
    /// the last one ends it at once.
    pub async fn shutdown(&self, grace: Duration) -> Result<(), NodeError> {
        let cut = self.ask(|reply| SupervisorMessage::Shutdown { grace, reply }, drop).await;
        self.stopped().await;
        match cut {
            None => Err(NodeError::Stopped),
            Some(0) => Ok(()),
            Some(connections) => Err(NodeError::GraceExceeded { connections, grace }),
        }
    }

    /// As [`shutdown`](Self::shutdown), and waits until the MsQuic registration is closed, which
    /// needs every clone of this node to be gone.
    ///
    /// # Errors
    ///
    /// As for [`shutdown`](Self::shutdown). [`NodeError::CloneLeft`] if a clone of the node is left a
    /// second after its end, and [`NodeError::StillOpen`] if MsQuic does not let go: the node has
    /// ended then, and the registration stays.
    ///
    /// # Cancel safety
    ///
    /// It goes on when it is cancelled, in order and to its end.
    pub async fn close(self, grace: Duration) -> Result<(), NodeError> {
        // A task of its own holds the node: cancelled, this would drop the last clone.
        let closing = tokio::spawn(self.close_in_order(grace));
        // It only fails with its runtime.
        closing.await.unwrap_or(Err(NodeError::Stopped))
    }

    async fn close_in_order(self, grace: Duration) -> Result<(), NodeError> {
        let closed = self.shared().transport.registration().map(|r| r.watch_closed());
        let result = self.shutdown(grace).await;
        let clones = Arc::downgrade(&self.inner);
        drop(self);
        let Ok(mut closed) = closed else { return result };
        let began = Instant::now();
        // Whether it is closed, or nobody closes it any more.
        let closed = async move { closed.wait_for(|closed| *closed).await.is_ok() };
        let mut closed = std::pin::pin!(closed);
        let told = match tokio::time::timeout(CLONES_GONE_MAX, &mut closed).await {
            Err(_) if clones.strong_count() > 0 => return result.and(Err(NodeError::CloneLeft)),
            Err(_) => tokio::time::timeout(REGISTRATION_CLOSE_MAX - CLONES_GONE_MAX, closed).await,
            told => told,
        };
        match told {
            Ok(true) => result,
            Ok(false) | Err(_) => result.and(Err(NodeError::StillOpen { after: began.elapsed() })),
        }
    }

    /// Waits until the node has ended, for whatever reason.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only watches.
    pub async fn stopped(&self) {
        let mut stopped = self.shared().stopped.subscribe();
        // The sender lives in `shared`, so this ends only by the value.
        drop(stopped.wait_for(|stopped| *stopped).await);
    }

    #[cfg(test)]
    pub(super) fn registration(&self) -> Arc<crate::transport::RegistrationWrapper> {
        self.shared().transport.registration().expect("a registration")
    }

    pub(super) fn shared(&self) -> &Arc<NodeShared> {
        &self.inner.shared
    }

    /// Asks the supervisor; `None` if it ends first. The supervisor's own deadlines bound it. An
    /// answer that comes while this is cancelled goes to `not_taken`.
    async fn ask<R>(
        &self,
        message: impl FnOnce(ractor::RpcReplyPort<R>) -> SupervisorMessage,
        not_taken: impl FnMut(R),
    ) -> Option<R> {
        let (sender, receiver) = ractor::concurrency::oneshot();
        let mut answer = Answer { receiver, not_taken };
        self.supervisor().cast(message(sender.into())).ok()?;
        (&mut answer.receiver).await.ok()
    }
}

/// The same node, not only the same identity.
impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

impl Eq for Node {}

impl std::hash::Hash for Node {
    fn hash<S: std::hash::Hasher>(&self, state: &mut S) {
        Arc::as_ptr(&self.inner).hash(state);
    }
}

/// An answer on its way, which nobody may take: then it must not be lost.
struct Answer<R, F: FnMut(R)> {
    receiver: ractor::concurrency::OneshotReceiver<R>,
    not_taken: F,
}

impl<R, F: FnMut(R)> Drop for Answer<R, F> {
    fn drop(&mut self) {
        // From here on the sender is told that nobody takes it.
        self.receiver.close();
        if let Ok(answer) = self.receiver.try_recv() {
            (self.not_taken)(answer);
        }
    }
}

/// Tells that a caller who waited for a connection of its own has gone.
struct CallerGone<'a> {
    node: &'a Node,
    armed: bool,
}

impl CallerGone<'_> {
    fn answered(mut self) {
        self.armed = false;
    }
}

impl Drop for CallerGone<'_> {
    fn drop(&mut self) {
        if self.armed {
            // A node that has ended dials nobody.
            drop(self.node.supervisor().cast(SupervisorMessage::caller_gone()));
        }
    }
}
