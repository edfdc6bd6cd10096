//! `ping`: round trips of one frame to a peer that sends frames back.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bytes::{Bytes, BytesMut};
use moorline::{CertHash, CloseCode, ConnectionHandle};
use serde::Serialize;

use crate::app::App;
use crate::app::arguments::PingArgs;
use crate::app::dial::dial;
use crate::app::wait::within;

/// How long one answer may take.
const REPLY_TIME_MAX: Duration = Duration::from_secs(5);

pub(crate) async fn ping(app: App, args: PingArgs) -> Result<()> {
    let connection = dial(&app, &args.peer, |_| ()).await?;
    let mut round_trips = Vec::with_capacity(args.count.min(1 << 20) as usize);
    for number in 0..u64::from(args.count) {
        let frame = payload(number, args.size as usize);
        // Like every ping: told to stop, it shows what it has.
        let round_trip = tokio::select! {
            biased;
            round_trip = exchange(&connection, frame) => round_trip?,
            () = app.stop.requested() => break,
        };
        round_trips.push(round_trip);
        if app.stop.is_requested() {
            break;
        }
    }
    connection.close(CloseCode::NORMAL).await;
    match Percentiles::of(&mut round_trips) {
        Some(us) => {
            let (peer, count) = (connection.peer(), round_trips.len());
            app.out.line(&Summary { event: "ping", peer, count, bytes: args.size, us })
        }
        None => bail!("stopped before the first answer"),
    }
}

/// A frame that says which one it is, so that an answer cannot be taken for another one's.
fn payload(number: u64, size: usize) -> Bytes {
    let mut frame = BytesMut::zeroed(size);
    frame[..8].copy_from_slice(&number.to_be_bytes());
    frame.freeze()
}

async fn exchange(connection: &ConnectionHandle, frame: Bytes) -> Result<Duration> {
    let sent_at = Instant::now();
    connection.send(frame.clone()).await?;
    let what = "the frame to come back (does the peer run with --echo?)";
    let answer = within(REPLY_TIME_MAX, what, connection.recv()).await??;
    let round_trip = sent_at.elapsed();
    if answer != frame {
        bail!("the peer sent something else back: it must run with --echo");
    }
    Ok(round_trip)
}

#[derive(Serialize)]
struct Summary {
    event: &'static str,
    peer: CertHash,
    count: usize,
    bytes: u32,
    us: Percentiles,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { peer, count, bytes, us, .. } = self;
        write!(
            f,
            "{count} round trips of {bytes} bytes to {}: p50 {:.1} µs, p99 {:.1} µs, p99.9 {:.1} µs \
             (min {:.1}, max {:.1})",
            peer.short(),
            us.p50,
            us.p99,
            us.p999,
            us.min,
            us.max
        )
    }
}

/// Round-trip times, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Percentiles {
    pub min: f64,
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl Percentiles {
    /// Sorts `round_trips`; `None` where there are none.
    pub(crate) fn of(round_trips: &mut [Duration]) -> Option<Self> {
        round_trips.sort_unstable();
        let (min, max) = (*round_trips.first()?, *round_trips.last()?);
        let last = round_trips.len() - 1;
        let us = |time: Duration| time.as_nanos() as f64 / 1000.0;
        let at = |share: f64| us(round_trips[(last as f64 * share) as usize]);
        Some(Self { min: us(min), p50: at(0.5), p99: at(0.99), p999: at(0.999), max: us(max) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_taken_from_the_sorted_times() {
        let mut times: Vec<_> = (1..=1001).rev().map(Duration::from_micros).collect();
        let us = Percentiles::of(&mut times).unwrap();
        assert_eq!((us.min, us.p50, us.p99, us.p999, us.max), (1.0, 501.0, 991.0, 1000.0, 1001.0));
        assert_eq!(Percentiles::of(&mut []), None);
    }

    #[test]
    fn a_frame_carries_its_number() {
        assert_eq!(payload(258, 10)[..], [0, 0, 0, 0, 0, 0, 1, 2, 0, 0]);
    }
}
