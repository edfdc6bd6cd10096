//! The command `moorline` from outside: what it prints, how it ends, and that it ends.
#![cfg(feature = "node")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod command;

use std::fs;
use std::net::UdpSocket;
use std::process::{Command, Stdio};

use serde_json::Value;

use moorline::{CloseCode, NetCredential, Node, NodeConfig, NodeEvent};

use command::{LIMIT, Running, Scratch, closed_port, lines, node, node_with, rest};

#[test]
fn keys_are_made_and_used_for_ping_and_send() {
    let scratch = Scratch::new();
    let (server, client) = (scratch.keygen("server", &[]), scratch.keygen("client", &[]));
    let certificate = scratch.path("server/cert.pem");
    let id = node(&["id", &certificate]).expect_code(0);
    assert_eq!(id.stdout, format!("{server}\n"), "what others paste, and nothing else");
    let verbose = node(&["id", "--verbose", &certificate]).expect_code(0);
    assert!(verbose.stdout.starts_with(&format!("identity {server}\nkey ")), "{verbose:?}");
    let json = node(&["--json", "id", &certificate]).expect_code(0).json();
    assert_eq!((&json["identity"], json["key"].is_string()), (&server.as_str().into(), true));

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
fn a_kept_peer_that_does_not_want_us_is_told_as_abandoned() {
    let scratch = Scratch::new();
    let (server, client) = (scratch.keygen("server", &[]), scratch.keygen("client", &[]));
    let file = |name: &str| scratch.0.join("server").join(name);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let credential = NetCredential::from_files(&file("cert.pem"), &file("key.pem")).unwrap();
        let credential = credential.trust_hash(client.parse().unwrap());
        let node = Node::spawn(NodeConfig::new(credential)).await.unwrap();
        let address = node.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let mut events = node.subscribe();
        let dialling = scratch.run("client", &["--connect", &format!("{address}={server}")]);
        dialling.event("connected");
        let forbid = async {
            loop {
                if let Some(NodeEvent::Connected(connection)) = events.next().await {
                    return connection.close(CloseCode::FORBIDDEN).await;
                }
            }
        };
        tokio::time::timeout(LIMIT, forbid).await.unwrap();
        let abandoned = dialling.event("abandoned");
        assert!(abandoned["reason"].as_str().unwrap().contains("FORBIDDEN"), "{abandoned}");
        tokio::time::timeout(LIMIT, node.shutdown(LIMIT)).await.unwrap().unwrap();
    });
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
fn the_versions_and_the_linkage_are_known_and_the_library_is_optimized() {
    let version = node(&["--json", "version"]).expect_code(0).json();
    assert_eq!(version["debug"], false, "[profile.dev.package.msquic] is in Cargo.toml");
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert!(version["msquic"].as_str().unwrap().contains('.'), "{version}");
    assert!(["bundled", "system"].contains(&version["linkage"].as_str().unwrap()), "{version}");
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

/// However slow the machine is: it measures for a time, and each round has its ratio.
#[test]
fn the_benchmark_of_lanes_tells_the_middle_of_its_rounds_with_the_least_and_the_most() {
    let words = ["bench", "--workload", "lanes", "--seconds", "0.1", "--json"];
    let figure = node(&words).expect_code(0).json();
    let param = |name: &str| figure["params"][name].as_str().unwrap().parse::<f64>().unwrap();
    let ratio = figure["value"].as_f64().unwrap();
    assert!(param("min") > 0.0 && (param("min")..=param("max")).contains(&ratio), "{figure}");
    for positive in ["quiet_p99", "bulk_p99", "one_lane_p99", "bulk_mib_s", "one_lane_mib_s"] {
        assert!(param(positive) > 0.0, "{positive}: {figure}");
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

/// A benchmark with its far end, and what it said of that.
fn with_far_end() -> (std::process::Child, std::sync::mpsc::Receiver<String>, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_moorline"))
        .args(["bench", "--workload", "small", "--two-processes", "--seconds", "600"])
        .env("MOORLINE_LOG", "moorline::app::bench=info")
        .env_remove("SSL_CERT_FILE")
        .env("SSL_CERT_DIR", "/somewhere")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = lines(child.stderr.take().unwrap());
    let started = stderr.recv_timeout(LIMIT).unwrap();
    assert!(started.contains("the far end listens"), "{started}");
    (child, stderr, started)
}

#[test]
fn the_far_end_of_a_benchmark_dies_with_its_parent() {
    let (mut child, stderr, _) = with_far_end();
    child.kill().unwrap();
    child.wait().unwrap();
    // The far end writes to the same pipe: it is closed when both are gone.
    rest(&stderr);
}

/// What is said to the C library by the environment is nothing for other programs.
#[test]
fn a_child_gets_the_environment_that_the_command_was_given() {
    let (mut child, stderr, started) = with_far_end();
    let plain = started.replace("\x1b[3m", "").replace("\x1b[0m", "").replace("\x1b[2m", "");
    let id = plain.split("process=").nth(1).unwrap().split_whitespace().next().unwrap();
    let environment = fs::read(format!("/proc/{id}/environ")).unwrap();
    let variables = String::from_utf8_lossy(&environment);
    let about: Vec<_> = variables.split('\0').filter(|it| it.starts_with("SSL_CERT_")).collect();
    assert_eq!(about, ["SSL_CERT_DIR=/somewhere"]);
    child.kill().unwrap();
    child.wait().unwrap();
    rest(&stderr);
}

/// A stack that does not exist: no thread of the program itself starts.
/// Images of containers name the system's certificates in the environment. Whoever opened this file of
/// them would wait for ever.
#[test]
fn system_certificates_are_not_read_also_where_the_environment_names_them() {
    let scratch = Scratch::new();
    scratch.keygen("a", &[]);
    let file = scratch.path("certificates");
    assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    let credential = scratch.credential("a");
    let words = ["--json", "run", "--listen", "127.0.0.1:0"];
    let words: Vec<_> = words.into_iter().chain(credential.iter().map(String::as_str)).collect();
    Running::start_among(&words, "", &[("SSL_CERT_FILE", &file)]).event("listening");
}

#[test]
fn a_command_without_threads_says_so_and_ends() {
    let scratch = Scratch::new();
    scratch.keygen("own", &[]);
    let own = scratch.credential("own");
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let (too_large, closed) = ((1_u64 << 50).to_string(), closed_port());
    for command in [["run", "--listen", "127.0.0.1:0"], ["ping", "-n1", &closed]] {
        let words = [&command[..], &own, &["--insecure-accept-any"]].concat();
        let running = Running::start_among(&words, "", &[("RUST_MIN_STACK", &too_large)]);
        running.finish().expect_error(1, "cannot start the");
    }
}

#[test]
fn a_key_that_others_can_read_is_named_with_what_to_do() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    scratch.keygen("own", &[]);
    let key = scratch.path("own/key.pem");
    let operator = scratch.path("operator");
    node(&["keygen", "--signing-key", "--out", &operator]).expect_code(0);
    let signing_key = scratch.path("operator/signing-key.pem");
    let dial = || {
        let (closed, cert) = (closed_port(), scratch.path("own/cert.pem"));
        let words = ["ping", &closed, "--insecure-accept-any", "--cert", &cert, "--key", &key];
        node(&words).expect_code(4).stderr
    };
    let sign = |out: &str| {
        let out = scratch.path(out);
        node(&["keygen", "--out", &out, "--sign-with", &signing_key]).expect_code(0).stderr
    };
    assert!(!dial().contains("chmod") && !sign("a").contains("chmod"));
    for mode in [0o640, 0o604, 0o602] {
        for file in [&key, &signing_key] {
            fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
        }
        for (said, file) in [(dial(), &key), (sign(&format!("{mode}")), &signing_key)] {
            let warned: Vec<_> = said.lines().filter(|line| line.contains("WARN")).collect();
            assert_eq!(warned.len(), 1, "{said}");
            assert!(warned[0].contains(&format!("chmod 600 {file}")), "{said}");
        }
    }
}

#[test]
fn a_fingerprint_is_taken_as_openssl_prints_it() {
    let scratch = Scratch::new();
    let (server, client) = (scratch.keygen("server", &[]), scratch.keygen("client", &[]));
    let fingerprint = |hash: &str| {
        let pairs: Vec<_> = (0..32).map(|at| hash[2 * at..2 * at + 2].to_uppercase()).collect();
        pairs.join(":")
    };
    let trust = format!("sha256 Fingerprint={}", fingerprint(&client));
    let running = scratch.run("server", &["--echo", "--trust", &trust]);
    let words = ["ping", &running.address, "-n", "1", "--expect", &fingerprint(&server)];
    node_with(&scratch.credential("client"), &words, "").expect_code(0);
}

#[test]
fn the_log_of_a_node_names_it_with_every_line_of_the_command() {
    let scratch = Scratch::new();
    let server = scratch.keygen("server", &[]);
    let running = scratch.run("server", &[]);
    running.signal("-TERM");
    let log = running.finish().expect_code(0).stderr;
    let named = format!("node{{identity={}}}", &server[..8]);
    let warned = log.lines().find(|line| line.contains("everybody who connects will be refused"));
    assert!(warned.is_some_and(|line| line.contains(&named)), "{log}");
}
