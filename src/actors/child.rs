//! A child of the supervisor that is restarted: what it is, and whether it runs.

use std::net::SocketAddr;
use std::sync::Arc;

use ractor::{ActorId, ActorRef};

use super::callers::Caller;
use super::connector;
use super::listener::ListenerMessage;
use super::message::connector::ConnectorMessage;
use super::target::{Redial, Target};
use super::tasks::OwnedTask;
use super::waiting::Waiting;
use crate::restart::RestartState;
use crate::transport::MsQuicListener;

pub(super) enum Kind {
    /// What listens, once it is bound.
    Listener {
        address: SocketAddr,
        listener: Option<Arc<MsQuicListener>>,
    },
    Connector {
        target: Target,
        current: connector::Current,
    },
}

#[derive(Clone)]
pub(super) enum Running {
    Listener(ActorRef<ListenerMessage>),
    Connector(ActorRef<ConnectorMessage>),
}

impl Running {
    pub(super) fn id(&self) -> ActorId {
        match self {
            Self::Listener(actor) => actor.get_id(),
            Self::Connector(actor) => actor.get_id(),
        }
    }

    pub(super) fn stop(&self) {
        match self {
            Self::Listener(actor) => drop(actor.cast(ListenerMessage::Stop)),
            Self::Connector(actor) => drop(actor.cast(ConnectorMessage::Stop)),
        }
    }
}

pub(super) struct Child {
    pub(super) kind: Kind,
    pub(super) restarts: RestartState,
    /// `None` while it waits for its restart.
    pub(super) running: Option<Running>,
    /// Dropped with the child: a stop during the wait is final.
    pub(super) timer: Option<OwnedTask>,
    /// Who asked for the connection while nothing runs.
    pub(super) callers: Waiting<Caller>,
}

impl Child {
    /// `caller` is answered by the actor that is started next.
    pub(super) fn wait_for_next(&mut self, caller: Caller) {
        if let Err(caller) = self.callers.add(caller) {
            caller.turn_away();
        }
    }
}

impl Kind {
    /// Whether it is a single attempt. A failure ends it: nobody would hold what it makes later.
    pub(super) fn is_single(&self) -> bool {
        matches!(self, Self::Connector { target, .. } if target.redial == Redial::Never)
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Listener { address, .. } => write!(f, "listener on {address}"),
            Self::Connector { target, .. } => write!(f, "connector to {target}"),
        }
    }
}
