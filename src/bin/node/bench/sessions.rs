//! Two nodes with sessions between them, and what their ends do in a benchmark.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use moorline::{CertHash, Incoming, NetCredential, Node, Peer, Peers, Target};

use super::BATCH;
use super::pair::{LOOPBACK, STEP_TIME_MAX, check_length, config, new_credential};
use crate::app::App;
use crate::app::wait::within;

/// What all sessions of benchmarks speak, with their number behind it.
fn protocol(number: usize) -> String {
    format!("bench/{number}")
}

/// Both ends of a session.
pub(super) struct SessionLink {
    /// The end that dialled.
    pub near: Peer,
    /// The end that accepted.
    pub far: Peer,
}

/// Both nodes in this process.
pub(super) struct SessionPair {
    pub server: Node,
    pub client: Node,
    target: Target,
    made: usize,
}

impl SessionPair {
    pub(super) async fn start(app: &App) -> Result<Self> {
        Self::start_with(app, Ok).await
    }

    /// The client dials what `through` makes of the server's address.
    pub(super) async fn start_with(
        app: &App,
        through: impl FnOnce(SocketAddr) -> Result<SocketAddr>,
    ) -> Result<Self> {
        let (own, other) = (new_credential()?, new_credential()?);
        let (identity, trusted) = (own.identity(), other.identity());
        let server = app.start(config(own, trusted)).await?;
        let address = within(STEP_TIME_MAX, "a listener", server.listen(LOOPBACK)).await??;
        let client = app.start(config(other, identity)).await?;
        let target = Target::from(through(address)?).expect(identity);
        Ok(Self { server, client, target, made: 0 })
    }

    /// One more session, on a connection of its own.
    pub(super) async fn link(&mut self) -> Result<SessionLink> {
        let protocol = protocol(self.made);
        self.made += 1;
        let mut begun = self.server.accept(&protocol);
        let opening = self.client.peer(self.target.clone(), &protocol);
        let near = within(STEP_TIME_MAX, "a session", opening).await??;
        let far = within(STEP_TIME_MAX, "a session to arrive", begun.next()).await?;
        Ok(SessionLink { near, far: far.context("the listening node has stopped")? })
    }
}

/// Sessions that others begin with `node`.
pub(super) fn begun(node: &Node) -> Peers {
    node.accept(&protocol(0))
}

/// A session with a node in another process.
pub(super) async fn open(
    app: &App,
    credential: NetCredential,
    address: SocketAddr,
    identity: CertHash,
) -> Result<Peer> {
    let node = app.start(config(credential, identity)).await?;
    let protocol = protocol(0);
    let opening = node.peer(Target::from(address).expect(identity), &protocol);
    Ok(within(STEP_TIME_MAX, "a session", opening).await??)
}

/// The next message.
pub(super) async fn message(peer: &Peer) -> Result<Bytes> {
    match peer.recv().await? {
        Incoming::Message(frame) => Ok(frame),
        Incoming::Request(_) => bail!("a request came where none was sent"),
    }
}

/// Sends `payload` until the session ends.
pub(super) async fn flood(peer: Peer, payload: Bytes) -> Result<()> {
    loop {
        peer.send(payload.clone()).await?;
    }
}

/// Sends every message back, and answers every request with what it asks, until the session ends.
pub(super) async fn send_back(peer: Peer) -> Result<()> {
    loop {
        match peer.recv().await? {
            Incoming::Message(frame) => peer.send(frame).await?,
            Incoming::Request(mut request) => {
                let frame = request.take_frame();
                request.reply(frame).await?;
            }
        }
    }
}

/// Counts messages until the session ends.
pub(super) async fn count(peer: Peer, size: usize, counter: Arc<AtomicU64>) -> Result<()> {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let frames = peer.recv_many(&mut batch, BATCH).await?;
        for came in batch.drain(..) {
            let Incoming::Message(frame) = came else {
                bail!("a request came where none was sent")
            };
            check_length(std::hint::black_box(&frame), size)?;
        }
        counter.fetch_add(frames as u64, Relaxed);
    }
}
