//! `connrate` and `memory`: what connections themselves cost.

use std::time::{Duration, Instant};

use anyhow::Result;
use moorline::{CloseCode, ConnectionHandle};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Report;
use super::measure::{Processes, open_files_max, rss_kib};
use super::pair::{Dialler, Pair, greet_from_far, greet_from_near};
use crate::app::App;
use crate::app::exit::CheckFailed;
use crate::app::output::remark;
use crate::app::wait::within;

/// Connections that are being made at once.
const WIDTH: usize = 16;

/// A connection that takes longer has failed.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(5);

/// Pairs made before memory is measured, so that what is allocated once is not counted.
const PAIRS_NOT_COUNTED: usize = 5;

/// Open files that are no connections: what a process has anyway, with some to spare.
const FILES_OF_OTHERS: usize = 128;

/// Whole connections: handshake, a frame each way, close.
pub(super) async fn rate(app: &App, counted: Duration) -> Result<Report> {
    let (dialler, arrivals) = Pair::start(app).await?.into_arrivals();
    tokio::spawn(accept(arrivals));
    one_connection(&dialler).await?;
    let started = Processes::THIS_ONE.start()?;
    let deadline = started.at + counted;
    let mut dialling = JoinSet::new();
    for _ in 0..WIDTH {
        dialling.spawn(connect_until(dialler.clone(), deadline));
    }
    let (mut made, mut failed) = (0, 0);
    while let Some(done) = dialling.join_next().await {
        let (made_by_one, failed_by_one) = done?;
        made += made_by_one;
        failed += failed_by_one;
    }
    let spent = started.spent()?;
    if made == 0 {
        return Err(CheckFailed("no connection came to stand".to_owned()).into());
    }
    Ok(Report::new("connections", made as f64 / spent.seconds, "conn/s")
        .with("failed", failed as f64)
        .with("cpu_us_per_conn", spent.cpu_seconds * 1e6 / made as f64)
        .with("cpu_cores", spent.cores())
        .with("rss_mib", rss_kib()? / 1024.0)
        .with("n", made as f64)
        .with("width", WIDTH as f64))
}

/// Answers the first frame of every connection, and reads until the other end closes it.
async fn accept(mut arrivals: mpsc::UnboundedReceiver<ConnectionHandle>) {
    while let Some(connection) = arrivals.recv().await {
        tokio::spawn(async move {
            if greet_from_far(&connection).await.is_ok() {
                while connection.recv().await.is_ok() {}
            }
        });
    }
}

async fn connect_until(dialler: Dialler, deadline: Instant) -> (u64, u64) {
    let (mut made, mut failed) = (0, 0);
    while Instant::now() < deadline {
        match one_connection(&dialler).await {
            Ok(()) => made += 1,
            Err(error) => {
                failed += 1;
                tracing::warn!("a connection failed: {error:#}");
            }
        }
    }
    (made, failed)
}

async fn one_connection(dialler: &Dialler) -> Result<()> {
    let whole = async {
        let connection = dialler.connect().await?;
        greet_from_near(&connection).await?;
        connection.close(CloseCode::NORMAL).await;
        Ok(())
    };
    within(CONNECTION_TIME_MAX, "a connection", whole).await?
}

/// As many connections as are wanted, or as many as the limit of open files allows.
pub(super) fn affordable(wanted: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // MsQuic opens a socket and an event queue for each core, for every connection it dials.
    let limit = open_files_max().unwrap_or(usize::MAX).saturating_sub(FILES_OF_OTHERS);
    let affordable = wanted.min(limit / (2 * cores)).max(1);
    if affordable < wanted {
        remark(format_args!("note: `ulimit -n` allows {affordable} of {wanted} connections"));
    }
    affordable
}

/// Growth of resident memory over idle connections, both ends in this process.
pub(super) async fn memory(app: &App, connections: usize) -> Result<Report> {
    let mut pair = Pair::start(app).await?;
    let mut links = Vec::with_capacity(connections + PAIRS_NOT_COUNTED);
    for _ in 0..PAIRS_NOT_COUNTED {
        links.push(pair.link().await?);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = rss_kib()?;
    for _ in 0..connections {
        links.push(pair.link().await?);
    }
    let at_once = rss_kib()?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = rss_kib()?;
    let idle = Processes::THIS_ONE.start()?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let idle = idle.spent()?;
    if let Some(reason) = links.iter().find_map(|link| link.near.close_reason()) {
        return Err(CheckFailed(format!("a connection did not stay: {reason}")).into());
    }
    let pairs = connections as f64;
    Ok(Report::new("rss_per_pair", (after - before) / pairs, "KiB")
        .with("at_once", (at_once - before) / pairs)
        .with("conns", pairs)
        .with("rss_mib", after / 1024.0)
        .with("cpu_cores", idle.cores())
        .with("idle_cpu_ms_per_s", idle.cores() * 1000.0))
}
