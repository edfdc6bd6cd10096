//! With which key the library tells peers that it has forgotten their connection: a setting of the whole
//! process.

use std::ffi::c_void;
use std::sync::Mutex;

use msquic::ffi::QUIC_PARAM_GLOBAL_STATELESS_RESET_KEY;

use super::raw::{call, check};
use crate::error::LibraryError;
use crate::lock::lock;

/// Whether one was set: tokens that peers have are of the first.
static IS_SET: Mutex<bool> = Mutex::new(false);

/// Stateless resets are made with this key from here on, unless another one was set before; whether it was
/// set. A registration must be open.
pub(in crate::transport) fn set_reset_key(key: &[u8; 32]) -> Result<bool, LibraryError> {
    let mut is_set = lock(&IS_SET);
    if *is_set {
        return Ok(false);
    }
    // SAFETY: so many bytes that outlive the call, which copies them; a global parameter has no handle
    // (QUIC_PARAM_GLOBAL_STATELESS_RESET_KEY).
    check(unsafe {
        call!(SetParam)(
            std::ptr::null_mut(),
            QUIC_PARAM_GLOBAL_STATELESS_RESET_KEY,
            size_of_val(key) as u32,
            key.as_ptr().cast::<c_void>(),
        )
    })?;
    *is_set = true;
    Ok(true)
}
