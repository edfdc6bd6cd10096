//! A peer in a process of its own that is killed, stopped and short of descriptors under load, and what must
//! hold of the session behind it.
#![cfg(all(feature = "testing", unix))]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::load::LONG;
use common::sessions::{Lines, peer};
use common::{LIMIT, node_with, stranger, until, within, within_limit};
use moorline::testing::{Ledger, ProcessCluster, Stamp};
use moorline::{
    CertHash, Delivery, Incoming, Lane, NetCredential, Node, NodeConfig, Peer, PeerEnded, Target,
};
use tokio::task::JoinSet;

const PROTOCOL: &str = "echo/1";

/// In the environment of the other process: where it listens, who it is, and who may come.
const LISTEN: &str = "MOORLINE_TEST_LISTEN";
const CERTIFICATE: &str = "MOORLINE_TEST_CERTIFICATE";
const KEY: &str = "MOORLINE_TEST_KEY";
const TRUSTED: &str = "MOORLINE_TEST_TRUSTED";

/// A pause of two seconds ends no connection, and one of ten does.
fn patient(config: &mut NodeConfig) {
    config.limits.idle_time_max = Duration::from_secs(6);
    config.limits.disconnect_time_max = Duration::from_secs(6);
}

/// What the other process does, until it is killed: sends back what comes, on the same lane, and answers what it
/// is asked with what it was asked.
async fn is_the_other_process() -> bool {
    let variable = |name| std::env::var(name).ok();
    let Some(listen) = variable(LISTEN) else { return false };
    let [certificate, key, trusted] =
        [CERTIFICATE, KEY, TRUSTED].map(|name| variable(name).expect("it is set"));
    let credential = NetCredential::from_pem(certificate.as_bytes(), key.as_bytes()).expect("one");
    let trusted: CertHash = trusted.parse().expect("a hash");
    let node = node_with(credential.trust_hash(trusted), patient).await;
    let mut peers = node.accept(PROTOCOL);
    let address: SocketAddr = listen.parse().expect("an address");
    node.listen(address).await.expect("a listener");
    while let Some(peer) = peers.next().await {
        for lane in Lane::ALL {
            tokio::spawn(send_back(peer.clone(), lane));
        }
    }
    true
}

async fn send_back(peer: Peer, lane: Lane) {
    while let Ok(incoming) = peer.recv_on(lane).await {
        // Its session may be over.
        match incoming {
            Incoming::Message(frame) => drop(peer.send_on(lane, frame).await),
            Incoming::Request(mut request) => {
                let frame = request.take_frame();
                drop(request.reply(frame).await);
            }
        }
    }
}

/// The other process, and a node that reaches it over a link.
struct Watched {
    cluster: ProcessCluster,
    node: Node,
    identity: CertHash,
    target: Target,
}

impl Watched {
    /// `test` becomes the other process.
    async fn new(test: &'static str) -> Self {
        let [own, other] = [stranger(), stranger()];
        let (identity, trusted) = (other.identity(), own.identity().to_string());
        let program = std::env::current_exe().expect("this file");
        let cluster = ProcessCluster::start(program, 2, 1, move |place, command| {
            command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
            // Of two places one is the test's own.
            if place.member == 0 {
                command.env(LISTEN, place.listen.to_string());
                command.env(CERTIFICATE, other.certificate_pem());
                command.env(KEY, other.private_key_pem().as_str()).env(TRUSTED, &trusted);
            } else {
                command.env(LISTEN, place.listen.to_string()).arg("--list");
            }
        });
        let cluster = cluster.expect("a process");
        let node = node_with(own.trust_hash(identity), patient).await;
        let target = Target::from(cluster.link(1, 0).address()).expect(identity);
        Self { cluster, node, identity, target }
    }

    async fn peer(&self) -> Peer {
        peer(&self.node, self.target.clone(), PROTOCOL).await
    }

    async fn end(self) {
        within("the end", self.node.close(LIMIT)).await.expect("an orderly end");
        drop(self.cluster);
    }
}

/// Sends and asks on all lanes, as fast as the other process sends back.
struct Echoes {
    peer: Peer,
    ledger: Ledger,
    tasks: JoinSet<()>,
    taking: tokio::task::JoinHandle<PeerEnded>,
    over: tokio::sync::watch::Sender<bool>,
}

impl Echoes {
    fn start(peer: Peer) -> Self {
        let (ledger, over) = (Ledger::new(), tokio::sync::watch::Sender::new(false));
        let mut tasks = JoinSet::new();
        for lane in Lane::ALL {
            tasks.spawn(send(peer.clone(), lane, ledger.clone(), over.subscribe()));
            tasks.spawn(ask(peer.clone(), lane, over.subscribe()));
        }
        let (from, to) = (peer.clone(), ledger.clone());
        let taking = tokio::spawn(async move {
            loop {
                match from.recv().await {
                    Ok(Incoming::Message(frame)) => drop(to.receive(&frame).expect("undamaged")),
                    Ok(Incoming::Request(request)) => panic!("{request:?}"),
                    Err(ended) => return ended,
                }
            }
        });
        Self { peer, ledger, tasks, taking, over }
    }

    async fn brings(&self, more: u64) {
        let before = self.ledger.received();
        until("more frames", || self.ledger.received() >= before + more).await;
    }

    /// The session goes on: everything came back, once and in order. How often it lost its connection is asked
    /// of its node.
    async fn ends_whole(self) {
        self.over.send_replace(true);
        let Self { peer, ledger, tasks, taking, .. } = self;
        within_limit(LONG, "the end of the load", tasks.join_all()).await;
        let sent = || ledger.report().flows.iter().map(|flow| flow.sent).sum::<u64>();
        until("the last echo", || ledger.received() == sent()).await;
        let report = ledger.report();
        assert!(report.is_clean(), "{report}");
        for counts in peer.deliveries() {
            assert_eq!(counts.accepted, counts.delivered, "{counts:?}");
        }
        assert_eq!(peer.ended(), None, "it is the same session");
        taking.abort();
    }

    /// The process is gone, and with it the session: what had come had come once and in order, and everything
    /// that was sent met one end.
    async fn cut_off(self) -> PeerEnded {
        let Self { peer, ledger, tasks, taking, .. } = self;
        let ended = within("the end of the session", taking).await.expect("no panic");
        within_limit(LONG, "the end of the load", tasks.join_all()).await;
        for counts in peer.deliveries() {
            let ends = counts.delivered + counts.not_sent + counts.maybe_sent;
            assert_eq!(counts.accepted, ends, "{counts:?}");
        }
        for flow in ledger.report().flows {
            let wrong = [&flow.again, &flow.out_of_order, &flow.never_sent];
            assert!(wrong.iter().all(|it| it.count() == 0), "{flow}");
        }
        ended
    }
}

async fn send(peer: Peer, lane: Lane, ledger: Ledger, over: tokio::sync::watch::Receiver<bool>) {
    let sender = ledger.sender("there and back");
    let mut last = None;
    let mut ticks = tokio::time::interval(Duration::from_millis(2));
    while !*over.borrow() {
        ticks.tick().await;
        let frame = sender.frame(lane, 400);
        let stamp = Stamp::read(&frame).expect("it was made here");
        match within_limit(LONG, "room", peer.send_tracked(lane, frame)).await {
            Ok(receipt) => last = Some(receipt),
            Err(_) => {
                ledger.excuse(stamp);
                break;
            }
        }
    }
    if let Some(last) = last {
        let delivery = within_limit(LONG, "what became of the last one", last.delivery()).await;
        if delivery != Delivery::Delivered {
            until("the end of the session", || peer.ended().is_some()).await;
        }
    }
}

/// Until the session ends, or it is told to.
async fn ask(peer: Peer, lane: Lane, over: tokio::sync::watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(Duration::from_millis(2));
    while !*over.borrow() {
        ticks.tick().await;
        match within_limit(LONG, "an answer", peer.request_on(lane, "question", LONG)).await {
            Ok(answer) => assert_eq!(answer, "question"),
            Err(_) => {
                until("the end of the session", || peer.ended().is_some()).await;
                return;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_killed_and_started_again_20_times_under_load_is_another_one_each_time() {
    if is_the_other_process().await {
        return;
    }
    let test =
        "a_peer_that_is_killed_and_started_again_20_times_under_load_is_another_one_each_time";
    let mut watched = Watched::new(test).await;
    for round in 0..20 {
        let echoes = Echoes::start(watched.peer().await);
        echoes.brings(100).await;
        watched.cluster.restart(0).expect("another process");
        assert_eq!(echoes.cut_off().await, PeerEnded::PeerRestarted, "round {round}");
    }
    let echoes = Echoes::start(watched.peer().await);
    echoes.brings(100).await;
    echoes.ends_whole().await;
    watched.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_stopped_for_2_and_for_10_seconds_goes_on_with_its_session() {
    if is_the_other_process().await {
        return;
    }
    let test = "a_peer_that_is_stopped_for_2_and_for_10_seconds_goes_on_with_its_session";
    let watched = Watched::new(test).await;
    let mut lines = Lines::of(&watched.node, watched.identity);
    let echoes = Echoes::start(watched.peer().await);
    for (seconds, is_lost) in [(2, false), (10, true)] {
        echoes.brings(100).await;
        let before = lines.lost();
        watched.cluster.pause(0).expect("it is stopped");
        tokio::time::sleep(Duration::from_secs(seconds)).await; // not synchronisation: it is stopped so long
        watched.cluster.resume(0).expect("it goes on");
        if is_lost {
            lines.loses(before).await;
        }
        echoes.brings(100).await;
        assert_eq!(lines.lost() > before, is_lost, "{seconds} s");
    }
    echoes.ends_whole().await;
    watched.end().await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_with_64_descriptors_carries_a_session_under_load() {
    if is_the_other_process().await {
        return;
    }
    let test = "a_peer_with_64_descriptors_carries_a_session_under_load";
    let mut watched = Watched::new(test).await;
    watched.cluster.limit_descriptors(64);
    watched.cluster.restart(0).expect("another process");
    let echoes = Echoes::start(watched.peer().await);
    echoes.brings(2_000).await;
    let process = watched.cluster.process(0).expect("it runs").id();
    let limits = std::fs::read_to_string(format!("/proc/{process}/limits")).expect("Linux has it");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    assert_eq!(line.split_whitespace().nth(3), Some("64"), "{line}");
    echoes.ends_whole().await;
    watched.end().await;
}
