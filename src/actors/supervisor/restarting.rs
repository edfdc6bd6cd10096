//! Children that failed, and are started again.
//!
//! Invariant: a child that does not start again has failed once more: what that comes to is decided in one
//! place, and neither other children nor connections notice.

use std::sync::Arc;
use std::time::Instant;

use ractor::ActorProcessingErr;
use tracing::{error, warn};

use super::State;
use crate::actors::child::Kind;
use crate::actors::events::NodeEvent;
use crate::actors::message::supervisor::{Event, Internal, SupervisorMessage};
use crate::actors::tasks::OwnedTask;
use crate::restart::RestartDecision;

impl State {
    /// A child failed that is to be there; an error ends the node.
    pub(super) fn on_failed(&mut self, key: u64, cause: &str) -> Result<(), ActorProcessingErr> {
        let Some(child) = self.children.get_mut(&key) else { return Ok(()) };
        match child.restarts.record(Instant::now()) {
            RestartDecision::After(delay) => {
                warn!(child = %child.kind, cause, ?delay, "a child failed and is started again");
                let myself = self.myself.clone();
                child.timer = Some(OwnedTask::spawn(async move {
                    tokio::time::sleep(delay).await;
                    let event = Event::Restart { key };
                    drop(myself.cast(SupervisorMessage::Internal(Internal(event))));
                }));
                Ok(())
            }
            RestartDecision::GiveUp => {
                error!(child = %child.kind, cause, "a child fails again and again: the node ends");
                Err(format!("{} fails again and again: {cause}", child.kind).into())
            }
        }
    }

    pub(super) async fn on_restart(&mut self, key: u64) -> Result<(), ActorProcessingErr> {
        let Some(child) = self.children.get_mut(&key) else { return Ok(()) };
        child.timer = None;
        let (started, event) = match &child.kind {
            Kind::Listener { address, .. } => {
                let address = *address;
                let started = self.start_listener(key, address, None).await;
                (started, NodeEvent::ListenerRestarted { address })
            }
            Kind::Connector { target, current } => {
                let (target, current) = (target.clone(), Arc::clone(current));
                let callers = std::mem::take(&mut child.callers);
                let started = self.start_connector(key, target.clone(), current, callers).await;
                (started, NodeEvent::ConnectorRestarted { target })
            }
        };
        match started {
            Ok(()) => {
                self.shared.emit(event);
                Ok(())
            }
            Err(error) => self.on_failed(key, &error.to_string()),
        }
    }
}
