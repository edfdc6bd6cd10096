//! `actor` and `control`: through the mailboxes of the connections' actors.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use moorline::{ConnectionHandle, ConnectionMessage, FrameBatch};
use ractor::{Actor, ActorProcessingErr, ActorRef, DerivedActorRef, call_t};

use super::measure::{Processes, rss_kib};
use super::pair::{Pair, STEP_TIME_MAX, check_length};
use super::streams::{flood, report};
use super::{Report, WARM_UP};
use crate::app::App;
use crate::ping::Percentiles;
use crate::wait::within;

/// Questions that are asked behind the flood.
const QUESTIONS: usize = 3_000;

/// Between two of them: so that they meet the flood at every stage.
const PAUSE: Duration = Duration::from_millis(1);

/// How long they may take all together before the figure is worthless.
const QUESTIONS_TIME_MAX: Duration = Duration::from_secs(60);

/// Counts what it gets; the drop of a batch opens the window again.
struct Counter;

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

/// One connection: `Send`, one message a frame, to the actor of the one end; the other end's gives
/// its frames to a subscriber.
pub(super) async fn one_way(app: &App, size: usize, counted: Duration) -> Result<Report> {
    let link = Pair::start(app).await?.link().await?;
    let frames = Arc::new(AtomicU64::new(0));
    let (counter, _) = Actor::spawn(None, Counter, (size, Arc::clone(&frames))).await?;
    let subscriber: DerivedActorRef<FrameBatch> = counter.get_derived();
    let limit = u64::try_from(STEP_TIME_MAX.as_millis()).unwrap_or(u64::MAX);
    let subscribe = |reply| ConnectionMessage::Subscribe { subscriber, reply: Some(reply) };
    ensure!(call_t!(link.far.actor(), subscribe, limit)?, "somebody else reads");
    let sending = tokio::spawn(send(link.near, Bytes::from(vec![0x5a; size])));
    tokio::time::sleep(WARM_UP).await;
    let (started, before) = (Processes::THIS_ONE.start()?, frames.load(Relaxed));
    tokio::time::sleep(counted).await;
    let (spent, frames) = (started.spent()?, frames.load(Relaxed) - before);
    if sending.is_finished() {
        sending.await??;
    } else {
        sending.abort();
    }
    counter.stop(None);
    report(spent, frames, size)
}

async fn send(connection: ConnectionHandle, payload: Bytes) -> Result<()> {
    loop {
        let credit = connection.reserve(payload.len()).await?;
        let message = ConnectionMessage::Send { frame: payload.clone(), credit, reply: None };
        connection.actor().cast(message).context("the connection's actor has ended")?;
    }
}

/// How long `Stats` takes while the lane is full.
pub(super) async fn control(app: &App, size: usize) -> Result<Report> {
    let link = Pair::start(app).await?.link().await?;
    let actor = link.near.actor().clone();
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
            actor.cast(stats).context("the connection's actor has ended")?;
            answer.await.context("the connection's actor has ended")?;
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
