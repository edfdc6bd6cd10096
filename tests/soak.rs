//! A minute of everything that breaks, with another seed each time.

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
