//! The linked library: its version, and whether it is a debug build, which costs two to four times the CPU.

use std::ffi::c_void;

use super::raw::{call, check};

/// A private parameter that debug builds alone know: how many allocations it takes until one of the
/// library's is made to fail, for its own tests; 0, which it is anyway, is none (`msquicp.h`).
const QUIC_PARAM_GLOBAL_ALLOC_FAIL_DENOMINATOR: u32 = 0x8100_0001;

/// Whether the library was built without optimization and with its internal checks. `false` for an
/// installed one: what a private parameter of another version means is not known.
#[must_use]
pub fn msquic_is_debug_build() -> bool {
    if cfg!(feature = "system") {
        return false;
    }
    let never: u32 = 0;
    let length = u32::try_from(size_of_val(&never)).unwrap_or(0);
    // SAFETY: the number outlives the call, which copies it; a global parameter has no handle
    // (SetParam), and the value is what the library has (`MsQuicLibraryInitialize`).
    let status = unsafe {
        call!(SetParam)(
            std::ptr::null_mut(),
            QUIC_PARAM_GLOBAL_ALLOC_FAIL_DENOMINATOR,
            length,
            (&raw const never).cast::<c_void>(),
        )
    };
    check(status).is_ok()
}

/// The version of the linked library: four numbers.
pub(in crate::transport) fn library_version() -> [u32; 4] {
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
