//! A link that can go bad: a UDP proxy on loopback between one server and those who dial it.
//!
//! ```text
//! client ──► front ──► path towards the server ──► back (one port a client) ──► server
//!        ◄──       ◄── path towards the client ◄──                          ◄──
//! ```
//!
//! A thread of its own moves the datagrams, so that a program that is starved does not starve its
//! network as well. What a datagram meets is decided by `path.rs`, which knows no socket and no clock.

mod burst;
mod engine;
mod overruns;
mod socket;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Weak, mpsc};
use std::thread::JoinHandle;

use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;

use self::engine::{Engine, Readers};
use self::socket::Socket;
use super::conditions::{Conditions, Towards};
use super::counters::Counters;
use super::script::Script;
use crate::lock::lock;

/// A link between one server and those who dial it, which can go bad.
///
/// It passes everything on at once until it is told otherwise. Each direction has its own
/// [`Conditions`]; a [`Script`] changes them by the clock. The n-th datagram of a direction meets the
/// same fate for the same seed and conditions. When exactly it comes is up to the system: times are
/// kept to a millisecond.
///
/// Each address that dials gets a port of its own towards the server, at most 256 at once. What waits
/// is bounded by [`HELD_BYTES_MAX`](super::HELD_BYTES_MAX). When it is dropped its thread has ended and
/// its ports are free; what waits is lost.
///
/// # Examples
///
/// ```
/// use moorline::testing::{ChaosProxy, Conditions, Loss, Share, Towards};
///
/// let server = std::net::UdpSocket::bind("127.0.0.1:0")?;
/// let proxy = ChaosProxy::start(server.local_addr()?, 7)?;
/// let mut lossy = Conditions::default();
/// lossy.loss = Loss::Independent(Share::percent(100));
/// proxy.set(Towards::Server, lossy);
///
/// let client = std::net::UdpSocket::bind("127.0.0.1:0")?;
/// client.send_to(b"lost", proxy.address())?;
/// while proxy.counters(Towards::Server).lost == 0 {
///     std::thread::yield_now();
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ChaosProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A proxy that cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// There is no socket for it.
    #[error("no socket for a proxy in front of {server}")]
    Socket {
        /// What it should stand in front of.
        server: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// There is no thread for it.
    #[error("no thread for a proxy in front of {server}")]
    Thread {
        /// What it should stand in front of.
        server: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

#[derive(Debug)]
struct Shared {
    engine: Mutex<Engine>,
    /// Something is due earlier than before.
    earlier: Notify,
    runtime: tokio::runtime::Handle,
    /// For the tasks it starts.
    own: Weak<Self>,
}

impl ChaosProxy {
    /// Stands in front of `server`, and passes everything on.
    ///
    /// # Errors
    ///
    /// [`ProxyError`] if the system gives no socket or no thread.
    pub fn start(server: SocketAddr, seed: u64) -> Result<Self, ProxyError> {
        let (tell, told) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let run = move || run(server, seed, stopped, &tell);
        let thread = std::thread::Builder::new().name("chaos-proxy".into()).spawn(run);
        let thread = thread.map_err(|source| ProxyError::Thread { server, source })?;
        let (address, shared) = match told.recv() {
            Ok(Ok(started)) => started,
            Ok(Err(source)) => return Err(ProxyError::Socket { server, source }),
            Err(ended) => {
                return Err(ProxyError::Thread { server, source: io::Error::other(ended) });
            }
        };
        Ok(Self { address, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// What clients dial.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What holds for what comes from here on, where no script says otherwise.
    pub fn set(&self, towards: Towards, conditions: Conditions) {
        self.engine(|engine| engine.set(towards, conditions));
    }

    /// The same in both directions.
    pub fn set_both(&self, conditions: Conditions) {
        self.engine(|engine| Towards::BOTH.map(|towards| engine.set(towards, conditions)));
    }

    /// Loses everything that comes from here on, in both directions, whatever else holds.
    pub fn cut(&self) {
        self.engine(|engine| Towards::BOTH.map(|towards| engine.cut(towards, true)));
    }

    /// Loses everything that comes from here on in one direction.
    pub fn cut_towards(&self, towards: Towards) {
        self.engine(|engine| engine.cut(towards, true));
    }

    /// Undoes every cut.
    pub fn mend(&self) {
        self.engine(|engine| Towards::BOTH.map(|towards| engine.cut(towards, false)));
    }

    /// Cuts and mends each direction as it says.
    pub(super) fn cut_exactly(&self, cuts: [(Towards, bool); 2]) {
        self.engine(|engine| cuts.map(|(towards, cut)| engine.cut(towards, cut)));
    }

    /// Begins to play `script`, in the place of the one before.
    pub fn play(&self, script: &Script) {
        self.engine(|engine| engine.play(Some(script.clone())));
        self.shared.earlier.notify_one();
    }

    /// Ends the script: what was set holds.
    pub fn stop_script(&self) {
        self.engine(|engine| engine.play(None));
    }

    /// Gives each client another port, as the server sees it; how many clients there are. What the
    /// server sends to the old port is lost.
    pub fn change_client_port(&self) -> usize {
        // Sockets belong to the runtime of the proxy's thread.
        let _inside = self.shared.runtime.enter();
        self.engine(|engine| engine.change_ports(&*self.shared))
    }

    /// The ports that the server knows the clients by.
    #[must_use]
    pub fn client_ports(&self) -> Vec<u16> {
        self.engine(|engine| engine.client_ports())
    }

    /// Loses the next `datagrams` of a direction, for certain.
    pub fn lose_next(&self, towards: Towards, datagrams: u64) {
        self.engine(|engine| engine.path(towards).lose_next(datagrams));
    }

    /// How many [`lose_next`](Self::lose_next) still waits for.
    #[must_use]
    pub fn left_to_lose(&self, towards: Towards) -> u64 {
        self.engine(|engine| engine.path(towards).left_to_lose())
    }

    /// Passes no more than the next `bytes` of a direction on, then loses what comes; none: everything
    /// passes again.
    pub fn pass_next(&self, towards: Towards, bytes: Option<u64>) {
        self.engine(|engine| engine.path(towards).pass_next(bytes));
    }

    /// What became of the datagrams of a direction.
    #[must_use]
    pub fn counters(&self, towards: Towards) -> Counters {
        self.engine(|engine| engine.path(towards).counters)
    }

    /// How many datagrams of a direction the system lost before the proxy could read them, because the
    /// machine was too busy; none where it does not tell. Ports that were changed are not counted any
    /// more. A test about what is not lost, of much at once, should look at it.
    #[must_use]
    pub fn overruns(&self, towards: Towards) -> Option<u64> {
        let ports = match towards {
            Towards::Server => vec![self.address.port()],
            Towards::Client => self.client_ports(),
        };
        overruns::overruns(&ports)
    }

    /// What holds at this moment.
    #[must_use]
    pub fn conditions(&self, towards: Towards) -> Conditions {
        self.engine(|engine| engine.conditions(towards))
    }

    fn engine<R>(&self, act: impl FnOnce(&mut Engine) -> R) -> R {
        act(&mut lock(&self.shared.engine))
    }
}

impl Drop for ChaosProxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // If it panicked, that was told already, and its sockets are gone as well.
            drop(thread.join());
        }
    }
}

type Started = io::Result<(SocketAddr, Arc<Shared>)>;

/// The proxy's thread, until the sender of `stopped` is gone.
fn run(
    server: SocketAddr,
    seed: u64,
    stopped: oneshot::Receiver<()>,
    tell: &mpsc::Sender<Started>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return drop(tell.send(Err(error))),
    };
    runtime.block_on(async {
        let (front, address) = match front(server) {
            Ok(front) => front,
            Err(error) => return drop(tell.send(Err(error))),
        };
        let shared = Arc::new_cyclic(|own| Shared {
            engine: Mutex::new(Engine::new(server, Arc::clone(&front), seed)),
            earlier: Notify::new(),
            runtime: tokio::runtime::Handle::current(),
            own: Weak::clone(own),
        });
        if tell.send(Ok((address, Arc::clone(&shared)))).is_err() {
            return;
        }
        tokio::select! {
            _ = stopped => {}
            () = read_clients(&shared, &front) => {}
            () = keep_time(&shared) => {}
        }
    });
}

fn front(server: SocketAddr) -> io::Result<(Arc<Socket>, SocketAddr)> {
    let front = Socket::bind_towards(server)?;
    let address = front.address()?;
    Ok((Arc::new(front), address))
}

async fn read_clients(shared: &Shared, front: &Socket) {
    while front.readable().await.is_ok() {
        let earlier = lock(&shared.engine).read_clients(shared);
        shared.wake_if(earlier);
        // The others on this thread have their turn.
        tokio::task::yield_now().await;
    }
}

async fn keep_time(shared: &Shared) {
    loop {
        let next = lock(&shared.engine).turn(shared);
        let due = async {
            match next {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {}
            () = shared.earlier.notified() => {}
        }
    }
}

impl Shared {
    fn wake_if(&self, earlier: bool) {
        if earlier {
            self.earlier.notify_one();
        }
    }
}

impl Readers for Shared {
    fn read(&self, client: SocketAddr, back: Arc<Socket>) -> AbortHandle {
        let own = Weak::clone(&self.own);
        let reader = async move {
            while back.readable().await.is_ok() {
                let Some(shared) = own.upgrade() else { return };
                let earlier = lock(&shared.engine).read_server(client, &back);
                shared.wake_if(earlier);
                tokio::task::yield_now().await;
            }
        };
        self.runtime.spawn(reader).abort_handle()
    }
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
