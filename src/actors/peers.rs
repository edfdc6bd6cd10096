//! Peers that outlive connections, as a node gives them.

use std::sync::{Arc, Weak};

use ractor::ActorRef;
use tokio::sync::mpsc;

use super::events::NodeEvent;
use super::message::supervisor::SupervisorMessage;
use super::shared::NodeShared;
use super::target::{Redial, Target};
use crate::error::ConnectError;
use crate::never::never;
use crate::peers::admit::Admit;
use crate::peers::core::{NoLink, PeerCore};
use crate::peers::error::{PeerEnded, PeerError};
use crate::peers::handle::Peer;
use crate::peers::sessions::{Dial, Sessions};
use crate::peers::status::PeerChange;
use crate::session::effect::EndReason;
use crate::session::message::Refused;
use crate::transport::session_streams::SESSION_ALPN;

/// Peers that begin a session, as they come ([`Node::accept`](crate::Node::accept)).
#[derive(Debug)]
pub struct Peers {
    begun: mpsc::Receiver<Arc<PeerCore>>,
    protocol: String,
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
        // Nobody takes those that came: they end, and none begin any more.
        self.begun.close();
        self.sessions.accept_no_more(&self.protocol);
        while let Ok(core) = self.begun.try_recv() {
            drop(Peer::new(core, Arc::clone(&self.sessions)));
        }
    }
}

/// How often a session is begun at most where each met one of the peer's that was over. A dial that the peer gave
/// up meanwhile may still arrive, and be taken for the session's.
const TRIES: u32 = 4;

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
    let mut tries = TRIES;
    loop {
        let core = sessions.open(identity, protocol, Arc::clone(&dial))?;
        // Gives it up where this is cancelled, or fails.
        let peer = Peer::new(Arc::clone(&core), Arc::clone(&sessions));
        let why = match core.first_up(|| sessions.has_link_in_sight(&core)).await {
            Ok(()) => return Ok(peer),
            Err(why) => why,
        };
        tries -= 1;
        // Another one meets what the peer has now.
        let met_the_past = matches!(why, NoLink::Ended(EndReason::Peer(..))) && !core.was_up();
        if !met_the_past || tries == 0 {
            return Err(why.into());
        }
    }
}

/// Takes peers that begin a session for this protocol from here on, if `admit` says so.
pub(super) fn accept(shared: &NodeShared, protocol: &str, admit: Option<Admit>) -> Peers {
    let sessions = shared.sessions();
    Peers { begun: sessions.accept(protocol, admit), protocol: protocol.to_owned(), sessions }
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
    /// The node's sessions: made when first asked for.
    pub(crate) fn sessions(&self) -> Arc<Sessions> {
        let make = || {
            let telling = Arc::downgrade(&self.telling);
            let tell = Box::new(move |of: &PeerCore, change| {
                if let (Some(telling), Some(event)) = (telling.upgrade(), told(of, change)) {
                    telling.emit(event);
                }
            });
            let me = self.config.credential.identity();
            let (limits, backoff) = (&self.config.limits, self.config.backoff);
            Sessions::new(&self.runtime, me, limits, backoff, self.transport.counts(), tell)
        };
        Arc::clone(self.sessions.get_or_init(make))
    }

    /// Tells the peers of its sessions, if it has any, that the node stops.
    pub(crate) fn leave_sessions(&self) {
        if let Some(sessions) = self.sessions.get() {
            sessions.go_away();
        }
    }

    /// Ends its sessions, if it has any.
    pub(crate) fn stop_sessions(&self) {
        if let Some(sessions) = self.sessions.get() {
            sessions.go_away();
            sessions.end_all();
        }
    }
}

impl From<NoLink> for PeerError {
    fn from(why: NoLink) -> Self {
        match why {
            NoLink::Dial(error) => Self::Connect(error),
            NoLink::Refused(Refused { code, text, .. }) => {
                Self::Ended(PeerEnded::Refused { code, text })
            }
            NoLink::Ended(reason) => Self::Ended(reason.into()),
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
