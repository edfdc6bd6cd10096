//! `throughput`, `small` and `fanin`: frames one way, as fast as they go, counted where they arrive.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::{Result, bail, ensure};
use tokio::task::JoinSet;

use super::LARGE_BYTES;
use crate::arguments::FigureArgs;
use crate::far_end::FarEnd;
use crate::figure::Figure;
use crate::peer::{Link, Peer, arrivals, connect, pair};
use crate::process::{Spent, Stopwatch, resident_kib};
use crate::traffic::{Frames, flood};

/// Senders and receivers in this process.
pub(super) async fn within_process<P: Peer>(
    peer: &'static P,
    connections: usize,
    frames: Frames,
    args: &FigureArgs,
) -> Result<Figure> {
    let mut arrivals = arrivals(peer);
    let mut counting = Counting::new(frames.size);
    let mut senders = Vec::with_capacity(connections);
    for _ in 0..connections {
        let (near, far) = pair(peer, &mut arrivals).await?;
        counting.count(far);
        senders.push(near);
    }
    // All at once: a transport that is busy may refuse those who come late.
    for link in senders {
        counting.tasks.spawn(flood(link, frames));
    }
    counting.measure(None, args).await
}

/// The sender is a process of its own.
pub(super) async fn from_far_end<P: Peer>(
    peer: &'static P,
    mut far_end: FarEnd,
    frames: Frames,
    args: &FigureArgs,
) -> Result<Figure> {
    let mut counting = Counting::new(frames.size);
    counting.count(connect(peer, far_end.address()).await?);
    let figure = counting.measure(far_end.id(), args).await;
    far_end.end().await?;
    figure
}

/// Those who receive, and how much each has.
struct Counting {
    size: usize,
    counters: Vec<Arc<AtomicU64>>,
    /// None ends before it is told to.
    tasks: JoinSet<Result<()>>,
}

impl Counting {
    fn new(size: usize) -> Self {
        Self { size, counters: Vec::new(), tasks: JoinSet::new() }
    }

    fn count<P: Peer>(&mut self, link: Link<P>) {
        let counter = Arc::new(AtomicU64::new(0));
        self.counters.push(Arc::clone(&counter));
        self.tasks.spawn(count(link, self.size, counter));
    }

    fn frames(&self) -> u64 {
        self.counters.iter().map(|counter| counter.load(Relaxed)).sum()
    }

    async fn measure(mut self, far_end: Option<u32>, args: &FigureArgs) -> Result<Figure> {
        tokio::time::sleep(args.warm_up).await;
        let (before, stopwatch) = (self.frames(), Stopwatch::start(far_end)?);
        tokio::time::sleep(args.seconds).await;
        let (frames, spent) = (self.frames() - before, stopwatch.spent()?);
        if let Some(ended) = self.tasks.try_join_next() {
            ended??;
        }
        ensure!(frames > 0, "no frame arrived");
        // They go on: what is in their hands would be torn down under those who send it.
        self.tasks.detach_all();
        report(frames, self.size, spent)
    }
}

fn report(frames: u64, size: usize, spent: Spent) -> Result<Figure> {
    let a_second = frames as f64 / spent.seconds;
    let figure = if size >= LARGE_BYTES {
        let mib = size as f64 / f64::from(1 << 20);
        Figure::new("receiver_throughput", a_second * mib, "MiB/s")
    } else {
        Figure::new("receiver_messages", a_second, "msg/s")
    };
    Ok(figure
        .with("cpu_cores", spent.cores())
        .with("rss_mib", resident_kib()? / 1024.0)
        .with("cpu_ns_per_frame", spent.cpu_seconds * 1e9 / frames as f64))
}

async fn count<P: Peer>(mut link: Link<P>, size: usize, counter: Arc<AtomicU64>) -> Result<()> {
    let mut frames = 0;
    while let Some(payload) = link.receiver.next().await? {
        let payload = std::hint::black_box(payload);
        ensure!(payload.len() == size, "{} bytes arrived, {size} were sent", payload.len());
        frames += 1;
        counter.store(frames, Relaxed);
    }
    bail!("the far end stopped sending")
}
