//! What all actors of one node share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tracing::Span;

use super::arrivals::Arrivals;
use super::events::{Events, NodeEvent};
use super::handle::ConnectionHandle;
use super::telling::Telling;
use crate::config::NodeConfig;
use crate::identity::CertHash;
use crate::peers::sessions::Sessions;
use crate::registry::{EpochSource, Registry};
use crate::transport::MsQuicTransport;

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
    /// Those that outlive connections, once somebody wants one.
    pub(crate) sessions: OnceLock<Arc<Sessions>>,
    /// The node's: what is begun by a call from elsewhere runs there.
    pub(crate) runtime: Handle,
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
            sessions: OnceLock::new(),
            runtime: Handle::current(),
            stopped: watch::channel(false).0,
        })
    }

    /// Tells whoever listens; nobody may.
    pub(crate) fn emit(&self, event: NodeEvent) {
        self.telling.emit(event);
    }

    /// The events from here on.
    pub(crate) fn events(&self) -> Events {
        Events::new(self.telling.subscribe(), self.stopped.subscribe(), self.telling.open())
    }

    /// The active connection of each peer.
    pub(crate) fn peers(&self) -> Vec<ConnectionHandle> {
        plain(self.registry.peers())
    }

    /// All open connections.
    pub(crate) fn connections(&self) -> Vec<ConnectionHandle> {
        plain(self.registry.connections())
    }

    /// Who the node is.
    pub(crate) fn identity(&self) -> CertHash {
        self.config.credential.identity()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(crate) fn alpns(&self) -> Vec<&str> {
        self.config.alpns.iter().map(String::as_str).collect()
    }
}

/// Those that carry plain frames: of the others it is the session that is told of.
fn plain(mut handles: Vec<ConnectionHandle>) -> Vec<ConnectionHandle> {
    handles.retain(|handle| !handle.core().carries_session());
    handles
}
