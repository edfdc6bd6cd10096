//! `reconnect`: a link is cut, 4 MiB are accepted meanwhile, and come over the next connection.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use moorline::{Events, Lane, NodeEvent};

use super::Report;
use super::measure::rss_kib;
use super::pair::{STEP_TIME_MAX, check_length};
use super::relay::Relay;
use super::sessions::{SessionLink, SessionPair, message};
use crate::app::App;
use crate::app::wait::within;

/// A little less than 4 MiB, which a flow keeps with the heads of its frames.
const FRAMES: usize = 1_000;
const FRAME_BYTES: usize = 4 << 10;

/// Rounds, each with a link of its own: odd, so that one is the middle one.
const ROUNDS: usize = 5;

/// What is known of one round; rates in MiB/s.
struct Round {
    /// From the first datagram behind the cut to the first frame.
    from_dial: Duration,
    /// From where the receiver has its new connection to the first frame.
    from_up: Duration,
    replay: f64,
    bulk: f64,
}

/// The middle of some rounds.
pub(super) async fn reconnect(app: &App) -> Result<Report> {
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        rounds.push(round(app).await?);
    }
    let middle = |of: fn(&Round) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(of).collect();
        values.sort_unstable_by(f64::total_cmp);
        values.get(ROUNDS / 2).copied().context("nothing was measured")
    };
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    Ok(Report::new("first_frame", middle(|it| it.from_up.as_secs_f64() * 1e3)?, "ms")
        .with("from_dial_ms", middle(|it| it.from_dial.as_secs_f64() * 1e3)?)
        .with("max_ms", rounds.iter().map(|it| ms(it.from_up)).fold(0.0, f64::max))
        .with("replay_mib_s", middle(|it| it.replay)?)
        .with("bulk_mib_s", middle(|it| it.bulk)?)
        .with("replay_of_bulk", middle(|it| it.replay / it.bulk)?)
        .with("rss_mib", rss_kib()? / 1024.0))
}

async fn round(app: &App) -> Result<Round> {
    let mut relay = None;
    let mut pair = SessionPair::start_with(app, |server| {
        let started = Relay::start(server)?;
        let address = started.address();
        relay = Some(started);
        Ok(address)
    })
    .await?;
    let relay = relay.context("no relay")?;
    let link = pair.link().await?;
    // Twice: at first the path is not known.
    transfer(&link).await?;
    let bulk = transfer(&link).await?;

    let (mut near, mut far) = (pair.client.subscribe(), pair.server.subscribe());
    relay.cut();
    send(&link).await?;
    within(STEP_TIME_MAX, "the loss", lost(&mut near)).await??;
    within(STEP_TIME_MAX, "the loss at the other end", lost(&mut far)).await??;
    relay.mend();
    within(STEP_TIME_MAX, "another connection", up(&mut far)).await??;
    let up_at = Instant::now();
    let (first_at, replay) = receive(&link).await?;
    let dialled_at = relay.mended_by().context("nothing came through")?;
    Ok(Round {
        from_dial: first_at - dialled_at,
        from_up: first_at.saturating_duration_since(up_at),
        replay,
        bulk,
    })
}

async fn send(link: &SessionLink) -> Result<()> {
    let payload = Bytes::from(vec![0x5a; FRAME_BYTES]);
    for _ in 0..FRAMES {
        link.near.send_on(Lane::Bulk, payload.clone()).await?;
    }
    Ok(())
}

/// When the first one came, and how fast they did.
async fn receive(link: &SessionLink) -> Result<(Instant, f64)> {
    let mut first = None;
    for _ in 0..FRAMES {
        let frame = within(STEP_TIME_MAX, "a frame", message(&link.far)).await??;
        check_length(&frame, FRAME_BYTES)?;
        first.get_or_insert_with(Instant::now);
    }
    let first = first.context("no frame")?;
    let mib = (FRAMES * FRAME_BYTES) as f64 / f64::from(1 << 20);
    Ok((first, mib / first.elapsed().as_secs_f64()))
}

async fn transfer(link: &SessionLink) -> Result<f64> {
    let (sent, received) = tokio::join!(send(link), receive(link));
    sent?;
    Ok(received?.1)
}

async fn lost(events: &mut Events) -> Result<()> {
    loop {
        let event = events.next().await.context(ENDED)?;
        if matches!(event, NodeEvent::PeerDown { .. }) {
            return Ok(());
        }
    }
}

async fn up(events: &mut Events) -> Result<()> {
    loop {
        let event = events.next().await.context(ENDED)?;
        if matches!(event, NodeEvent::PeerUp { .. }) {
            return Ok(());
        }
    }
}

const ENDED: &str = "the node has ended";
