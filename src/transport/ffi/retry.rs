//! From how many handshakes on the library lets who is new prove his address: a setting of the whole
//! process.

use std::ffi::c_void;
use std::sync::Mutex;

use msquic::ffi::QUIC_PARAM_GLOBAL_RETRY_MEMORY_PERCENT;

use super::raw::{call, check};
use crate::error::LibraryError;
use crate::lock::lock;

/// What the library counts for a handshake that is not done, in bytes, rounded down: with less than that
/// it would begin later than it is told.
const HANDSHAKE_BYTES: u64 = 34 << 10;

/// The library takes its limit in parts of so many of the machine's memory.
const PARTS: u64 = u16::MAX as u64;

/// The least of all that were asked for: the listeners of a process share the library.
static LEAST: Mutex<Option<u16>> = Mutex::new(None);

/// Lets addresses be proven (by a stateless retry, RFC 9000, section 8.1.2) from `handshakes` on, or
/// earlier: where memory is so large that its parts are larger than `most` handshakes, always. Returns how
/// many it has become.
pub(in crate::transport) fn retry_from(
    handshakes: usize,
    most: usize,
) -> Result<u64, LibraryError> {
    let memory = physical_memory();
    let mut least = lock(&LEAST);
    let part = parts(memory, handshakes as u64, most as u64);
    let part = least.map_or(part, |least| least.min(part));
    // SAFETY: a number of that size that outlives the call, which copies it; a global parameter has no
    // handle (QUIC_PARAM_GLOBAL_RETRY_MEMORY_PERCENT).
    check(unsafe {
        call!(SetParam)(
            std::ptr::null_mut(),
            QUIC_PARAM_GLOBAL_RETRY_MEMORY_PERCENT,
            size_of::<u16>() as u32,
            (&raw const part).cast::<c_void>(),
        )
    })?;
    *least = Some(part);
    Ok(memory / PARTS * u64::from(part) / HANDSHAKE_BYTES)
}

/// How many parts of `memory` so many handshakes are, rounded down, but one if that is no more than `most`.
fn parts(memory: u64, handshakes: u64, most: u64) -> u16 {
    let of = |handshakes: u64| {
        let parts = u128::from(handshakes * HANDSHAKE_BYTES) * u128::from(PARTS);
        u16::try_from(parts / u128::from(memory.max(1))).unwrap_or(u16::MAX)
    };
    of(handshakes).max(of(most).min(1))
}

/// All memory of the machine, in bytes. The library takes the limit of a control group where there is one:
/// then it begins earlier.
fn physical_memory() -> u64 {
    // SAFETY: it only reads (sysconf(3)).
    let pages = unsafe { libc::sysconf(libc::_SC_PHYS_PAGES) };
    // SAFETY: as above.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let bytes = |number: libc::c_long| u64::try_from(number).unwrap_or(0);
    bytes(pages).saturating_mul(bytes(page))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn retry_begins_at_the_handshakes_asked_for_or_earlier_whatever_the_memory() {
        for memory in [GIB / 2, GIB, 24 * GIB, 130 * GIB, 300 * GIB, 400 * GIB, 4096 * GIB] {
            for (handshakes, most) in [(64, 192), (1, 3), (16_384, 49_152)] {
                let begins = u64::from(parts(memory, handshakes, most)) * memory / PARTS;
                let begins = begins / HANDSHAKE_BYTES;
                assert!(begins <= most, "{memory} {handshakes}: {begins}");
            }
        }
        assert_eq!(parts(24 * GIB, 64, 192), 5);
        assert_eq!(parts(300 * GIB, 64, 192), 1, "a part is 144 handshakes");
        assert_eq!(parts(4096 * GIB, 64, 192), 0, "a part is 1,966 handshakes: always");
        assert_eq!(parts(0, 64, 192), u16::MAX, "it is not known");
    }
}
