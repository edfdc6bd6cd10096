//! Each input that is kept, without a fuzzer.

use std::path::Path;

use moorline_fuzz::{certificates, credentials, frame_decoder, session_intake, session_messages};

/// Tells `run` of each file in the target's folder of seeds.
fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    let mut count = 0;
    for seed in std::fs::read_dir(&folder).expect("a folder of seeds") {
        let path = seed.expect("a seed").path();
        // Of the one that fails its name is the last.
        println!("{}", path.display());
        run(&std::fs::read(&path).expect("a file"));
        count += 1;
    }
    assert!(count > 0, "no seeds in {}", folder.display());
}

#[test]
fn frames_are_decoded_as_a_loop_does() {
    replay("frame_decoder", frame_decoder::run);
}

#[test]
fn flows_are_cut_as_a_loop_does() {
    replay("session_intake", session_intake::run);
}

#[test]
fn messages_are_the_same_in_any_split() {
    replay("session_messages", session_messages::run);
}

#[test]
fn certificates_are_read_or_refused_and_their_signatures_hold_if_they_are_true() {
    replay("certificates", certificates::run);
}

#[test]
fn a_key_is_taken_if_it_is_that_of_the_certificate() {
    replay("credentials", credentials::run);
}
