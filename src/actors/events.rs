//! What a node tells whoever subscribed.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::{broadcast, watch};

use super::handle::ConnectionHandle;
use super::target::Target;
use crate::error::{AcceptError, CloseReason, ConnectError};
use crate::identity::CertHash;

/// Something happened to a node.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum NodeEvent {
    /// A listener is bound.
    Listening {
        /// Where.
        address: SocketAddr,
    },
    /// A connection came to stand, in either direction.
    Connected(ConnectionHandle),
    /// A connection is over.
    Disconnected {
        /// Whose.
        peer: CertHash,
        /// The peer's address.
        remote: SocketAddr,
        /// Which one.
        epoch: u64,
        /// Why.
        reason: CloseReason,
    },
    /// A dial failed.
    DialFailed {
        /// What was dialled.
        target: Target,
        /// Why it failed.
        error: ConnectError,
        /// When it is dialled again, if it is.
        retry_in: Option<Duration>,
    },
    /// An inbound connection did not come to stand.
    Refused {
        /// Where it came from.
        remote: SocketAddr,
        /// Why.
        error: AcceptError,
    },
    /// A listener failed and is started again; its connections live on.
    ListenerRestarted {
        /// Its address.
        address: SocketAddr,
    },
    /// A connector failed and is started again; its connection lives on.
    ConnectorRestarted {
        /// What it dials.
        target: Target,
    },
    /// The subscriber was too slow and so many events are lost: look at `Node::connections`.
    Lagged(u64),
}

/// The events of a node from the moment of subscription on.
#[derive(Debug)]
pub struct Events {
    receiver: broadcast::Receiver<NodeEvent>,
    stopped: watch::Receiver<bool>,
}

impl Events {
    pub(super) fn new(
        receiver: broadcast::Receiver<NodeEvent>,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        Self { receiver, stopped }
    }

    /// The next event; `None` once the node has stopped and everything was told.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: an event is taken only when it is returned.
    pub async fn next(&mut self) -> Option<NodeEvent> {
        let received = tokio::select! {
            biased;
            received = self.receiver.recv() => received,
            _ = self.stopped.wait_for(|stopped| *stopped) => match self.receiver.try_recv() {
                Ok(event) => Ok(event),
                Err(broadcast::error::TryRecvError::Lagged(lost)) => {
                    Err(broadcast::error::RecvError::Lagged(lost))
                }
                Err(_) => return None,
            },
        };
        match received {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(lost)) => Some(NodeEvent::Lagged(lost)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}
