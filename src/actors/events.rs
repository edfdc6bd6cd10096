//! What a node tells whoever subscribed, as a stream and as messages to an actor.

use std::net::SocketAddr;
use std::time::Duration;

use ractor::{ActorCell, ActorStatus, DerivedActorRef};
use tokio::sync::{broadcast, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::handle::ConnectionHandle;
use super::target::Target;
use crate::error::{AcceptError, CloseReason, ConnectError, Side};
use crate::identity::CertHash;
use crate::peers::error::PeerEnded;

/// How long the last events of a node that has stopped are waited for: connections that were cut end
/// within that, and a subscriber does not wait for what never comes.
const LAST_EVENTS_MAX: Duration = Duration::from_secs(3);

/// Events in one message: enough to share its cost, few enough for an actor's handler.
const BATCH_MAX: usize = 64;

/// Something happened to a node.
///
/// Of one connection `Connected` comes before `Disconnected`. While a connection of a peer is over
/// and its `Disconnected` not told, the `Connected` of that peer's next connection waits for it, if the peer
/// has no other connection that stands.
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
    /// A connection is over, and the outcome of every frame is known.
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
        /// When it is dialled again, if it is by the connector: a session is by its own spacing, as long as
        /// somebody holds it and `session_time_max` is not over, and has none here.
        retry_in: Option<Duration>,
    },
    /// A target is not kept any more: its peer closed with a code that is
    /// [final](crate::CloseCode::is_final).
    Abandoned {
        /// What is not dialled again.
        target: Target,
        /// What the peer said.
        reason: CloseReason,
    },
    /// A [peer](crate::Peer) has a connection, for the first time or again.
    PeerUp {
        /// Who.
        peer: CertHash,
        /// What both speak.
        protocol: String,
    },
    /// A peer has no connection for now; what was accepted for it is kept.
    PeerDown {
        /// Who.
        peer: CertHash,
        /// What both speak.
        protocol: String,
        /// Why its connection was lost.
        reason: CloseReason,
        /// Which side ended that connection; none where nobody did.
        side: Option<Side>,
    },
    /// A peer has started anew: it knows nothing of the session that it had, whose
    /// [end](Self::PeerEnded) comes next.
    PeerRestarted {
        /// Who.
        peer: CertHash,
        /// What both spoke.
        protocol: String,
    },
    /// A session with a peer is over.
    PeerEnded {
        /// Who.
        peer: CertHash,
        /// What both spoke.
        protocol: String,
        /// Why.
        reason: PeerEnded,
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
    /// The actor of a session failed and is started again; the session lives on, and
    /// [`SupervisorMessage::FindPeer`](crate::SupervisorMessage::FindPeer) tells the actor.
    PeerActorRestarted {
        /// With whom the session is.
        peer: CertHash,
        /// What both speak.
        protocol: String,
    },
    /// The subscriber was too slow and so many events are lost: look at `Node::connections`.
    Lagged(u64),
}

/// The events of a node from the moment of subscription on.
#[derive(Debug)]
pub struct Events {
    receiver: broadcast::Receiver<NodeEvent>,
    stopped: watch::Receiver<bool>,
    /// Connections whose end is not told yet.
    open: watch::Receiver<usize>,
    /// When it ends, once the node has stopped.
    end: Option<Instant>,
}

impl Events {
    pub(super) fn new(
        receiver: broadcast::Receiver<NodeEvent>,
        stopped: watch::Receiver<bool>,
        open: watch::Receiver<usize>,
    ) -> Self {
        Self { receiver, stopped, open, end: None }
    }

    /// The next event; `None` once the node has stopped and everything was told.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: an event is taken only when it is returned.
    pub async fn next(&mut self) -> Option<NodeEvent> {
        let Self { receiver, stopped, open, end } = self;
        let received = tokio::select! {
            biased;
            received = receiver.recv() => received,
            () = told_all(stopped, open, end) => match receiver.try_recv() {
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

    /// The next one if it is there.
    fn try_next(&mut self) -> Option<NodeEvent> {
        match self.receiver.try_recv() {
            Ok(event) => Some(event),
            Err(broadcast::error::TryRecvError::Lagged(lost)) => Some(NodeEvent::Lagged(lost)),
            Err(_) => None,
        }
    }
}

/// The node has stopped, and nothing more will be told.
async fn told_all(
    stopped: &mut watch::Receiver<bool>,
    open: &mut watch::Receiver<usize>,
    end: &mut Option<Instant>,
) {
    // The senders live as long as the node: an error is an end as well.
    let _ = stopped.wait_for(|stopped| *stopped).await;
    let end = *end.get_or_insert_with(|| Instant::now() + LAST_EVENTS_MAX);
    let _ = tokio::time::timeout_at(end, open.wait_for(|open| *open == 0)).await;
}

/// Events for a subscriber: see [`SupervisorMessage::Subscribe`](crate::SupervisorMessage). The next
/// ones come when this is dropped.
#[derive(Debug)]
pub struct EventBatch {
    events: Vec<NodeEvent>,
    is_last: bool,
    /// Dropped with it.
    _dealt_with: oneshot::Sender<()>,
}

impl EventBatch {
    /// The events, in order.
    #[must_use]
    pub fn events(&self) -> &[NodeEvent] {
        &self.events
    }

    /// Takes the events out; the next ones come when the batch is dropped.
    #[must_use]
    pub fn take_events(&mut self) -> Vec<NodeEvent> {
        std::mem::take(&mut self.events)
    }

    /// Whether the node has stopped and everything was told.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.is_last
    }
}

/// Passes events on to `subscriber` until there are no more, or nobody takes them. One batch is on
/// its way at a time: what waits in a mailbox is bounded by it, and what comes meanwhile by the
/// events that are kept.
fn pass_on(mut events: Events, subscriber: DerivedActorRef<EventBatch>) -> AbortHandle {
    let passing = tokio::spawn(async move {
        loop {
            let first = events.next().await;
            let is_last = first.is_none();
            let mut batch: Vec<NodeEvent> = first.into_iter().collect();
            while !is_last && batch.len() < BATCH_MAX {
                let Some(event) = events.try_next() else { break };
                batch.push(event);
            }
            let (dealt_with, is_dealt_with) = oneshot::channel();
            let batch = EventBatch { events: batch, is_last, _dealt_with: dealt_with };
            if subscriber.send_message(batch).is_err() || is_last {
                return;
            }
            // Nothing is ever sent through it.
            let _ = is_dealt_with.await;
        }
    });
    passing.abort_handle()
}

/// As many actors may be subscribed to one node's events.
const SUBSCRIBERS_MAX: usize = 64;

/// The actors that are subscribed. What passes events on outlives this: it ends with the last event.
#[derive(Debug, Default)]
pub(super) struct Subscribers(Vec<Subscription>);

#[derive(Debug)]
struct Subscription {
    subscriber: ActorCell,
    /// What passes events on to it.
    passing: AbortHandle,
}

impl Subscribers {
    /// Gives `events` to `subscriber`; `false` if as many are subscribed as may.
    pub(super) fn add(&mut self, events: Events, subscriber: DerivedActorRef<EventBatch>) -> bool {
        if self.0.len() >= SUBSCRIBERS_MAX {
            self.forget_the_gone();
        }
        if self.0.len() >= SUBSCRIBERS_MAX {
            return false;
        }
        let cell = subscriber.get_cell();
        self.0.push(Subscription { subscriber: cell, passing: pass_on(events, subscriber) });
        true
    }

    fn forget_the_gone(&mut self) {
        self.0.retain(|Subscription { subscriber, passing }| {
            let gone =
                matches!(subscriber.get_status(), ActorStatus::Stopping | ActorStatus::Stopped);
            if gone {
                passing.abort();
            }
            !gone && !passing.is_finished()
        });
    }
}
