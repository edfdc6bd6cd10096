//! An execution context of the library.

use std::fmt;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use msquic::ffi::HQUIC;

use super::exit_guard;
use super::listeners::listeners;
use super::raw::{CLOSED, RawHandle, call, check};
use crate::error::LibraryError;

/// An execution context of the library; closes on drop, which waits for its workers.
pub(in crate::transport) struct Registration {
    pub(super) handle: RawHandle,
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
    pub(in crate::transport) fn open() -> Result<Self, LibraryError> {
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
    pub(super) fn opening(&self) -> RwLockReadGuard<'_, ()> {
        self.opening.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks every connection and listener of the registration to shut down; `silent` tells no
    /// peer. Waits for connections that are being opened and listeners that are being stopped, so
    /// it is nothing for a callback.
    pub(in crate::transport) fn shutdown(&self, silent: bool, code: u64) {
        use msquic::ffi as q;
        let flags = if silent {
            q::QUIC_CONNECTION_SHUTDOWN_FLAGS_QUIC_CONNECTION_SHUTDOWN_FLAG_SILENT
        } else {
            q::QUIC_CONNECTION_SHUTDOWN_FLAGS_QUIC_CONNECTION_SHUTDOWN_FLAG_NONE
        };
        let _opened = self.opening.write().unwrap_or_else(PoisonError::into_inner);
        let _alone = listeners();
        // SAFETY: the handle is open while `self` lives; the call only queues work.
        unsafe {
            call!(RegistrationShutdown)(self.handle.as_ptr(), flags, code);
        }
    }
}

/// A registration that is being closed: an exit waits for it, and no longer closes it itself.
pub(in crate::transport) struct ClosingRegistration(RawHandle);

impl Registration {
    /// The drop of what is returned closes the registration, which waits for its workers. `None`
    /// if the process is at its exit, which closes it.
    pub(in crate::transport) fn begin_close(self) -> Option<ClosingRegistration> {
        exit_guard::closing(self.handle).then(|| ClosingRegistration(self.handle))
    }
}

impl ClosingRegistration {
    /// Nobody can close it now.
    pub(in crate::transport) fn leave_to_the_exit(self) {
        exit_guard::left_open(self.0);
        std::mem::forget(self);
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
