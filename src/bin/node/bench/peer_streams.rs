//! `peer-throughput`, `peer-small` and `peer-fanin`: frames one way over sessions, beside the same over
//! connections.
//!
//! Both ways take turns in slices, so that what else the machine does meets both alike.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use moorline::{ConnectionHandle, Peer};
use tokio::task::JoinSet;

use super::far_end::FarEnd;
use super::measure::{Processes, Spent};
use super::pair::{Pair, check_length, new_credential};
use super::sessions::{self, SessionPair};
use super::streams::report;
use super::traffic;
use super::{BATCH, Report, WARM_UP};
use crate::app::App;
use crate::app::arguments::FarEndRole;

/// Turns of each way.
const SLICES: u32 = 5;

/// One of two ways, and what it moved in its turns.
struct Way<E> {
    ends: Vec<E>,
    arrived: Arc<AtomicU64>,
    spent: Spent,
    frames: u64,
}

impl<E: Clone> Way<E> {
    fn new(arrived: Arc<AtomicU64>, ends: Vec<E>) -> Self {
        Self { ends, arrived, spent: Spent::default(), frames: 0 }
    }

    /// Its turn: each end is driven by what `drive` makes of it.
    async fn turn<F>(
        &mut self,
        processes: Processes,
        counted: Duration,
        drive: impl Fn(E, Arc<AtomicU64>) -> F,
    ) -> Result<()>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let mut driven = JoinSet::new();
        for end in &self.ends {
            driven.spawn(drive(end.clone(), Arc::clone(&self.arrived)));
        }
        tokio::time::sleep(WARM_UP / SLICES).await;
        let (started, before) = (processes.start()?, self.arrived.load(Relaxed));
        tokio::time::sleep(counted / SLICES).await;
        let spent = started.spent()?;
        self.frames += self.arrived.load(Relaxed) - before;
        self.spent.seconds += spent.seconds;
        self.spent.cpu_seconds += spent.cpu_seconds;
        if let Some(ended) = driven.try_join_next() {
            ended??;
        }
        driven.shutdown().await;
        Ok(())
    }

    fn a_second(&self) -> f64 {
        self.frames as f64 / self.spent.seconds
    }
}

fn compared(peers: &Way<Peer>, handles: &Way<ConnectionHandle>, size: usize) -> Result<Report> {
    let report = report(peers.spent, peers.frames, size)?;
    Ok(report
        .with("of_handle", peers.a_second() / handles.a_second())
        .with("handle_frames_s", handles.a_second())
        .with("handle_cpu_ns_per_frame", handles.spent.cpu_seconds * 1e9 / handles.frames as f64))
}

/// `connections` senders of each way in one process with their receivers, which count all the time.
pub(super) async fn one_way(
    app: &App,
    connections: usize,
    size: usize,
    counted: Duration,
) -> Result<Report> {
    let (mut plain, mut with_sessions) = (Pair::start(app).await?, SessionPair::start(app).await?);
    let payload = Bytes::from(vec![0x5a; size]);
    let mut receivers = JoinSet::new();
    let [of_handles, of_peers] = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
    let (mut handles, mut peers) = (Vec::new(), Vec::new());
    for _ in 0..connections {
        let link = plain.link().await?;
        receivers.spawn(take_all(link.far, size, Arc::clone(&of_handles)));
        handles.push(link.near);
        let link = with_sessions.link().await?;
        receivers.spawn(sessions::count(link.far, size, Arc::clone(&of_peers)));
        peers.push(link.near);
    }
    let (mut handles, mut peers) = (Way::new(of_handles, handles), Way::new(of_peers, peers));
    for _ in 0..SLICES {
        let here = Processes::THIS_ONE;
        handles.turn(here, counted, |end, _| traffic::flood(end, payload.clone())).await?;
        peers.turn(here, counted, |end, _| sessions::flood(end, payload.clone())).await?;
    }
    if let Some(ended) = receivers.try_join_next() {
        ended??;
    }
    receivers.detach_all();
    compared(&peers, &handles, size)
}

/// Another process sends over both as fast as they are read; the CPU time is that of both.
pub(super) async fn drain(app: &App, size: usize, counted: Duration) -> Result<Report> {
    let credential = new_credential()?;
    let far_end = FarEnd::start(app, FarEndRole::Flood, size, credential.identity()).await?;
    let processes = Processes { far_end: Some(far_end.id()) };
    let [of_handles, of_peers] = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
    let handle = far_end.connect(app, credential.clone()).await?;
    let peer = far_end.open(app, credential).await?;
    let (mut handles, mut peers) =
        (Way::new(of_handles, vec![handle]), Way::new(of_peers, vec![peer]));
    for _ in 0..SLICES {
        handles.turn(processes, counted, |end, arrived| take_all(end, size, arrived)).await?;
        peers.turn(processes, counted, |end, arrived| sessions::count(end, size, arrived)).await?;
    }
    compared(&peers, &handles, size)
}

async fn take_all(
    connection: ConnectionHandle,
    size: usize,
    arrived: Arc<AtomicU64>,
) -> Result<()> {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let frames = connection.recv_many(&mut batch, BATCH).await?;
        batch.iter().try_for_each(|frame| check_length(std::hint::black_box(frame), size))?;
        batch.clear();
        arrived.fetch_add(frames as u64, Relaxed);
    }
}
