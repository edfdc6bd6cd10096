//! The command `moorline` from outside: what it prints, how it ends, and that it ends.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take that a busy machine does in two seconds.
const LIMIT: Duration = Duration::from_secs(60);

/// A directory of its own, removed with everything in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("node-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// Makes a certificate in the directory `name`, and returns its identity.
    fn keygen(&self, name: &str, more: &[&str]) -> String {
        let out = self.path(name);
        let made = node(&[&["--json", "keygen", "--out", &out], more].concat()).expect_code(0);
        made.json()["identity"].as_str().unwrap().to_owned()
    }

    /// `--cert` and `--key` of what `keygen` made.
    fn credential(&self, name: &str) -> [String; 4] {
        let file = |file: &str| self.path(&format!("{name}/{file}"));
        ["--cert".to_owned(), file("cert.pem"), "--key".to_owned(), file("key.pem")]
    }

    /// A running node called `name` that listens on a free port.
    fn run(&self, name: &str, more: &[&str]) -> Running {
        let credential = self.credential(name);
        let mut words = vec!["--json", "run", "--listen", "127.0.0.1:0"];
        words.extend(credential.iter().map(String::as_str));
        words.extend(more);
        let mut running = Running::start(&words, "");
        let line = running.event("listening");
        running.address = line["address"].as_str().unwrap().to_owned();
        running
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A process that is killed at the latest when it is dropped.
struct Running {
    child: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
    address: String,
}

impl Running {
    fn start(words: &[&str], input: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_moorline"))
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        // Whoever does not read it has closed it: that is no error.
        std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
        let stdout = lines(child.stdout.take().unwrap());
        let stderr = lines(child.stderr.take().unwrap());
        Self { child, stdout, stderr, address: String::new() }
    }

    /// The next line on standard output that is this event.
    fn event(&self, name: &str) -> Value {
        let deadline = Instant::now() + LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = match self.stdout.recv_timeout(left) {
                Ok(line) => line,
                Err(error) => {
                    let log: Vec<_> = self.stderr.try_iter().collect();
                    panic!("waited for {name:?}: {error}; standard error: {log:#?}");
                }
            };
            let value: Value = serde_json::from_str(&line).expect("a line of JSON");
            if value["event"] == name {
                return value;
            }
        }
    }

    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        let done = Command::new("kill").args([signal, &id]).status().unwrap();
        assert!(done.success(), "kill {signal} {id}");
    }

    /// Waits for its end: it closes what it writes to when it ends, and not before.
    fn finish(mut self) -> Finished {
        let stdout = rest(&self.stdout);
        let stderr = rest(&self.stderr);
        let code = self.child.wait().unwrap().code();
        Finished { code, stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(source: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(source).lines() {
            if sender.send(line.unwrap()).is_err() {
                return;
            }
        }
    });
    receiver
}

fn rest(lines: &Receiver<String>) -> String {
    let (mut text, deadline) = (String::new(), Instant::now() + LIMIT);
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => text.extend([line.as_str(), "\n"]),
            Err(RecvTimeoutError::Disconnected) => return text,
            Err(RecvTimeoutError::Timeout) => panic!("it does not end; so far: {text}"),
        }
    }
}

#[derive(Debug)]
struct Finished {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Finished {
    #[track_caller]
    fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// One line that begins with `error: ` and holds `text`, and nothing that a panic prints.
    #[track_caller]
    fn expect_error(self, code: i32, text: &str) {
        let finished = self.expect_code(code);
        let errors = finished.stderr.lines().filter(|line| line.starts_with("error: "));
        assert_eq!(errors.count(), 1, "{finished:#?}");
        assert!(finished.stderr.contains(text), "no {text:?} in {finished:#?}");
        for word in ["panicked", "backtrace", "RUST_BACKTRACE"] {
            assert!(!finished.stderr.contains(word), "{finished:#?}");
        }
    }

    /// The last line of standard output.
    fn json(&self) -> Value {
        let last = self.stdout.lines().last().unwrap_or_else(|| panic!("no answer: {self:#?}"));
        serde_json::from_str(last).unwrap()
    }
}

fn node(words: &[&str]) -> Finished {
    Running::start(words, "").finish()
}

fn node_with(credential: &[String; 4], words: &[&str], input: &str) -> Finished {
    let mut all = vec!["--json"];
    all.extend(words);
    all.extend(credential.iter().map(String::as_str));
    Running::start(&all, input).finish()
}

/// A port of the loopback address that nobody listens on.
fn closed_port() -> String {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn keys_are_made_and_used_for_ping_and_send() {
    let scratch = Scratch::new();
    let (server, client) = (scratch.keygen("server", &[]), scratch.keygen("client", &[]));
    let id = node(&["id", &scratch.path("server/cert.pem")]).expect_code(0);
    assert!(id.stdout.starts_with(&server), "{id:?}");

    let running = scratch.run("server", &["--echo", "--print", "--trust", &client]);
    let own = scratch.credential("client");
    let to = [running.address.as_str(), "--expect", &server];

    let ping =
        node_with(&own, &[&["ping", "-n", "50"], &to[..]].concat(), "").expect_code(0).json();
    assert_eq!((&ping["count"], &ping["peer"]), (&50.into(), &server.as_str().into()));
    let us = |name: &str| ping["us"][name].as_f64().unwrap();
    assert!(0.0 < us("p50") && us("p50") <= us("p99") && us("p99") <= us("p999"), "{ping}");
    assert_eq!(running.event("connected")["peer"], client.as_str());
    assert_eq!(running.event("disconnected")["peer"], client.as_str());

    let lines = [&["send"], &to[..]].concat();
    let sent = node_with(&own, &lines, "one\n\ntwo \x1b[1m").expect_code(0).json();
    assert_eq!((&sent["frames"], &sent["completed"]), (&3.into(), &3.into()), "{sent}");
    let printed: Vec<_> = (0..3).map(|_| running.event("frame")["text"].clone()).collect();
    assert_eq!(printed, ["one", "", "two \\u{1b}[1m"]);

    let file = scratch.path("file");
    fs::write(&file, vec![7; 3_000_000]).unwrap();
    let sent =
        node_with(&own, &[&lines[..], &["--file", &file]].concat(), "").expect_code(0).json();
    assert_eq!((&sent["frames"], &sent["bytes"]), (&3.into(), &3_000_000.into()), "{sent}");
    assert_eq!(running.event("frame")["bytes"], 1 << 20);

    running.signal("-TERM");
    running.finish().expect_code(0);
}

#[test]
fn a_certificate_signed_by_a_trusted_key_is_let_in() {
    let scratch = Scratch::new();
    let out = scratch.path("operator");
    let made = node(&["--json", "keygen", "--signing-key", "--out", &out]).expect_code(0);
    let public = made.json()["public"].as_str().unwrap().to_owned();
    let key = scratch.path("operator/signing-key.pem");
    let server = scratch.keygen("server", &[]);
    scratch.keygen("client", &["--sign-with", &key]);

    let running = scratch.run("server", &["--echo", "--trust-key", &public]);
    let words = ["ping", &running.address, "-n", "1", "--expect", &server];
    node_with(&scratch.credential("client"), &words, "").expect_code(0);
}

#[test]
fn private_keys_are_their_owners_alone_and_never_overwritten() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    scratch.keygen("own", &[]);
    node(&["keygen", "--signing-key", "--out", &scratch.path("own")]).expect_code(0);
    for file in ["own/key.pem", "own/signing-key.pem"] {
        let mode = fs::metadata(scratch.path(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let before = fs::read(scratch.path("own/key.pem")).unwrap();
    node(&["keygen", "--out", &scratch.path("own")]).expect_error(1, "key.pem exists already");
    assert_eq!(fs::read(scratch.path("own/key.pem")).unwrap(), before);
}

#[test]
fn wrong_arguments_are_named_and_nothing_is_started() {
    let scratch = Scratch::new();
    scratch.keygen("own", &[]);
    let (cert, key) = (scratch.path("own/cert.pem"), scratch.path("own/key.pem"));
    let own = ["--cert", &cert, "--key", &key];
    let cases: [(&[&str], &str); 11] = [
        (&["send", "h:1", "--expect", "xyz"], "expected 64 hex digits, found 3 characters"),
        (&["send", "h:1"], "give --expect HASH"),
        (&["send", "h:1", "--expect", &"ab".repeat(32), "--cert", &cert], "--key <FILE>"),
        (&["ping", "h:99999"], "\"99999\" is no port (1 to 65535)"),
        (&["ping", "h"], "the port is missing"),
        (&["run", "--listen", "here:1"], "give IP:PORT"),
        (&["run", "--connect", "h:1=abc"], "expected 64 hex digits, found 3 characters"),
        (&["run", own[0], own[1], own[2], own[3]], "give --listen ADDR, --connect ADDR, or both"),
        (&["bench", "--connections", "0"], "0 is not in 1..=10000"),
        (&["bench", "--poll-idle", "10001"], "10001 is not in 0..=10000"),
        (&["frobnicate"], "frobnicate"),
    ];
    for (words, text) in cases {
        node(words).expect_error(2, text);
    }
}

#[test]
fn files_that_do_not_serve_are_named() {
    let scratch = Scratch::new();
    scratch.keygen("own", &[]);
    scratch.keygen("other", &[]);
    let path = |file: &str| scratch.path(file);
    fs::write(path("garbage"), "no key at all").unwrap();
    let run = |cert: &str, key: &str| {
        node(&["run", "--listen", "127.0.0.1:0", "--cert", &path(cert), "--key", &path(key)])
    };
    run("own/cert.pem", "other/key.pem").expect_error(1, "does not belong");
    run("own/cert.pem", "missing").expect_error(1, &path("missing"));
    // A directory cannot be read by anybody, not even by root.
    run("own/cert.pem", "other").expect_error(1, &path("other"));
    run("own/cert.pem", "garbage").expect_error(1, "holds no private key");
    run("garbage", "own/key.pem").expect_error(1, "holds no certificate");
    node(&["id", &path("garbage")]).expect_error(1, &path("garbage"));
    node(&["id", &path("own/key.pem")]).expect_error(1, "holds no certificate");
    let words = ["send", "127.0.0.1:1", "--insecure-accept-any", "--file", &path("missing")];
    node(&words).expect_error(1, &path("missing"));
}

#[test]
fn a_port_in_use_and_a_closed_port_are_told_apart() {
    let scratch = Scratch::new();
    scratch.keygen("own", &[]);
    let credential = scratch.credential("own");
    let owner = UdpSocket::bind("127.0.0.1:0").unwrap();
    let in_use = owner.local_addr().unwrap().to_string();
    let listen = ["run", "--listen", &in_use, "--insecure-accept-any"];
    node_with(&credential, &listen, "").expect_error(1, &format!("{in_use}: the port is in use"));

    let closed = closed_port();
    for command in ["ping", "send"] {
        let words = [command, &closed, "--insecure-accept-any"];
        node_with(&credential, &words, "x\n").expect_error(4, &closed);
    }
}

#[test]
fn a_port_that_another_node_has_is_in_use() {
    let scratch = Scratch::new();
    scratch.keygen("own", &[]);
    let first = scratch.run("own", &["--insecure-accept-any"]);
    let credential = scratch.credential("own");
    let mut words = vec!["--json", "run", "--listen", &first.address, "--insecure-accept-any"];
    words.extend(credential.iter().map(String::as_str));
    let second = Running::start(&words, "");
    if let Ok(line) = second.stdout.recv_timeout(LIMIT) {
        panic!("two nodes have one port: {line}");
    }
    second.finish().expect_error(1, "in use");
}

#[test]
fn a_stranger_is_refused_and_both_sides_say_so() {
    let scratch = Scratch::new();
    let server = scratch.keygen("server", &[]);
    let stranger = scratch.keygen("stranger", &[]);
    let running = scratch.run("server", &["--echo", "--trust", &server]);
    let own = scratch.credential("stranger");
    for command in ["send", "ping"] {
        let words = [command, &running.address, "--expect", &server];
        node_with(&own, &words, "let me in\n").expect_error(3, "the peer refused our certificate");
        let refused = running.event("refused");
        assert!(refused["error"].as_str().unwrap().contains(&stranger), "{refused}");
    }
    let words = ["send", &running.address, "--expect", &stranger];
    node_with(&own, &words, "hello\n").expect_error(3, "we refused the peer's certificate");
}

#[test]
fn sigterm_drains_and_the_peer_is_told() {
    let scratch = Scratch::new();
    let (server, client) = (scratch.keygen("server", &[]), scratch.keygen("client", &[]));
    let listening = scratch.run("server", &["--trust", &client]);
    let kept = format!("{}={server}", listening.address);
    let dialling = scratch.run("client", &["--connect", &kept]);
    assert_eq!(dialling.event("connected")["direction"], "outbound");
    assert_eq!(listening.event("connected")["direction"], "inbound");

    dialling.signal("-TERM");
    let stopped = dialling.finish().expect_code(0);
    assert_eq!(stopped.json()["event"], "stopping");
    let disconnected = listening.event("disconnected");
    assert!(disconnected["reason"].as_str().unwrap().contains("GOING_AWAY"), "{disconnected}");
    listening.signal("-INT");
    listening.finish().expect_code(0);
}

#[test]
fn a_second_signal_leaves_at_once() {
    let scratch = Scratch::new();
    let (server, client) = (scratch.keygen("server", &[]), scratch.keygen("client", &[]));
    let listening = scratch.run("server", &["--trust", &client]);
    let kept = format!("{}={server}", listening.address);
    let dialling = scratch.run("client", &["--connect", &kept, "--grace", "50"]);
    dialling.event("connected");

    // A peer that is held still answers nothing, so that draining lasts.
    listening.signal("-STOP");
    dialling.signal("-INT");
    dialling.event("stopping");
    dialling.signal("-INT");
    dialling.finish().expect_code(130);
}

#[test]
fn a_kept_peer_that_comes_late_is_found() {
    let scratch = Scratch::new();
    let (server, client) = (scratch.keygen("server", &[]), scratch.keygen("client", &[]));
    let address = closed_port();
    let dialling = scratch.run("client", &["--connect", &format!("{address}={server}")]);
    let failed = dialling.event("dial_failed");
    assert!(failed["retry_in_ms"].as_u64().is_some(), "{failed}");
    let mut words = vec!["--json", "run", "--listen", &address, "--trust", &client];
    let credential = scratch.credential("server");
    words.extend(credential.iter().map(String::as_str));
    let listening = Running::start(&words, "");
    assert_eq!(listening.event("connected")["peer"], client.as_str());
    assert_eq!(dialling.event("connected")["peer"], server.as_str());
}

#[test]
fn the_versions_and_the_linkage_are_known() {
    let version = node(&["--json", "version"]).expect_code(0).json();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert!(version["msquic"].as_str().unwrap().contains('.'), "{version}");
    assert!(["bundled", "system"].contains(&version["linkage"].as_str().unwrap()), "{version}");
}

#[test]
fn a_closed_standard_output_is_an_error_and_no_panic() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_moorline"))
        .arg("version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have written before the pipe is closed; then there is nothing to complain about.
    drop(child.stdout.take());
    let stderr = rest(&lines(child.stderr.take().unwrap()));
    assert!(stderr.is_empty() || stderr.starts_with("error: cannot write to standard output"));
    assert!(matches!(child.wait().unwrap().code(), Some(0 | 1)));
}

#[test]
fn the_demo_holds_every_check() {
    let shown = node(&["--json", "demo", "--data", "4"]).expect_code(0);
    let lines: Vec<Value> =
        shown.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let checks = lines.iter().filter(|line| line["event"] == "check");
    assert!(checks.clone().count() >= 7 && checks.clone().all(|check| check["ok"] == true));
    assert_eq!(lines.iter().filter(|line| line["event"] == "row").count(), 6);
    assert_eq!(shown.json()["failed"], 0);
}

#[test]
fn a_benchmark_answers_with_the_line_that_is_compared() {
    for more in [&[][..], &["--two-processes"]] {
        let words = ["bench", "--workload", "small", "--seconds", "0.2", "--json"];
        let figure = node(&[&words, more].concat()).expect_code(0).json();
        assert_eq!((&figure["peer"], &figure["workload"]), (&"moorline".into(), &"small".into()));
        assert_eq!(figure["unit"], "msg/s");
        assert!(figure["value"].as_f64().unwrap() > 0.0, "{figure}");
        for param in ["cpu_cores", "rss_mib", "cpu_ns_per_frame"] {
            assert!(figure["params"][param].as_str().unwrap().parse::<f64>().is_ok(), "{figure}");
        }
    }
}

#[test]
fn the_benchmark_by_message_compares_three_ways_with_a_line_each() {
    let words = ["bench", "--workload", "actor", "--seconds", "0.5", "--json"];
    let shown = node(&words).expect_code(0);
    let figures: Vec<Value> =
        shown.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let workloads: Vec<_> = figures.iter().map(|figure| figure["workload"].as_str()).collect();
    assert_eq!(workloads, [Some("actor"), Some("actor-many"), Some("actor-handle")]);
    for figure in figures {
        assert!(figure["value"].as_f64().unwrap() > 0.0, "{figure}");
        assert!(figure["params"]["of_handle"].as_str().unwrap().parse::<f64>().is_ok());
    }
}

#[test]
fn the_far_end_of_a_benchmark_dies_with_its_parent() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_moorline"))
        .args(["bench", "--workload", "small", "--two-processes", "--seconds", "600"])
        .env("MOORLINE_LOG", "moorline::bench=info")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = lines(child.stderr.take().unwrap());
    let started = stderr.recv_timeout(LIMIT).unwrap();
    assert!(started.contains("the far end listens"), "{started}");
    child.kill().unwrap();
    child.wait().unwrap();
    // The far end writes to the same pipe: it is closed when both are gone.
    rest(&stderr);
}
