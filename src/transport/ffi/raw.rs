//! The C table, its handles and its statuses.

use std::fmt;
use std::net::SocketAddr;
use std::ptr::NonNull;
use std::sync::Mutex;

use msquic::ffi::{HQUIC, QUIC_API_TABLE, QUIC_BUFFER, QUIC_HANDLE};

use crate::error::LibraryError;
use crate::failpoint;
use crate::identity::CertHash;
use crate::lock::lock;

/// The function table; the first call opens the library.
pub(super) fn api() -> &'static QUIC_API_TABLE {
    #[cfg(test)]
    if let Some(scripted) = super::scripted::table() {
        return scripted;
    }
    msquic::Api::get_ffi()
}

/// A function of the table. The library fills the whole table or does not open.
macro_rules! call {
    ($name:ident) => {
        $crate::transport::ffi::raw::api().$name.expect("MsQuic fills its table")
    };
}
pub(super) use call;

/// A `QUIC_STATUS`: failures are positive on POSIX.
pub(in crate::transport) type Status = u32;

pub(in crate::transport) const STATUS_SUCCESS: Status = 0;

/// What a call on a handle that is gone would have answered.
pub(in crate::transport) const CLOSED: LibraryError =
    LibraryError { status: status::INVALID_STATE };

/// Ok for success and for "pending".
pub(super) fn check(status: Status) -> Result<(), LibraryError> {
    if msquic::Status(status).is_ok() { Ok(()) } else { Err(LibraryError { status }) }
}

/// Opens a handle of this node's; without memory for it where that is planted.
pub(super) fn check_open(
    node: impl FnOnce() -> CertHash,
    open: impl FnOnce() -> Status,
) -> Result<(), LibraryError> {
    match failpoint::no_memory(node) {
        true => Err(LibraryError { status: status::OUT_OF_MEMORY }),
        false => check(open()),
    }
}

/// The names of statuses this crate tells apart.
pub(in crate::transport) mod status {
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
        OUT_OF_MEMORY = QUIC_STATUS_OUT_OF_MEMORY;
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
pub(super) struct RawHandle(NonNull<QUIC_HANDLE>);

// SAFETY: MsQuic documents its handles as usable from any thread; who may close one is decided by
// the slot that holds it.
unsafe impl Send for RawHandle {}

impl RawHandle {
    pub(super) fn new(handle: HQUIC) -> Option<Self> {
        NonNull::new(handle).map(Self)
    }

    pub(super) fn as_ptr(self) -> HQUIC {
        self.0.as_ptr()
    }

    /// As [`RawHandle::as_ptr`], for a closure that is to own the handle and not its pointer.
    pub(super) fn into_ptr(self) -> HQUIC {
        self.as_ptr()
    }
}

/// A handle that is there until its last callback took it.
#[derive(Default)]
pub(super) struct Slot(Mutex<Option<RawHandle>>);

impl Slot {
    pub(super) fn fill(&self, handle: RawHandle) {
        *lock(&self.0) = Some(handle);
    }

    pub(super) fn take(&self) -> Option<RawHandle> {
        lock(&self.0).take()
    }

    /// Runs `call` while the handle cannot be closed. `call` must not wait for a worker.
    pub(super) fn with<R>(&self, call: impl FnOnce(HQUIC) -> R) -> Option<R> {
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
pub(super) fn with_buffers<R>(
    names: &[String],
    call: impl FnOnce(*const QUIC_BUFFER, u32) -> R,
) -> R {
    let buffers: Vec<QUIC_BUFFER> = names
        .iter()
        .map(|name| QUIC_BUFFER {
            Length: u32::try_from(name.len()).unwrap_or(u32::MAX),
            Buffer: name.as_ptr().cast_mut(),
        })
        .collect();
    call(buffers.as_ptr(), u32::try_from(buffers.len()).unwrap_or(u32::MAX))
}

/// The address behind a `QUIC_ADDR` pointer of an event.
///
/// # Safety
///
/// `address` is null or points to a `QUIC_ADDR` that lives during the call.
pub(super) unsafe fn socket_addr(address: *const msquic::ffi::QUIC_ADDR) -> Option<SocketAddr> {
    // SAFETY: `msquic::Addr` is the crate's mirror of the C union `QUIC_ADDR`.
    unsafe { address.cast::<msquic::Addr>().as_ref() }.and_then(msquic::Addr::as_socket)
}

/// # Safety
///
/// `pointer` is null or valid for `length` bytes during `'a`.
pub(super) unsafe fn bytes_of<'a>(pointer: *const u8, length: usize) -> Option<&'a [u8]> {
    if pointer.is_null() || length == 0 {
        return None;
    }
    // SAFETY: the caller's contract.
    Some(unsafe { std::slice::from_raw_parts(pointer, length) })
}
