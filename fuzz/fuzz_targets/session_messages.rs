//! Any input: see `src/session_messages.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| moorline_fuzz::session_messages::run(input));
