//! The actors: who supervises whom, and how a frame gets past them.
//!
//! ```text
//! Supervisor ............ owns the MsQuic registration; restart policy; ordered shutdown
//! ├── ListenerActor ..... one per bound address; admission; spawns inbound connections
//! ├── ConnectorActor .... one per dial target; single-flight dial, backoff; spawns outbound ones
//! └── ConnectionActor ... one per connection; owns its streams, deadlines, close
//! ```
//!
//! A connection is spawned by the listener or connector that made it and linked to the
//! supervisor: what made it may fail, and the connection lives on.
//!
//! Invariants: no actor has a name; `handle` never waits for the network, a permit or another
//! actor; native handles are released by `Drop`, because a killed actor runs no `post_stop`.

pub(crate) mod adapters;
mod arrivals;
mod child;
mod cluster;
pub(crate) mod connection;
pub(crate) mod connector;
mod establish;
pub(crate) mod events;
pub(crate) mod frame_batch;
pub(crate) mod frame_io;
pub(crate) mod handle;
pub(crate) mod listener;
pub(crate) mod node;
mod readers;
mod redial;
mod refusal_log;
mod reserve;
mod send_many;
pub(crate) mod stats;
pub(crate) mod supervisor;
pub(crate) mod target;
mod telling;
mod waiting;

#[cfg(test)]
mod supervision_tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ractor::RpcReplyPort;
use tokio::sync::{Notify, watch};
use tracing::Span;

use crate::config::NodeConfig;
use crate::registry::{EpochSource, Registry};
use crate::transport::MsQuicTransport;

use arrivals::Arrivals;
use events::NodeEvent;
use handle::ConnectionHandle;
use telling::Telling;

/// What a supervisor is told of a child that drained its mailbox and stopped ([`finish`]).
pub(crate) const DRAINED: &str = "Drained";

/// Stops an actor whose work is done. What is in its mailbox is still handled, and a message that
/// comes later goes back to its sender: nobody's question is lost.
pub(crate) fn finish<M: ractor::Message>(actor: &ractor::ActorRef<M>) {
    // It fails for an actor that has stopped: then there is nothing to do.
    drop(actor.drain());
}

/// What all actors of one node share.
#[derive(Debug)]
pub(crate) struct NodeShared {
    pub(crate) config: NodeConfig,
    pub(crate) transport: MsQuicTransport,
    pub(crate) registry: Registry<ConnectionHandle>,
    pub(crate) epochs: EpochSource,
    /// Connections hold a share until their end is told.
    pub(crate) telling: Arc<Telling>,
    pub(crate) arrivals: Arrivals,
    /// Names the node, by its identity, in whatever is logged for it.
    pub(crate) span: Span,
    /// No new connections, in either direction.
    pub(crate) stopping: AtomicBool,
    /// A connection is over and out of the registry.
    pub(crate) left: Notify,
    /// The supervisor has ended.
    pub(crate) stopped: watch::Sender<bool>,
}

impl NodeShared {
    pub(crate) fn new(config: NodeConfig, transport: MsQuicTransport) -> Arc<Self> {
        let identity = config.credential.identity().short();
        Arc::new(Self {
            // At this level it is there whatever is filtered: warnings and errors name the node too.
            span: tracing::error_span!(parent: None, "node", %identity),
            registry: Registry::new(
                config.limits.connections_max,
                config.limits.connections_per_peer_max,
            ),
            config,
            transport,
            epochs: EpochSource::new(),
            telling: Arc::new(Telling::new()),
            arrivals: Arrivals::default(),
            stopping: AtomicBool::new(false),
            left: Notify::new(),
            stopped: watch::channel(false).0,
        })
    }

    /// Tells whoever listens; nobody may.
    pub(crate) fn emit(&self, event: NodeEvent) {
        self.telling.emit(event);
    }

    /// The active connection of each peer.
    pub(crate) fn peers(&self) -> Vec<ConnectionHandle> {
        self.registry.peers().into_iter().map(|(_, handle)| handle).collect()
    }

    /// All open connections.
    pub(crate) fn connections(&self) -> Vec<ConnectionHandle> {
        self.registry.connections().into_iter().map(|(_, _, handle)| handle).collect()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(crate) fn alpns(&self) -> Vec<&str> {
        self.config.alpns.iter().map(String::as_str).collect()
    }
}

/// A task that ends with its owner.
#[derive(Debug)]
pub(crate) struct OwnedTask(tokio::task::JoinHandle<()>);

impl OwnedTask {
    pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task))
    }
}

impl Drop for OwnedTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Does something if a task ends in another way than it should: by a panic, or with its runtime. Somebody
/// may wait for what it was to say.
pub(crate) struct Unfinished<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Unfinished<F> {
    pub(crate) fn then(tell: F) -> Self {
        Self(Some(tell))
    }

    /// The task has said what it was to say.
    pub(crate) fn done(mut self) {
        self.0 = None;
    }
}

impl<F: FnOnce()> Drop for Unfinished<F> {
    fn drop(&mut self) {
        if let Some(tell) = self.0.take() {
            tell();
        }
    }
}

/// Answers a caller who may have given up.
fn answer<T>(reply: RpcReplyPort<T>, value: T) {
    drop(reply.send(value));
}

/// As [`answer`], for one of several who may be first.
fn answer_once<T>(reply: &Mutex<Option<RpcReplyPort<T>>>, value: T) {
    let reply = reply.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(reply) = reply {
        answer(reply, value);
    }
}
