//! What the Makefile says and runs where a tool is missing, and where it is there.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// Runs `make target` with a cargo that does what the script `cargo` does.
fn make(target: &str, cargo: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cargo");
    fs::write(&path, format!("#!/bin/sh\n{cargo}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new("make");
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR"))).arg(target);
    command.arg(format!("CARGO={}", path.display()));
    // Not those of the make that runs the tests.
    command.env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn where_miri_is_missing_it_says_in_one_line_how_to_get_it() {
    let output = make("miri", "echo 'error: no such command' >&2; exit 101");
    assert!(!output.status.success());
    let expected = "miri: it is missing; run: rustup toolchain install nightly --component miri\n";
    assert_eq!(said(&output), expected);
}

#[test]
fn where_miri_is_there_it_runs_the_pure_parts_without_c() {
    let output = make("miri", "echo \"$PROPTEST_CASES cases, $@\"");
    assert!(output.status.success(), "{output:?}");
    let expected = "==> pure parts in miri\n\
        4 cases, +nightly miri test --locked --lib --no-default-features -- \
        frame:: session:: transport::lane:: transport::link::\n";
    assert_eq!(said(&output), expected);
}

#[test]
fn orders_are_played_by_a_package_of_their_own() {
    let output = make("loom", "echo \"${CARGO_TARGET_DIR##*/}: $@\"");
    assert!(output.status.success(), "{output:?}");
    let expected = "==> orders of steps, by loom\n\
        loom: test --manifest-path loom/Cargo.toml --locked\n";
    assert_eq!(said(&output), expected);
}

#[test]
fn what_is_fuzzed_is_checked_and_its_inputs_are_played_without_the_fuzzer() {
    let output = make("seeds", "echo \"${CARGO_TARGET_DIR##*/}: $@\"");
    assert!(output.status.success(), "{output:?}");
    let expected = "==> what is fuzzed\n\
        fuzz: test --manifest-path fuzz/Cargo.toml --locked --no-default-features\n\
        fuzz: check --manifest-path fuzz/Cargo.toml --locked --no-default-features \
        --features targets --bins\n";
    assert_eq!(said(&output), expected);
}
