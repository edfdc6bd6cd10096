//! MsQuic behind safe async types. Knows no actor.
//!
//! ```text
//! MsQuicTransport ─ registration.rs ─ configuration.rs (ConfigFactory)
//!   ├── listener.rs    MsQuicListener ──> MsQuicNetIncomingRequest ──┐
//!   └── connect ── dial.rs ─────────────────────────────────────────┴─> connection.rs
//!                                                                        MsQuicNetConnection
//! dial.rs         one deadline over all of a dial
//! ├── remote_addr.rs, resolve.rs   addresses as people write them; names, on threads of their own
//! ├── race.rs     which address is tried when
//! └── handshake.rs  a connection until it stands, in both directions
//! core.rs         what a connection's handle, streams and callbacks share
//! ├── lane.rs     frames out: admission, coalescing, outcomes
//! ├── lanes.rs    control, data and bulk
//! ├── link.rs     frames in: bounded queues, readers, deadlines, as plain state
//! └── stream.rs, stream_pool.rs   streams of MsQuic, and framing over them
//! callback.rs, refusal.rs, clock.rs   the guard around callbacks; who refused whom; the time
//! guarded.rs, counts.rs            what ends a broken connection; what a node counts
//! dial_port.rs, dial_socket.rs     local ports that dialled connections share; what sockets let in
//! admission.rs                     who may begin a handshake
//! blocking.rs                      calls that block, on threads of their own
//! listen_port.rs                   ports that no other process has, and what their sockets let in
//! bounds.rs, memory.rs             what all connections may hold together, and what that comes to
//! shared.rs                        what the listeners and dials of a transport share
//! internals.rs                     parts of it without MsQuic, for benches/
//! ffi.rs, ffi/                     all `unsafe`
//! ```
//!
//! Invariants: a child owns a share of its parent (stream → connection → registration); user code
//! only asks for a shutdown; each handle is closed in its own last callback.

mod admission;
mod blocking;
mod bounds;
mod callback;
pub(crate) mod clock;
mod configuration;
mod connection;
pub(crate) mod core;
mod counts;
mod dial;
mod dial_port;
mod dial_socket;
pub(crate) mod fault;
mod ffi;
mod guarded;
mod handshake;
#[cfg(feature = "internals")]
pub mod internals;
pub(crate) mod lane;
mod lanes;
mod library;
pub(crate) mod link;
mod listen_port;
mod listener;
mod memory;
mod node_room;
mod race;
mod refusal;
mod registration;
mod remote_addr;
mod resolve;
pub(crate) mod session_streams;
mod shared;
#[cfg(test)]
pub(crate) mod simulator;
mod stream;
mod stream_pool;
mod traits;

use std::net::SocketAddr;
use std::sync::Arc;

pub use admission::AdmissionCounts;
pub use connection::MsQuicNetConnection;
pub use core::Direction;
pub(crate) use counts::{Counts, Limit};
pub use counts::{LimitCounts, NodeStats};
pub(crate) use ffi::poll_when_idle;
pub use ffi::{
    exit_at_once, msquic_is_debug_build, release_freed_memory, skip_system_certificates,
    unskip_system_certificates,
};
pub use library::{LINKAGE, LibraryVersion};
pub use link::lanes::{Lane, NoLane};
pub use link::outcome::OutcomeCounts;
pub use listener::{MsQuicListener, MsQuicNetIncomingRequest};
pub use memory::WorstCaseMemory;
pub use refusal::resolve_bad_certificate;
pub use registration::RegistrationWrapper;
pub use remote_addr::RemoteAddr;
pub use stream_pool::{
    ReadStream, SendStream, StreamPool, read_message_from_stream, write_buffer_to_stream,
};
pub use traits::{NetConnection, NetIncomingRequest, NetListener, NetTransport};

use blocking::NotRun;
use bounds::Windows;
use configuration::{ConfigurationError, Shape};
use dial::Dial;
use ffi::Role;
use remote_addr::canonical;
use shared::Shared;

use crate::config::{ConfigError, Limits, validate_alpns};
use crate::error::{CloseCode, CloseReason, ConnectError, LibraryError, ListenError};
use crate::identity::{CertHash, NetCredential};

/// Opens listeners and connections. Cheap to clone; the registration ends with the last clone
/// and the last thing made by one.
#[derive(Debug, Clone, Default)]
pub struct MsQuicTransport {
    inner: Arc<Shared>,
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
        Ok(Self { inner: Arc::new(Shared::new(limits)) })
    }

    /// The limits of everything made by this transport.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.inner.bounds.limits
    }

    /// What became of the peers that asked its listeners for a connection.
    #[must_use]
    pub fn admissions(&self) -> AdmissionCounts {
        self.inner.bounds.arrivals.counts()
    }

    /// How all that it made is doing.
    #[must_use]
    pub fn stats(&self) -> NodeStats {
        self.inner.bounds.stats()
    }

    /// What it counts.
    pub(crate) fn counts(&self) -> &Arc<Counts> {
        &self.inner.bounds.counts
    }

    /// Counts one that its owner closed with `code`, as there is no room for it.
    pub(crate) fn refused_without_room(&self, code: CloseCode) {
        self.inner.bounds.arrivals.had_no_room(code);
    }

    /// The registration; the first call opens it.
    ///
    /// # Errors
    ///
    /// [`LibraryError`] if MsQuic cannot open one, for example without threads for its workers. The
    /// next call tries again.
    pub fn registration(&self) -> Result<Arc<RegistrationWrapper>, LibraryError> {
        self.inner.registration()
    }

    /// Listens on `address` (port 0: any free one) for peers that speak one of `alpns` and that
    /// `credential` trusts. `[::]` takes peers of both families, as the system's sockets do.
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
        let address = canonical(address);
        validate_alpns(alpns).map_err(|source| ListenError::Config { address, source })?;
        let library = |action| move |source| listen_error(address, action, source);
        let registration = self.registration().map_err(library("open a registration"))?;
        keep_reset_key(&credential);
        let alpns: Vec<String> = alpns.iter().map(|&alpn| alpn.to_owned()).collect();
        let limits = &self.inner.bounds.limits;
        let (windows, algorithm) = (Windows::largest(limits), limits.congestion.of_accepted());
        let configuration = self
            .inner
            .factory
            .configuration(
                &registration,
                Role::Server,
                &alpns,
                &credential,
                (limits, Shape { windows, algorithm }),
            )
            .await
            .map_err(|error| match error {
                ConfigurationError::Credential(source) => {
                    ListenError::Credential { address, source: Arc::new(source) }
                }
                ConfigurationError::Library { action, source } => {
                    listen_error(address, action, source)
                }
                ConfigurationError::NotRun(NotRun::NoThread(source)) => {
                    let action = "load the credential";
                    ListenError::NoThread { address, action, source }
                }
                ConfigurationError::NotRun(NotRun::Panicked) => ListenError::Internal,
            })?;
        let bounds = &self.inner.bounds;
        MsQuicListener::start(&registration, address, &alpns, &configuration, &credential, bounds)
            .map_err(library("start a listener"))
    }

    /// Connects to `remote`, which must speak one of `alpns` and be trusted by `credential`. All of it
    /// takes at most `Limits::handshake_time_max`.
    ///
    /// Of several addresses, of a list or a name, each is tried, 250 ms after the one before it or
    /// as soon as one fails; the first that answers wins (RFC 8305).
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

    /// As [`connect`](Self::connect), with exactly `expected` as the peer, at whichever address it
    /// answers: it counts as trusted, everybody else is refused.
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
        let alpns = alpns.iter().map(|&alpn| alpn.to_owned()).collect();
        let remote = remote.into();
        Dial { remote, alpns, credential, expected, until_accepted: false }.run(&self.inner).await
    }

    /// As [`connect_expecting`](Self::connect_expecting), and waits for the sign that the peer
    /// accepted us: a refusal is an error here, and the next address is tried.
    pub(crate) async fn connect_accepted(
        &self,
        remote: RemoteAddr,
        alpns: Vec<String>,
        credential: NetCredential,
        expected: Option<CertHash>,
    ) -> Result<MsQuicNetConnection, ConnectError> {
        Dial { remote, alpns, credential, expected, until_accepted: true }.run(&self.inner).await
    }
}

/// A process that is started again on its port tells peers of the one before at once that their
/// connections are gone: with the key of the first credential that listens.
fn keep_reset_key(credential: &NetCredential) {
    let set = credential.reset_key().map(|key| ffi::set_reset_key(&key));
    match set {
        Some(Ok(true)) => tracing::debug!("resets have a key that stays"),
        Some(Ok(false)) => {}
        Some(Err(error)) => tracing::warn!(%error, "peers do not learn of a restart at once"),
        None => tracing::warn!("no key for resets: peers do not learn of a restart at once"),
    }
}

fn listen_error(address: SocketAddr, action: &'static str, source: LibraryError) -> ListenError {
    match source.status {
        ffi::status::ADDRESS_IN_USE | ffi::status::ALPN_IN_USE => ListenError::InUse { address },
        ffi::status::NO_ADDRESS => {
            let problem = "it is not an address of this machine".to_owned();
            ListenError::Address { address, problem }
        }
        ffi::status::NO_FAMILY => {
            ListenError::Address { address, problem: CloseReason::NoIpv6.to_string() }
        }
        _ => ListenError::Library { address, action, source },
    }
}
