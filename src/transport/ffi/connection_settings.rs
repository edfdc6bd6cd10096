//! What is set of one connection.

use std::ffi::c_void;
use std::net::SocketAddr;

use msquic::ffi::HQUIC;

use super::quic_settings::QuicSettings;
use super::raw::{RawHandle, call, check};
use crate::error::LibraryError;
use crate::transport::bounds::Windows;

/// Binds a connection that is not started to `local`, together with others. Waits for the worker:
/// the handle must be in no slot yet.
pub(super) fn share_sockets(handle: RawHandle, local: SocketAddr) -> Result<(), LibraryError> {
    use msquic::ffi::{QUIC_PARAM_CONN_LOCAL_ADDRESS, QUIC_PARAM_CONN_SHARE_UDP_BINDING};
    let local = msquic::Addr::from(local);
    set_parameter(handle, QUIC_PARAM_CONN_SHARE_UDP_BINDING, &1u8)?;
    set_parameter(handle, QUIC_PARAM_CONN_LOCAL_ADDRESS, &local)
}

/// Of a connection that comes in, inside the callback that says so, where it is executed inline.
pub(super) fn set_windows(handle: HQUIC, windows: Windows) -> Result<(), LibraryError> {
    set_settings(handle, &QuicSettings::windows(windows))
}

pub(super) fn set_settings(handle: HQUIC, settings: &QuicSettings) -> Result<(), LibraryError> {
    // SAFETY: `settings` is a C struct of that size that outlives the call, which copies it; on the
    // connection's own worker it is executed inline (SetParam).
    check(unsafe {
        call!(SetParam)(
            handle,
            msquic::ffi::QUIC_PARAM_CONN_SETTINGS,
            QuicSettings::SIZE,
            settings.as_ptr().cast::<c_void>(),
        )
    })
}

fn set_parameter<T>(handle: RawHandle, parameter: u32, value: &T) -> Result<(), LibraryError> {
    let length = u32::try_from(size_of::<T>()).unwrap_or(0);
    // Before whatever the worker has queued for this connection.
    let parameter = parameter | msquic::ffi::QUIC_PARAM_HIGH_PRIORITY;
    // SAFETY: `value` is a plain C value of `length` bytes that outlives the call, which waits
    // until it was read; nobody else has the handle, so it stays open (SetParam).
    check(unsafe {
        call!(SetParam)(
            handle.as_ptr(),
            parameter,
            length,
            std::ptr::from_ref(value).cast::<c_void>(),
        )
    })
}
