//! MsQuic behind safe async types. Knows no actor.
//!
//! ```text
//! MsQuicTransport ─ registration.rs ─ settings.rs (ConfigFactory)
//!   ├── listener.rs    MsQuicListener ──> MsQuicNetIncomingRequest ──┐
//!   └── connect ────────────────────────────────────────────────────┴─> connection.rs
//!                                                                        MsQuicNetConnection
//! core.rs         what a connection's handle, streams and callbacks share
//! ├── lane.rs     frames out: admission, coalescing, outcomes
//! ├── lanes.rs    control, data and bulk
//! ├── link.rs     frames in: bounded queues, readers, deadlines, as plain state
//! └── stream.rs, stream_pool.rs   streams of MsQuic, and framing over them
//! callback.rs, refusal.rs          the guard around callbacks; who refused whom
//! dial_port.rs                     local ports that dialled connections share
//! bounds.rs, memory.rs             what all connections may hold together, and what that comes to
//! internals.rs                     parts of it without MsQuic, for benches/
//! ffi.rs, ffi/                     all `unsafe`
//! ```
//!
//! Invariants: a child owns a share of its parent (stream → connection → registration); user code
//! only asks for a shutdown; each handle is closed in its own last callback.

mod bounds;
mod callback;
mod connection;
pub(crate) mod core;
mod dial_port;
mod ffi;
#[cfg(feature = "internals")]
pub mod internals;
pub(crate) mod lane;
mod lanes;
pub(crate) mod link;
mod listener;
mod memory;
mod refusal;
mod registration;
mod settings;
mod stream;
mod stream_pool;
mod traits;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

pub use connection::MsQuicNetConnection;
pub use core::Direction;
pub(crate) use ffi::poll_when_idle;
pub use ffi::{
    exit_at_once, msquic_is_debug_build, skip_system_certificates, unskip_system_certificates,
};
pub use lane::OutcomeCounts;
pub use lanes::{Lane, NoLane};
pub use listener::{MsQuicListener, MsQuicNetIncomingRequest};
pub use memory::WorstCaseMemory;
pub use refusal::resolve_bad_certificate;
pub use registration::RegistrationWrapper;
pub use stream::{ReadStream, SendStream, read_message_from_stream, write_buffer_to_stream};
pub use stream_pool::StreamPool;
pub use traits::{NetConnection, NetIncomingRequest, NetListener, NetTransport};

use self::core::ConnectionCore;
use bounds::Bounds;
use dial_port::{DialPorts, Place};
use ffi::Role;
use listener::CutOnDrop;
use registration::LiveHandle;
use settings::{ConfigFactory, ConfigurationError};

use tokio::task::spawn_blocking;

use crate::config::{ConfigError, Limits, validate_alpns};
use crate::error::{CloseReason, ConnectError, LibraryError, ListenError};
use crate::identity::{CertHash, NetCredential};

/// How MsQuic is linked: `bundled` (static, built with the crate) or `system`.
pub const LINKAGE: &str = if cfg!(feature = "system") { "system" } else { "bundled" };

/// The version of the MsQuic library in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LibraryVersion([u32; 4]);

impl LibraryVersion {
    /// The first version with the fixes that matter here (SECURITY.md).
    const FIXED: Self = Self([2, 5, 10, 0]);

    /// Asks the library.
    #[must_use]
    pub fn linked() -> Self {
        Self(ffi::library_version())
    }

    /// Whether it is older than 2.5.10, with known faults (SECURITY.md).
    #[must_use]
    pub fn is_affected(&self) -> bool {
        *self < Self::FIXED
    }
}

impl std::fmt::Display for LibraryVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [major, minor, patch, build] = self.0;
        write!(f, "{major}.{minor}.{patch}.{build}")
    }
}

/// Locks `mutex`. A panic under one of our locks leaves nothing half changed, so poisoning says
/// nothing: the connection of a panicked callback is closed anyway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a peer listens: an address, or a host name with a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RemoteAddr {
    /// An IP address and port.
    Socket(SocketAddr),
    /// `host:port`; resolved at each connect.
    Host(String),
}

impl From<SocketAddr> for RemoteAddr {
    fn from(address: SocketAddr) -> Self {
        Self::Socket(address)
    }
}

impl From<&str> for RemoteAddr {
    fn from(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Host(text.to_owned()), Self::Socket)
    }
}

impl From<String> for RemoteAddr {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl std::fmt::Display for RemoteAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Host(host) => write!(f, "{}", host.escape_debug()),
        }
    }
}

impl RemoteAddr {
    /// The first address the name resolves to.
    pub(crate) async fn resolve(&self) -> Result<SocketAddr, ConnectError> {
        let host = match self {
            Self::Socket(address) => return Ok(*address),
            Self::Host(host) => host,
        };
        let bad = |problem: String| ConnectError::Address { given: host.clone(), problem };
        if host.contains('\0') {
            return Err(bad("a host name has no NUL byte".to_owned()));
        }
        let port = host.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(1..))) {
            return Err(bad("expected HOST:PORT with a port from 1 to 65535".to_owned()));
        }
        let mut found =
            tokio::net::lookup_host(host.as_str()).await.map_err(|e| bad(e.to_string()))?;
        found.next().ok_or_else(|| bad("the name has no address".to_owned()))
    }
}

/// Opens listeners and connections. Cheap to clone; the registration ends with the last clone
/// and the last thing made by one.
#[derive(Debug, Clone, Default)]
pub struct MsQuicTransport {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    bounds: Arc<Bounds>,
    // Before the registration: configurations are closed first.
    factory: Arc<ConfigFactory>,
    dial_ports: Arc<DialPorts>,
    registration: OnceLock<Result<Arc<RegistrationWrapper>, LibraryError>>,
}

impl MsQuicTransport {
    /// With the default [`Limits`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With limits of your own.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if they cannot work.
    pub fn with_limits(limits: Limits) -> Result<Self, ConfigError> {
        limits.validate()?;
        let inner = Inner { bounds: Arc::new(Bounds::new(limits)), ..Inner::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The limits of everything made by this transport.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.inner.bounds.limits
    }

    /// The registration; the first call opens it.
    ///
    /// # Errors
    ///
    /// [`LibraryError`] if MsQuic cannot open one, from then on.
    pub fn registration(&self) -> Result<Arc<RegistrationWrapper>, LibraryError> {
        self.inner.registration.get_or_init(RegistrationWrapper::open).clone()
    }

    /// Listens on `address` (port 0: any free one) for peers that speak one of `alpns` and that
    /// `credential` trusts.
    ///
    /// # Errors
    ///
    /// [`ListenError`] names the address and what is wrong.
    ///
    /// # Cancel safety
    ///
    /// Cancelled, nothing listens.
    pub async fn create_listener(
        &self,
        address: SocketAddr,
        alpns: &[&str],
        credential: NetCredential,
    ) -> Result<MsQuicListener, ListenError> {
        validate_alpns(alpns).map_err(|source| ListenError::Config { address, source })?;
        let library = |action| move |source| listen_error(address, action, source);
        let registration = self.registration().map_err(library("open a registration"))?;
        let alpns: Vec<String> = alpns.iter().map(|&alpn| alpn.to_owned()).collect();
        let limits = &self.inner.bounds.limits;
        let configuration = self
            .inner
            .factory
            .configuration(&registration, Role::Server, &alpns, &credential, limits)
            .await
            .map_err(|error| match error {
                ConfigurationError::Credential(source) => {
                    ListenError::Credential { address, source: Arc::new(source) }
                }
                ConfigurationError::Library { action, source } => {
                    listen_error(address, action, source)
                }
            })?;
        let bounds = &self.inner.bounds;
        MsQuicListener::start(&registration, address, &alpns, &configuration, &credential, bounds)
            .map_err(library("start a listener"))
    }

    /// Connects to `remote`, which must speak one of `alpns` and be trusted by `credential`.
    ///
    /// The handshake is done when this returns, but the server judges our certificate after the
    /// client's end of the handshake: a refusal shows at the next operation.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]: one variant for each way it can fail, all with the peer's address.
    ///
    /// # Cancel safety
    ///
    /// Cancelled, the attempt is given up.
    pub async fn connect(
        &self,
        remote: impl Into<RemoteAddr>,
        alpns: &[&str],
        credential: NetCredential,
    ) -> Result<MsQuicNetConnection, ConnectError> {
        self.connect_expecting(remote, alpns, credential, None).await
    }

    /// As [`connect`](Self::connect), with exactly `expected` as the peer: it counts as trusted,
    /// everybody else is refused.
    ///
    /// # Errors
    ///
    /// As for [`connect`](Self::connect).
    ///
    /// # Cancel safety
    ///
    /// Cancelled, the attempt is given up.
    pub async fn connect_expecting(
        &self,
        remote: impl Into<RemoteAddr>,
        alpns: &[&str],
        credential: NetCredential,
        expected: Option<CertHash>,
    ) -> Result<MsQuicNetConnection, ConnectError> {
        let remote: RemoteAddr = remote.into();
        let limit = self.inner.bounds.limits.handshake_time_max;
        let resolved = tokio::time::timeout(limit, remote.resolve()).await;
        let peer = resolved.unwrap_or_else(|_| {
            let problem = format!("the name did not resolve within {limit:?}");
            Err(ConnectError::Address { given: remote.to_string(), problem })
        })?;
        validate_alpns(alpns).map_err(|source| ConnectError::Config { peer, source })?;
        let alpns: Vec<String> = alpns.iter().map(|&alpn| alpn.to_owned()).collect();
        let begun = Instant::now();
        let waited = || whole_milliseconds(begun.elapsed()).min(limit);
        let failed = |reason| ConnectError::from_close(peer, reason, &alpns, waited());
        let begin = self.begin_connect(peer, &alpns, credential, expected);
        let guard = match tokio::time::timeout(limit, begin).await {
            Ok(begun) => begun?,
            Err(_) => return Err(failed(CloseReason::HandshakeTimedOut)),
        };
        match tokio::time::timeout(limit, guard.core().connected()).await {
            Ok(Ok(())) => MsQuicNetConnection::new(guard.keep()).map_err(failed),
            Ok(Err(reason)) => Err(failed(reason)),
            Err(_) => {
                guard.core().cut_silently(CloseReason::HandshakeTimedOut);
                Err(failed(CloseReason::HandshakeTimedOut))
            }
        }
    }

    async fn begin_connect(
        &self,
        peer: SocketAddr,
        alpns: &[String],
        credential: NetCredential,
        expected: Option<CertHash>,
    ) -> Result<CutOnDrop, ConnectError> {
        let library = |action| move |source| ConnectError::Library { peer, action, source };
        if peer.port() == 0 {
            let problem = "a port from 1 to 65535 is needed".to_owned();
            return Err(ConnectError::Address { given: peer.to_string(), problem });
        }
        let registration = self.registration().map_err(library("open a registration"))?;
        let limits = &self.inner.bounds.limits;
        let configuration = self
            .inner
            .factory
            .configuration(&registration, Role::Client, alpns, &credential, limits)
            .await
            .map_err(|error| match error {
                ConfigurationError::Credential(source) => {
                    ConnectError::Credential { peer, source: Arc::new(source) }
                }
                ConfigurationError::Library { action, source } => {
                    ConnectError::Library { peer, action, source }
                }
            })?;
        let core = ConnectionCore::new(
            LiveHandle::new(&registration),
            Direction::Outbound,
            credential,
            expected,
            &self.inner.bounds,
        );
        core.set_remote_addr(peer);
        let dial = self.inner.dial_ports.begin(peer);
        let place = dial.place();
        core.set_dial(dial);
        let guard = CutOnDrop::new(core);
        let opened = match place.shared {
            None => open(&registration, guard.core(), place),
            Some(_) => {
                let core = Arc::clone(guard.core());
                // It waits for a worker of the library.
                let opened = spawn_blocking(move || open(&registration, &core, place));
                opened.await.unwrap_or(Err(LibraryError { status: ffi::status::ABORTED }))
            }
        };
        opened.map_err(library("open a connection"))?;
        guard
            .core()
            .slot_for_streams()
            .start(&configuration, peer)
            .map_err(library("start a connection"))?;
        Ok(guard)
    }
}

/// For people to read.
fn whole_milliseconds(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
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

fn listen_error(address: SocketAddr, action: &'static str, source: LibraryError) -> ListenError {
    match source.status {
        ffi::status::ADDRESS_IN_USE | ffi::status::ALPN_IN_USE => ListenError::InUse { address },
        ffi::status::INVALID_ADDRESS => {
            let problem = "it is not an address of this machine".to_owned();
            ListenError::Address { address, problem }
        }
        _ => ListenError::Library { address, action, source },
    }
}
