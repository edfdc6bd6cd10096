//! A minute of everything that breaks, with another seed each time; and what is found where the library is
//! broken on purpose.

mod common;

use std::time::Duration;

use common::within_limit;
use serde_json::Value;
use tokio::process::Command;

/// A minute of faults, and as long as it takes on a busy machine until all is delivered and closed.
const TIME_MAX: Duration = Duration::from_secs(300);

#[tokio::test]
async fn a_minute_of_hell_loses_doubles_and_swaps_nothing() {
    let mut soak = Command::new(env!("CARGO_BIN_EXE_moorline"));
    soak.args(["--json", "soak", "--minutes", "1", "--profile", "hell"]).kill_on_drop(true);
    let run = within_limit(TIME_MAX, "the end of it", soak.output()).await.expect("it starts");
    let (told, log) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    // The seed is in there.
    println!("{told}");
    assert!(run.status.success(), "{}\n{told}\n{log}", run.status);
    let verdict: Value = serde_json::from_str(told.trim()).expect("one line of JSON");
    assert!(verdict["broken"].is_null(), "{verdict}");
    let number = |field: &str| verdict[field].as_u64().unwrap_or(0);
    // Far below what it is on the slowest machine: something was at work.
    assert!(
        number("taken") > 5_000 && number("answers") > 500 && number("faults") > 20,
        "{verdict}"
    );
}

/// What the library itself does wrong, how long faults come, and what names it.
async fn finds(fault: &str, arguments: &[&str], named: &str) {
    let mut soak = Command::new(env!("CARGO_BIN_EXE_moorline"));
    soak.args(["--json", "soak", "--peers", "3", "--plant", fault]).args(arguments);
    soak.kill_on_drop(true);
    let run = within_limit(TIME_MAX, "the end of it", soak.output()).await.expect("it starts");
    let (told, log) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    println!("{told}");
    assert_eq!(run.status.code(), Some(5), "{fault}:\n{told}\n{log}");
    let verdict: Value = serde_json::from_str(told.trim()).expect("one line of JSON");
    let broken = verdict["broken"].as_str().unwrap_or_default();
    // From whom to whom, and which one.
    assert!(broken.contains(" to ") && broken.contains(named), "{fault}: {verdict}");
    let events = verdict["last_events"].as_array().map_or(0, Vec::len);
    assert!((1..=50).contains(&events), "{fault}: {verdict}");
}

#[tokio::test]
async fn a_frame_that_is_dropped_on_reconnect_is_found() {
    finds("frame-dropped", &["--minutes", "2"], " came too early: ").await;
}

#[tokio::test]
async fn a_frame_that_is_sent_again_without_its_number_is_found() {
    finds("number-missing", &["--minutes", "2"], " came twice").await;
}

#[tokio::test]
async fn a_credit_that_is_not_returned_is_found() {
    let briefly = ["--minutes", "0.1", "--profile", "lan", "--patience", "10"];
    finds("credit-kept", &briefly, " was not taken").await;
}
