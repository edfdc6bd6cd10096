//! `connrate` and `memory`: what connections themselves cost.

use std::time::Instant;

use anyhow::{Result, ensure};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::arguments::FigureArgs;
use crate::figure::Figure;
use crate::peer::{Link, Peer, arrivals, connect, pair};
use crate::process::{Stopwatch, affordable, resident_kib};

/// Connections that are being made at once.
const WIDTH: usize = 16;

/// Pairs made before memory is measured, so that what is allocated once is not counted.
const PAIRS_NOT_COUNTED: usize = 5;

/// Whole connections: handshake, a frame each way, close.
pub(super) async fn rate<P: Peer>(peer: &'static P, args: &FigureArgs) -> Result<Figure> {
    tokio::spawn(read_to_the_end(arrivals(peer)));
    drop(connect(peer, peer.address()?).await?);
    let stopwatch = Stopwatch::start(None)?;
    let deadline = Instant::now() + args.seconds;
    let mut dialling = JoinSet::new();
    for _ in 0..WIDTH {
        dialling.spawn(connect_until(peer, deadline));
    }
    let (mut made, mut failed) = (0_u64, 0_u64);
    while let Some(done) = dialling.join_next().await {
        let (made_by_one, failed_by_one) = done??;
        made += made_by_one;
        failed += failed_by_one;
    }
    let spent = stopwatch.spent()?;
    ensure!(made > 0, "no connection came to stand");
    Ok(Figure::new("connections", made as f64 / spent.seconds, "conn/s")
        .with("cpu_cores", spent.cores())
        .with("rss_mib", resident_kib()? / 1024.0)
        .with("cpu_us_per_conn", spent.cpu_seconds * 1e6 / made as f64)
        .with("failed", failed as f64))
}

/// The end that dialled closes, the other one holds out until it sees that.
async fn read_to_the_end<P: Peer>(mut arrivals: mpsc::Receiver<Link<P>>) {
    while let Some(link) = arrivals.recv().await {
        tokio::spawn(hold(link));
    }
}

/// A function, so that it owns the whole link: a block would take the half alone that it reads.
async fn hold<P: Peer>(mut link: Link<P>) {
    while matches!(link.receiver.next().await, Ok(Some(_))) {}
}

async fn connect_until<P: Peer>(peer: &'static P, deadline: Instant) -> Result<(u64, u64)> {
    let address = peer.address()?;
    let (mut made, mut failed) = (0, 0);
    while Instant::now() < deadline {
        match connect(peer, address).await {
            Ok(link) => {
                made += 1;
                drop(link);
            }
            Err(error) => {
                failed += 1;
                eprintln!("a connection failed: {error:#}");
            }
        }
    }
    Ok((made, failed))
}

/// Growth of resident memory over idle connections, both ends in this process.
pub(super) async fn memory<P: Peer>(peer: &'static P, args: &FigureArgs) -> Result<Figure> {
    let wanted = affordable(args.connections, P::files_per_connection());
    let mut arrivals = arrivals(peer);
    let mut links = Vec::with_capacity(wanted + PAIRS_NOT_COUNTED);
    for _ in 0..PAIRS_NOT_COUNTED {
        links.push(pair(peer, &mut arrivals).await?);
    }
    tokio::time::sleep(args.warm_up / 2).await;
    let before = resident_kib()?;
    for _ in 0..wanted {
        links.push(pair(peer, &mut arrivals).await?);
    }
    // What a handshake needed is given back.
    tokio::time::sleep(2 * args.warm_up).await;
    let after = resident_kib()?;
    let stopwatch = Stopwatch::start(None)?;
    tokio::time::sleep(2 * args.warm_up).await;
    let idle = stopwatch.spent()?;
    let pairs = wanted as f64;
    Ok(Figure::new("rss_per_pair", (after - before) / pairs, "KiB")
        .with("cpu_cores", idle.cores())
        .with("rss_mib", after / 1024.0)
        .with("conns", pairs))
}
