//! Every bound holds against whoever pushes at it, and what is within the bounds is not lost.

mod common;

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::memory::{Baseline, MIB};
use common::{LIMIT, Pair, connected, friends, loopback, node, node_with, stranger, within};
use moorline::{
    CloseCode, CloseReason, ConnectError, ConnectionHandle, ErrorKind, HEADER_BYTES, Limits,
    MsQuicTransport, NodeConfig, Outcome, OutcomeCounts, RecvError, Redial, SendError, Target,
};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Who measures the memory of the process is alone in it; the others share it.
static PROCESS: RwLock<()> = RwLock::const_new(());

async fn alone() -> RwLockWriteGuard<'static, ()> {
    PROCESS.write().await
}

async fn together() -> RwLockReadGuard<'static, ()> {
    PROCESS.read().await
}

#[tokio::test]
async fn measure() {
    let pair = Pair::with(|_| (), |config| {
        config.limits.stream_op_timeout = Duration::from_millis(500);
    }).await;
    for round in 0..12 {
    let bytes = 1_000_000;
    let reading = pair.at_server.clone();
    let reader = tokio::spawn(async move { for _ in 0..400 { within("x", reading.recv()).await.expect("f"); } });
    for _ in 0..400 { pair.at_client.send(vec![1; bytes]).await.expect("x"); }
    reader.await.expect("r");
    let mut count = 0;
    let bytes = 100_000;
    let error = loop {
        match pair.at_client.send(vec![1; bytes]).await { Ok(()) => count += 1, Err(e) => break e }
    };
    eprintln!("{round}: {count} frames {} bytes, {error}, rss {}", count * (bytes + 4), common::memory::resident()/MIB);
    for _ in 0..count { within("x", pair.at_server.recv()).await.expect("f"); }
    }
    pair.end().await;
}
