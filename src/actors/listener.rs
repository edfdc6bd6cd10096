//! One bound address.
//!
//! Spawned and supervised by the supervisor, restarted on the same port. Handshakes run in tasks
//! beside it; each connection that came to stand gets an actor linked to the supervisor.
//!
//! ```text
//! Binding ──bound──> Listening ──Stop──> stopped
//!    └──failed──> told, stopped (first start) or failed (restart, tried again)
//! ```
//!
//! Invariants: at most `handshakes_pending_max` handshakes are open; a listener that ends frees
//! its address at once; its connections live on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::task::JoinSet;
use tracing::{Instrument, debug, info};

use super::establish::{NotEstablished, establish};
use super::events::NodeEvent;
use super::refusal_log::RefusalLog;
use super::shared::NodeShared;
use super::tasks::{OwnedTask, Unfinished, finish};
use crate::config::ALPNS_MAX;
use crate::error::{AcceptError, CloseReason, ListenError};
use crate::failpoint::{Failpoint, in_actor};
use crate::transport::session_streams::SESSION_ALPN;
use crate::transport::{MsQuicListener, MsQuicNetConnection};

/// What a listener tells itself, or is told by the supervisor.
#[derive(Debug)]
pub(crate) enum ListenerMessage {
    Bound(Result<Arc<MsQuicListener>, ListenError>),
    Established(MsQuicNetConnection),
    Failed {
        remote: SocketAddr,
        error: AcceptError,
    },
    Stop,
    #[cfg(test)]
    Panic,
}

pub(crate) struct Arguments {
    pub(crate) shared: Arc<NodeShared>,
    pub(crate) supervisor: ActorCell,
    pub(crate) address: SocketAddr,
    /// Told the bound address, at the first start.
    pub(crate) bound: Option<RpcReplyPort<Result<SocketAddr, ListenError>>>,
    /// Gives the supervisor what listens, which it can stop without waiting for this actor.
    pub(crate) on_bound: Box<dyn Fn(Arc<MsQuicListener>) + Send + Sync>,
}

impl Drop for Arguments {
    /// Also where the actor does not start.
    fn drop(&mut self) {
        if let Some(bound) = self.bound.take() {
            let stopping = self.shared.is_stopping();
            let error = if stopping { ListenError::Stopped } else { ListenError::Internal };
            drop(bound.send(Err(error)));
        }
    }
}

pub(crate) struct ListenerActor;

pub(crate) struct State {
    arguments: Arguments,
    myself: ActorRef<ListenerMessage>,
    listener: Option<Arc<MsQuicListener>>,
    refusals: RefusalLog,
    /// Binds, then accepts.
    _task: OwnedTask,
    accepting: Option<OwnedTask>,
}

#[cfg_attr(feature = "async-trait", ractor::async_trait)]
impl Actor for ListenerActor {
    type Msg = ListenerMessage;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<ListenerMessage>,
        arguments: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        in_actor(Failpoint::ListenerPreStart, || arguments.shared.identity()).await;
        let (shared, address) = (Arc::clone(&arguments.shared), arguments.address);
        let owner = myself.clone();
        let task = OwnedTask::spawn(async move {
            let unfinished = failed(owner.clone());
            let credential = shared.config.credential.clone();
            let mut alpns = shared.alpns();
            if alpns.len() < ALPNS_MAX {
                alpns.push(SESSION_ALPN);
            }
            let bound = shared.transport.create_listener(address, &alpns, credential).await;
            drop(owner.cast(ListenerMessage::Bound(bound.map(Arc::new))));
            unfinished.done();
        });
        let refusals = RefusalLog::default();
        Ok(State { arguments, myself, listener: None, _task: task, accepting: None, refusals })
    }

    async fn handle(
        &self,
        _myself: ActorRef<ListenerMessage>,
        message: ListenerMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        in_actor(Failpoint::ListenerHandle, || state.arguments.shared.identity()).await;
        let span = state.arguments.shared.span.clone();
        async {
            match message {
                ListenerMessage::Bound(bound) => state.on_bound(bound)?,
                ListenerMessage::Established(established) => {
                    // Local work only: the spawn runs `pre_start`, which waits for nothing.
                    let supervisor = state.arguments.supervisor.clone();
                    let remote = established.remote_addr();
                    let kept = establish(&state.arguments.shared, established, supervisor).await;
                    if let Err(NotEstablished::NoRoom(_, code)) = kept {
                        let reason = CloseReason::Local { code };
                        state.on_failed(remote, AcceptError::Closed { peer: remote, reason });
                    }
                }
                ListenerMessage::Failed { remote, error } => state.on_failed(remote, error),
                ListenerMessage::Stop => finish(&state.myself),
                #[cfg(test)]
                ListenerMessage::Panic => panic!("asked to by a test"),
            }
            Ok(())
        }
        .instrument(span)
        .await
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<ListenerMessage>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        in_actor(Failpoint::ListenerPostStop, || state.arguments.shared.identity()).await;
        Ok(())
    }
}

impl State {
    fn on_bound(
        &mut self,
        bound: Result<Arc<MsQuicListener>, ListenError>,
    ) -> Result<(), ActorProcessingErr> {
        let reply = self.arguments.bound.take();
        match (bound, reply) {
            (Ok(listener), reply) => {
                let address = listener.local_addr();
                info!(%address, "listening");
                (self.arguments.on_bound)(Arc::clone(&listener));
                self.accepting = Some(accept(Arc::clone(&listener), self.myself.clone()));
                self.listener = Some(listener);
                if reply.is_some_and(|reply| reply.send(Ok(address)).is_err()) {
                    // Who asked has gone: nobody would know of it, nor of a port that the system chose.
                    finish(&self.myself);
                    return Ok(());
                }
                self.arguments.shared.emit(NodeEvent::Listening { address });
                Ok(())
            }
            (Err(error), Some(reply)) => {
                drop(reply.send(Err(error)));
                finish(&self.myself);
                Ok(())
            }
            // A restart that could not bind counts as one more failure.
            (Err(error), None) => Err(error.into()),
        }
    }

    fn on_failed(&mut self, remote: SocketAddr, error: AcceptError) {
        self.refusals.refused(Instant::now(), remote, &error);
        self.arguments.shared.emit(NodeEvent::Refused { remote, error });
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // Not only when the accepting task is dropped: a restart wants the address now.
        if let Some(listener) = &self.listener {
            listener.stop();
        }
    }
}

/// Tells the listener's actor that its task failed: a caller waits for the address, and peers for an
/// answer.
fn failed(owner: ActorRef<ListenerMessage>) -> Unfinished<impl FnOnce()> {
    Unfinished::then(move || {
        drop(owner.cast(ListenerMessage::Bound(Err(ListenError::Internal))));
    })
}

/// Accepts until the listener stops; handshakes end with the task.
fn accept(listener: Arc<MsQuicListener>, owner: ActorRef<ListenerMessage>) -> OwnedTask {
    OwnedTask::spawn(async move {
        let unfinished = failed(owner.clone());
        let mut handshakes = JoinSet::new();
        loop {
            let request = tokio::select! {
                request = listener.accept() => request,
                Some(_) = handshakes.join_next() => continue,
            };
            let Ok(request) = request else { return unfinished.done() };
            let owner = owner.clone();
            handshakes.spawn(async move {
                let remote = request.remote_addr();
                let message = match request.accept().await {
                    Ok(connection) => ListenerMessage::Established(connection),
                    Err(error) => ListenerMessage::Failed { remote, error },
                };
                if owner.cast(message).is_err() {
                    debug!(%remote, "the listener ended before its connection");
                }
            });
        }
    })
}
