//! `scale`: what a node can do, and what it costs, with more and more connections.
//!
//! Two passes, each with nodes of its own: the first measures connections that are idle, the second
//! fills them, as what the allocator keeps of that would be taken for the next connections'.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use moorline::ConnectionHandle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::measure::{Processes, Spent, open_files, rss_kib};
use super::pair::{Dialler, Link, Pair, check_length, greet_from_far, greet_from_near};
use super::pingpong::round;
use super::traffic::send_back;
use super::{BATCH, GRACE, Report};
use crate::app::App;
use crate::app::exit::CheckFailed;
use crate::app::ping::Percentiles;
use crate::app::wait::within;

/// Connections of which each has its figures.
pub(super) const COUNTS: [usize; 4] = [1, 64, 1_000, 5_000];

pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Connections that are being made at once.
const WIDTH: usize = 16;

/// How long all of them may take to be made.
const CONNECTING_TIME_MAX: Duration = Duration::from_secs(120);

/// How long frames that are on their way may take to arrive, and round trips to be measured.
const STEP_TIME_MAX: Duration = Duration::from_secs(30);

/// What a handshake leaves behind is freed by then.
const REST: Duration = Duration::from_secs(2);

const SILENCE: Duration = Duration::from_secs(3);

const ROUNDS: usize = 5_000;
const ROUNDS_NOT_COUNTED: usize = 500;

/// Runs before frames are counted.
const WARM_UP: Duration = Duration::from_millis(500);

/// Frames on their way over all connections together: enough for one connection to be full, few
/// enough for many to stay small.
const ON_THEIR_WAY: u32 = 32 * 1024;

/// Frames that a sender may send before it looks whether more may be on their way.
const BURST: u32 = 64;

/// Tasks that send, each over its part of the connections in turn.
const SENDERS: usize = 2;

/// One report for each count, in order.
pub(super) async fn scale(
    app: &App,
    counts: &[usize],
    size: usize,
    counted: Duration,
) -> Result<Vec<Report>> {
    let mut idle = Vec::with_capacity(counts.len());
    let mut links = Links::start(app).await?;
    tokio::time::sleep(REST).await;
    let first = Resident::now(1)?;
    for count in counts {
        links.grow(*count).await?;
        idle.push(links.measure_idle(first, size).await?);
    }
    drop(links);
    app.shut_down(GRACE).await;
    let mut links = Links::start(app).await?;
    let mut reports = Vec::with_capacity(counts.len());
    for (count, idle) in counts.iter().zip(idle) {
        links.grow(*count).await?;
        let (frames, spent) = links.frames(size, counted).await?;
        reports.push(idle.report(*count, frames, spent));
    }
    Ok(reports)
}

/// Resident memory with so many connections.
#[derive(Clone, Copy)]
struct Resident {
    connections: usize,
    kib: f64,
}

impl Resident {
    fn now(connections: usize) -> Result<Self> {
        Ok(Self { connections, kib: rss_kib()? })
    }

    /// Growth a pair, if there is any.
    fn a_pair_since(self, first: Self) -> Option<f64> {
        let pairs = self.connections - first.connections;
        (pairs > 0).then(|| (self.kib - first.kib) / pairs as f64)
    }
}

/// What was measured while all connections, or all but one, are idle.
struct Idle {
    resident: Resident,
    a_pair: Option<f64>,
    silence: Spent,
    round_trips: Percentiles,
    open_files: usize,
    connecting: Duration,
}

impl Idle {
    fn report(&self, connections: usize, frames: u64, spent: Spent) -> Report {
        let mut report = Report::new("receiver_messages", frames as f64 / spent.seconds, "msg/s");
        report.workload = "scale";
        let report = report
            .with("conns", connections as f64)
            .with_percentiles(&self.round_trips)
            .with("cpu_cores", spent.cores())
            .with("rss_mib", self.resident.kib / 1024.0)
            .with("idle_cpu_percent", self.silence.cores() * 100.0)
            .with("descriptors", self.open_files as f64)
            .with("connecting_s", self.connecting.as_secs_f64());
        match self.a_pair {
            Some(kib) => report.with("kib_per_pair", kib),
            None => report,
        }
    }
}

/// Connections between two nodes of this process.
struct Links {
    dialler: Dialler,
    arrivals: mpsc::UnboundedReceiver<ConnectionHandle>,
    /// The one whose ends are known to belong together.
    first: Link,
    near: Vec<ConnectionHandle>,
    far: Vec<ConnectionHandle>,
    connecting: Duration,
}

impl Links {
    /// With the first connection.
    async fn start(app: &App) -> Result<Self> {
        let mut pair = Pair::start(app).await?;
        let first = pair.link().await?;
        let (near, far) = (vec![first.near.clone()], vec![first.far.clone()]);
        let (dialler, arrivals) = pair.into_arrivals();
        Ok(Self { dialler, arrivals, first, near, far, connecting: Duration::ZERO })
    }

    /// Makes connections until there are `count`.
    async fn grow(&mut self, count: usize) -> Result<()> {
        let (started, missing) = (Instant::now(), count.saturating_sub(self.near.len()));
        let making = async {
            tokio::try_join!(dial(&self.dialler, missing), accept(&mut self.arrivals, missing))
        };
        let (near, far) = within(CONNECTING_TIME_MAX, "the connections", making).await??;
        self.near.extend(near);
        self.far.extend(far);
        self.connecting += started.elapsed();
        Ok(())
    }

    async fn measure_idle(&self, first: Resident, size: usize) -> Result<Idle> {
        tokio::time::sleep(REST).await;
        let resident = Resident::now(self.near.len())?;
        let silence = Processes::THIS_ONE.start()?;
        tokio::time::sleep(SILENCE).await;
        let silence = silence.spent()?;
        let echo = tokio::spawn(send_back(self.first.far.clone()));
        let round_trips = round_trips(&self.first.near, size);
        let round_trips = within(STEP_TIME_MAX, "the round trips", round_trips).await??;
        echo.abort();
        let ends = self.near.iter().chain(&self.far);
        if let Some(reason) = ends.into_iter().find_map(ConnectionHandle::close_reason) {
            return Err(CheckFailed(format!("a connection did not stay: {reason}")).into());
        }
        Ok(Idle {
            resident,
            a_pair: resident.a_pair_since(first),
            silence,
            round_trips,
            open_files: open_files()?,
            connecting: self.connecting,
        })
    }

    /// Frames that arrived over all connections while they were counted.
    async fn frames(&self, size: usize, counted: Duration) -> Result<(u64, Spent)> {
        let traffic = Arc::new(Traffic::default());
        let (mut senders, mut receivers) = (JoinSet::new(), JoinSet::new());
        for connection in self.far.clone() {
            receivers.spawn(count(connection, size, Arc::clone(&traffic)));
        }
        for part in self.near.chunks(self.near.len().div_ceil(SENDERS)) {
            let payload = Bytes::from(vec![0x5a; size]);
            senders.spawn(send_in_turn(part.to_vec(), payload, Arc::clone(&traffic)));
        }
        tokio::time::sleep(WARM_UP).await;
        let (started, before) = (Processes::THIS_ONE.start()?, traffic.arrived.load(Relaxed));
        tokio::time::sleep(counted).await;
        let (spent, frames) = (started.spent()?, traffic.arrived.load(Relaxed) - before);
        traffic.over.store(true, Relaxed);
        while let Some(ended) = senders.join_next().await {
            ended??;
        }
        let all = traffic.room.acquire_many(ON_THEIR_WAY);
        within(STEP_TIME_MAX, "the last frames", all).await??.forget();
        receivers.abort_all();
        if frames == 0 {
            return Err(CheckFailed("no frame arrived".to_owned()).into());
        }
        Ok((frames, spent))
    }
}

async fn dial(dialler: &Dialler, count: usize) -> Result<Vec<ConnectionHandle>> {
    let (mut dials, mut begun, mut made) = (JoinSet::new(), 0, Vec::with_capacity(count));
    loop {
        while begun < count && dials.len() < WIDTH {
            let dialler = dialler.clone();
            dials.spawn(async move {
                let connection = dialler.connect().await?;
                greet_from_near(&connection).await?;
                anyhow::Ok(connection)
            });
            begun += 1;
        }
        match dials.join_next().await {
            Some(connection) => made.push(connection??),
            None => return Ok(made),
        }
    }
}

async fn accept(
    arrivals: &mut mpsc::UnboundedReceiver<ConnectionHandle>,
    count: usize,
) -> Result<Vec<ConnectionHandle>> {
    let mut greetings = JoinSet::new();
    for _ in 0..count {
        let connection = arrivals.recv().await.context("the listening node has stopped")?;
        greetings.spawn(async move {
            greet_from_far(&connection).await?;
            anyhow::Ok(connection)
        });
    }
    greetings.join_all().await.into_iter().collect()
}

async fn round_trips(connection: &ConnectionHandle, size: usize) -> Result<Percentiles> {
    let payload = Bytes::from(vec![0x5a; size]);
    for _ in 0..ROUNDS_NOT_COUNTED {
        round(connection, &payload).await?;
    }
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        times.push(round(connection, &payload).await?);
    }
    Percentiles::of(&mut times).context("no round was measured")
}

/// What the tasks that send and count share.
struct Traffic {
    /// For frames that are on their way.
    room: Semaphore,
    arrived: AtomicU64,
    over: AtomicBool,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            room: Semaphore::new(ON_THEIR_WAY as usize),
            arrived: AtomicU64::new(0),
            over: AtomicBool::new(false),
        }
    }
}

/// One frame to each of `connections` in turn.
async fn send_in_turn(
    connections: Vec<ConnectionHandle>,
    payload: Bytes,
    traffic: Arc<Traffic>,
) -> Result<()> {
    let mut turn = connections.iter().cycle();
    while !traffic.over.load(Relaxed) {
        traffic.room.acquire_many(BURST).await?.forget();
        for connection in turn.by_ref().take(BURST as usize) {
            connection.send(payload.clone()).await?;
        }
    }
    Ok(())
}

async fn count(connection: ConnectionHandle, size: usize, traffic: Arc<Traffic>) -> Result<()> {
    let mut batch = Vec::new();
    loop {
        let frames = connection.recv_many(&mut batch, BATCH).await?;
        for frame in batch.drain(..) {
            check_length(std::hint::black_box(&frame), size)?;
        }
        traffic.arrived.fetch_add(frames as u64, Relaxed);
        traffic.room.add_permits(frames);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_that_of_the_pairs_that_came() {
        let resident = |connections, kib| Resident { connections, kib };
        let first = resident(1, 1_000.0);
        assert_eq!(resident(1, 5_000.0).a_pair_since(first), None);
        assert_eq!(resident(11, 2_000.0).a_pair_since(first), Some(100.0));
    }
}
