//! One dial target.
//!
//! Spawned and supervised by the supervisor. One dial at a time; callers that ask meanwhile share
//! its result. The connection's actor is linked to the supervisor, so that it outlives a
//! connector that fails; the one that is started in its place takes it over.
//!
//! ```text
//! Dialling ──ok──> Up ──lost──> Waiting ──time──> Dialling
//!    └──failed──> Waiting | Done             Up ──closed here──> Done ─> stopped
//! ```
//!
//! Invariants: every caller is answered once: those of a connector that stops by the supervisor's
//! next one; a result or timer of an earlier generation changes nothing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, RpcReplyPort};
use tracing::{debug, info};

use super::events::NodeEvent;
use super::handle::ConnectionHandle;
use super::supervisor::SupervisorMessage;
use super::target::{Redial, Target};
use super::{NodeShared, OwnedTask, connection, finish};
use crate::error::{CloseCode, CloseReason, ConnectError};
use crate::restart::BackoffState;
use crate::transport::MsQuicNetConnection;

/// Callers that may wait for one dial. One more is refused: nothing grows unbounded.
pub(super) const CALLERS_MAX: usize = 1024;

pub(crate) type ConnectReply = RpcReplyPort<Result<ConnectionHandle, ConnectError>>;

/// Who waits for the connection, and for how long: `Redial::Always` waits for a success, others
/// are told of the next failure.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) reply: ConnectReply,
    pub(crate) redial: Redial,
}

impl Caller {
    pub(crate) fn answer(self, result: Result<ConnectionHandle, ConnectError>) {
        // A caller that has gone needs no answer.
        drop(self.reply.send(result));
    }
}

/// The connection of a target, shared by all generations of its connector.
pub(crate) type Current = Arc<Mutex<Option<ConnectionHandle>>>;

/// What a connector tells itself, or is told by the supervisor.
#[derive(Debug)]
pub(crate) enum ConnectorMessage {
    /// Tell the connection, now or when it stands.
    Connect(Caller),
    Dialled {
        generation: u64,
        result: Result<MsQuicNetConnection, ConnectError>,
    },
    Over {
        epoch: u64,
        reason: CloseReason,
    },
    Redial {
        generation: u64,
    },
    Stop,
    #[cfg(test)]
    Panic,
}

pub(crate) struct Arguments {
    pub(crate) shared: Arc<NodeShared>,
    pub(crate) supervisor: ActorCell,
    pub(crate) target: Target,
    pub(crate) callers: Vec<Caller>,
    pub(crate) current: Current,
}

pub(crate) struct ConnectorActor;

enum Phase {
    Dialling {
        _task: OwnedTask,
    },
    Up {
        epoch: u64,
        since: Instant,
    },
    Waiting {
        _timer: OwnedTask,
    },
    /// Its work is done; what is still in the mailbox is handled.
    Done,
}

pub(crate) struct State {
    arguments: Arguments,
    myself: ActorRef<ConnectorMessage>,
    callers: Vec<Caller>,
    backoff: BackoffState,
    generation: u64,
    phase: Phase,
    /// A connection stood at some time: from there on it is kept up.
    was_up: bool,
}

#[cfg_attr(feature = "async-trait", ractor::async_trait)]
impl Actor for ConnectorActor {
    type Msg = ConnectorMessage;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<ConnectorMessage>,
        mut arguments: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let backoff = BackoffState::new(arguments.shared.config.backoff)?;
        let mut callers = std::mem::take(&mut arguments.callers);
        let adopted = current(&arguments.current).filter(|handle| handle.close_reason().is_none());
        let was_up = current(&arguments.current).is_some();
        let phase = match &adopted {
            Some(handle) => {
                watch(handle, &myself);
                for caller in callers.drain(..) {
                    caller.answer(Ok(handle.clone()));
                }
                Phase::Up { epoch: handle.epoch(), since: Instant::now() }
            }
            None => Phase::Dialling { _task: dial(&arguments, &myself, 0) },
        };
        Ok(State { arguments, myself, callers, backoff, generation: 0, phase, was_up })
    }

    async fn handle(
        &self,
        _myself: ActorRef<ConnectorMessage>,
        message: ConnectorMessage,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ConnectorMessage::Connect(caller) => state.on_connect(caller),
            ConnectorMessage::Dialled { generation, result } => {
                if generation == state.generation {
                    match result {
                        // Local work only: the spawn runs `pre_start`, which waits for nothing.
                        Ok(established) => state.on_established(established).await,
                        Err(error) => state.on_failed(error),
                    }
                }
            }
            ConnectorMessage::Over { epoch, reason } => state.on_over(epoch, &reason),
            ConnectorMessage::Redial { generation } => {
                if generation == state.generation {
                    state.dial_again();
                }
            }
            ConnectorMessage::Stop => state.stop(),
            #[cfg(test)]
            ConnectorMessage::Panic => panic!("asked to by a test"),
        }
        Ok(())
    }
}

impl State {
    fn on_connect(&mut self, caller: Caller) {
        if caller.redial == Redial::Always {
            self.arguments.target.redial = Redial::Always;
        }
        let handle = current(&self.arguments.current);
        match (&self.phase, handle) {
            (Phase::Up { .. }, Some(handle)) if handle.close_reason().is_none() => {
                caller.answer(Ok(handle));
            }
            (Phase::Done, _) => self.ask_another(caller),
            _ if self.callers.len() < CALLERS_MAX => self.callers.push(caller),
            _ => caller.answer(Err(ConnectError::Stopped)),
        }
    }

    /// For a caller that came between the end of the work and the end of the actor.
    fn ask_another(&self, caller: Caller) {
        let target = Target { redial: caller.redial, ..self.arguments.target.clone() };
        let supervisor = ActorRef::<SupervisorMessage>::from(self.arguments.supervisor.clone());
        let again = SupervisorMessage::Connect { target, reply: caller.reply };
        if let Err(ractor::MessagingErr::SendErr(SupervisorMessage::Connect { reply, .. })) =
            supervisor.cast(again)
        {
            drop(reply.send(Err(ConnectError::Stopped)));
        }
    }

    async fn on_established(&mut self, established: MsQuicNetConnection) {
        let Arguments { shared, supervisor, .. } = &self.arguments;
        let (peer, limit) = (established.remote_addr(), shared.config.limits.connections_max);
        let Some(handle) = connection::spawn(shared, established, supervisor.clone()).await else {
            self.on_failed(ConnectError::TooManyConnections { peer, limit });
            return;
        };
        *lock(&self.arguments.current) = Some(handle.clone());
        self.was_up = true;
        self.generation += 1;
        self.phase = Phase::Up { epoch: handle.epoch(), since: Instant::now() };
        for caller in self.callers.drain(..) {
            caller.answer(Ok(handle.clone()));
        }
        if self.arguments.target.redial == Redial::Never {
            self.stop();
        } else {
            watch(&handle, &self.myself);
        }
    }

    fn on_failed(&mut self, error: ConnectError) {
        let target = self.arguments.target.clone();
        let keeps = match target.redial {
            Redial::Never => false,
            Redial::WhenLost => self.was_up,
            Redial::Always => true,
        };
        let keeps = keeps && !self.arguments.shared.is_stopping();
        let retry_in = keeps.then(|| self.backoff.next_delay(rand::random()));
        info!(%target, %error, ?retry_in, "dial failed");
        let patient = |caller: &Caller| keeps && caller.redial == Redial::Always;
        let (waiting, told) = self.callers.drain(..).partition(patient);
        self.callers = waiting;
        let told: Vec<Caller> = told;
        for caller in told {
            caller.answer(Err(error.clone()));
        }
        match retry_in {
            Some(delay) => self.wait(delay),
            None => self.stop(),
        }
        self.arguments.shared.emit(NodeEvent::DialFailed { target, error, retry_in });
    }

    fn on_over(&mut self, epoch: u64, reason: &CloseReason) {
        let Phase::Up { epoch: current, since } = self.phase else { return };
        if epoch != current {
            return;
        }
        self.generation += 1;
        if is_wanted(reason) {
            debug!(target = %self.arguments.target, "closed here: not dialled again");
            self.stop();
            return;
        }
        self.backoff.on_up_for(since.elapsed());
        let delay = self.backoff.next_delay(rand::random());
        info!(target = %self.arguments.target, %reason, ?delay, "lost; dialled again");
        self.wait(delay);
    }

    fn wait(&mut self, delay: Duration) {
        self.generation += 1;
        let (generation, myself) = (self.generation, self.myself.clone());
        let timer = OwnedTask::spawn(async move {
            tokio::time::sleep(delay).await;
            drop(myself.cast(ConnectorMessage::Redial { generation }));
        });
        self.phase = Phase::Waiting { _timer: timer };
    }

    fn dial_again(&mut self) {
        if matches!(self.phase, Phase::Waiting { .. }) {
            self.generation += 1;
            let task = dial(&self.arguments, &self.myself, self.generation);
            self.phase = Phase::Dialling { _task: task };
        }
    }

    fn stop(&mut self) {
        self.generation += 1;
        self.phase = Phase::Done;
        finish(&self.myself);
    }
}

impl Drop for State {
    fn drop(&mut self) {
        for caller in self.callers.drain(..) {
            caller.answer(Err(ConnectError::Stopped));
        }
    }
}

/// Whether the application of this side ended the connection on purpose.
fn is_wanted(reason: &CloseReason) -> bool {
    let CloseReason::Local { code } = reason else { return false };
    *code == CloseCode::NORMAL || *code == CloseCode::GOING_AWAY || *code >= CloseCode::APPLICATION
}

fn watch(handle: &ConnectionHandle, owner: &ActorRef<ConnectorMessage>) {
    let (owner, epoch) = (owner.clone(), handle.epoch());
    handle.core().on_over(Box::new(move |reason| {
        // A connector that is gone does not dial again.
        drop(owner.cast(ConnectorMessage::Over { epoch, reason: reason.clone() }));
    }));
}

/// One attempt, up to the peer's acceptance.
fn dial(arguments: &Arguments, owner: &ActorRef<ConnectorMessage>, generation: u64) -> OwnedTask {
    let (shared, target) = (Arc::clone(&arguments.shared), arguments.target.clone());
    let owner = owner.clone();
    OwnedTask::spawn(async move {
        let result = attempt(&shared, target).await;
        drop(owner.cast(ConnectorMessage::Dialled { generation, result }));
    })
}

async fn attempt(shared: &NodeShared, target: Target) -> Result<MsQuicNetConnection, ConnectError> {
    let (config, begun) = (&shared.config, Instant::now());
    let established = shared
        .transport
        .connect_expecting(
            target.remote,
            &shared.alpns(),
            config.credential.clone(),
            target.expected,
        )
        .await?;
    let peer = established.remote_addr();
    match established.core().accepted().await {
        Ok(()) => Ok(established),
        Err(reason) => Err(ConnectError::from_close(peer, reason, &config.alpns, begun.elapsed())),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn current(current: &Current) -> Option<ConnectionHandle> {
    lock(current).clone()
}
