//! `peer-pingpong` and `requests`: what goes there and back over a session, beside the same over a
//! connection.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use moorline::{ConnectionHandle, Peer};
use tokio::task::JoinSet;

use super::far_end::FarEnd;
use super::measure::{Processes, rss_kib};
use super::pair::{Pair, check_length, new_credential};
use super::sessions::{self, SessionPair, message};
use super::{Report, WARM_UP, pingpong, traffic};
use crate::app::App;
use crate::app::arguments::{FarEndRole, Network};
use crate::app::ping::Percentiles;
use crate::app::wait::within;

/// Turns of each way, and rounds of each turn; the first turn is not counted.
const TURNS: usize = 16;
const ROUNDS: usize = 2_000;

/// Over a path of tens of milliseconds.
const ROUNDS_FAR: usize = 20;

/// Enough for 3 ms a round, which no loopback takes, and for 300 ms of a far one.
const TIME_MAX: Duration = Duration::from_secs(300);

/// Requests in flight where there are many.
const AT_ONCE: usize = 64;

/// Longer than any request takes.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);

/// The ends of this side, whose other ends send back.
struct Near {
    handle: ConnectionHandle,
    peer: Peer,
    processes: Processes,
    /// Of each turn.
    rounds: usize,
    /// Held while it is used.
    _far_end: Option<FarEnd>,
}

impl Near {
    async fn in_one_process(app: &App) -> Result<Self> {
        let plain = Pair::start(app).await?.link().await?;
        tokio::spawn(traffic::send_back(plain.far));
        let session = SessionPair::start(app).await?.link().await?;
        tokio::spawn(sessions::send_back(session.far));
        let (handle, peer) = (plain.near, session.near);
        let processes = Processes::THIS_ONE;
        Ok(Self { handle, peer, processes, rounds: ROUNDS, _far_end: None })
    }

    async fn with_far_end(app: &App, size: usize) -> Result<Self> {
        let credential = new_credential()?;
        let far_end = FarEnd::start(app, FarEndRole::Echo, size, credential.identity()).await?;
        let handle = far_end.connect(app, credential.clone()).await?;
        let peer = far_end.open(app, credential).await?;
        let processes = Processes { far_end: Some(far_end.id()) };
        let rounds = if app.network == Network::Loopback { ROUNDS } else { ROUNDS_FAR };
        Ok(Self { handle, peer, processes, rounds, _far_end: Some(far_end) })
    }

    async fn start(app: &App, size: usize, two_processes: bool) -> Result<Self> {
        if two_processes {
            Self::with_far_end(app, size).await
        } else {
            Self::in_one_process(app).await
        }
    }
}

/// How something goes there and back.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// Over a connection.
    Frame,
    /// Over a session.
    Message,
    Request,
}

/// Round trips of one way, and the CPU time they took.
#[derive(Default)]
struct Rounds {
    times: Vec<Duration>,
    cpu_seconds: f64,
    seconds: f64,
}

impl Rounds {
    async fn turn(&mut self, near: &Near, way: Way, payload: &Bytes, counted: bool) -> Result<()> {
        let started = near.processes.start()?;
        for _ in 0..near.rounds {
            let time = match way {
                Way::Frame => pingpong::round(&near.handle, payload).await?,
                Way::Message => by_peer(&near.peer, payload).await?,
                Way::Request => by_request(&near.peer, payload).await?,
            };
            if counted {
                self.times.push(time);
            }
        }
        if counted {
            let spent = started.spent()?;
            self.seconds += spent.seconds;
            self.cpu_seconds += spent.cpu_seconds;
        }
        Ok(())
    }

    fn percentiles(&mut self) -> Result<Percentiles> {
        Percentiles::of(&mut self.times).context("no round was measured")
    }
}

/// Two ways in turn, so that what else the machine does meets both alike.
async fn in_turn(near: &Near, ways: [Way; 2], payload: &Bytes) -> Result<[Rounds; 2]> {
    let mut rounds = [Rounds::default(), Rounds::default()];
    // One limit around it all: one around each would be measured with it.
    within(TIME_MAX, "the rounds to end", async {
        for turn in 0..TURNS {
            for (rounds, way) in rounds.iter_mut().zip(ways) {
                rounds.turn(near, way, payload, turn > 0).await?;
            }
        }
        anyhow::Ok(())
    })
    .await??;
    Ok(rounds)
}

async fn by_peer(peer: &Peer, payload: &Bytes) -> Result<Duration> {
    let sent_at = Instant::now();
    peer.send(payload.clone()).await?;
    let frame = message(peer).await?;
    let time = sent_at.elapsed();
    check_length(&frame, payload.len())?;
    Ok(time)
}

async fn by_request(peer: &Peer, payload: &Bytes) -> Result<Duration> {
    let sent_at = Instant::now();
    let frame = peer.request(payload.clone(), REQUEST_TIME_MAX).await?;
    let time = sent_at.elapsed();
    check_length(&frame, payload.len())?;
    Ok(time)
}

/// One message there and back, one at a time.
pub(super) async fn pingpong(app: &App, size: usize, two_processes: bool) -> Result<Report> {
    let near = Near::start(app, size, two_processes).await?;
    let payload = Bytes::from(vec![0x5a; size]);
    let [mut of_handle, mut of_peer] = in_turn(&near, [Way::Frame, Way::Message], &payload).await?;
    let (handle, peer) = (of_handle.percentiles()?, of_peer.percentiles()?);
    Ok(Report::new("round_trip_p50", peer.p50, "us")
        .with_percentiles(&peer)
        .with("of_handle", handle.p50 / peer.p50)
        .with("handle_p50", handle.p50)
        .with("handle_p99", handle.p99)
        .with("cpu_cores", of_peer.cpu_seconds / of_peer.seconds)
        .with("rss_mib", rss_kib()? / 1024.0))
}

/// Requests: many at once, and one at a time beside messages there and back.
pub(super) async fn requests(
    app: &App,
    size: usize,
    counted: Duration,
    two_processes: bool,
) -> Result<Vec<Report>> {
    let near = Near::start(app, size, two_processes).await?;
    let payload = Bytes::from(vec![0x5a; size]);
    let [mut of_messages, mut of_requests] =
        in_turn(&near, [Way::Message, Way::Request], &payload).await?;
    let (messages, one) = (of_messages.percentiles()?, of_requests.percentiles()?);
    let mut alone = Report::new("request_p50", one.p50, "us")
        .with_percentiles(&one)
        .with("over_messages", one.p50 / messages.p50)
        .with("messages_p50", messages.p50)
        .with("cpu_cores", of_requests.cpu_seconds / of_requests.seconds)
        .with("rss_mib", rss_kib()? / 1024.0);
    alone.workload = "request";
    let mut many = many_at_once(&near, &payload, counted).await?;
    many.workload = "requests";
    Ok(vec![many, alone])
}

async fn many_at_once(near: &Near, payload: &Bytes, counted: Duration) -> Result<Report> {
    let (begun, mut asking) = (Instant::now(), JoinSet::new());
    let until = begun + WARM_UP + counted;
    for _ in 0..AT_ONCE {
        let (peer, payload) = (near.peer.clone(), payload.clone());
        asking.spawn(async move {
            let mut times = Vec::new();
            while Instant::now() < until {
                let time = by_request(&peer, &payload).await?;
                if begun.elapsed() > WARM_UP {
                    times.push(time);
                }
            }
            anyhow::Ok(times)
        });
    }
    tokio::time::sleep(WARM_UP).await;
    let started = near.processes.start()?;
    let mut times = Vec::new();
    while let Some(asked) = asking.join_next().await {
        times.extend(asked??);
    }
    let spent = started.spent()?;
    ensure!(!times.is_empty(), "no answer came");
    let answers = times.len() as f64;
    let us = Percentiles::of(&mut times).context("nothing was measured")?;
    Ok(Report::new("answers", answers / spent.seconds, "req/s")
        .with_percentiles(&us)
        .with("at_once", AT_ONCE as f64)
        .with("cpu_cores", spent.cores())
        .with("cpu_us_per_request", spent.cpu_seconds * 1e6 / answers)
        .with("rss_mib", rss_kib()? / 1024.0))
}
