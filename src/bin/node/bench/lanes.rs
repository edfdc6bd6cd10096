//! `lanes`: how long a frame on the data lane takes there and back, while the bulk lane is quiet
//! and while it is saturated.
//!
//! Short stretches of one connection take turns, quiet and saturated, so that what else the machine does
//! meets both alike. Some of them together make a round, which has a ratio of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use moorline::{ConnectionHandle, Lane};
use tokio::task::JoinHandle;

use super::measure::Processes;
use super::pair::{Link, Pair, STEP_TIME_MAX, check_length};
use super::{BATCH, Report, WARM_UP};
use crate::app::App;
use crate::app::ping::Percentiles;
use crate::app::wait::within;

const BULK_BYTES: usize = 64 * 1024;

/// Each with a ratio: odd, so that one is the middle one.
const ROUNDS: u32 = 5;

/// How often quiet and saturated take turns in a round.
const TURNS: u32 = 10;

/// Until a flood has filled its lane, on a connection that has carried one before.
const FLOOD_WARM_UP: Duration = Duration::from_millis(50);

/// Between two round trips: so that they meet the flood at every stage.
const PAUSE: Duration = Duration::from_millis(1);

/// The 99th percentile behind a saturated bulk lane, as a multiple of the quiet one, for `counted` of
/// each; and what it is where the flood has no lane of its own.
pub(super) async fn delay(app: &App, size: usize, counted: Duration) -> Result<Report> {
    let stretch = counted / ROUNDS / TURNS;
    let lanes = Lanes::start(app, size).await?;
    lanes.stretch(&mut Stretches::default(), Some(Lane::Bulk), WARM_UP).await?;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let (mut quiet, mut behind) = (Stretches::default(), Stretches::default());
        for _ in 0..TURNS {
            lanes.stretch(&mut quiet, None, stretch).await?;
            lanes.stretch(&mut behind, Some(Lane::Bulk), stretch).await?;
        }
        rounds.push(Round { quiet: quiet.measured()?, behind: behind.measured()? });
    }
    let mut among = Stretches::default();
    lanes.stretch(&mut among, Some(Lane::Data), counted / ROUNDS).await?;
    let among = among.measured()?;
    let middle =
        |of: fn(&Round) -> f64| middle(rounds.iter().map(of)).context("nothing was measured");
    let ratio = middle(|round| round.behind.us.p99 / round.quiet.us.p99)?;
    Ok(Report::new("p99_behind_bulk_over_quiet", ratio.middle, "x")
        .with("min", ratio.min)
        .with("max", ratio.max)
        .with("quiet_p50", middle(|round| round.quiet.us.p50)?.middle)
        .with("quiet_p99", middle(|round| round.quiet.us.p99)?.middle)
        .with("quiet_cores", middle(|round| round.quiet.cores)?.middle)
        .with("bulk_p50", middle(|round| round.behind.us.p50)?.middle)
        .with("bulk_p99", middle(|round| round.behind.us.p99)?.middle)
        .with("bulk_mib_s", middle(|round| round.behind.flood_mib)?.middle)
        .with("one_lane_p99", among.us.p99)
        .with("one_lane_mib_s", among.flood_mib)
        .with("cpu_cores", middle(|round| round.behind.cores)?.middle))
}

struct Round {
    quiet: Measured,
    behind: Measured,
}

struct Measured {
    us: Percentiles,
    /// MiB/s of the flood.
    flood_mib: f64,
    cores: f64,
}

/// What stretches of one kind brought.
#[derive(Default)]
struct Stretches {
    round_trips: Vec<Duration>,
    /// Frames of the flood.
    flooded: u64,
    seconds: f64,
    cpu_seconds: f64,
}

impl Stretches {
    fn measured(mut self) -> Result<Measured> {
        let us = Percentiles::of(&mut self.round_trips).context("nothing was measured")?;
        let mib = (self.flooded * BULK_BYTES as u64) as f64 / f64::from(1 << 20);
        Ok(Measured { us, flood_mib: mib / self.seconds, cores: self.cpu_seconds / self.seconds })
    }
}

/// The one in the middle, and how far the others are from it.
#[derive(Debug, PartialEq)]
struct Spread {
    min: f64,
    middle: f64,
    max: f64,
}

fn middle(values: impl Iterator<Item = f64>) -> Option<Spread> {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let (min, max) = (*values.first()?, *values.last()?);
    Some(Spread { min, middle: values[values.len() / 2], max })
}

/// One connection, whose far end sends small frames back and counts the others.
struct Lanes {
    near: ConnectionHandle,
    far_end: JoinHandle<Result<()>>,
    flooded: Arc<AtomicU64>,
    size: usize,
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.far_end.abort();
    }
}

impl Lanes {
    async fn start(app: &App, size: usize) -> Result<Self> {
        let Link { near, far } = Pair::start(app).await?.link().await?;
        let flooded = Arc::new(AtomicU64::new(0));
        let far_end = tokio::spawn(send_small_back(far, size, Arc::clone(&flooded)));
        Ok(Self { near, far_end, flooded, size })
    }

    /// Measures for a while, with a flood on a lane or with none.
    async fn stretch(
        &self,
        found: &mut Stretches,
        flood_on: Option<Lane>,
        counted: Duration,
    ) -> Result<()> {
        let flood = flood_on.map(|lane| Flood::start(&self.near, lane));
        if flood.is_some() {
            tokio::time::sleep(FLOOD_WARM_UP).await;
        }
        let (started, before) = (Processes::THIS_ONE.start()?, self.flooded.load(Relaxed));
        self.round_trips(&mut found.round_trips, counted).await?;
        let spent = started.spent()?;
        found.flooded += self.flooded.load(Relaxed) - before;
        found.seconds += spent.seconds;
        found.cpu_seconds += spent.cpu_seconds;
        if let Some(flood) = flood {
            within(STEP_TIME_MAX, "the flood to drain", flood.end(&self.near)).await??;
        }
        Ok(())
    }

    /// One after the other until `counted` is over; at least one.
    async fn round_trips(&self, found: &mut Vec<Duration>, counted: Duration) -> Result<()> {
        let payload = Bytes::from(vec![0x5a; self.size]);
        let (begun, before) = (Instant::now(), found.len());
        let mut pauses = tokio::time::interval(PAUSE);
        pauses.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while found.len() == before || begun.elapsed() < counted {
            pauses.tick().await;
            let sent_at = Instant::now();
            let round_trip = async {
                self.near.send(payload.clone()).await?;
                self.near.recv().await.map_err(anyhow::Error::from)
            };
            let frame = within(STEP_TIME_MAX, "a round trip", round_trip).await??;
            found.push(sent_at.elapsed());
            check_length(&frame, self.size)?;
        }
        Ok(())
    }
}

/// Large frames as fast as a lane takes them.
struct Flood {
    lane: Lane,
    stop: Arc<AtomicBool>,
    sending: JoinHandle<Result<()>>,
}

impl Flood {
    fn start(near: &ConnectionHandle, lane: Lane) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (near, stopped) = (near.clone(), Arc::clone(&stop));
        let sending = tokio::spawn(async move {
            let payload = Bytes::from(vec![0xb0; BULK_BYTES]);
            while !stopped.load(Relaxed) {
                near.send_on(lane, payload.clone()).await?;
            }
            Ok(())
        });
        Self { lane, stop, sending }
    }

    /// Ends when the peer has acknowledged all of it, so that the next stretch is a quiet one.
    async fn end(self, near: &ConnectionHandle) -> Result<()> {
        self.stop.store(true, Relaxed);
        self.sending.await??;
        let last = Bytes::from(vec![0xb0; BULK_BYTES]);
        Ok(near.send_acked_on(self.lane, last).await?)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_the_rounds_is_told_with_the_least_and_the_most() {
        let spread = middle([2.0, 9.0, 1.5, 1.8, 2.1].into_iter());
        assert_eq!(spread, Some(Spread { min: 1.5, middle: 2.0, max: 9.0 }));
        assert_eq!(middle(std::iter::empty()), None);
    }
}
