//! One QUIC connection.
//!
//! Spawned by the listener or the connector that made it, linked to the supervisor. It alone owns
//! the [`MsQuicNetConnection`].
//!
//! ```text
//! Closing (transport/link/closing.rs) ──cut──> Complete ─> stopped
//!       any ─── peer closed, cut, lost ───────────┘
//! ```
//!
//! Invariants: every request is answered once, or its port is dropped with the actor; `handle`
//! never waits; the reason of the end is published before the actor stops; an actor that is
//! killed or panics closes its connection with `ACTOR_FAILED`.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tracing::{Span, info, warn};

use super::handle::{ConnectionHandle, Ends};
use super::message::connection::{ConnectionMessage, Event, Internal};
use super::readers::{read_later, subscribe};
use super::sending::many::send_many;
use super::sending::one::send_one;
use super::sending::reserve::Reservations;
use super::stats::stats;
use super::tasks::{OwnedTask, answer, finish};
use super::waiting::Waiting;
use crate::error::{CloseCode, CloseReason};
use crate::failpoint::{Failpoint, in_actor};
use crate::never::never;
use crate::peers::sessions::LAST_WORD_MAX;
use crate::transport::clock::now;
use crate::transport::core::{ConnectionCore, Deadline, Notice};
use crate::transport::link::closing::{Act, Closing, Directions};
use crate::transport::{Limit, MsQuicNetConnection};

/// How long the end of the peer's frames waits for somebody to take the next frame: a reader that
/// is at work comes back for more, and where nobody reads, the peer should not wait for long.
const READER_PATIENCE: Duration = Duration::from_millis(500);

/// What a connection needs to start.
pub(crate) struct Arguments {
    pub(crate) connection: MsQuicNetConnection,
    pub(crate) epoch: u64,
    /// The node's.
    pub(crate) span: Span,
}

/// The actor holds nothing itself; all that changes is in [`State`].
pub(crate) struct ConnectionActor;

pub(crate) struct State {
    connection: MsQuicNetConnection,
    myself: ActorRef<ConnectionMessage>,
    handle: ConnectionHandle,
    closing: Closing,
    /// Waits for readers, or for the limit of a close.
    close_timer: Option<OwnedTask>,
    close_waiters: Waiting<RpcReplyPort<CloseReason>>,
    reservations: Reservations,
    /// By [`Deadline`]: the one timer of each, while there is anything to watch.
    timers: [Option<OwnedTask>; Deadline::ALL.len()],
    span: Span,
}

#[cfg_attr(feature = "async-trait", ractor::async_trait)]
impl Actor for ConnectionActor {
    type Msg = ConnectionMessage;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<ConnectionMessage>,
        arguments: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let Arguments { connection, epoch, span } = arguments;
        in_actor(Failpoint::ConnectionPreStart, || connection.core().local_identity()).await;
        let span = tracing::error_span!(
            parent: &span,
            "connection",
            peer = %connection.remote_identity().short(),
            epoch,
            remote = %connection.remote_addr(),
        );
        let core = Arc::clone(connection.core());
        let ends = Ends::of(&connection);
        let handle = ConnectionHandle::new(Arc::clone(&core), myself.get_cell(), epoch, ends);
        let owner = myself.clone();
        // Runs on MsQuic's threads: `cast` only enqueues. If it fails this actor is gone, and its
        // state has cut the connection.
        core.set_hook(Box::new(move |notice| {
            drop(owner.cast(ConnectionMessage::Internal(Internal(Event::Transport(notice)))));
        }));
        span.in_scope(|| info!(direction = ?core.direction(), "connected"));
        Ok(State {
            connection,
            myself,
            handle,
            closing: Closing::default(),
            close_timer: None,
            close_waiters: Waiting::default(),
            reservations: Reservations::default(),
            timers: Default::default(),
            span,
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<ConnectionMessage>,
        message: ConnectionMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        in_actor(Failpoint::ConnectionHandle, || state.core().local_identity()).await;
        // What carries a frame logs nothing, and a span costs as much as a small frame.
        let carries =
            matches!(message, ConnectionMessage::Send { .. } | ConnectionMessage::SendMany { .. });
        let _in_span = (!carries).then(|| state.span.clone().entered());
        match message {
            ConnectionMessage::Send { frame, credit, reply } => {
                send_one(state.core(), frame, credit, reply);
            }
            ConnectionMessage::SendMany { frames, credit, reply } => {
                send_many(state.core(), frames, credit, reply);
            }
            ConnectionMessage::Reserve { lane, frames, length, reply } => {
                state.reservations.reserve(state.core(), (lane, frames, length), reply);
            }
            ConnectionMessage::Recv { lane, reply } => read_later(state.core(), lane, reply),
            ConnectionMessage::Subscribe { subscriber, reply } => {
                subscribe(&state.handle, subscriber, reply);
            }
            ConnectionMessage::Close { code, reply } => state.on_close(code, reply),
            ConnectionMessage::WatchClose { reply } => state.on_watch_close(reply),
            ConnectionMessage::Stats { reply } => answer(reply, stats(state.core())),
            ConnectionMessage::Internal(Internal(event)) => state.on_event(&event),
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<ConnectionMessage>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        in_actor(Failpoint::ConnectionPostStop, || state.core().local_identity()).await;
        Ok(())
    }
}

// Transitions: no `async`.
impl State {
    fn core(&self) -> &Arc<ConnectionCore> {
        self.connection.core()
    }

    fn on_close(&mut self, code: CloseCode, reply: Option<RpcReplyPort<CloseReason>>) {
        if let Some(reply) = reply {
            self.on_watch_close(reply);
        }
        if self.core().carries_session() {
            // Its frames are no lane's: the session keeps what was not taken, and says its last word.
            drop(self.closing.close(code, self.directions()));
            self.close_timer = Some(self.after(LAST_WORD_MAX, Event::CloseDeadline));
            return;
        }
        let act = self.closing.close(code, self.directions());
        self.perform(act);
    }

    fn on_watch_close(&mut self, reply: RpcReplyPort<CloseReason>) {
        match self.core().close_reason().filter(|_| self.core().is_complete()) {
            Some(reason) => answer(reply, reason),
            // Where too many wait the port is dropped, which tells the caller.
            None => drop(self.close_waiters.add(reply)),
        }
    }

    fn on_event(&mut self, event: &Event) {
        match event {
            Event::Transport(Notice::PeerFinished) => self.step(Closing::peer_finished),
            Event::Transport(Notice::EndTaken) => self.step(Closing::end_taken),
            Event::Transport(Notice::LanesFinished) => self.step(|closing, of| closing.look(of)),
            Event::ReadersGone => self.step(Closing::readers_gone),
            Event::CloseDeadline => {
                info!("the limit of the close is reached; what is left is cut");
                if !self.core().is_over() {
                    self.core().reached(Limit::CloseTime);
                }
                self.step(|closing, _| closing.too_late());
            }
            Event::Transport(Notice::Began(what)) | Event::Deadline(what) => self.watch(*what),
            Event::Transport(Notice::Complete) => self.on_complete(),
            #[cfg(test)]
            Event::Panic => panic!("asked to by a test"),
        }
    }

    /// How far both directions are.
    fn directions(&self) -> Directions {
        let core = self.core();
        Directions {
            peer_finished: core.has_peer_finished(),
            end_taken: core.is_end_taken(),
            finished: core.is_finished(),
            taken: core.inbound_counts().frames,
        }
    }

    fn step(&mut self, step: impl FnOnce(&mut Closing, Directions) -> Act) {
        let directions = self.directions();
        let act = step(&mut self.closing, directions);
        self.perform(act);
    }

    fn perform(&mut self, act: Act) {
        match act {
            Act::Nothing => {}
            Act::WaitForReaders => {
                self.close_timer = Some(self.after(READER_PATIENCE, Event::ReadersGone));
            }
            Act::StopWaiting => self.close_timer = None,
            Act::Drain(reason) => {
                let limit = self.core().limits().close_time_max;
                self.close_timer = Some(self.after(limit, Event::CloseDeadline));
                self.core().begin_close(&reason);
                self.step(|closing, of| closing.look(of));
            }
            Act::Cut(code) => self.core().cut(code),
        }
    }

    fn after(&self, time: Duration, event: Event) -> OwnedTask {
        let myself = self.myself.clone();
        OwnedTask::spawn(async move {
            tokio::time::sleep(time).await;
            drop(myself.cast(ConnectionMessage::Internal(Internal(event))));
        })
    }

    /// Ends the connection if the deadline was missed; otherwise looks again when it could be.
    fn watch(&mut self, deadline: Deadline) {
        let next = self.core().look_at(deadline);
        self.timers[deadline as usize] = next.map(|next| {
            self.after(next.saturating_duration_since(now()), Event::Deadline(deadline))
        });
    }

    fn on_complete(&mut self) {
        let reason = self.core().close_reason();
        let reason = reason.unwrap_or_else(|| {
            never!("a connection is complete and not over");
            self.core().look_for_marks();
            CloseReason::Local { code: CloseCode::INTERNAL }
        });
        let sent = stats(self.core()).sent;
        info!(%reason, ?sent, "closed");
        self.tell_waiters(&reason);
        finish(&self.myself);
    }

    fn tell_waiters(&mut self, reason: &CloseReason) {
        for waiter in self.close_waiters.take() {
            answer(waiter, reason.clone());
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if !self.core().is_over() {
            self.span.in_scope(|| warn!("the connection's actor was killed or failed: it is cut"));
        }
        // After an orderly end this changes nothing: the first reason wins.
        self.core().cut(CloseCode::ACTOR_FAILED);
        if let Some(reason) = self.core().close_reason() {
            self.tell_waiters(&reason);
        }
    }
}
