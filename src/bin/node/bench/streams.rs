//! `throughput`, `small` and `fanin`: frames one way, as fast as they go.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use moorline::ConnectionHandle;
use tokio::task::JoinSet;

use super::measure::{Processes, Spent, rss_kib};
use super::pair::{Pair, check_length};
use super::traffic::flood;
use super::{BATCH, LARGE_BYTES, Report, WARM_UP};
use crate::app::App;
use crate::app::exit::CheckFailed;

/// `connections` senders in one process with their receivers, one call of `send` a frame.
pub(super) async fn one_way(
    app: &App,
    connections: usize,
    size: usize,
    counted: Duration,
) -> Result<Report> {
    let mut pair = Pair::start(app).await?;
    let payload = Bytes::from(vec![0x5a; size]);
    let mut senders = JoinSet::new();
    let mut receivers = JoinSet::new();
    let mut counters = Vec::with_capacity(connections);
    for _ in 0..connections {
        let link = pair.link().await?;
        let counter = Arc::new(AtomicU64::new(0));
        counters.push(Arc::clone(&counter));
        receivers.spawn(count(link.far, size, counter));
        senders.spawn(flood(link.near, payload.clone()));
    }
    let frames = || counters.iter().map(|counter| counter.load(Relaxed)).collect::<Vec<u64>>();
    tokio::time::sleep(WARM_UP).await;
    let (started, before) = (Processes::THIS_ONE.start()?, frames());
    tokio::time::sleep(counted).await;
    let (spent, after) = (started.spent()?, frames());
    let of_each: Vec<u64> =
        after.iter().zip(before).map(|(after, before)| after - before).collect();
    // Whoever ended while it was counted ended too soon, and says why.
    while let Some(ended) = senders.try_join_next().or_else(|| receivers.try_join_next()) {
        ended??;
    }
    senders.abort_all();
    // They read on, so that what is on its way can be drained.
    receivers.detach_all();
    let (frames, least) = (of_each.iter().sum(), of_each.iter().min().copied().unwrap_or(0));
    let report = report(spent, frames, size)?;
    Ok(match connections {
        1 => report,
        many => report.with("least_of_mean", (least * many as u64) as f64 / frames as f64),
    })
}

/// The figure of frames that went one way.
pub(super) fn report(spent: Spent, frames: u64, size: usize) -> Result<Report> {
    if frames == 0 {
        return Err(CheckFailed("no frame arrived".to_owned()).into());
    }
    let a_second = frames as f64 / spent.seconds;
    let report = if size >= LARGE_BYTES {
        let mib = size as f64 / f64::from(1 << 20);
        Report::new("receiver_throughput", a_second * mib, "MiB/s")
    } else {
        Report::new("receiver_messages", a_second, "msg/s")
    };
    Ok(report
        .with("cpu_cores", spent.cores())
        .with("rss_mib", rss_kib()? / 1024.0)
        .with("cpu_ns_per_frame", spent.cpu_seconds * 1e9 / frames as f64))
}

async fn count(connection: ConnectionHandle, size: usize, counter: Arc<AtomicU64>) -> Result<()> {
    let mut batch = Vec::with_capacity(BATCH);
    let mut frames = 0;
    loop {
        connection.recv_many(&mut batch, BATCH).await?;
        for frame in batch.drain(..) {
            check_length(std::hint::black_box(&frame), size)?;
            frames += 1;
        }
        counter.store(frames, Relaxed);
    }
}
