//! The command `moorline` as a process of its own, for the tests of it.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take that a busy machine does in two seconds.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A directory of its own, removed with everything in it.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("node-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// Makes a certificate in the directory `name`, and returns its identity.
    pub(crate) fn keygen(&self, name: &str, more: &[&str]) -> String {
        let out = self.path(name);
        let made = node(&[&["--json", "keygen", "--out", &out], more].concat()).expect_code(0);
        made.json()["identity"].as_str().unwrap().to_owned()
    }

    /// `--cert` and `--key` of what `keygen` made.
    pub(crate) fn credential(&self, name: &str) -> [String; 4] {
        let file = |file: &str| self.path(&format!("{name}/{file}"));
        ["--cert".to_owned(), file("cert.pem"), "--key".to_owned(), file("key.pem")]
    }

    /// A running node called `name` that listens on a free port.
    pub(crate) fn run(&self, name: &str, more: &[&str]) -> Running {
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
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) stdout: Receiver<String>,
    pub(crate) stderr: Receiver<String>,
    pub(crate) address: String,
}

impl Running {
    pub(crate) fn start(words: &[&str], input: &str) -> Self {
        Self::start_among(words, input, &[])
    }

    /// As [`start`](Self::start), with these variables in its environment.
    pub(crate) fn start_among(words: &[&str], input: &str, variables: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_moorline"))
            .args(words)
            .envs(variables.iter().copied())
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
    pub(crate) fn event(&self, name: &str) -> Value {
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

    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        let done = Command::new("kill").args([signal, &id]).status().unwrap();
        assert!(done.success(), "kill {signal} {id}");
    }

    /// Waits for its end: it closes what it writes to when it ends, and not before.
    pub(crate) fn finish(mut self) -> Finished {
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

pub(crate) fn lines(source: impl Read + Send + 'static) -> Receiver<String> {
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

pub(crate) fn rest(lines: &Receiver<String>) -> String {
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
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    #[track_caller]
    pub(crate) fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// One line that begins with `error: ` and holds `text`, and nothing that a panic prints.
    #[track_caller]
    pub(crate) fn expect_error(self, code: i32, text: &str) {
        let finished = self.expect_code(code);
        let errors = finished.stderr.lines().filter(|line| line.starts_with("error: "));
        assert_eq!(errors.count(), 1, "{finished:#?}");
        assert!(finished.stderr.contains(text), "no {text:?} in {finished:#?}");
        for word in ["panicked", "backtrace", "RUST_BACKTRACE"] {
            assert!(!finished.stderr.contains(word), "{finished:#?}");
        }
    }

    /// The last line of standard output.
    pub(crate) fn json(&self) -> Value {
        let last = self.stdout.lines().last().unwrap_or_else(|| panic!("no answer: {self:#?}"));
        serde_json::from_str(last).unwrap()
    }
}

pub(crate) fn node(words: &[&str]) -> Finished {
    Running::start(words, "").finish()
}

pub(crate) fn node_with(credential: &[String; 4], words: &[&str], input: &str) -> Finished {
    let mut all = vec!["--json"];
    all.extend(words);
    all.extend(credential.iter().map(String::as_str));
    Running::start(&all, input).finish()
}

/// Waits for the end of a process whose outputs say nothing of it.
pub(crate) fn ended(child: &mut Child, what: &str) -> ExitStatus {
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        // not synchronisation: a wait with a limit
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what}: it does not end");
}

/// A port of the loopback address that nobody listens on.
pub(crate) fn closed_port() -> String {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}
