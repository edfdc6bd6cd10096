//! Dialling: from an address or a name to a connection, within one deadline.
//!
//! ```text
//! credential ──> name ──> race of its addresses ──> first that stands
//!                          ├── open, handshake, acceptance ──failed──> the next one at once
//!                          └── 250 ms without an answer ──> the next one beside it
//! ```
//!
//! Invariants: one deadline over all of it; what was not ready in this process is not told as the
//! peer's silence; a dial that is given up, or whose race another address won, ends every attempt.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::time::{sleep_until, timeout_at};
use tracing::debug;

use super::blocking::{self, NotRun};
use super::bounds::Windows;
use super::configuration::{ConfigurationError, Shape};
use super::connection::MsQuicNetConnection;
use super::core::{ConnectionCore, Direction};
use super::counts::Limit;
use super::dial_socket::DialSocket;
use super::ffi::{self, Place, Role};
use super::handshake::Handshake;
use super::race::Race;
use super::registration::{LiveHandle, RegistrationWrapper};
use super::remote_addr::{self, Plan, RemoteAddr};
use super::resolve::Resolver;
use super::shared::Shared;
use crate::config::validate_alpns;
use crate::error::{ConnectError, LibraryError};
use crate::identity::{CertHash, NetCredential};

/// What is dialled, and as whom.
pub(super) struct Dial {
    pub(super) remote: RemoteAddr,
    pub(super) alpns: Vec<String>,
    pub(super) credential: NetCredential,
    /// Takes nobody else, whichever address answers.
    pub(super) expected: Option<CertHash>,
    /// Also waits for the sign that the peer accepted us.
    pub(super) until_accepted: bool,
}

/// What a dial needs of its own process.
struct Loaded {
    registration: Arc<RegistrationWrapper>,
    configuration: Arc<ffi::Configuration>,
    shape: Shape,
}

/// What all attempts of one dial share.
struct Ready {
    inner: Arc<Shared>,
    dial: Dial,
    registration: Arc<RegistrationWrapper>,
    configuration: Arc<ffi::Configuration>,
    /// What `configuration` is for.
    shape: Shape,
    deadline: Instant,
}

/// One address that is being tried.
struct Attempt {
    peer: SocketAddr,
    begun: Instant,
    progress: Arc<Progress>,
    outcome: Pin<Box<dyn Future<Output = Result<MsQuicNetConnection, ConnectError>> + Send>>,
}

/// An attempt whose peer was asked.
struct Begun {
    handshake: Handshake,
    socket: Arc<DialSocket>,
}

/// An attempt that has ended, by its place among those that ran.
struct Ended {
    index: usize,
    outcome: Result<MsQuicNetConnection, ConnectError>,
}

/// How far an attempt is.
#[derive(Default)]
struct Progress {
    /// The peer was asked.
    asked: AtomicBool,
    /// Its handshake is done.
    answered: AtomicBool,
}

impl Dial {
    /// Opens the connection.
    ///
    /// # Cancel safety
    ///
    /// Cancelled, the attempts are given up.
    pub(super) async fn run(
        self,
        shared: &Arc<Shared>,
    ) -> Result<MsQuicNetConnection, ConnectError> {
        self.run_with(shared, &Resolver::system()).await
    }

    async fn run_with(
        self,
        shared: &Arc<Shared>,
        resolver: &Arc<Resolver>,
    ) -> Result<MsQuicNetConnection, ConnectError> {
        let deadline = Instant::now() + shared.limits().handshake_time_max;
        self.run_until(deadline, shared, resolver).await.inspect_err(|_| {
            if Instant::now() >= deadline {
                shared.bounds.counts.reached(Limit::HandshakeTime);
            }
        })
    }

    async fn run_until(
        self,
        deadline: Instant,
        shared: &Arc<Shared>,
        resolver: &Arc<Resolver>,
    ) -> Result<MsQuicNetConnection, ConnectError> {
        let remote = || self.remote.to_string();
        validate_alpns(&self.alpns)
            .map_err(|source| ConnectError::Config { remote: remote(), source })?;
        let limit = shared.limits().handshake_time_max;
        let addresses = match self.remote.plan()? {
            Plan::Addresses(addresses) => addresses,
            Plan::LookUp { host, port } => {
                let found = timeout_at(deadline.into(), resolver.look_up(&host, port)).await;
                let late = || Err(format!("no answer from the name service within {limit:?}"));
                found
                    .unwrap_or_else(|_| late())
                    .map_err(|problem| ConnectError::Resolve { name: remote(), problem })?
            }
        };
        let loaded = timeout_at(deadline.into(), self.load(shared, addresses.first())).await;
        let Loaded { registration, configuration, shape } = loaded.unwrap_or_else(|_| {
            let doing = "loading the own credential";
            Err(ConnectError::Overdue { remote: remote(), doing, after: limit })
        })?;
        let inner = Arc::clone(shared);
        let ready = Ready { inner, dial: self, registration, configuration, shape, deadline };
        Arc::new(ready).race(&addresses).await
    }

    /// For the address that is tried first.
    async fn load(
        &self,
        shared: &Arc<Shared>,
        first: Option<&SocketAddr>,
    ) -> Result<Loaded, ConnectError> {
        let library = |source| ConnectError::Library {
            remote: self.remote.to_string(),
            action: "open a registration",
            source,
        };
        let registration = shared.registration().map_err(library)?;
        let first = first.copied().unwrap_or_else(|| (Ipv4Addr::UNSPECIFIED, 0).into());
        let limits = shared.limits();
        let algorithm = limits.congestion.of_dialled(first);
        let shape = Shape { windows: Windows::largest(limits), algorithm };
        let configuration = self.configuration(shared, &registration, shape).await?;
        Ok(Loaded { registration, configuration, shape })
    }

    async fn configuration(
        &self,
        shared: &Shared,
        registration: &Arc<RegistrationWrapper>,
        shape: Shape,
    ) -> Result<Arc<ffi::Configuration>, ConnectError> {
        let remote = || self.remote.to_string();
        let limits = (&shared.bounds.limits, shape);
        let found = shared.factory.configuration(
            registration,
            Role::Client,
            &self.alpns,
            &self.credential,
            limits,
        );
        found.await.map_err(|error| match error {
            ConfigurationError::Credential(source) => {
                ConnectError::Credential { remote: remote(), source: Arc::new(source) }
            }
            ConfigurationError::Library { action, source } => {
                ConnectError::Library { remote: remote(), action, source }
            }
            ConfigurationError::NotRun(why) => not_run(remote(), "load the credential", why),
        })
    }
}

impl Ready {
    async fn race(
        self: Arc<Self>,
        addresses: &[SocketAddr],
    ) -> Result<MsQuicNetConnection, ConnectError> {
        let now = Instant::now();
        let mut race = Race::new(addresses, now, self.deadline.saturating_duration_since(now));
        let (mut running, mut failures) = (Vec::<Attempt>::new(), Vec::new());
        while Instant::now() < self.deadline {
            let answered =
                running.iter().any(|attempt| attempt.progress.answered.load(Ordering::Acquire));
            if let Some(peer) = race.next(Instant::now(), answered) {
                match remote_addr::check(peer) {
                    Ok(peer) => running.push(self.try_address(peer)),
                    Err(problem) => {
                        failures.push(ConnectError::Address { given: peer.to_string(), problem });
                        race.failed(Instant::now());
                        continue;
                    }
                }
            }
            if running.is_empty() && race.due().is_none() {
                return Err(self.failed(failures));
            }
            let due = race.due();
            tokio::select! {
                biased;
                Ended { index, outcome } = first_of(&mut running) => {
                    let attempt = running.swap_remove(index);
                    match outcome {
                        Ok(connection) => return Ok(connection),
                        Err(error) => {
                            debug!(peer = %attempt.peer, %error, "an address failed");
                            failures.push(error);
                            race.failed(Instant::now());
                        }
                    }
                }
                () = sleep_until(due.map_or(self.deadline, |due| due.min(self.deadline)).into()) => {}
            }
        }
        failures.extend(running.iter().map(|attempt| self.overdue(attempt)));
        Err(self.failed(failures))
    }

    /// What failed where: as it is, if there was one address only.
    fn failed(&self, mut failures: Vec<ConnectError>) -> ConnectError {
        let remote = self.dial.remote.to_string();
        match failures.len() {
            // The name and the credential took all of the time.
            0 => {
                let after = self.inner.bounds.limits.handshake_time_max;
                ConnectError::Overdue { remote, doing: "getting ready to dial", after }
            }
            1 => failures.remove(0),
            _ => ConnectError::Addresses { remote, failures },
        }
    }

    fn overdue(&self, attempt: &Attempt) -> ConnectError {
        let Attempt { peer, begun, progress, .. } = attempt;
        let after = self.waited(*begun);
        if progress.asked.load(Ordering::Acquire) {
            ConnectError::TimedOut { peer: *peer, after }
        } else {
            let doing = "opening the connection";
            ConnectError::Overdue { remote: peer.to_string(), doing, after }
        }
    }

    /// How long an address was tried. For people to read: without what a timer was late.
    fn waited(&self, begun: Instant) -> Duration {
        let waited = begun.elapsed().min(self.deadline.saturating_duration_since(begun));
        Duration::from_millis(u64::try_from(waited.as_millis()).unwrap_or(u64::MAX))
    }

    fn try_address(self: &Arc<Self>, peer: SocketAddr) -> Attempt {
        let (this, progress) = (Arc::clone(self), Arc::new(Progress::default()));
        let (begun, shown) = (Instant::now(), Arc::clone(&progress));
        let outcome = Box::pin(async move { this.attempt(peer, begun, &shown).await });
        Attempt { peer, begun, progress, outcome }
    }

    async fn attempt(
        &self,
        peer: SocketAddr,
        begun: Instant,
        progress: &Progress,
    ) -> Result<MsQuicNetConnection, ConnectError> {
        let dial = &self.dial;
        let failed =
            |reason| ConnectError::from_close(peer, reason, &dial.alpns, self.waited(begun));
        let Begun { handshake, socket } = self.begin(peer).await?;
        progress.asked.store(true, Ordering::Release);
        let done = async { handshake.done(self.deadline).await };
        beside(done, socket.look()).await.map_err(failed)?;
        progress.answered.store(true, Ordering::Release);
        // Of one that carries a session the peer says so itself.
        if dial.until_accepted && !handshake.core().carries_session() {
            // A peer that gives no sign until the deadline is taken to have accepted, as one that
            // gives none for the usual time.
            let sign = timeout_at(self.deadline.into(), handshake.core().accepted()).await;
            sign.unwrap_or(Ok(())).map_err(failed)?;
        }
        MsQuicNetConnection::new(handshake.keep()).map_err(failed)
    }

    async fn begin(&self, peer: SocketAddr) -> Result<Begun, ConnectError> {
        let library = |action| {
            move |source| ConnectError::Library { remote: peer.to_string(), action, source }
        };
        let core = ConnectionCore::new(
            LiveHandle::new(&self.registration),
            Direction::Outbound,
            self.dial.credential.clone(),
            self.dial.expected,
            &self.inner.bounds,
        );
        core.set_remote_addr(peer);
        let port = self.inner.dial_ports.begin(peer);
        let (place, socket) = (port.place(), port.socket());
        core.set_dial(port);
        let handshake = Handshake::new(core);
        let windows = handshake.core().smaller_windows().unwrap_or(self.shape.windows);
        let algorithm = self.inner.limits().congestion.of_dialled(peer);
        let shape = Shape { windows, algorithm };
        let configuration = if shape == self.shape {
            Arc::clone(&self.configuration)
        } else {
            self.dial.configuration(&self.inner, &self.registration, shape).await?
        };
        let opened = if place.shared.is_none() {
            open(&self.registration, handshake.core(), place)
        } else {
            let (registration, core) =
                (Arc::clone(&self.registration), Arc::clone(handshake.core()));
            // It waits for a worker of the library.
            let opened = blocking::run(move || open(&registration, &core, place)).await;
            opened.map_err(|why| not_run(peer.to_string(), "open a connection", why))?
        };
        opened.map_err(library("open a connection"))?;
        handshake
            .core()
            .slot_for_streams()
            .start(&configuration, peer)
            .map_err(library("start a connection"))?;
        Ok(Begun { handshake, socket })
    }
}

fn not_run(remote: String, action: &'static str, why: NotRun) -> ConnectError {
    match why {
        NotRun::NoThread(source) => ConnectError::NoThread { remote, action, source },
        NotRun::Panicked => ConnectError::Internal,
    }
}

fn open(
    registration: &RegistrationWrapper,
    core: &Arc<ConnectionCore>,
    place: Place,
) -> Result<(), LibraryError> {
    ffi::ConnectionSlot::open(registration.raw()?, core, place)?;
    core.opened();
    Ok(())
}

/// What `main` returns; `other` runs beside it as long as it takes.
async fn beside<R>(main: impl Future<Output = R>, other: impl Future<Output = ()>) -> R {
    let mut main = std::pin::pin!(main);
    tokio::select! {
        biased;
        done = &mut main => done,
        () = other => main.await,
    }
}

/// The first attempt that ends; never, while there is none.
async fn first_of(running: &mut [Attempt]) -> Ended {
    std::future::poll_fn(|context| {
        for (index, attempt) in running.iter_mut().enumerate() {
            if let Poll::Ready(outcome) = attempt.outcome.as_mut().poll(context) {
                return Poll::Ready(Ended { index, outcome });
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;
    use crate::error::ErrorKind;

    const LIMIT: Duration = Duration::from_secs(2);

    /// Dials a name that resolves after `slow` to an address where nobody answers.
    async fn dial_slowly(slow: Duration) -> (ConnectError, Duration) {
        let hole = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let silent = hole.local_addr().expect("it is bound");
        let resolver = Resolver::new(move |_| {
            // not synchronisation: this is how long the name service takes
            std::thread::sleep(slow);
            Ok(vec![silent])
        });
        let limits = Limits { handshake_time_max: LIMIT, ..Limits::default() };
        let shared = Arc::new(Shared::new(limits));
        let dial = Dial {
            remote: RemoteAddr::from(format!("slow.test:{}", silent.port())),
            alpns: vec!["test".to_owned()],
            credential: NetCredential::generate_self_signed(&["test"], &[]).expect("one"),
            expected: None,
            until_accepted: true,
        };
        let begun = Instant::now();
        let dialled = dial.run_with(&shared, &resolver);
        let dialled = tokio::time::timeout(LIMIT * 5, dialled).await.expect("it has a deadline");
        assert_eq!(shared.bounds.counts.stats().limits.handshake_time_max, 1);
        (dialled.map(drop).expect_err("nobody is there"), begun.elapsed())
    }

    #[tokio::test]
    async fn a_slow_name_and_a_silent_peer_share_one_deadline_and_each_is_told_its_own_time() {
        let slow = LIMIT / 2;
        let (error, took) = dial_slowly(slow).await;
        assert!((LIMIT..LIMIT * 5 / 4).contains(&took), "{took:?}");
        let ConnectError::TimedOut { after, .. } = error else { panic!("{error:?}") };
        assert!(after <= LIMIT - slow && after > LIMIT / 8, "{after:?}");
    }

    #[tokio::test]
    async fn a_name_that_takes_all_the_time_is_not_told_as_a_silent_peer() {
        let (error, took) = dial_slowly(LIMIT * 3 / 2).await;
        assert!((LIMIT..LIMIT * 5 / 4).contains(&took), "{took:?}");
        assert_eq!(error.kind(), ErrorKind::Retry);
        let ConnectError::Resolve { name, problem } = error else { panic!("{error:?}") };
        assert!(name.starts_with("slow.test:") && problem.contains("name service"), "{problem}");
    }
}
