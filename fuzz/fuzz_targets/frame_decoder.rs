//! Any input: see `src/frame_decoder.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| moorline_fuzz::frame_decoder::run(input));
