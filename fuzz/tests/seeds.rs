//! Each input that is kept, without a fuzzer.

use std::path::Path;

use moorline_fuzz::{frame_decoder, session_intake, session_messages};

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
