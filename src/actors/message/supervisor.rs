//! What a node's root can be asked, and what it tells itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ractor::{ActorRef, DerivedActorRef, RpcReplyPort};

use crate::actors::arrived_peer::ArrivedPeer;
use crate::actors::callers::ConnectReply;
use crate::actors::events::EventBatch;
#[cfg(doc)]
use crate::actors::events::NodeEvent;
use crate::actors::handle::ConnectionHandle;
use crate::actors::message::peer::PeerMessage;
use crate::actors::peer_children::PeerCaller;
use crate::actors::target::Target;
use crate::error::ListenError;
use crate::identity::CertHash;
use crate::peers::error::PeerError;
use crate::peers::handle::Peer;
use crate::session::message::SessionId;
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
    /// Open a session with a peer that outlives connections, or share the one there is: as
    /// [`Node::peer`](crate::Node::peer) does.
    OpenPeer {
        /// Whom; it says whom to expect.
        target: Target,
        /// What both speak.
        protocol: String,
        /// Told the session's actor once the peer has agreed. It holds the session until it is told to
        /// [leave](PeerMessage::Leave) or to close it.
        reply: RpcReplyPort<Result<ActorRef<PeerMessage>, PeerError>>,
    },
    /// Give peers that begin a session for this protocol to an actor from here on: as
    /// [`Node::accept`](crate::Node::accept) does.
    AcceptPeers {
        /// What both speak.
        protocol: String,
        /// Gets them, one at a time: the next one comes when the message before it is dropped. Of several
        /// for one protocol the last gets them.
        acceptor: DerivedActorRef<ArrivedPeer>,
        /// Told whether it worked: not with a node that is stopping.
        reply: Option<RpcReplyPort<bool>>,
    },
    /// Tell the actor of a session of which somebody has a handle.
    PeerActor {
        /// The handle.
        peer: Peer,
        /// Told its actor, which is started if there is none.
        reply: RpcReplyPort<ActorRef<PeerMessage>>,
    },
    /// Tell the actor of the session with a peer: after it failed and was started again
    /// ([`NodeEvent::PeerActorRestarted`]), or the actor that asked did.
    FindPeer {
        /// Who.
        peer: CertHash,
        /// What both speak.
        protocol: String,
        /// Told the actor, if there is one; if it is being started again, once it runs.
        reply: RpcReplyPort<Option<ActorRef<PeerMessage>>>,
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
    /// A session stands, and somebody wants its actor.
    PeerReady {
        peer: Peer,
        caller: PeerCaller,
    },
    RestartPeer {
        session: SessionId,
    },
}

impl SupervisorMessage {
    /// Somebody who asked for a connection of its own has gone.
    pub(in crate::actors) fn caller_gone() -> Self {
        Self::Internal(Internal(Event::CallerGone))
    }
}
