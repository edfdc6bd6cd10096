//! `pingpong`: one frame there and back, one at a time.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;

use super::SMALL_BYTES;
use crate::arguments::FigureArgs;
use crate::far_end::FarEnd;
use crate::figure::Figure;
use crate::peer::{Link, Peer, arrivals, connect, pair};
use crate::process::{Stopwatch, resident_kib};
use crate::traffic::send_back;

/// One round trip that is not counted for as many that are.
const COUNTED_FOR_EACH_OTHER: usize = 15;

pub(super) async fn within_process<P: Peer>(peer: &'static P, args: &FigureArgs) -> Result<Figure> {
    let mut arrivals = arrivals(peer);
    let (near, far) = pair(peer, &mut arrivals).await?;
    tokio::spawn(send_back(far));
    measure(near, None, args).await
}

pub(super) async fn with_far_end<P: Peer>(
    peer: &'static P,
    mut far_end: FarEnd,
    args: &FigureArgs,
) -> Result<Figure> {
    let near = connect(peer, far_end.address()).await?;
    let figure = measure(near, far_end.id(), args).await;
    far_end.end().await?;
    figure
}

async fn measure<P: Peer>(
    mut link: Link<P>,
    far_end: Option<u32>,
    args: &FigureArgs,
) -> Result<Figure> {
    let payload = Bytes::from(vec![0x5a; SMALL_BYTES]);
    for _ in 0..args.round_trips.div_ceil(COUNTED_FOR_EACH_OTHER) {
        round_trip(&mut link, &payload).await?;
    }
    let mut times = Vec::with_capacity(args.round_trips);
    let stopwatch = Stopwatch::start(far_end)?;
    for _ in 0..args.round_trips {
        times.push(round_trip(&mut link, &payload).await?);
    }
    let spent = stopwatch.spent()?;
    ensure!(!times.is_empty(), "no round trip was asked for");
    times.sort_unstable();
    let figure = Figure::new("round_trip_p50", percentile(&times, 0.5), "us")
        .with("p99", percentile(&times, 0.99))
        .with("p999", percentile(&times, 0.999))
        .with("cpu_cores", spent.cores())
        .with("rss_mib", resident_kib()? / 1024.0)
        .with("cpu_us_per_round", spent.cpu_seconds * 1e6 / args.round_trips as f64);
    Ok(figure)
}

/// In microseconds; `sorted` is not empty.
pub(super) fn percentile(sorted: &[Duration], share: f64) -> f64 {
    let index = ((sorted.len() - 1) as f64 * share) as usize;
    sorted[index].as_nanos() as f64 / 1000.0
}

async fn round_trip<P: Peer>(link: &mut Link<P>, payload: &Bytes) -> Result<Duration> {
    let sent_at = Instant::now();
    link.sender.send(payload).await?;
    let answer = link.receiver.expect().await?;
    let time = sent_at.elapsed();
    ensure!(answer == payload, "another frame came back");
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_times() {
        let times: Vec<_> = (1..=1001).map(Duration::from_micros).collect();
        assert_eq!(
            [0.0, 0.5, 0.99, 1.0].map(|share| percentile(&times, share)),
            [1.0, 501.0, 991.0, 1001.0]
        );
    }
}
