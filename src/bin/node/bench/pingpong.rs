//! `pingpong`: one frame there and back, one at a time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use moorline::ConnectionHandle;

use super::Report;
use super::far_end::FarEnd;
use super::measure::{Processes, rss_kib};
use super::pair::{Pair, check_length, new_credential};
use super::traffic::send_back;
use crate::app::App;
use crate::app::arguments::{FarEndRole, Network};
use crate::app::ping::Percentiles;
use crate::app::wait::within;

const ROUNDS: usize = 30_000;

/// Over a path of tens of milliseconds.
const ROUNDS_FAR: usize = 600;

/// One round that is not counted for as many that are.
const COUNTED_FOR_EACH_OTHER: usize = 15;

/// Enough for 3 ms a round, which no loopback takes, and for 150 ms of a far one.
const TIME_MAX: Duration = Duration::from_secs(100);

pub(super) async fn in_one_process(app: &App, size: usize) -> Result<Report> {
    let link = Pair::start(app).await?.link().await?;
    tokio::spawn(send_back(link.far));
    measure(&link.near, size, Processes::THIS_ONE, ROUNDS).await
}

pub(super) async fn with_far_end(app: &App, size: usize) -> Result<Report> {
    let credential = new_credential()?;
    let far_end = FarEnd::start(app, FarEndRole::Echo, size, credential.identity()).await?;
    let connection = far_end.connect(app, credential).await?;
    let rounds = if app.network == Network::Loopback { ROUNDS } else { ROUNDS_FAR };
    measure(&connection, size, Processes { far_end: Some(far_end.id()) }, rounds).await
}

async fn measure(
    connection: &ConnectionHandle,
    size: usize,
    processes: Processes,
    rounds: usize,
) -> Result<Report> {
    let payload = Bytes::from(vec![0x5a; size]);
    // One limit around it all: one around every frame would be measured with it.
    within(TIME_MAX, "the rounds to end", async {
        let mut round_trips = Vec::with_capacity(rounds);
        for _ in 0..rounds.div_ceil(COUNTED_FOR_EACH_OTHER) {
            round(connection, &payload).await?;
        }
        let started = processes.start()?;
        for _ in 0..rounds {
            round_trips.push(round(connection, &payload).await?);
        }
        let spent = started.spent()?;
        let us = Percentiles::of(&mut round_trips).context("no round was measured")?;
        Ok(Report::new("round_trip_p50", us.p50, "us")
            .with_percentiles(&us)
            .with("cpu_cores", spent.cores())
            .with("rss_mib", rss_kib()? / 1024.0)
            .with("cpu_us_per_round", spent.cpu_seconds * 1e6 / rounds as f64))
    })
    .await?
}

pub(super) async fn round(connection: &ConnectionHandle, payload: &Bytes) -> Result<Duration> {
    let sent_at = Instant::now();
    connection.send(payload.clone()).await?;
    let frame = connection.recv().await?;
    let round_trip = sent_at.elapsed();
    check_length(&frame, payload.len())?;
    Ok(round_trip)
}
