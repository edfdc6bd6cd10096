//! What a node's root can be asked, and what it tells itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ractor::{DerivedActorRef, RpcReplyPort};

use crate::actors::callers::ConnectReply;
use crate::actors::events::EventBatch;
#[cfg(doc)]
use crate::actors::events::NodeEvent;
use crate::actors::handle::ConnectionHandle;
use crate::actors::target::Target;
use crate::error::ListenError;
use crate::identity::CertHash;
use crate::transport::{AdmissionCounts, MsQuicListener, NodeStats};

/// What a node's root can be asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum SupervisorMessage {
    /// Listen on an address.
    Listen {
        /// Where; port 0 takes any free one.
        address: SocketAddr,
        /// Told the bound address.
        reply: RpcReplyPort<Result<SocketAddr, ListenError>>,
    },
    /// Stop listening on a bound address; its connections live on.
    StopListening {
        /// The bound address.
        address: SocketAddr,
    },
    /// Connect, or share the connection to the same target. A connection of a single attempt whose
    /// reply nobody takes is closed.
    Connect {
        /// Whom to connect to.
        target: Target,
        /// Told the connection.
        reply: ConnectReply,
    },
    /// Stop keeping a target connected; an open connection lives on.
    Disconnect {
        /// Whom.
        target: Target,
    },
    /// Give what happens to an actor from here on, in batches.
    Subscribe {
        /// Gets the events. The next batch comes when the one before it is dropped; one that is
        /// slow is told how many events it missed ([`NodeEvent::Lagged`]). The last batch says so.
        subscriber: DerivedActorRef<EventBatch>,
        /// Told whether it worked: there are at most 64 subscribers.
        reply: Option<RpcReplyPort<bool>>,
    },
    /// Tell the active connection to a peer: the newest.
    Peer {
        /// Who.
        peer: CertHash,
        /// Told the connection, if there is one.
        reply: RpcReplyPort<Option<ConnectionHandle>>,
    },
    /// Tell the active connection of each peer.
    Peers {
        /// Told the connections.
        reply: RpcReplyPort<Vec<ConnectionHandle>>,
    },
    /// Tell all open connections.
    Connections {
        /// Told the connections.
        reply: RpcReplyPort<Vec<ConnectionHandle>>,
    },
    /// Tell what became of the peers that asked for a connection.
    Admissions {
        /// Told the counts.
        reply: RpcReplyPort<AdmissionCounts>,
    },
    /// Tell how the node is doing.
    Stats {
        /// Told the numbers.
        reply: RpcReplyPort<NodeStats>,
    },
    /// End everything in order.
    Shutdown {
        /// How long connections may drain.
        grace: Duration,
        /// Told how many connections had to be cut.
        reply: RpcReplyPort<usize>,
    },
    /// From the supervisor's own timers and children.
    Internal(Internal),
}

/// What only the supervisor tells itself.
#[derive(Debug)]
#[allow(unnameable_types, reason = "opaque: only the supervisor makes one")]
pub struct Internal(pub(in crate::actors) Event);

#[derive(Debug)]
pub(in crate::actors) enum Event {
    Restart {
        key: u64,
    },
    Bound {
        key: u64,
        listener: Arc<MsQuicListener>,
    },
    /// Somebody who asked for a connection of its own has gone.
    CallerGone,
    Drained {
        cut: usize,
    },
}

impl SupervisorMessage {
    /// Somebody who asked for a connection of its own has gone.
    pub(in crate::actors) fn caller_gone() -> Self {
        Self::Internal(Internal(Event::CallerGone))
    }
}
