//! Outputs that take nothing: a service serves on, a command that answers says so.
#![cfg(all(feature = "node", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod command;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use moorline::{NetCredential, Node, NodeConfig, Redial, Target};
use serde_json::Value;

use command::{LIMIT, Scratch, closed_port, ended, lines, node_with, rest};

/// A node that trusts "client", listens on `address`, and is killed at the latest when dropped.
struct Service {
    child: Child,
    address: String,
    server: String,
    scratch: Scratch,
}

impl Service {
    fn start(more: &[&str], log: &str, stdout: Stdio, stderr: Stdio) -> Self {
        let scratch = Scratch::new();
        let (server, client) = (scratch.keygen("server", &[]), scratch.keygen("client", &[]));
        let address = closed_port();
        let child = Command::new(env!("CARGO_BIN_EXE_moorline"))
            .args(["--json", "run", "--echo", "--listen", &address, "--trust", &client])
            .args(scratch.credential("server"))
            .args(more)
            .env("MOORLINE_LOG", log)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .unwrap();
        Self { child, address, server, scratch }
    }

    /// A friend gets through, as often as it takes for the service to have started.
    fn serves(&self) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let words = ["ping", &self.address, "-n", "20", "--expect", &self.server];
            let ping = node_with(&self.scratch.credential("client"), &words, "");
            if ping.code == Some(0) {
                return;
            }
            assert!(ping.code == Some(4) && Instant::now() < deadline, "{ping:?}");
        }
    }

    fn sends(&self, lines: &str) {
        let words = ["send", &self.address, "--expect", &self.server];
        node_with(&self.scratch.credential("client"), &words, lines).expect_code(0);
    }

    /// Strangers who dial it one after the other; all are refused.
    fn refuses_strangers(&self, count: usize) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let stranger = NetCredential::generate_self_signed(&["stranger"], &[]).unwrap();
            let stranger = NodeConfig::new(stranger.insecure_accept_any());
            let node = Node::spawn(stranger).await.unwrap();
            let target = Target::from(self.address.as_str()).redial(Redial::Never);
            for _ in 0..count {
                node.connect(target.clone()).await.unwrap_err();
            }
            node.close(LIMIT).await.unwrap();
        });
    }

    /// SIGTERM ends it in order, whatever its outputs do.
    fn stops(mut self) {
        terminate(&self.child);
        assert_eq!(ended(&mut self.child, "the service").code(), Some(0));
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn terminate(child: &Child) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
}

fn full_disk() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

#[test]
fn a_full_disk_ends_no_service() {
    let service = Service::start(&[], "debug", full_disk(), full_disk());
    service.serves();
    service.refuses_strangers(3);
    service.serves();
    service.stops();
}

#[test]
fn a_reader_that_goes_away_ends_no_service() {
    let mut service = Service::start(&[], "debug", Stdio::piped(), Stdio::piped());
    let mut stdout = BufReader::new(service.child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(line.contains("listening"), "{line}");
    drop((stdout, service.child.stderr.take()));
    service.serves();
    service.refuses_strangers(3);
    service.serves();
    service.stops();
}

#[test]
fn pipes_that_nobody_drains_stop_no_service() {
    let service = Service::start(&["--print"], "trace", Stdio::piped(), Stdio::piped());
    service.serves();
    service.sends(&"more than any pipe holds, and any queue\n".repeat(20_000));
    service.serves();
    service.stops();
}

#[test]
fn lines_that_nobody_took_in_time_are_counted_and_the_others_are_whole() {
    const FRAMES: usize = 20_000;
    let mut service = Service::start(&["--print"], "off", Stdio::piped(), Stdio::null());
    service.serves();
    service.sends(&"x\n".repeat(FRAMES));
    let stdout = lines(service.child.stdout.take().unwrap());
    let (mut frames, mut lost, mut others) = (0, 0, 0);
    let mut count = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        match line["event"].as_str().unwrap() {
            "frame" => frames += 1,
            "lines_lost" => {
                lost += line["lines"].as_u64().unwrap();
                return true;
            }
            _ => others += 1,
        }
        false
    };
    // It is told behind what had found room.
    while !count(&stdout.recv_timeout(LIMIT).unwrap()) {}
    terminate(&service.child);
    for line in rest(&stdout).lines() {
        count(line);
    }
    assert!(frames > 100 && lost > 100, "{frames} frames, {lost} lost, {others} others");
    // Also the frames of the pings, and who connected: within a hundred.
    let all = usize::try_from(lost).unwrap() + frames;
    assert!((FRAMES..FRAMES + 200).contains(&all), "{frames} frames, {lost} lost, {others} others");
    assert_eq!(service.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_flood_of_strangers_makes_few_lines_and_a_sum() {
    const STRANGERS: usize = 40;
    let mut service = Service::start(&[], "info", Stdio::piped(), Stdio::piped());
    let stdout = lines(service.child.stdout.take().unwrap());
    let stderr = lines(service.child.stderr.take().unwrap());
    service.serves();
    service.refuses_strangers(STRANGERS);
    service.serves();
    terminate(&service.child);
    let (mut shown, mut summed_up) = (0, 0);
    for line in rest(&stdout).lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        match line["event"].as_str().unwrap() {
            "refused" => shown += 1,
            "more_refused" => summed_up += line["refusals"].as_u64().unwrap(),
            _ => {}
        }
    }
    let (log, strangers) = (rest(&stderr), u64::try_from(STRANGERS).unwrap());
    // A busy machine may need more than one window for them.
    assert!((10..=30).contains(&shown), "{shown}");
    assert_eq!(shown + summed_up, strangers);
    let logged = log.lines().filter(|line| line.contains(" refused ")).count();
    assert!((10..=30).contains(&logged), "{logged} in {log}");
    assert_eq!(service.child.wait().unwrap().code(), Some(0));
}

/// What a command answers, with its standard output on a full disk.
fn answer_to_a_full_disk(words: &[String], input: &str) -> (Option<i32>, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_moorline"))
        .args(words)
        .stdin(Stdio::piped())
        .stdout(full_disk())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let said = rest(&lines(child.stderr.take().unwrap()));
    (child.wait().unwrap().code(), said)
}

#[test]
fn a_command_whose_answer_cannot_be_written_fails_and_says_so() {
    let service = Service::start(&[], "off", Stdio::null(), Stdio::null());
    service.serves();
    let credential = service.scratch.credential("client");
    let dial = |command: &str| {
        let to = [command, &service.address, "--expect", &service.server].map(str::to_owned);
        [&to[..], &credential].concat()
    };
    let certificate = service.scratch.path("server/cert.pem");
    let cases = [
        vec!["version".to_owned()],
        vec!["id".to_owned(), certificate],
        vec!["keygen".to_owned(), "--out".to_owned(), service.scratch.path("new")],
        dial("ping"),
        dial("send"),
    ];
    for words in cases {
        let (code, said) = answer_to_a_full_disk(&words, "line\n");
        assert_eq!(code, Some(1), "{words:?}: {said}");
        let errors: Vec<_> = said.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{words:?}: {said}");
        assert!(errors[0].contains("cannot write to standard output"), "{words:?}: {said}");
    }
    service.stops();
}

#[test]
fn a_command_that_waits_for_a_full_pipe_is_ended_by_sigterm() {
    let service = Service::start(&[], "off", Stdio::null(), Stdio::null());
    service.serves();
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    // As much as a pipe holds.
    writer.write_all(&[b' '; 65_536]).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_moorline"))
        .args(["ping", &service.address, "-n", "1", "--expect", &service.server])
        .args(service.scratch.credential("client"))
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It has its answer, and waits: a thread of it is in the kernel's wait for the pipe.
    let threads = format!("/proc/{}/task", child.id());
    let waits = || {
        let thread = |entry: std::fs::DirEntry| {
            std::fs::read_to_string(entry.path().join("wchan")).unwrap_or_default()
        };
        let threads = std::fs::read_dir(&threads).unwrap().filter_map(Result::ok);
        threads.map(thread).any(|place| place.contains("pipe_w"))
    };
    let deadline = Instant::now() + LIMIT;
    while !waits() {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "it never waits");
        // not synchronisation: the kernel tells nobody that a thread waits
        std::thread::sleep(Duration::from_millis(5));
    }
    terminate(&child);
    assert_eq!(ended(&mut child, "the command").code(), Some(130));
    let mut taken = Vec::new();
    reader.read_to_end(&mut taken).unwrap();
    service.stops();
}
