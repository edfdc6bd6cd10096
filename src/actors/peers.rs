//! Peers that outlive connections, as a node gives them.

use std::sync::{Arc, Weak};
use std::time::Duration;

use ractor::ActorRef;
use tokio::sync::mpsc;

use super::events::NodeEvent;
use super::message::supervisor::SupervisorMessage;
use super::shared::NodeShared;
use super::target::{Redial, Target};
use crate::config::Limits;
use crate::error::ConnectError;
use crate::never::never;
use crate::peers::core::{NoLink, PeerBounds, PeerCore};
use crate::peers::error::{PeerEnded, PeerError};
use crate::peers::handle::Peer;
use crate::peers::sessions::{Dial, Sessions};
use crate::peers::status::PeerChange;
use crate::session::limits::SessionLimits;
use crate::transport::link::share::Budget;
use crate::transport::session_streams::SESSION_ALPN;

/// Bytes of each flow that a peer may send ahead of what the application takes.
const GRANTED: u64 = 1 << 20;

/// For how long peers of a node that stops are not to dial it.
const AWAY: Duration = Duration::from_secs(1);

/// Peers that begin a session, as they come ([`Node::accept`](crate::Node::accept)).
#[derive(Debug)]
pub struct Peers {
    begun: mpsc::Receiver<Arc<PeerCore>>,
    sessions: Arc<Sessions>,
}

impl Peers {
    /// The next one; none once the node has ended, or somebody else accepts this protocol.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<Peer> {
        let core = self.begun.recv().await?;
        Some(Peer::new(core, Arc::clone(&self.sessions)))
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        // Nobody takes those that came: they end, as those that come from here on.
        self.begun.close();
        while let Ok(core) = self.begun.try_recv() {
            drop(Peer::new(core, Arc::clone(&self.sessions)));
        }
    }
}

/// Opens a session, or shares the one there is; see `Node::peer`.
pub(super) async fn open(
    supervisor: ActorRef<SupervisorMessage>,
    shared: &Arc<NodeShared>,
    target: Target,
    protocol: &str,
) -> Result<Peer, PeerError> {
    if shared.is_stopping() {
        return Err(PeerError::Stopped);
    }
    let identity = target.expected.ok_or(PeerError::NobodyExpected)?;
    let sessions = shared.sessions();
    let dial = dial(supervisor, Arc::downgrade(shared), target);
    let core = sessions.open(identity, protocol, dial)?;
    // Gives it up where this is cancelled, or fails.
    let peer = Peer::new(Arc::clone(&core), sessions);
    core.first_up().await.map_err(|why| match why {
        NoLink::Dial(error) => PeerError::Connect(error),
        NoLink::Refused(refused) => {
            PeerError::Ended(PeerEnded::Refused { code: refused.code, text: refused.text })
        }
        NoLink::Ended(reason) => PeerError::Ended(reason.into()),
    })?;
    Ok(peer)
}

/// Takes peers that begin a session for this protocol from here on.
pub(super) fn accept(shared: &NodeShared, protocol: &str) -> Peers {
    let sessions = shared.sessions();
    Peers { begun: sessions.accept(protocol), sessions }
}

/// Dials a connection that carries sessions, for as long as the node lives.
fn dial(supervisor: ActorRef<SupervisorMessage>, shared: Weak<NodeShared>, target: Target) -> Dial {
    let target = target.redial(Redial::Never).alpn(SESSION_ALPN);
    Arc::new(move || {
        let (supervisor, shared, target) = (supervisor.clone(), shared.clone(), target.clone());
        Box::pin(async move {
            if shared.upgrade().is_none_or(|shared| shared.is_stopping()) {
                return Err(ConnectError::Stopped);
            }
            let (sender, receiver) = ractor::concurrency::oneshot();
            let message = SupervisorMessage::Connect { target, reply: sender.into() };
            supervisor.cast(message).map_err(|_| ConnectError::Stopped)?;
            let connected = receiver.await.map_err(|_| ConnectError::Stopped)??;
            Ok(Arc::clone(connected.core()))
        })
    })
}

impl NodeShared {
    /// The node's sessions: made when first asked for, on a runtime of tokio.
    pub(crate) fn sessions(&self) -> Arc<Sessions> {
        let make = || {
            let telling = Arc::downgrade(&self.telling);
            let tell = Box::new(move |of: &PeerCore, change| {
                if let (Some(telling), Some(event)) = (telling.upgrade(), told(of, change)) {
                    telling.emit(event);
                }
            });
            let me = self.config.credential.identity();
            Sessions::new(me, limits(&self.config.limits), bounds(&self.config.limits), tell)
        };
        Arc::clone(self.sessions.get_or_init(make))
    }

    /// Those of its sessions, if it has any.
    pub(crate) fn stop_sessions(&self) {
        if let Some(sessions) = self.sessions.get() {
            sessions.go_away(AWAY);
            sessions.end_all();
        }
    }
}

fn told(of: &PeerCore, change: PeerChange) -> Option<NodeEvent> {
    let (peer, protocol) = (of.peer, of.protocol.clone());
    let event = match change {
        PeerChange::Up => NodeEvent::PeerUp { peer, protocol },
        PeerChange::Down { reason: Some(reason), side } => {
            NodeEvent::PeerDown { peer, protocol, reason, side }
        }
        PeerChange::Down { reason: None, .. } => {
            never!("a peer is down without a reason");
            return None;
        }
        PeerChange::Restarted => NodeEvent::PeerRestarted { peer, protocol },
        PeerChange::Ended { reason } => NodeEvent::PeerEnded { peer, protocol, reason },
    };
    Some(event)
}

fn limits(limits: &Limits) -> SessionLimits {
    SessionLimits {
        close_time_max: limits.close_time_max,
        frame_bytes_max: limits.frame_bytes_max as u64,
        ..SessionLimits::default()
    }
}

fn bounds(limits: &Limits) -> PeerBounds {
    let session = SessionLimits::default();
    PeerBounds {
        flow_bytes_max: limits.lane_bytes_max,
        granted: GRANTED,
        frame_bytes_max: limits.frame_bytes_max,
        requests_max: session.requests_max,
        early_cancels_max: session.early_cancels_max,
        kept: Arc::new(Budget::new(limits.node_send_bytes_max)),
    }
}
