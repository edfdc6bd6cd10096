//! `actor` and `control`: through the mailboxes of the connections' actors.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use moorline::{ConnectionHandle, ConnectionMessage, FrameBatch};
use ractor::{Actor, ActorProcessingErr, ActorRef, DerivedActorRef, call_t};

use super::measure::{Processes, Spent, rss_kib};
use super::pair::{Pair, STEP_TIME_MAX, check_length};
use super::streams::report;
use super::traffic::flood;
use super::{Report, WARM_UP};
use crate::app::App;
use crate::app::ping::Percentiles;
use crate::app::wait::within;

/// Frames in one `SendMany`.
const BATCH_FRAMES: usize = 64;

/// Turns that every way gets.
const SLICES: u32 = 5;

const ENDED: &str = "the connection's actor has ended";

/// Questions that are asked behind the flood.
const QUESTIONS: usize = 3_000;

/// Between two of them: so that they meet the flood at every stage.
const PAUSE: Duration = Duration::from_millis(1);

/// How long they may take all together before the figure is worthless.
const QUESTIONS_TIME_MAX: Duration = Duration::from_secs(60);

/// Counts what it gets; the drop of a batch opens the window again.
struct Counter;

#[cfg_attr(feature = "async-trait", ractor::async_trait)]
impl Actor for Counter {
    type Msg = FrameBatch;
    type State = (usize, Arc<AtomicU64>);
    type Arguments = (usize, Arc<AtomicU64>);

    async fn pre_start(
        &self,
        _myself: ActorRef<FrameBatch>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(arguments)
    }

    async fn handle(
        &self,
        _myself: ActorRef<FrameBatch>,
        batch: FrameBatch,
        (size, frames): &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        for frame in batch.frames() {
            check_length(std::hint::black_box(frame), *size)?;
        }
        frames.fetch_add(batch.frames().len() as u64, Relaxed);
        Ok(())
    }
}

/// How frames get to the lane.
#[derive(Clone, Copy)]
enum Way {
    /// A `Send` message a frame.
    Messages,
    /// A `SendMany` message for [`BATCH_FRAMES`].
    Batches,
    /// Past the mailbox: what the other two are compared with.
    Handle,
}

impl Way {
    const ALL: [Self; 3] = [Self::Messages, Self::Batches, Self::Handle];

    fn name(self) -> &'static str {
        match self {
            Self::Messages => "actor",
            Self::Batches => "actor-many",
            Self::Handle => "actor-handle",
        }
    }
}

/// One connection, by one way after the other; its other end gives its frames to a subscriber.
pub(super) async fn three_ways(app: &App, size: usize, counted: Duration) -> Result<Vec<Report>> {
    let link = Pair::start(app).await?.link().await?;
    let frames = Arc::new(AtomicU64::new(0));
    let (counter, _) = Actor::spawn(None, Counter, (size, Arc::clone(&frames))).await?;
    let subscriber: DerivedActorRef<FrameBatch> = counter.get_derived();
    let limit = u64::try_from(STEP_TIME_MAX.as_millis()).unwrap_or(u64::MAX);
    let subscribe = |reply| ConnectionMessage::Subscribe { subscriber, reply: Some(reply) };
    ensure!(call_t!(&link.far.actor(), subscribe, limit)?, "somebody else reads");
    let payload = Bytes::from(vec![0x5a; size]);
    // In slices, so that a change of the machine's speed hits each of them.
    let mut sums = Way::ALL.map(|way| (way, Sum::default()));
    for _ in 0..SLICES {
        for (way, sum) in &mut sums {
            let sending = tokio::spawn(send(*way, link.near.clone(), payload.clone()));
            tokio::time::sleep(WARM_UP / SLICES).await;
            let (started, before) = (Processes::THIS_ONE.start()?, frames.load(Relaxed));
            tokio::time::sleep(counted / SLICES).await;
            sum.add(started.spent()?, frames.load(Relaxed) - before);
            sending.abort();
            match sending.await {
                Err(error) if error.is_cancelled() => {}
                ended => ended??,
            }
        }
    }
    counter.stop(None);
    let handle = sums[2].1.a_second();
    let figure = |(way, sum): (Way, Sum)| -> Result<Report> {
        let mut report = report(sum.spent, sum.frames, size)?;
        report.workload = way.name();
        Ok(report.with("of_handle", sum.a_second() / handle))
    };
    sums.into_iter().map(figure).collect()
}

/// What the slices of one way come to.
#[derive(Clone, Copy, Default)]
struct Sum {
    spent: Spent,
    frames: u64,
}

impl Sum {
    fn add(&mut self, spent: Spent, frames: u64) {
        self.spent.seconds += spent.seconds;
        self.spent.cpu_seconds += spent.cpu_seconds;
        self.frames += frames;
    }

    fn a_second(&self) -> f64 {
        self.frames as f64 / self.spent.seconds
    }
}

async fn send(way: Way, connection: ConnectionHandle, payload: Bytes) -> Result<()> {
    match way {
        Way::Messages => one_by_one(connection, payload).await,
        Way::Batches => in_batches(connection, payload).await,
        Way::Handle => flood(connection, payload).await,
    }
}

async fn one_by_one(connection: ConnectionHandle, payload: Bytes) -> Result<()> {
    loop {
        let credit = connection.reserve(payload.len()).await?;
        let message = ConnectionMessage::Send { frame: payload.clone(), credit, reply: None };
        connection.actor().cast(message).context(ENDED)?;
        tokio::task::consume_budget().await;
    }
}

async fn in_batches(connection: ConnectionHandle, payload: Bytes) -> Result<()> {
    loop {
        let credit = connection.reserve_many(BATCH_FRAMES, BATCH_FRAMES * payload.len()).await?;
        let frames = vec![payload.clone(); BATCH_FRAMES];
        let message = ConnectionMessage::SendMany { frames, credit, reply: None };
        connection.actor().cast(message).context(ENDED)?;
        tokio::task::consume_budget().await;
    }
}

/// How long `Stats` takes while the lane is full.
pub(super) async fn control(app: &App, size: usize) -> Result<Report> {
    let link = Pair::start(app).await?.link().await?;
    let actor = link.near.actor();
    let flooding = tokio::spawn(flood(link.near, Bytes::from(vec![0x5a; size])));
    let reading = tokio::spawn(async move { while link.far.recv().await.is_ok() {} });
    tokio::time::sleep(WARM_UP).await;
    let asked = async {
        let started = Processes::THIS_ONE.start()?;
        let mut answers = Vec::with_capacity(QUESTIONS);
        for _ in 0..QUESTIONS {
            tokio::time::sleep(PAUSE).await;
            let asked_at = Instant::now();
            let (reply, answer) = ractor::concurrency::oneshot();
            let stats = ConnectionMessage::Stats { reply: reply.into() };
            actor.cast(stats).context(ENDED)?;
            answer.await.context(ENDED)?;
            answers.push(asked_at.elapsed());
        }
        let spent = started.spent()?;
        let us = Percentiles::of(&mut answers).context("nothing was answered")?;
        Ok(Report::new("answer_p99", us.p99, "us")
            .with_percentiles(&us)
            .with("cpu_cores", spent.cores())
            .with("rss_mib", rss_kib()? / 1024.0))
    };
    let report = within(QUESTIONS_TIME_MAX, "the answers", asked).await?;
    flooding.abort();
    reading.abort();
    report
}
