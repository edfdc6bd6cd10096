//! A process of its own for a test that looks at its process, because whatever runs the tests puts others
//! beside it; and one more for a test that takes two.

use std::process::Stdio;
use std::time::Duration;

use super::LIMIT;

/// Runs `body` in a process of its own: the same test, started once more.
pub(crate) fn in_its_own_process(test: &str, body: impl FnOnce()) {
    for_at_most(LIMIT, test, &[], body);
}

/// As [`in_its_own_process`], with a runtime of two workers for a `body` that has a limit on each of
/// its waits, and many of them.
pub(crate) fn in_its_own_runtime(test: &str, body: impl Future<Output = ()>) {
    for_at_most(6 * LIMIT, test, &[], || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(body);
    });
}

/// As [`in_its_own_process`], with a runtime of one thread, in which nothing else of Rust can start one: a
/// stack of the size that is asked for does not exist. The library's own threads are not concerned.
pub(crate) fn without_threads(test: &str, body: impl Future<Output = ()>) {
    let too_large = (1_u64 << 50).to_string();
    for_at_most(LIMIT, test, &[("RUST_MIN_STACK", &too_large)], || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(body);
    });
}

/// A process of its own calls `exit` while what `body` made stands; how long its end takes from there.
pub(crate) fn time_of_an_exit<K>(test: &str, body: impl Future<Output = K>) -> Duration {
    let told = for_at_most(LIMIT, test, &[], || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let _standing = runtime.block_on(body);
        println!("running 1 test, {LEAVES}{}", since_the_epoch().as_millis());
        std::process::exit(0);
    });
    let ended = since_the_epoch();
    let (_, left) = told.split_once(LEAVES).expect("it tells when");
    let left = left.lines().next().expect("a line").parse().expect("milliseconds");
    ended.saturating_sub(Duration::from_millis(left))
}

const LEAVES: &str = "which leaves at ";

fn since_the_epoch() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is past")
}

/// What the other process wrote to its standard output; nothing, in that process.
fn for_at_most(
    limit: Duration,
    test: &str,
    variables: &[(&str, &str)],
    body: impl FnOnce(),
) -> String {
    const MARK: &str = "MOORLINE_TEST_IN_ITS_OWN_PROCESS";
    if std::env::var_os(MARK).is_some() {
        body();
        return String::new();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let child = tokio::process::Command::new(std::env::current_exe().expect("a path"))
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(MARK, "1")
            .envs(variables.iter().copied())
            .kill_on_drop(true)
            .output();
        let output = super::within_limit(limit, "the other process", child).await;
        let output = output.expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}\n{told}", output.status);
        let ran = String::from_utf8_lossy(&output.stdout);
        assert!(ran.contains("running 1 test"), "{ran}");
        eprint!("{told}");
        ran.into_owned()
    })
}

/// In the environment of a process that a test starts: it runs the same test, as the other side.
const OTHER_SIDE: &str = "MOORLINE_TEST_OTHER_SIDE";

pub(crate) fn is_the_other_process() -> bool {
    std::env::var_os(OTHER_SIDE).is_some()
}

/// This test, once more, in a process of its own that can be written to and tells by standard error.
pub(crate) fn the_other_process(test: &str) -> tokio::process::Child {
    tokio::process::Command::new(std::env::current_exe().expect("this file"))
        .args(["--exact", test, "--nocapture"])
        .env(OTHER_SIDE, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("another process")
}
