//! One dial target.
//!
//! Spawned and supervised by the supervisor. One dial at a time; callers that ask meanwhile share
//! its result. The connection's actor is linked to the supervisor, so that it outlives a
//! connector that fails; the one that is started in its place takes it over.
//!
//! What it does when is decided in `redial.rs`; here it is done.
//!
//! Invariants: every caller is answered once: those of a connector that stops by the supervisor's
//! next one; a result or timer of an earlier generation changes nothing; a connection that nobody
//! took and that is not kept is closed.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use tracing::{Instrument, info};

use super::callers::Caller;
use super::establish::{NotEstablished, establish};
use super::events::NodeEvent;
use super::handle::ConnectionHandle;
use super::message::connector::ConnectorMessage;
use super::message::supervisor::SupervisorMessage;
use super::redial::{Answer, Asked, Effect, End, Input, Machine, Outlook};
use super::shared::NodeShared;
use super::target::{Redial, Target};
use super::tasks::{OwnedTask, finish};
use super::waiting::Waiting;
use crate::error::{CloseCode, CloseReason, ConnectError};
use crate::failpoint::{Failpoint, in_actor};
use crate::identity::CertHash;
use crate::lock::lock;
use crate::registry::RegistryFull;
use crate::transport::{Direction, MsQuicNetConnection};

/// The connection of a target, shared by all generations of its connector.
pub(crate) type Current = Arc<Mutex<Option<ConnectionHandle>>>;

pub(crate) struct Arguments {
    pub(crate) shared: Arc<NodeShared>,
    pub(crate) supervisor: ActorCell,
    pub(crate) target: Target,
    pub(crate) callers: Waiting<Caller>,
    pub(crate) current: Current,
}

impl Drop for Arguments {
    /// Also where the actor does not start.
    fn drop(&mut self) {
        let stopping = self.shared.is_stopping();
        let error = if stopping { ConnectError::Stopped } else { ConnectError::Internal };
        for caller in self.callers.take() {
            caller.answer(Err(error.clone()));
        }
    }
}

pub(crate) struct ConnectorActor;

pub(crate) struct State {
    arguments: Arguments,
    myself: ActorRef<ConnectorMessage>,
    machine: Machine,
    /// The dial or the wait.
    task: Option<OwnedTask>,
    /// Whose arrival is watched.
    watched: Option<CertHash>,
}

#[cfg_attr(feature = "async-trait", ractor::async_trait)]
impl Actor for ConnectorActor {
    type Msg = ConnectorMessage;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<ConnectorMessage>,
        arguments: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        in_actor(Failpoint::ConnectorPreStart, || arguments.shared.identity()).await;
        let earlier = lock(&arguments.current).clone();
        let dialled = earlier.as_ref().map(|one| one.direction() == Direction::Outbound);
        let backoff = arguments.shared.config.backoff;
        let machine = Machine::new(arguments.target.redial, backoff, dialled)?;
        let mut state = State { arguments, myself, machine, task: None, watched: None };
        state.watch_peer(state.arguments.target.expected.or(earlier.as_ref().map(|e| e.peer())));
        match earlier.filter(|handle| handle.close_reason().is_none()) {
            Some(handle) => state.take(handle),
            None => state.dial(0),
        }
        Ok(state)
    }

    async fn handle(
        &self,
        _myself: ActorRef<ConnectorMessage>,
        message: ConnectorMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        in_actor(Failpoint::ConnectorHandle, || state.arguments.shared.identity()).await;
        let span = state.arguments.shared.span.clone();
        async {
            match message {
                ConnectorMessage::Connect(caller) => state.on_connect(caller),
                ConnectorMessage::CallerGone => state.on_caller_gone(),
                ConnectorMessage::Dialled { generation, result } => {
                    // Local work only: the spawn runs `pre_start`, which waits for nothing.
                    state.on_dialled(generation, result).await;
                }
                ConnectorMessage::Over { epoch, reason } => state.on_over(epoch, reason),
                ConnectorMessage::Due { generation } => state.on_due(generation),
                ConnectorMessage::Arrived(handle) => state.on_arrived(handle),
                ConnectorMessage::Stop => state.on_stop(),
                #[cfg(test)]
                ConnectorMessage::Panic => panic!("asked to by a test"),
            }
        }
        .instrument(span)
        .await;
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<ConnectorMessage>,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        in_actor(Failpoint::ConnectorPostStop, || state.arguments.shared.identity()).await;
        Ok(())
    }
}

impl State {
    fn on_connect(&mut self, caller: Caller) {
        let handle = lock(&self.arguments.current).clone();
        let handle = handle.filter(|handle| handle.close_reason().is_none());
        let redial = caller.redial;
        self.arguments.target.redial = self.arguments.target.redial.or(redial);
        let Asked { answer, effects } = self.machine.asked(redial, handle.is_some());
        match (answer, handle) {
            (Answer::Give, Some(handle)) => drop(caller.answer(Ok(handle))),
            (Answer::PassOn, _) => self.pass_on(caller),
            (Answer::Queue | Answer::Give, _) => {
                if let Err(caller) = self.arguments.callers.add(caller) {
                    caller.turn_away();
                }
            }
        }
        self.apply(effects, None);
    }

    fn on_caller_gone(&mut self) {
        if self.arguments.callers.is_deserted() {
            let effects = self.step(Input::CallersGone);
            self.apply(effects, None);
        }
    }

    async fn on_dialled(
        &mut self,
        generation: u64,
        result: Result<MsQuicNetConnection, ConnectError>,
    ) {
        if !self.machine.is_dialling(generation) {
            return;
        }
        let single = self.machine.redial() == Redial::Never;
        match result {
            // Dropping it closes it: nobody would own it.
            Ok(_) if single && self.arguments.callers.is_deserted() => self.on_caller_gone(),
            Ok(established) => self.on_established(generation, established).await,
            Err(error) => self.on_failed(generation, error),
        }
    }

    async fn on_established(&mut self, generation: u64, established: MsQuicNetConnection) {
        let Arguments { shared, supervisor, .. } = &self.arguments;
        let peer = established.remote_addr();
        let error = match establish(shared, established, supervisor.clone()).await {
            Ok(handle) => return self.take(handle),
            Err(NotEstablished::NoRoom(RegistryFull::OfAll { limit }, _)) => {
                ConnectError::TooManyConnections { peer, limit }
            }
            Err(NotEstablished::NoRoom(RegistryFull::OfPeer { limit }, _)) => {
                ConnectError::TooManyOfPeer { peer, limit }
            }
            Err(NotEstablished::Failed) => ConnectError::Internal,
        };
        self.on_failed(generation, error);
    }

    /// The target's connection is this one.
    fn take(&mut self, handle: ConnectionHandle) {
        *lock(&self.arguments.current) = Some(handle.clone());
        self.watch_peer(Some(self.arguments.target.expected.unwrap_or_else(|| handle.peer())));
        let dialled = handle.direction() == Direction::Outbound;
        let effects = self.step(Input::Stood { epoch: handle.epoch(), dialled });
        self.task = None;
        self.apply(effects, None);
        if self.machine.redial() != Redial::Never {
            watch(&handle, &self.myself);
        }
    }

    fn on_failed(&mut self, generation: u64, error: ConnectError) {
        let target = self.arguments.target.clone();
        let stopping = self.arguments.shared.is_stopping();
        let outlook = Outlook::of(&error);
        let effects = self.step(Input::Failed { generation, outlook, stopping });
        let wait = |effect: &Effect| match effect {
            Effect::Wait { delay, .. } => Some(*delay),
            Effect::Give
            | Effect::PassOn
            | Effect::Tell { .. }
            | Effect::Dial { .. }
            | Effect::Finish => None,
        };
        let mut retry_in = effects.iter().find_map(wait);
        self.apply(effects, Some(&error));
        if self.take_the_peers_own() {
            retry_in = None;
        }
        info!(%target, %error, ?retry_in, "dial failed");
        self.arguments.shared.emit(NodeEvent::DialFailed { target, error, retry_in });
    }

    fn on_over(&mut self, epoch: u64, reason: CloseReason) {
        let effects = self.step(Input::Over { epoch, end: End::of(&reason) });
        if effects.is_empty() {
            return;
        }
        let target = self.arguments.target.clone();
        match End::of(&reason) {
            End::Wanted => info!(%target, "closed here: not dialled again"),
            End::Lost => info!(%target, %reason, "lost: dialled again"),
            End::Final => {
                info!(%target, %reason, "not dialled again: the peer said so");
                let reason = reason.clone();
                self.arguments.shared.emit(NodeEvent::Abandoned { target, reason });
            }
        }
        let remote = lock(&self.arguments.current).as_ref().map(ConnectionHandle::remote_addr);
        let error = remote.map(|peer| ConnectError::Closed { peer, reason });
        self.apply(effects, error.as_ref());
        self.take_the_peers_own();
        if !self.arguments.callers.is_deserted() {
            // They asked between the end and this message: an explicit call does not wait.
            let effects = self.step(Input::PeerCame);
            self.apply(effects, None);
        }
    }

    fn on_due(&mut self, generation: u64) {
        let effects = self.step(Input::Due { generation });
        self.apply(effects, None);
    }

    fn on_arrived(&mut self, handle: ConnectionHandle) {
        if !self.machine.is_waiting() {
            return;
        }
        if self.is_ours(&handle) {
            self.take(handle);
        } else {
            let effects = self.step(Input::PeerCame);
            self.apply(effects, None);
        }
    }

    fn on_stop(&mut self) {
        let effects = self.step(Input::Stop);
        let stopping = self.arguments.shared.is_stopping();
        let error = if stopping { ConnectError::Stopped } else { ConnectError::Disconnected };
        self.apply(effects, Some(&error));
    }

    /// While it waits a connection that the expected peer opened itself is as good as its own.
    fn take_the_peers_own(&mut self) -> bool {
        if !self.machine.is_waiting() {
            return false;
        }
        let expected = self.arguments.target.expected;
        let found = expected.and_then(|peer| self.arguments.shared.registry.get(&peer));
        let Some(handle) = found.filter(|handle| self.is_ours(handle)) else { return false };
        self.take(handle);
        true
    }

    /// Whether a connection that the peer opened is what the target asks for.
    fn is_ours(&self, handle: &ConnectionHandle) -> bool {
        let Arguments { shared, target, .. } = &self.arguments;
        handle.direction() == Direction::Inbound
            && target.expected == Some(handle.peer())
            && target
                .offers(&shared.config.alpns)
                .iter()
                .any(|alpn| alpn == handle.alpn_negotiated())
            && handle.close_reason().is_none()
    }

    fn step(&mut self, input: Input) -> Vec<Effect> {
        self.machine.next(input, Instant::now(), rand::random())
    }

    /// Does what the machine said. `error` is for those who are told one.
    fn apply(&mut self, effects: Vec<Effect>, error: Option<&ConnectError>) {
        for effect in effects {
            match effect {
                Effect::Give => self.give(),
                Effect::PassOn => {
                    self.arguments.callers.take().into_iter().for_each(|c| self.pass_on(c));
                }
                Effect::Tell { all } => {
                    let told = |caller: &Caller| all || caller.redial != Redial::Always;
                    for caller in self.arguments.callers.take_if(told) {
                        caller.answer(Err(error.cloned().unwrap_or(ConnectError::Internal)));
                    }
                }
                Effect::Dial { generation } => self.dial(generation),
                Effect::Wait { generation, delay } => self.wait(generation, delay),
                Effect::Finish => {
                    self.task = None;
                    finish(&self.myself);
                }
            }
        }
    }

    fn give(&mut self) {
        let Some(handle) = lock(&self.arguments.current).clone() else { return };
        let mut taken = false;
        for caller in self.arguments.callers.take() {
            taken |= caller.answer(Ok(handle.clone()));
        }
        if !taken && self.machine.redial() == Redial::Never {
            // Nobody owns it, and nobody keeps it.
            handle.core().cut(CloseCode::DROPPED);
        }
    }

    /// For a caller that came between the end of the work and the end of the actor.
    fn pass_on(&self, caller: Caller) {
        let target = Target { redial: caller.redial, ..self.arguments.target.clone() };
        let supervisor = ActorRef::<SupervisorMessage>::from(self.arguments.supervisor.clone());
        let again = SupervisorMessage::Connect { target, reply: caller.reply };
        if let Err(ractor::MessagingErr::SendErr(SupervisorMessage::Connect { reply, .. })) =
            supervisor.cast(again)
        {
            drop(reply.send(Err(ConnectError::Stopped)));
        }
    }

    fn wait(&mut self, generation: u64, delay: Duration) {
        let myself = self.myself.clone();
        self.task = Some(OwnedTask::spawn(async move {
            tokio::time::sleep(delay).await;
            drop(myself.cast(ConnectorMessage::Due { generation }));
        }));
    }

    /// One attempt, up to the peer's acceptance.
    fn dial(&mut self, generation: u64) {
        let (shared, target) = (Arc::clone(&self.arguments.shared), self.arguments.target.clone());
        let mut report = Report { owner: self.myself.clone(), generation, sent: false };
        let span = shared.span.clone();
        let dial = async move {
            let Target { remote, expected, .. } = &target;
            let (alpns, credential) =
                (target.offers(&shared.config.alpns), &shared.config.credential);
            let (alpns, credential) = (alpns.to_vec(), credential.clone());
            let dialled =
                shared.transport.connect_accepted(remote.clone(), alpns, credential, *expected);
            report.send(dialled.await);
        };
        self.task = Some(OwnedTask::spawn(dial.instrument(span)));
    }

    fn watch_peer(&mut self, peer: Option<CertHash>) {
        let arrivals = &self.arguments.shared.arrivals;
        if self.watched == peer {
            return;
        }
        if let Some(before) = self.watched.take() {
            arrivals.forget(&before, self.myself.get_id());
        }
        if let Some(peer) = peer {
            arrivals.watch(peer, self.myself.clone());
        }
        self.watched = peer;
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.watch_peer(None);
    }
}

/// Tells the connector how its dial went, also if it panicked: callers wait for it.
struct Report {
    owner: ActorRef<ConnectorMessage>,
    generation: u64,
    sent: bool,
}

impl Report {
    fn send(&mut self, result: Result<MsQuicNetConnection, ConnectError>) {
        self.sent = true;
        let generation = self.generation;
        drop(self.owner.cast(ConnectorMessage::Dialled { generation, result }));
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if !self.sent {
            self.send(Err(ConnectError::Internal));
        }
    }
}

fn watch(handle: &ConnectionHandle, owner: &ActorRef<ConnectorMessage>) {
    let (owner, epoch) = (owner.clone(), handle.epoch());
    handle.core().on_over(Box::new(move |reason| {
        // A connector that is gone does not dial again.
        drop(owner.cast(ConnectorMessage::Over { epoch, reason: reason.clone() }));
    }));
}
