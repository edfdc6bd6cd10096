//! `lanes`: how long a frame on the data lane takes there and back, while the bulk lane is quiet
//! and while it is saturated.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use moorline::{ConnectionHandle, Lane};

use super::measure::{Processes, Started};
use super::pair::{Link, Pair, check_length};
use super::{BATCH, Report, WARM_UP};
use crate::app::App;
use crate::app::ping::Percentiles;
use crate::app::wait::within;

const BULK_BYTES: usize = 64 * 1024;

const ROUNDS: usize = 3_000;

/// Between two rounds: so that they meet the flood at every stage.
const PAUSE: Duration = Duration::from_millis(1);

/// How long the rounds may take all together before the figure is worthless.
const TIME_MAX: Duration = Duration::from_secs(60);

/// The 99th percentile behind a saturated bulk lane, as a multiple of the quiet one; and what it is
/// where the flood has no lane of its own.
pub(super) async fn delay(app: &App, size: usize) -> Result<Report> {
    let quiet = rounds(app, size, None).await?;
    let behind = rounds(app, size, Some(Lane::Bulk)).await?;
    let among = rounds(app, size, Some(Lane::Data)).await?;
    Ok(Report::new("p99_behind_bulk_over_quiet", behind.us.p99 / quiet.us.p99, "x")
        .with("quiet_p50", quiet.us.p50)
        .with("quiet_p99", quiet.us.p99)
        .with("quiet_cores", quiet.cores)
        .with("bulk_p50", behind.us.p50)
        .with("bulk_p99", behind.us.p99)
        .with("bulk_mib_s", behind.flood_mib)
        .with("one_lane_p99", among.us.p99)
        .with("one_lane_mib_s", among.flood_mib)
        .with("cpu_cores", behind.cores))
}

struct Measured {
    us: Percentiles,
    /// MiB/s of the flood.
    flood_mib: f64,
    cores: f64,
}

async fn rounds(app: &App, size: usize, flood_on: Option<Lane>) -> Result<Measured> {
    let Link { near, far } = Pair::start(app).await?.link().await?;
    let flooded = Arc::new(AtomicU64::new(0));
    let far_end = tokio::spawn(send_small_back(far, size, Arc::clone(&flooded)));
    let flood = flood_on.map(|lane| tokio::spawn(flood(near.clone(), lane)));
    tokio::time::sleep(WARM_UP).await;
    let (started, before) = (Processes::THIS_ONE.start()?, flooded.load(Relaxed));
    let us = within(TIME_MAX, "the rounds to end", measure(&near, size)).await??;
    let measured = measured(us, started, flooded.load(Relaxed) - before)?;
    if let Some(flood) = flood {
        flood.abort();
    }
    far_end.abort();
    Ok(measured)
}

fn measured(us: Percentiles, started: Started, flooded: u64) -> Result<Measured> {
    let spent = started.spent()?;
    let mib = (flooded * BULK_BYTES as u64) as f64 / f64::from(1 << 20);
    Ok(Measured { us, flood_mib: mib / spent.seconds, cores: spent.cores() })
}

async fn measure(near: &ConnectionHandle, size: usize) -> Result<Percentiles> {
    let payload = Bytes::from(vec![0x5a; size]);
    let mut round_trips = Vec::with_capacity(ROUNDS);
    let mut pauses = tokio::time::interval(PAUSE);
    pauses.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for _ in 0..ROUNDS {
        pauses.tick().await;
        let sent_at = Instant::now();
        near.send(payload.clone()).await?;
        let frame = near.recv().await?;
        round_trips.push(sent_at.elapsed());
        check_length(&frame, size)?;
    }
    Percentiles::of(&mut round_trips).context("no round was measured")
}

async fn flood(near: ConnectionHandle, lane: Lane) -> Result<()> {
    let payload = Bytes::from(vec![0xb0; BULK_BYTES]);
    loop {
        near.send_on(lane, payload.clone()).await?;
    }
}

/// Counts the frames of the flood and sends the others back.
async fn send_small_back(
    far: ConnectionHandle,
    size: usize,
    flooded: Arc<AtomicU64>,
) -> Result<()> {
    let mut frames = Vec::with_capacity(BATCH);
    loop {
        far.recv_many(&mut frames, BATCH).await?;
        for frame in frames.drain(..) {
            if frame.len() == size {
                far.send(frame).await?;
            } else {
                check_length(&frame, BULK_BYTES)?;
                flooded.fetch_add(1, Relaxed);
            }
        }
    }
}
