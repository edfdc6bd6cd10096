//! Listeners of a node: their start, their address, their end.

use std::net::SocketAddr;
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, RpcReplyPort};
use tracing::warn;

use super::State;
use crate::actors::child::{Child, Kind, Running};
use crate::actors::listener::{self, ListenerActor};
use crate::actors::message::supervisor::{Event, Internal, SupervisorMessage};
use crate::actors::tasks::answer;
use crate::error::ListenError;
use crate::transport::MsQuicListener;

impl State {
    pub(super) async fn on_listen(
        &mut self,
        address: SocketAddr,
        reply: RpcReplyPort<Result<SocketAddr, ListenError>>,
    ) {
        if self.shared.is_stopping() {
            return answer(reply, Err(ListenError::Stopped));
        }
        let Some(key) = self.add(Kind::Listener { address, listener: None }) else {
            return answer(reply, Err(ListenError::Stopped));
        };
        if let Err(error) = self.start_listener(key, address, Some(reply)).await {
            // The caller has its answer.
            warn!(%error, "a listener does not start");
            self.children.remove(&key);
        }
    }

    pub(super) fn on_stop_listening(&mut self, address: SocketAddr) {
        let is_it = |child: &Child| match &child.kind {
            Kind::Listener { address: bound, .. } => *bound == address,
            Kind::Connector { .. } => false,
        };
        self.remove(is_it);
    }

    pub(super) async fn start_listener(
        &mut self,
        key: u64,
        address: SocketAddr,
        bound: Option<RpcReplyPort<Result<SocketAddr, ListenError>>>,
    ) -> Result<(), ActorProcessingErr> {
        let myself = self.myself.clone();
        let on_bound = Box::new(move |listener| {
            let event = Event::Bound { key, listener };
            drop(myself.cast(SupervisorMessage::Internal(Internal(event))));
        });
        let arguments = listener::Arguments {
            shared: Arc::clone(&self.shared),
            supervisor: self.myself.get_cell(),
            address,
            bound,
            on_bound,
        };
        let cell = self.myself.get_cell();
        let (actor, _) = Actor::spawn_linked(None, ListenerActor, arguments, cell).await?;
        self.set_running(key, Running::Listener(actor));
        Ok(())
    }

    pub(super) fn on_bound(&mut self, key: u64, bound: Arc<MsQuicListener>) {
        match self.children.get_mut(&key).map(|child| &mut child.kind) {
            Some(Kind::Listener { address, listener }) => {
                *address = bound.local_addr();
                *listener = Some(bound);
            }
            Some(Kind::Connector { .. }) | None => bound.stop(),
        }
    }
}
