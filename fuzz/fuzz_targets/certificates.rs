//! Any input: see `src/identity/certificates.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| moorline_fuzz::certificates::run(input));
