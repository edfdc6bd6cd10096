//! One session, driven by message.
//!
//! Spawned and supervised by the supervisor for a session that somebody opens or accepts by message.
//!
//! ```text
//! running ──Leave──> stopped
//!    └── the session is over ──> over ──after a minute, Leave──> stopped
//! ```
//!
//! Invariants: it keeps nothing but who waits for the end, so that nothing is lost where it fails; `handle`
//! never waits: what waits is a task of its own, bounded, which goes on when this fails.

mod asking;
mod gone;
mod sending;

use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tracing::Span;

use self::asking::ask;
use self::sending::{reserve, send_many, send_one, send_tracked};
use super::message::peer::{Event, Internal, PeerMessage};
use super::tasks::{OwnedTask, answer, finish};
use super::waiting::Waiting;
use crate::error::CloseCode;
use crate::failpoint::{Failpoint, in_actor};
use crate::identity::CertHash;
use crate::peers::error::PeerEnded;
use crate::peers::handle::Peer;

/// How long the actor of a session that is over answers: time to take what was not sent.
const OVER_TIME: Duration = Duration::from_secs(60);

/// What the actor of a session needs to start.
pub(super) struct Arguments {
    pub(super) peer: Peer,
    /// Whose actor it is.
    pub(super) node: CertHash,
    /// How long room may be waited for.
    pub(super) reserve_time_max: Duration,
    /// The node's.
    pub(super) span: Span,
}

/// The actor holds nothing itself; see [`State`].
pub(super) struct PeerActor;

pub(super) struct State {
    peer: Peer,
    node: CertHash,
    myself: ActorRef<PeerMessage>,
    reserve_time_max: Duration,
    close_waiters: Waiting<RpcReplyPort<PeerEnded>>,
    /// Waits for the end of the session, and then for its own.
    timer: OwnedTask,
    span: Span,
}

#[cfg_attr(feature = "async-trait", ractor::async_trait)]
impl Actor for PeerActor {
    type Msg = PeerMessage;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<PeerMessage>,
        Arguments { peer, node, reserve_time_max, span }: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        in_actor(Failpoint::PeerPreStart, || node).await;
        let span = tracing::error_span!(
            parent: &span,
            "peer",
            peer = %peer.identity().short(),
            protocol = peer.protocol(),
        );
        let (of, owner) = (peer.clone(), myself.clone());
        let timer = OwnedTask::spawn(async move {
            of.over().await;
            drop(owner.cast(PeerMessage::Internal(Internal(Event::Over))));
        });
        let close_waiters = Waiting::default();
        Ok(State { peer, node, myself, reserve_time_max, close_waiters, timer, span })
    }

    async fn handle(
        &self,
        _myself: ActorRef<PeerMessage>,
        message: PeerMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        in_actor(Failpoint::PeerHandle, || state.node).await;
        state.span.clone().in_scope(|| state.on_message(message));
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<PeerMessage>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        in_actor(Failpoint::PeerPostStop, || state.node).await;
        Ok(())
    }
}

// Transitions: no `async`.
impl State {
    fn on_message(&mut self, message: PeerMessage) {
        let peer = &self.peer;
        match message {
            PeerMessage::Reserve { lane, frames, length, reply } => {
                reserve(peer, (lane, frames, length), self.reserve_time_max, reply);
            }
            PeerMessage::Send { frame, credit, reply } => send_one(peer, frame, credit, reply),
            PeerMessage::SendMany { frames, credit, reply } => {
                send_many(peer, frames, credit, reply);
            }
            PeerMessage::SendTracked { frame, credit, reply } => {
                send_tracked(peer, frame, credit, reply);
            }
            PeerMessage::Request { lane, frame, time, reply } => {
                ask(peer, lane, frame, time, reply);
            }
            PeerMessage::Subscribe { subscriber, reply } => {
                answer_if(reply, peer.subscribe(subscriber));
            }
            PeerMessage::Unsubscribe { reply } => answer_if(reply, peer.unsubscribe()),
            PeerMessage::Watch { watcher, reply } => answer_if(reply, peer.watch(watcher)),
            PeerMessage::Unwatch { watcher } => peer.unwatch(watcher),
            PeerMessage::Close { code, reply } => self.on_close(code, reply),
            PeerMessage::Leave => finish(&self.myself),
            PeerMessage::TakeUnsent { reply } => {
                if let Err(ractor::MessagingErr::SendErr(unsent)) = reply.send(peer.take_unsent()) {
                    peer.put_back_unsent(unsent);
                }
            }
            PeerMessage::Deliveries { reply } => answer(reply, peer.deliveries()),
            PeerMessage::Handle { reply } => answer(reply, peer.clone()),
            PeerMessage::Internal(Internal(event)) => self.on_event(&event),
        }
    }

    fn on_close(&mut self, code: CloseCode, reply: Option<RpcReplyPort<PeerEnded>>) {
        self.peer.begin_close(code);
        match (reply, self.peer.ended()) {
            (Some(reply), Some(ended)) => answer(reply, ended),
            // Where too many wait the port is dropped, which tells the caller.
            (Some(reply), None) => drop(self.close_waiters.add(reply)),
            (None, _) => {}
        }
    }

    fn on_event(&mut self, event: &Event) {
        match event {
            Event::Over => {
                self.tell_waiters();
                let owner = self.myself.clone();
                self.timer = OwnedTask::spawn(async move {
                    tokio::time::sleep(OVER_TIME).await;
                    drop(owner.cast(PeerMessage::Internal(Internal(Event::Done))));
                });
            }
            Event::Done => finish(&self.myself),
        }
    }

    fn tell_waiters(&mut self) {
        let Some(ended) = self.peer.ended() else { return };
        for waiter in self.close_waiters.take() {
            answer(waiter, ended.clone());
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.tell_waiters();
    }
}

fn answer_if<T>(reply: Option<RpcReplyPort<T>>, value: T) {
    if let Some(reply) = reply {
        answer(reply, value);
    }
}
