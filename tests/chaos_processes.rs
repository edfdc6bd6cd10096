//! The command `moorline` killed, stopped and short of descriptors, over a network that goes bad.
#![cfg(all(feature = "testing", feature = "node", unix))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod command;
mod common;

use std::time::Duration;

use command::Scratch;
use common::{LIMIT, connected, node_with, stranger, within};
use moorline::testing::{ProcessCluster, Towards};
use moorline::{CertHash, CloseReason, ConnectionHandle, Events, Node, Target};

/// Echoing processes, and a node of the test that keeps a connection to the first one over a link.
struct Watched {
    cluster: ProcessCluster,
    node: Node,
    events: Events,
    connection: ConnectionHandle,
    scratch: Scratch,
}

impl Watched {
    /// `deadline` is when a process that says nothing is taken for gone.
    async fn new(seed: u64, deadline: Duration) -> Self {
        let scratch = Scratch::new();
        let identity: CertHash = scratch.keygen("echo", &[]).parse().unwrap();
        let credential = stranger();
        let mut words = vec!["--json".to_owned(), "run".to_owned(), "--echo".to_owned()];
        words.extend(scratch.credential("echo"));
        words.extend(["--trust".to_owned(), credential.identity().to_string()]);
        let cluster = ProcessCluster::start(
            env!("CARGO_BIN_EXE_moorline"),
            2,
            seed,
            move |place, command| {
                command.args(&words).arg("--listen").arg(place.listen.to_string());
            },
        );
        let cluster = cluster.unwrap();
        let node = node_with(credential, |config| {
            config.limits.disconnect_time_max = deadline;
            config.limits.idle_time_max = deadline * 2;
            config.backoff.initial = Duration::from_millis(20);
            config.backoff.cap = Duration::from_millis(100);
        })
        .await;
        let mut events = node.subscribe();
        let target = Target::from(cluster.link(1, 0).address()).expect(identity);
        let target = target.redial(moorline::Redial::Always);
        within("connecting", node.connect(target)).await.expect("a connection");
        let connection = connected(&mut events).await;
        Self { cluster, node, events, connection, scratch }
    }

    async fn echo(&self, text: &'static str) {
        within("a send", self.connection.send(text)).await.expect("a connection");
        let frame = within("an echo", self.connection.recv()).await.expect("a connection");
        assert_eq!(frame, text);
    }

    async fn end(self) {
        let Self { cluster, node, events, connection, scratch } = self;
        drop((events, connection));
        within("the end", node.close(LIMIT)).await.expect("an orderly end");
        drop((cluster, scratch));
    }
}

#[tokio::test]
async fn a_process_that_is_killed_is_found_again_on_its_port() {
    let mut watched = Watched::new(1, Duration::from_millis(500)).await;
    for round in 0..3 {
        watched.echo("before").await;
        let status = watched.cluster.kill(0).unwrap().unwrap();
        assert_eq!(status.code(), None, "round {round}: a signal ended it");
        assert_eq!(within("the end", watched.connection.closed()).await, CloseReason::TimedOut);
        watched.cluster.restart(0).unwrap();
        watched.connection = connected(&mut watched.events).await;
        watched.echo("after").await;
    }
    watched.end().await;
}

/// Only a reset that the peer can believe tells it before any deadline.
#[tokio::test]
async fn a_process_that_is_killed_and_started_again_says_itself_that_connections_are_gone() {
    let mut watched = Watched::new(4, LIMIT).await;
    for round in 0..3 {
        watched.echo("before").await;
        watched.cluster.kill(0).unwrap().unwrap();
        watched.cluster.restart(0).unwrap();
        let reason = within("the end", watched.connection.closed()).await;
        assert_eq!(reason, CloseReason::Forgotten, "round {round}");
        watched.connection = connected(&mut watched.events).await;
        watched.echo("after").await;
    }
    watched.end().await;
}

#[tokio::test]
async fn a_process_that_is_stopped_for_a_while_goes_on_where_it_was() {
    let watched = Watched::new(2, LIMIT).await;
    watched.echo("before").await;
    watched.cluster.pause(0).unwrap();
    watched.connection.try_send("while it stands still").expect("room");
    let answers = watched.cluster.link(1, 0).counters(Towards::Client).entered;
    let asked = watched.cluster.link(1, 0).counters(Towards::Server).entered;
    // Its own keep-alives and retransmissions go on, and nothing comes back.
    let counters = |towards| watched.cluster.link(1, 0).counters(towards).entered;
    common::until("some datagrams", || counters(Towards::Server) > asked + 2).await;
    assert!(counters(Towards::Client) <= answers + 2, "a stopped process answers");
    watched.cluster.resume(0).unwrap();
    let frame = within("an echo", watched.connection.recv()).await.expect("a connection");
    assert_eq!(frame, "while it stands still");
    watched.end().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_process_with_few_descriptors_serves_as_well() {
    let mut watched = Watched::new(3, Duration::from_millis(500)).await;
    watched.cluster.limit_descriptors(64);
    watched.cluster.restart(0).unwrap();
    within("the end", watched.connection.closed()).await;
    watched.connection = connected(&mut watched.events).await;
    watched.echo("with few").await;
    let process = watched.cluster.process(0).unwrap().id();
    let limits = std::fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(line.split_whitespace().nth(3), Some("64"), "{line}");
    watched.end().await;
}

#[test]
fn what_was_killed_cannot_be_stopped_and_a_program_that_is_not_there_is_named() {
    let mut cluster = ProcessCluster::start("sh", 1, 4, |_, command| {
        command.args(["-c", "read nothing"]);
    });
    let cluster = cluster.as_mut().unwrap();
    cluster.kill(0).unwrap().unwrap();
    assert!(cluster.kill(0).unwrap().is_none(), "it is gone");
    let error = cluster.pause(0).unwrap_err();
    assert_eq!(error.to_string(), "no SIGSTOP for member 0");
    let error = ProcessCluster::start("/no/such/program", 1, 4, |_, _| ()).unwrap_err();
    assert_eq!(error.to_string(), "member 0 does not start: /no/such/program");
}
