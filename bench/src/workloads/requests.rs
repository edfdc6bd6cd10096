//! `requests`: 128 bytes there and back, 64 at once, as one makes them of frames by hand: with a number in
//! front, by which each answer finds who waits for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::sync::{Mutex as AsyncMutex, oneshot};
use tokio::task::JoinSet;

use super::SMALL_BYTES;
use super::round_trips::percentile;
use crate::arguments::FigureArgs;
use crate::far_end::FarEnd;
use crate::figure::Figure;
use crate::frames::{FrameReader, FrameWriter};
use crate::peer::{Link, Peer, arrivals, connect, pair};
use crate::process::{Stopwatch, resident_kib};
use crate::traffic::send_back;

/// Requests in flight.
const AT_ONCE: usize = 64;

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

/// By tonic's calls over one connection.
#[cfg(feature = "tonic")]
pub(super) async fn by_tonic(args: &FigureArgs) -> Result<Figure> {
    use crate::arguments::{PeerName, Role, Workload};
    use crate::certificates::Certificates;
    use crate::peers::tonic::{Caller, serve};
    use crate::traffic::Frames;

    ensure!(args.workload == Workload::Requests, "tonic is measured by requests alone");
    let folder = tempfile::TempDir::new()?;
    let certificates = Certificates::write(folder.path())?;
    let frames = Frames { size: SMALL_BYTES, batched: false };
    let mut far_end = None;
    let address = if args.two_processes {
        let started =
            FarEnd::start(PeerName::Tonic, Role::Echo, frames, folder.path(), &args.path).await?;
        far_end.insert(started).address()
    } else {
        serve(&certificates).await?
    };
    let caller = Caller::connect(&certificates, address).await?;
    // Read by all who need them: however this process ends, no key stays behind.
    drop(folder);
    let ask = move |payload| caller.clone().ask(payload);
    let figure = many_at_once(ask, far_end.as_ref().and_then(FarEnd::id), args).await;
    if let Some(far_end) = &mut far_end {
        far_end.end().await?;
    }
    figure
}

#[cfg(not(feature = "tonic"))]
pub(super) async fn by_tonic(_: &FigureArgs) -> Result<Figure> {
    bail!("built without tonic")
}

/// Who waits for which answer.
type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Bytes>>>>;

struct Asking<P: Peer> {
    sender: AsyncMutex<FrameWriter<P::Writer>>,
    waiting: Waiting,
    next: AtomicU64,
}

impl<P: Peer> Asking<P> {
    async fn ask(&self, payload: &Bytes) -> Result<Bytes> {
        let number = self.next.fetch_add(1, Relaxed);
        let (tell, told) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(number, tell);
        let mut frame = BytesMut::with_capacity(8 + payload.len());
        frame.put_u64(number);
        frame.put_slice(payload);
        self.sender.lock().await.send(&frame.freeze()).await?;
        told.await.context("the connection has ended")
    }
}

async fn distribute<P: Peer>(
    mut receiver: FrameReader<P::Reader>,
    waiting: Waiting,
    _connection: P::Connection,
) -> Result<()> {
    while let Some(mut frame) = receiver.next().await? {
        ensure!(frame.len() >= 8, "an answer without a number");
        let number = frame.get_u64();
        let waiter = waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        // Whoever has gone needs no answer.
        let _ = waiter.context("an answer that nobody asked for")?.send(frame);
    }
    bail!("the far end stopped answering")
}

async fn measure<P: Peer>(
    link: Link<P>,
    far_end: Option<u32>,
    args: &FigureArgs,
) -> Result<Figure> {
    let (sender, receiver, connection) = link.split();
    let waiting = Waiting::default();
    let distributing = tokio::spawn(distribute::<P>(receiver, Arc::clone(&waiting), connection));
    let asking =
        Arc::new(Asking::<P> { sender: AsyncMutex::new(sender), waiting, next: AtomicU64::new(0) });
    let ask = move |payload: Bytes| {
        let asking = Arc::clone(&asking);
        async move { asking.ask(&payload).await }
    };
    let figure = many_at_once(ask, far_end, args).await;
    distributing.abort();
    figure
}

/// The figure of whatever answers `ask` with what it was given.
pub(super) async fn many_at_once<F>(
    ask: impl Fn(Bytes) -> F + Clone + Send + 'static,
    far_end: Option<u32>,
    args: &FigureArgs,
) -> Result<Figure>
where
    F: Future<Output = Result<Bytes>> + Send,
{
    let payload = Bytes::from(vec![0x5a; SMALL_BYTES]);
    let warm_at = Instant::now() + args.warm_up;
    let until = warm_at + args.seconds;
    let mut tasks = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (ask, payload) = (ask.clone(), payload.clone());
        tasks.spawn(async move {
            let mut times: Vec<Duration> = Vec::new();
            while Instant::now() < until {
                let asked_at = Instant::now();
                let answer = ask(payload.clone()).await?;
                ensure!(answer == payload, "another answer came");
                if asked_at >= warm_at {
                    times.push(asked_at.elapsed());
                }
            }
            Ok(times)
        });
    }
    tokio::time::sleep(args.warm_up).await;
    let stopwatch = Stopwatch::start(far_end)?;
    let mut times = Vec::new();
    while let Some(asked) = tasks.join_next().await {
        times.extend(asked??);
    }
    let spent = stopwatch.spent()?;
    ensure!(!times.is_empty(), "no answer came");
    times.sort_unstable();
    let answers = times.len() as f64;
    Ok(Figure::new("answers", answers / spent.seconds, "req/s")
        .with("p50", percentile(&times, 0.5))
        .with("p99", percentile(&times, 0.99))
        .with("cpu_cores", spent.cores())
        .with("rss_mib", resident_kib()? / 1024.0)
        .with("cpu_us_per_request", spent.cpu_seconds * 1e6 / answers))
}
