//! Two nodes that ask for each other at the same time, again and again.
#![cfg(feature = "testing")]

mod common;

use std::time::{Duration, Instant};

use common::sessions::{Lines, brisk, seed};
use common::{LIMIT, cancelled_after, until, within, within_limit};
use moorline::testing::Cluster;
use moorline::{
    CloseCode, CloseReason, ConnectError, Incoming, Node, Peer, PeerEnded, PeerError, Peers,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

/// Rounds in all, and how many pairs of nodes share them.
const ROUNDS: u64 = 1_000;
const PAIRS: u64 = 4;

/// One round of so many has a cut in it, behind which both dial again.
const CUT_EACH: u32 = 5;

/// Frames each way, each time.
const FRAMES: u64 = 3;

/// How long the other one may stand: less than until somebody who says nothing is given up.
const SETTLED: Duration = Duration::from_secs(2);

const PROTOCOL: &str = "both/1";

struct Pair {
    cluster: Cluster,
    begun: [Peers; 2],
    lines: [Lines; 2],
    rng: StdRng,
    sent: u64,
    /// Rounds that had to begin again.
    late: u64,
}

impl Pair {
    async fn start(seed: u64) -> Self {
        let cluster = Cluster::start_with(2, seed, brisk).await.expect("a cluster");
        let begun = [0, 1].map(|member| cluster.node(member).accept(PROTOCOL));
        let lines =
            [(0, 1), (1, 0)].map(|(at, of)| Lines::of(cluster.node(at), cluster.identity(of)));
        Self { cluster, begun, lines, rng: StdRng::seed_from_u64(seed), sent: 0, late: 0 }
    }

    fn nodes(&self) -> [&Node; 2] {
        [self.cluster.node(0), self.cluster.node(1)]
    }

    async fn round(&mut self) {
        let peers = loop {
            match self.both_ask().await {
                [Ok(at_0), Ok(at_1)] => break [at_0, at_1],
                // They have little time, and the machine is busy: again, when nothing is left of it.
                late => {
                    self.late += 1;
                    only_late(late);
                    let counts = || self.nodes().map(Node::connection_count);
                    until("no connection", || counts() == [0, 0]).await;
                }
            }
        };
        self.exchange(&peers).await;
        self.one_connection_is_left().await;
        if self.rng.random_ratio(1, CUT_EACH) {
            for lines in &mut self.lines {
                lines.has_one().await;
            }
            let before = self.lines.each_ref().map(Lines::lost);
            self.cluster.partition(&[0], &[1]);
            for (lines, before) in self.lines.iter_mut().zip(before) {
                lines.loses(before).await;
            }
            // Accepted while there is no connection.
            self.send(&peers).await;
            self.cluster.heal();
            self.receive(&peers).await;
            self.exchange(&peers).await;
            self.one_connection_is_left().await;
        }
        self.end(peers).await;
    }

    /// One of them a little later than the other, or not.
    async fn both_ask(&mut self) -> [Result<Peer, PeerError>; 2] {
        let ask = async |from: usize, to: usize, later: u64| -> Result<Peer, PeerError> {
            let later = Duration::from_micros(later);
            tokio::time::sleep(later).await; // not synchronisation: they meet at every stage
            self.cluster.node(from).peer(self.cluster.target(from, to), PROTOCOL).await
        };
        let (mut later, which) = ([0, 0], self.rng.random_range(0..2));
        later[which] = if self.rng.random() { self.rng.random_range(0..8_000) } else { 0 };
        let asking = async { tokio::join!(ask(0, 1, later[0]), ask(1, 0, later[1])) };
        let (at_0, at_1) = within("both", asking).await;
        // To one of them the other may have come first: that is the same session.
        for begun in &mut self.begun {
            while let Some(Some(peer)) = cancelled_after(1, begun.next()).await {
                drop(peer);
            }
        }
        [at_0, at_1]
    }

    async fn exchange(&mut self, peers: &[Peer; 2]) {
        self.send(peers).await;
        self.receive(peers).await;
    }

    async fn send(&mut self, peers: &[Peer; 2]) {
        for number in self.sent..self.sent + FRAMES {
            for peer in peers {
                let frame = number.to_be_bytes().to_vec();
                within("room", peer.send(frame)).await.expect("accepted");
            }
        }
    }

    /// What was sent last, both ways: all of it, in order, and nothing else.
    async fn receive(&mut self, peers: &[Peer; 2]) {
        for number in self.sent..self.sent + FRAMES {
            for peer in peers {
                let came = within("a frame", peer.recv()).await.expect("the session lives");
                let Incoming::Message(frame) = came else { panic!("{came:?}") };
                assert_eq!(frame, number.to_be_bytes().as_slice());
            }
        }
        self.sent += FRAMES;
    }

    async fn one_connection_is_left(&self) {
        let counts = || self.nodes().map(Node::connection_count);
        let one = until("one connection", || counts() == [1, 1]);
        within_limit(SETTLED, "one connection", one).await;
    }

    /// By one of them, or both at once.
    async fn end(&mut self, peers: [Peer; 2]) {
        let [at_0, at_1] = &peers;
        match self.rng.random_range(0..3) {
            0 => closes(at_0, at_1).await,
            1 => closes(at_1, at_0).await,
            _ => {
                let both = async {
                    tokio::join!(at_0.close(CloseCode::NORMAL), at_1.close(CloseCode::NORMAL))
                };
                within("both to close", both).await;
            }
        }
        for peer in &peers {
            let left = within("the end", peer.recv()).await;
            assert!(left.is_err(), "a frame that was not sent: {left:?}");
        }
    }
}

/// Nothing else may be in the way of a dial; whoever is late gives the session up, which is the other one's.
fn only_late(asked: [Result<Peer, PeerError>; 2]) {
    let (mut late, mut other) = (0, Vec::new());
    for error in asked.into_iter().filter_map(Result::err) {
        match error {
            PeerError::Connect(
                ConnectError::Overdue { .. }
                | ConnectError::TimedOut { .. }
                | ConnectError::Closed { reason: CloseReason::TimedOut, .. },
            ) => late += 1,
            PeerError::Ended(PeerEnded::ByPeer { code: CloseCode::NORMAL }) => {}
            error => other.push(error),
        }
    }
    assert!(late > 0 && other.is_empty(), "{late} were late, and {other:?}");
}

async fn closes(peer: &Peer, other: &Peer) {
    let ended = within("the close", peer.close(CloseCode::NORMAL)).await;
    assert_eq!(ended, PeerEnded::Closed);
    let told = within("the other end", other.recv()).await.err();
    assert_eq!(told, Some(PeerEnded::ByPeer { code: CloseCode::NORMAL }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_1000_simultaneous_dials_each_leaves_one_connection_and_loses_no_frame() {
    let (seed, began) = (seed(), Instant::now());
    let mut pairs = JoinSet::new();
    for pair in 0..PAIRS {
        pairs.spawn(async move {
            let mut pair = Pair::start(seed.wrapping_add(pair)).await;
            for _ in 0..ROUNDS / PAIRS {
                pair.round().await;
            }
            within("the end", pair.cluster.close(LIMIT)).await.expect("an orderly end");
            pair.late
        });
    }
    let late: u64 = pairs.join_all().await.into_iter().sum();
    eprintln!("{ROUNDS} rounds in {:?}; {late} began again", began.elapsed());
    assert!(late < ROUNDS / 5, "{late} dials were late");
}
