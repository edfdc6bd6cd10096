//! Connections over a network that goes bad, by the tools that programs test themselves with.
#![cfg(feature = "testing")]

mod common;

use std::time::{Duration, Instant};

use common::{LIMIT, connected, patient, within, within_limit};
use moorline::testing::{
    Cluster, Conditions, GilbertElliott, Ledger, Loss, Script, Share, Towards,
};
use moorline::{CloseReason, Congestion, ConnectionHandle, Lane, NodeConfig, Redial};

/// For transfers over a network that loses much: their time is that of many retransmissions.
const LONG: Duration = Duration::from_secs(60);

/// Whoever is gone is known to be soon.
fn quick(_: usize, config: &mut NodeConfig) {
    config.limits.keep_alive_interval = Duration::from_millis(100);
    config.limits.disconnect_time_max = Duration::from_millis(500);
    config.limits.idle_time_max = Duration::from_secs(1);
    config.backoff.initial = Duration::from_millis(20);
    config.backoff.cap = Duration::from_millis(100);
}

/// Two nodes, and the connection that 0 dialled, as each of them sees it.
struct Dialled {
    cluster: Cluster,
    at_0: ConnectionHandle,
    at_1: ConnectionHandle,
}

impl Dialled {
    async fn new(seed: u64, redial: Redial, configure: fn(usize, &mut NodeConfig)) -> Self {
        let cluster = Cluster::start_with(2, seed, configure).await.expect("a cluster");
        let mut events = cluster.node(1).subscribe();
        let target = cluster.target(0, 1).redial(redial);
        let at_0 = within("connecting", cluster.node(0).connect(target)).await;
        let at_0 = at_0.expect("a connection");
        let at_1 = connected(&mut events).await;
        Self { cluster, at_0, at_1 }
    }

    async fn patient(seed: u64, conditions: Conditions) -> Self {
        let dialled = Self::new(seed, Redial::Never, patient).await;
        dialled.cluster.set_all(conditions);
        dialled
    }

    fn ends(&self) -> [&ConnectionHandle; 2] {
        [&self.at_0, &self.at_1]
    }

    /// Sends frames on all lanes both ways; each has to come once, in order and undamaged.
    async fn exchange(&self, frames: usize, bytes: usize) {
        let ledger = Ledger::new();
        tokio::join!(
            carry(&ledger, "0 to 1", self.ends(), frames, bytes),
            carry(&ledger, "1 to 0", [&self.at_1, &self.at_0], frames, bytes),
        );
        let report = ledger.report();
        assert!(report.is_clean(), "{report}");
        assert_eq!(ledger.received(), 2 * 3 * frames as u64);
    }

    async fn end(self) {
        let Self { cluster, at_0, at_1 } = self;
        drop((at_0, at_1));
        cluster.set_all(Conditions::default());
        within("the end", cluster.close(LIMIT)).await.expect("an orderly end");
    }
}

async fn carry(
    ledger: &Ledger,
    name: &str,
    [from, to]: [&ConnectionHandle; 2],
    frames: usize,
    bytes: usize,
) {
    let sender = ledger.sender(name);
    let send = async {
        for lane in (0..frames).flat_map(|_| Lane::ALL) {
            let frame = sender.frame(lane, bytes);
            within_limit(LONG, "room", from.send_on(lane, frame)).await.expect("a connection");
        }
    };
    let receive = async {
        for _ in 0..frames * Lane::ALL.len() {
            let frame = within_limit(LONG, "a frame", to.recv()).await.expect("a connection");
            ledger.receive(&frame).expect("an undamaged frame");
        }
    };
    tokio::join!(send, receive);
}

/// A transfer under these conditions, and what the network did meanwhile, both ways together.
async fn survives(seed: u64, conditions: Conditions) -> Vec<moorline::testing::Counters> {
    let dialled = Dialled::patient(seed, conditions).await;
    dialled.exchange(60, 8_000).await;
    let counters = Towards::BOTH.map(|it| dialled.cluster.link(0, 1).counters(it)).to_vec();
    for counters in &counters {
        assert!(counters.balance(), "{counters:?}");
    }
    assert_eq!(dialled.ends().map(ConnectionHandle::close_reason), [None, None]);
    dialled.end().await;
    counters
}

// ---- what costs time, and no frame --------------------------------------------------------------

#[tokio::test]
async fn one_datagram_of_ten_lost_loses_no_frame() {
    let mut conditions = Conditions::default();
    conditions.loss = Loss::Independent(Share::percent(10));
    let counters = survives(1, conditions).await;
    assert!(counters.iter().all(|it| it.lost > 0), "{counters:?}");
}

/// One direction after the other, and short bursts: a bad link turns good by what is sent over it, and
/// who hears nothing waits twice as long each time before he sends again.
#[tokio::test]
async fn thirty_percent_lost_in_bursts_lose_no_frame() {
    let dialled = Dialled::patient(2, Conditions::default()).await;
    let link = dialled.cluster.link(0, 1);
    for towards in Towards::BOTH {
        let mut conditions = Conditions::default();
        conditions.loss = Loss::Bursts(GilbertElliott::bursts(Share::percent(30), 2));
        link.set_both(Conditions::default());
        link.set(towards, conditions);
        dialled.exchange(20, 8_000).await;
        let counters = link.counters(towards);
        assert!(counters.lost > 10 && counters.balance(), "{counters:?}");
    }
    assert_eq!(dialled.ends().map(ConnectionHandle::close_reason), [None, None]);
    dialled.end().await;
}

#[tokio::test]
async fn reordering_and_duplication_double_and_swap_no_frame() {
    let mut conditions = Conditions::default();
    conditions.reorder = Share::percent(10);
    conditions.reorder_by = Duration::from_millis(5);
    conditions.duplicate = Share::percent(20);
    let counters = survives(3, conditions).await;
    assert!(counters.iter().all(|it| it.reordered > 0 && it.duplicated > 0), "{counters:?}");
}

#[tokio::test]
async fn flipped_bits_reach_no_frame() {
    let mut conditions = Conditions::default();
    conditions.corrupt = Share::percent(5);
    let counters = survives(4, conditions).await;
    assert!(counters.iter().all(|it| it.corrupted > 0), "{counters:?}");
}

#[tokio::test]
async fn a_path_of_1280_bytes_carries_everything() {
    let mut conditions = Conditions::default();
    conditions.mtu = Some(1_280);
    // The handshake is over that path as well, so that nothing larger was ever taken for granted.
    let cluster = Cluster::start_with(2, 5, patient).await.expect("a cluster");
    cluster.set_all(conditions);
    let mut events = cluster.node(1).subscribe();
    let connecting = cluster.node(0).connect(cluster.target(0, 1).redial(Redial::Never));
    let at_0 = within("connecting", connecting).await.expect("a connection");
    let at_1 = connected(&mut events).await;
    let dialled = Dialled { cluster, at_0, at_1 };
    dialled.exchange(60, 8_000).await;
    let tried = dialled.cluster.link(0, 1).counters(Towards::Server).too_large;
    assert!(tried > 0, "larger packets are tried out");
    dialled.end().await;
}

#[tokio::test]
async fn another_source_port_amid_a_transfer_loses_no_frame() {
    let dialled = Dialled::patient(6, Conditions::default()).await;
    let link = dialled.cluster.link(0, 1);
    let (before, mut changes) = (link.client_ports(), 0);
    let changing = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        while changes < 3 {
            ticks.tick().await;
            changes += link.change_client_port();
        }
    };
    tokio::join!(dialled.exchange(200, 8_000), changing);
    dialled.exchange(10, 8_000).await;
    assert_ne!(link.client_ports(), before);
    dialled.end().await;
}

#[tokio::test]
async fn a_partition_that_is_shorter_than_the_deadline_loses_no_frame() {
    let dialled = Dialled::patient(7, Conditions::default()).await;
    let script: Script = "at 20 ms: black hole for 2 s".parse().expect("a script");
    dialled.cluster.link(0, 1).play(&script);
    let link = dialled.cluster.link(0, 1);
    while link.counters(Towards::Server).black_holed == 0 {
        dialled.exchange(10, 8_000).await;
    }
    dialled.exchange(10, 8_000).await;
    assert_eq!(dialled.ends().map(ConnectionHandle::close_reason), [None, None]);
    dialled.end().await;
}

// ---- what ends a connection, by name -----------------------------------------------------------

/// Everything of `from` to the other one is lost: both learn that nobody answers.
async fn ends_by_time(from: usize, to: usize) {
    let dialled = Dialled::new(8, Redial::Never, quick).await;
    dialled.exchange(1, 100).await;
    dialled.cluster.cut_one_way(from, to);
    for (end, name) in dialled.ends().into_iter().zip(["0", "1"]) {
        let reason = within(&format!("the end at {name}"), end.closed()).await;
        assert_eq!(reason, CloseReason::TimedOut, "at {name}");
    }
    dialled.cluster.heal();
    dialled.end().await;
}

#[tokio::test]
async fn a_black_hole_towards_the_listener_ends_both_sides_by_name() {
    ends_by_time(0, 1).await;
}

#[tokio::test]
async fn a_black_hole_towards_the_dialler_ends_both_sides_by_name() {
    ends_by_time(1, 0).await;
}

#[tokio::test]
async fn a_partition_of_two_seconds_ends_the_connection_and_it_comes_again() {
    let dialled = Dialled::new(9, Redial::WhenLost, quick).await;
    let (mut of_0, mut of_1) =
        (dialled.cluster.node(0).subscribe(), dialled.cluster.node(1).subscribe());
    let script: Script = "at 0 s: black hole for 2 s".parse().expect("a script");
    dialled.cluster.link(0, 1).play(&script);
    for end in dialled.ends() {
        assert_eq!(within("the end", end.closed()).await, CloseReason::TimedOut);
    }
    let at_0 = connected(&mut of_0).await;
    let at_1 = connected(&mut of_1).await;
    let again = Dialled { at_0, at_1, ..dialled };
    again.exchange(10, 8_000).await;
    again.end().await;
}

// ---- members that go and come ------------------------------------------------------------------

#[tokio::test]
async fn a_killed_member_says_no_goodbye_and_is_found_again_on_its_port() {
    let Dialled { mut cluster, at_0, at_1 } = Dialled::new(10, Redial::WhenLost, quick).await;
    let mut of_0 = cluster.node(0).subscribe();
    let (address, identity) = (cluster.address(1), cluster.identity(1));
    drop(at_1);
    within("a kill", cluster.kill(1)).await.expect("an end");
    assert_eq!(within("the end", at_0.closed()).await, CloseReason::TimedOut, "no goodbye came");
    let mut of_1 = within("a restart", cluster.restart(1)).await.expect("a node").subscribe();
    let at_0 = connected(&mut of_0).await;
    let at_1 = connected(&mut of_1).await;
    assert_eq!((cluster.address(1), at_0.peer()), (address, identity));
    let dialled = Dialled { cluster, at_0, at_1 };
    dialled.exchange(10, 8_000).await;
    dialled.end().await;
}

#[tokio::test]
async fn a_pause_that_is_shorter_than_the_deadline_is_not_noticed() {
    let dialled = Dialled::patient(11, Conditions::default()).await;
    dialled.cluster.pause(1);
    dialled.at_0.try_send("into the pause").expect("room");
    let lost = |it| dialled.cluster.link(0, 1).counters(it).black_holed;
    common::until("a loss", || lost(Towards::Server) > 2).await;
    dialled.cluster.resume(1);
    let frame = within("a frame", dialled.at_1.recv()).await.expect("a connection");
    assert_eq!(frame, "into the pause");
    dialled.end().await;
}

#[tokio::test]
async fn a_partition_leaves_the_others_alone() {
    let cluster = Cluster::start_with(3, 12, quick).await.expect("a cluster");
    let connect = async |from: usize, to: usize| {
        let target = cluster.target(from, to).redial(Redial::Never);
        let connecting = cluster.node(from).connect(target);
        within("connecting", connecting).await.expect("a connection")
    };
    let (from_0, from_1) = (connect(0, 1).await, connect(1, 2).await);
    cluster.partition(&[0], &[1, 2]);
    assert_eq!(within("the end", from_0.closed()).await, CloseReason::TimedOut);
    within("a frame", from_1.send_acked("heard")).await.expect("acknowledged");
    let error =
        within("a dial", cluster.node(2).connect(cluster.target(2, 0).redial(Redial::Never)));
    error.await.expect_err("nobody is heard over there");
    cluster.heal();
    let again = connect(2, 0).await;
    within("a frame", again.send_acked("heard")).await.expect("acknowledged");
    drop((from_0, from_1, again));
    within("the end", cluster.close(LIMIT)).await.expect("an orderly end");
}

/// How long a transfer takes from the side that accepted, where one datagram of a hundred is lost.
async fn time_over_a_lossy_path(configure: fn(usize, &mut NodeConfig)) -> Duration {
    const FRAMES: usize = 128;
    let cluster = Cluster::start_with(2, 11, configure).await.expect("a cluster");
    cluster.set_all(Conditions::wan());
    let mut events = cluster.node(1).subscribe();
    let target = cluster.target(0, 1).redial(Redial::Never);
    let receiver = within("connecting", cluster.node(0).connect(target)).await.expect("one");
    let sender = connected(&mut events).await;
    let began = Instant::now();
    let sending = async {
        for _ in 0..FRAMES {
            sender.send(vec![7; 64 << 10]).await.expect("accepted");
        }
    };
    let receiving = async {
        for _ in 0..FRAMES {
            receiver.recv().await.expect("a frame");
        }
    };
    within_limit(LONG, "a transfer", async { tokio::join!(sending, receiving) }).await;
    let took = began.elapsed();
    drop((sender, receiver));
    cluster.set_all(Conditions::default());
    within("the end", cluster.close(LIMIT)).await.expect("an orderly end");
    took
}

#[tokio::test]
async fn losses_that_are_no_congestion_do_not_slow_a_connection_down() {
    let by_cubic = time_over_a_lossy_path(|node, config| {
        patient(node, config);
        config.limits.congestion = Congestion::Cubic;
    })
    .await;
    let by_default = time_over_a_lossy_path(patient).await;
    println!("Cubic {by_cubic:?}, by default {by_default:?}");
    assert!(3 * by_default < 2 * by_cubic, "Cubic {by_cubic:?}, by default {by_default:?}");
}
