//! How the library's workers run: settings of the whole process.

use std::ffi::c_void;

use msquic::ffi::{QUIC_GLOBAL_EXECUTION_CONFIG, QUIC_PARAM_GLOBAL_EXECUTION_CONFIG};

use super::raw::{call, check};
use crate::error::LibraryError;

/// Lets workers look for work for `microseconds` before they sleep. Once the library is in use it
/// accepts this and changes nothing.
pub(crate) fn poll_when_idle(microseconds: u32) -> Result<(), LibraryError> {
    let config = QUIC_GLOBAL_EXECUTION_CONFIG {
        Flags: 0,
        PollingIdleTimeoutUs: microseconds,
        // None named: all of them.
        ProcessorCount: 0,
        ProcessorList: [0],
    };
    let length = u32::try_from(size_of_val(&config)).unwrap_or(0);
    // SAFETY: a plain C struct of `length` bytes, which the call copies; a global parameter has no
    // handle (QUIC_PARAM_GLOBAL_EXECUTION_CONFIG).
    check(unsafe {
        call!(SetParam)(
            std::ptr::null_mut(),
            QUIC_PARAM_GLOBAL_EXECUTION_CONFIG,
            length,
            (&raw const config).cast::<c_void>(),
        )
    })
}
