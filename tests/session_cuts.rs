//! A session over a link that is cut and restored again and again, under load in both directions.
#![cfg(feature = "testing")]

mod common;

use std::time::{Duration, Instant};

use common::load::Load;
use common::sessions::{Lines, brisk, peer, seed};
use common::{LIMIT, within};
use moorline::testing::{ChaosProxy, Cluster, Towards};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// How often the session loses its connection.
const CUTS: u64 = 200;

/// Up to so many milliseconds in which the load goes on.
async fn pause(rng: &mut StdRng, most: u64) {
    let time = Duration::from_millis(rng.random_range(0..most));
    tokio::time::sleep(time).await; // not synchronisation: a cut comes at any moment
}

/// Cuts the link so that the session loses its connection, and restores it: both ways or one, and now and then
/// for a moment before that, or amid its return.
async fn cut_and_restore(link: &ChaosProxy, lines: &mut Lines, rng: &mut StdRng) {
    let before = lines.lost();
    pause(rng, 40).await;
    if rng.random_ratio(1, 4) {
        link.cut();
        pause(rng, 60).await;
        link.mend();
    }
    match rng.random_range(0..4) {
        0 => link.cut_towards(Towards::Server),
        1 => link.cut_towards(Towards::Client),
        _ => link.cut(),
    }
    lines.loses(before).await;
    pause(rng, 30).await;
    link.mend();
    if rng.random_ratio(1, 4) {
        pause(rng, 20).await;
        link.cut();
        pause(rng, 100).await;
        link.mend();
    }
    lines.has_one().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_cut_200_times_loses_doubles_and_swaps_nothing() {
    let (seed, began) = (seed(), Instant::now());
    let mut rng = StdRng::seed_from_u64(seed);
    let cluster = Cluster::start_with(2, seed, brisk).await.expect("a cluster");
    let mut begun = cluster.node(1).accept("load/1");
    let mut lines = Lines::of(cluster.node(0), cluster.identity(1));
    let at_0 = peer(cluster.node(0), cluster.target(0, 1), "load/1").await;
    let at_1 = within("its other end", begun.next()).await.expect("it came");
    let mut load = Load::start([at_0, at_1], rng.random());
    for _ in 0..CUTS {
        cut_and_restore(cluster.link(0, 1), &mut lines, &mut rng).await;
        load.goes_on();
    }
    let sent = load.ends_whole().await;
    let (lost, took) = (lines.lost(), began.elapsed());
    eprintln!("{sent} frames, {lost} connections lost, in {took:?}");
    assert!(lost >= CUTS);
    // Frames are judged here; what a connection that was cut leaves with the library may delay that end.
    if let Err(error) = within("the end", cluster.close(LIMIT)).await {
        eprintln!("not an orderly end: {error:?}");
    }
}
