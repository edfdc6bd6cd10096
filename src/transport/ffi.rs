//! MsQuic's C table behind safe types: all `unsafe` of the crate is in this folder.
//!
//! ```text
//! Registration ── Configuration
//!      ├── ListenerSlot ──── callbacks ──> Arc<impl ListenerCallbacks>
//!      └── ConnectionSlot ── callbacks ──> Arc<impl ConnectionCallbacks>
//!               └── StreamSlot ─ callbacks ─> Arc<impl StreamCallbacks>
//! ```
//!
//! A slot holds a raw handle behind a lock. The lock is taken for calls that only queue work for
//! MsQuic's worker, never across one that waits for it. The context of a handle is one strong
//! count that MsQuic owns.
//!
//! Invariants: a handle is closed exactly once, inside its own last callback; before that its slot
//! is emptied, so no call reaches a closed handle; the context is released after Close returned;
//! no panic crosses into C.
#![allow(unsafe_code, reason = "this folder is the boundary to the C library")]

mod allocator;
mod connection;
mod debug_build;
mod environment;
mod execution;
mod exit_guard;
mod listener;
mod settings;
#[cfg(target_os = "linux")]
mod socket_filter;
mod sockets;
mod stream;

use std::ffi::c_void;
use std::fmt;
use std::net::SocketAddr;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

use msquic::ffi::{HQUIC, QUIC_API_TABLE, QUIC_BUFFER, QUIC_HANDLE};

pub use allocator::release_freed_memory;
pub(super) use connection::{ConnectionCallbacks, ConnectionSlot};
pub use debug_build::msquic_is_debug_build;
pub use environment::{skip_system_certificates, unskip_system_certificates};
pub(crate) use execution::poll_when_idle;
pub use exit_guard::exit_at_once;
pub(super) use listener::{ListenerCallbacks, ListenerSlot, NewConnection};
pub(super) use settings::QuicSettings;
pub(super) use sockets::{
    Dialled, Stage, guard_dialled, guard_listening, listens_on, next_descriptor, wildcard_ports,
};
pub(super) use stream::{
    PARTS_MAX, PeerStream, Received, SendRequest, Shutdown, StreamCallbacks, StreamSlot,
};

use crate::error::LibraryError;
use crate::identity::Pkcs12;
use crate::transport::lock;

/// The function table; the first call opens the library.
fn api() -> &'static QUIC_API_TABLE {
    msquic::Api::get_ffi()
}

/// A function of the table. The library fills the whole table or does not open.
macro_rules! call {
    ($name:ident) => {
        $crate::transport::ffi::api().$name.expect("MsQuic fills its table")
    };
}
use call;

/// A `QUIC_STATUS`: failures are positive on POSIX.
pub(super) type Status = u32;

pub(super) const STATUS_SUCCESS: Status = 0;

/// What a call on a handle that is gone would have answered.
pub(super) const CLOSED: LibraryError = LibraryError { status: status::INVALID_STATE };

/// Ok for success and for "pending".
fn check(status: Status) -> Result<(), LibraryError> {
    if msquic::Status(status).is_ok() { Ok(()) } else { Err(LibraryError { status }) }
}

/// The names of statuses this crate tells apart.
pub(super) mod status {
    use msquic::StatusCode;

    macro_rules! statuses {
        ($($name:ident = $code:ident;)*) => {
            $(pub(in crate::transport) const $name: u32 = StatusCode::$code as u32;)*
        };
    }

    statuses! {
        ABORTED = QUIC_STATUS_ABORTED;
        ADDRESS_IN_USE = QUIC_STATUS_ADDRESS_IN_USE;
        ALPN_IN_USE = QUIC_STATUS_ALPN_IN_USE;
        INVALID_ADDRESS = QUIC_STATUS_INVALID_ADDRESS;
        INVALID_STATE = QUIC_STATUS_INVALID_STATE;
        CONNECTION_IDLE = QUIC_STATUS_CONNECTION_IDLE;
        CONNECTION_TIMEOUT = QUIC_STATUS_CONNECTION_TIMEOUT;
        CONNECTION_REFUSED = QUIC_STATUS_CONNECTION_REFUSED;
        UNREACHABLE = QUIC_STATUS_UNREACHABLE;
        ALPN_NEG_FAILURE = QUIC_STATUS_ALPN_NEG_FAILURE;
        BAD_CERTIFICATE = QUIC_STATUS_BAD_CERTIFICATE;
        REQUIRED_CERTIFICATE = QUIC_STATUS_REQUIRED_CERTIFICATE;
    }

    // Statuses of POSIX are error numbers; these the library passes on from its sockets.
    pub(in crate::transport) const NO_NETWORK: u32 = libc::ENETUNREACH as u32;
    pub(in crate::transport) const NETWORK_DOWN: u32 = libc::ENETDOWN as u32;
    pub(in crate::transport) const NO_ADDRESS: u32 = libc::EADDRNOTAVAIL as u32;
    pub(in crate::transport) const NO_FAMILY: u32 = libc::EAFNOSUPPORT as u32;

    /// TLS alerts are statuses too: this plus the alert's number (`msquic_posix.h`).
    pub(in crate::transport) const TLS_ALERT_BASE: u32 = 0x0beb_c300;
}

/// A raw handle that may move between threads: MsQuic's API is thread-safe (docs/API.md).
#[derive(Clone, Copy)]
struct RawHandle(NonNull<QUIC_HANDLE>);

// SAFETY: MsQuic documents its handles as usable from any thread; who may close one is decided by
// the slot that holds it.
unsafe impl Send for RawHandle {}

impl RawHandle {
    fn new(handle: HQUIC) -> Option<Self> {
        NonNull::new(handle).map(Self)
    }

    fn as_ptr(self) -> HQUIC {
        self.0.as_ptr()
    }

    /// As [`RawHandle::as_ptr`], for a closure that is to own the handle and not its pointer.
    fn into_ptr(self) -> HQUIC {
        self.as_ptr()
    }
}

/// A handle that is there until its last callback took it.
#[derive(Default)]
struct Slot(Mutex<Option<RawHandle>>);

impl Slot {
    fn fill(&self, handle: RawHandle) {
        *lock(&self.0) = Some(handle);
    }

    fn take(&self) -> Option<RawHandle> {
        lock(&self.0).take()
    }

    /// Runs `call` while the handle cannot be closed. `call` must not wait for a worker.
    fn with<R>(&self, call: impl FnOnce(HQUIC) -> R) -> Option<R> {
        let slot = lock(&self.0);
        slot.map(|handle| call(handle.as_ptr()))
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if lock(&self.0).is_some() { "open" } else { "closed" })
    }
}

/// Views `names` as QUIC_BUFFERs for a call that copies them.
fn with_buffers<R>(names: &[String], call: impl FnOnce(*const QUIC_BUFFER, u32) -> R) -> R {
    let buffers: Vec<QUIC_BUFFER> = names
        .iter()
        .map(|name| QUIC_BUFFER {
            Length: u32::try_from(name.len()).unwrap_or(u32::MAX),
            Buffer: name.as_ptr().cast_mut(),
        })
        .collect();
    call(buffers.as_ptr(), u32::try_from(buffers.len()).unwrap_or(u32::MAX))
}

/// An execution context of the library; closes on drop, which waits for its workers.
pub(super) struct Registration {
    handle: RawHandle,
    /// Read while a connection is opened; a shutdown waits for that.
    opening: RwLock<()>,
}

// SAFETY: registration calls are thread-safe (MsQuic docs/api/RegistrationOpen.md).
unsafe impl Sync for Registration {}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Registration")
    }
}

impl Registration {
    pub(super) fn open() -> Result<Self, LibraryError> {
        let config = msquic::ffi::QUIC_REGISTRATION_CONFIG {
            AppName: c"moorline".as_ptr(),
            ExecutionProfile:
                msquic::ffi::QUIC_EXECUTION_PROFILE_QUIC_EXECUTION_PROFILE_LOW_LATENCY,
        };
        let mut handle: HQUIC = std::ptr::null_mut();
        // SAFETY: both pointers outlive the call, which copies the name (RegistrationOpen).
        check(unsafe { call!(RegistrationOpen)(&raw const config, &raw mut handle) })?;
        let handle = RawHandle::new(handle).ok_or(CLOSED)?;
        exit_guard::opened(handle);
        Ok(Self { handle, opening: RwLock::default() })
    }

    /// While this is held, the registration is not shut down.
    fn opening(&self) -> RwLockReadGuard<'_, ()> {
        self.opening.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks every connection and listener of the registration to shut down; `silent` tells no
    /// peer. Waits for connections that are being opened and listeners that are being stopped, so
    /// it is nothing for a callback.
    pub(super) fn shutdown(&self, silent: bool, code: u64) {
        use msquic::ffi as q;
        let flags = if silent {
            q::QUIC_CONNECTION_SHUTDOWN_FLAGS_QUIC_CONNECTION_SHUTDOWN_FLAG_SILENT
        } else {
            q::QUIC_CONNECTION_SHUTDOWN_FLAGS_QUIC_CONNECTION_SHUTDOWN_FLAG_NONE
        };
        let _opened = self.opening.write().unwrap_or_else(PoisonError::into_inner);
        let _alone = listener::listeners();
        // SAFETY: the handle is open while `self` lives; the call only queues work.
        unsafe {
            call!(RegistrationShutdown)(self.handle.as_ptr(), flags, code);
        }
    }
}

/// A registration that is being closed: an exit waits for it, and no longer closes it itself.
pub(super) struct ClosingRegistration(RawHandle);

impl Registration {
    /// The drop of what is returned closes the registration, which waits for its workers. `None`
    /// if the process is at its exit, which closes it.
    pub(super) fn begin_close(self) -> Option<ClosingRegistration> {
        exit_guard::closing(self.handle).then(|| ClosingRegistration(self.handle))
    }
}

impl Drop for ClosingRegistration {
    fn drop(&mut self) {
        // SAFETY: the owner drops this after every child handle was closed, on a thread of its
        // own: the call waits for the rundown of the registration (RegistrationClose).
        unsafe { call!(RegistrationClose)(self.0.as_ptr()) }
        exit_guard::closed();
    }
}

/// Settings and a loaded credential; connections keep it alive inside MsQuic.
pub(super) struct Configuration(RawHandle);

// SAFETY: a configuration is immutable after its credential was loaded.
unsafe impl Sync for Configuration {}

impl fmt::Debug for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Configuration")
    }
}

/// Which end a configuration is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    Client,
    Server,
}

impl Configuration {
    pub(super) fn open(
        registration: &Registration,
        alpns: &[String],
        settings: &QuicSettings,
    ) -> Result<Self, LibraryError> {
        let mut handle: HQUIC = std::ptr::null_mut();
        let status = with_buffers(alpns, |buffers, count| {
            // SAFETY: names and settings outlive the call, which copies them (ConfigurationOpen).
            unsafe {
                call!(ConfigurationOpen)(
                    registration.handle.as_ptr(),
                    buffers,
                    count,
                    settings.as_ptr(),
                    QuicSettings::SIZE,
                    std::ptr::null_mut::<c_void>(),
                    &raw mut handle,
                )
            }
        });
        check(status)?;
        RawHandle::new(handle).map(Self).ok_or(CLOSED)
    }

    /// Loads the own certificate and asks for the peer's in the certificate event, where this
    /// crate alone decides about it (QUIC_CREDENTIAL_CONFIG).
    pub(super) fn load_credential(&self, pkcs12: &Pkcs12, role: Role) -> Result<(), LibraryError> {
        use msquic::CredentialFlags;
        use msquic::ffi as q;
        let side = match role {
            Role::Client => CredentialFlags::CLIENT,
            Role::Server => CredentialFlags::REQUIRE_CLIENT_AUTHENTICATION,
        };
        let flags = CredentialFlags::INDICATE_CERTIFICATE_RECEIVED
            | CredentialFlags::USE_PORTABLE_CERTIFICATES
            | CredentialFlags::NO_CERTIFICATE_VALIDATION
            | side;
        let aborted = LibraryError { status: status::ABORTED };
        let _exit_waits = exit_guard::begin().ok_or(aborted)?;
        let der = pkcs12.as_bytes();
        // The crate's own types would keep a copy of the key that nobody wipes.
        let mut packed = q::QUIC_CERTIFICATE_PKCS12 {
            Asn1Blob: der.as_ptr(),
            Asn1BlobLength: u32::try_from(der.len()).map_err(|_| aborted)?,
            PrivateKeyPassword: std::ptr::null(),
        };
        let config = q::QUIC_CREDENTIAL_CONFIG {
            Type: q::QUIC_CREDENTIAL_TYPE_QUIC_CREDENTIAL_TYPE_CERTIFICATE_PKCS12,
            Flags: flags.bits(),
            __bindgen_anon_1: q::QUIC_CREDENTIAL_CONFIG__bindgen_ty_1 {
                CertificatePkcs12: &raw mut packed,
            },
            Principal: std::ptr::null(),
            Reserved: std::ptr::null_mut(),
            AsyncHandler: None,
            AllowedCipherSuites: 0,
            CaCertificateFile: std::ptr::null(),
        };
        // SAFETY: the handle is open while `self` lives; what `config` points to outlives the call,
        // which is done with it when it returns (ConfigurationLoadCredential, not asynchronous).
        check(unsafe { call!(ConfigurationLoadCredential)(self.0.as_ptr(), &raw const config) })
    }

    fn as_ptr(&self) -> HQUIC {
        self.0.as_ptr()
    }
}

impl Drop for Configuration {
    fn drop(&mut self) {
        let _exit_waits = exit_guard::begin_anyway();
        // SAFETY: closed once; connections that use it hold references of their own
        // (ConfigurationClose).
        unsafe { call!(ConfigurationClose)(self.0.as_ptr()) }
    }
}

/// The address behind a `QUIC_ADDR` pointer of an event.
///
/// # Safety
///
/// `address` is null or points to a `QUIC_ADDR` that lives during the call.
unsafe fn socket_addr(address: *const msquic::ffi::QUIC_ADDR) -> Option<SocketAddr> {
    // SAFETY: `msquic::Addr` is the crate's mirror of the C union `QUIC_ADDR`.
    unsafe { address.cast::<msquic::Addr>().as_ref() }.and_then(msquic::Addr::as_socket)
}

/// The version of the linked library: four numbers.
pub(super) fn library_version() -> [u32; 4] {
    let mut version = [0u32; 4];
    let mut length = u32::try_from(size_of_val(&version)).unwrap_or(0);
    // SAFETY: the buffer and its length outlive the call; a global parameter has no handle
    // (QUIC_PARAM_GLOBAL_LIBRARY_VERSION).
    let status = unsafe {
        call!(GetParam)(
            std::ptr::null_mut(),
            msquic::ffi::QUIC_PARAM_GLOBAL_LIBRARY_VERSION,
            &raw mut length,
            version.as_mut_ptr().cast::<c_void>(),
        )
    };
    if check(status).is_err() { [0; 4] } else { version }
}
