//! A child of the supervisor that is restarted: what it is, and whether it runs.

use std::net::SocketAddr;
use std::sync::Arc;

use ractor::{ActorId, ActorRef};

use super::OwnedTask;
use super::connector::{self, Caller, ConnectorMessage};
use super::listener::ListenerMessage;
use super::target::{Redial, Target};
use crate::error::ConnectError;
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
    pub(super) callers: Vec<Caller>,
}

impl Child {
    /// `caller` is answered by the actor that is started next.
    pub(super) fn wait_for_next(&mut self, caller: Caller) {
        if self.callers.len() < connector::CALLERS_MAX {
            self.callers.push(caller);
        } else {
            caller.answer(Err(ConnectError::Stopped));
        }
    }
}

impl Kind {
    /// Whether a failure ends it: nobody would hold what a single attempt makes later.
    pub(super) fn ends_with_failure(&self) -> bool {
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
