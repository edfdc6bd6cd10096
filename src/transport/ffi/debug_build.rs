//! Whether the linked library is a debug build, which costs two to four times the CPU.

use std::ffi::c_void;

use super::{call, check};

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
