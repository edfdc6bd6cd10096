//! Three nodes in a ring: A sends to B, B to C, C to A, each over a connection that it keeps up.
//!
//! ```text
//! source ─▶ A ──dials──▶ B ──dials──▶ C ──dials──▶ A ─▶ sink
//! ```
//!
//! A and B are trusted by the hashes of their certificates, C by the key that signed its own.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use moorline::{
    CertHash, ConnectionHandle, NetCredential, Node, NodeConfig, NodeEvent, RecvError, Redial,
    SignerKey, SigningKey, Target,
};

use super::sink::Sink;
use crate::app::App;
use crate::app::wait::within;

/// How long a node may take for anything but the data.
pub(super) const STEP_TIME_MAX: Duration = Duration::from_secs(10);

pub(super) const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// Frames taken at once.
const BATCH: usize = 64;

/// One node of the ring, and every connection it has had.
#[derive(Clone)]
pub(super) struct Member {
    pub name: &'static str,
    pub node: Node,
    pub address: SocketAddr,
    connections: Arc<Mutex<Vec<ConnectionHandle>>>,
}

impl Member {
    async fn start(app: &App, name: &'static str, credential: NetCredential) -> Result<Self> {
        let node = app.start(NodeConfig::new(credential)).await?;
        let listening = node.listen(LOOPBACK);
        let address = within(STEP_TIME_MAX, format!("{name} to listen"), listening).await??;
        Ok(Self { name, node, address, connections: Arc::default() })
    }

    pub(super) fn identity(&self) -> CertHash {
        self.node.identity()
    }

    /// Every connection this node has had, the oldest first.
    pub(super) fn connections(&self) -> Vec<ConnectionHandle> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The connection that is in use with a peer, as soon as there is one.
    pub(super) async fn peer(&self, peer: &CertHash) -> Result<ConnectionHandle> {
        let mut events = self.node.subscribe();
        let found = async {
            loop {
                if let Some(connection) = self.node.connection(peer) {
                    return Ok(connection);
                }
                if events.next().await.is_none() {
                    bail!("{} has stopped", self.name);
                }
            }
        };
        let what = format!("a connection of {} with {}", self.name, peer.short());
        within(STEP_TIME_MAX, what, found).await?
    }

    /// Notes every connection, and gives those with `previous` to `work`.
    fn watch<W, F>(&self, previous: CertHash, work: W)
    where
        W: Fn(ConnectionHandle) -> F + Send + 'static,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let (mut events, member) = (self.node.subscribe(), self.clone());
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                let NodeEvent::Connected(connection) = event else { continue };
                let mut seen = member.connections.lock().unwrap_or_else(PoisonError::into_inner);
                seen.push(connection.clone());
                if connection.peer() == previous {
                    let (name, work) = (member.name, work(connection));
                    tokio::spawn(async move {
                        if let Err(error) = work.await {
                            tracing::debug!("{name} reads no more: {error:#}");
                        }
                    });
                }
            }
        });
    }
}

/// The three nodes, connected.
pub(super) struct Ring {
    pub a: Member,
    pub b: Member,
    pub c: Member,
}

impl Ring {
    /// Starts the nodes, and gives what comes around to `sink`.
    pub(super) async fn start(app: &App, sink: Sink) -> Result<Self> {
        let [a, b, c] = credentials()?;
        let (a, b, c) = tokio::try_join!(
            Member::start(app, "A", a),
            Member::start(app, "B", b),
            Member::start(app, "C", c)
        )?;
        let sink = Arc::new(tokio::sync::Mutex::new(sink));
        a.watch(c.identity(), move |from| finish(from, Arc::clone(&sink)));
        for (member, previous, next) in [(&b, &a, &c), (&c, &b, &a)] {
            let (relay, next) = (member.clone(), next.identity());
            member.watch(previous.identity(), move |from| pass_on(from, relay.clone(), next));
        }
        let ring = Self { a, b, c };
        for (from, to) in ring.links() {
            // Kept up from here on: what is lost is dialled again.
            let target = Target::from(to.address).redial(Redial::WhenLost);
            let what = format!("{} to connect to {}", from.name, to.name);
            within(STEP_TIME_MAX, what, from.node.connect(target)).await??;
            to.peer(&from.identity()).await?;
        }
        Ok(ring)
    }

    pub(super) fn members(&self) -> [&Member; 3] {
        [&self.a, &self.b, &self.c]
    }

    /// Who dials and sends to whom.
    pub(super) fn links(&self) -> [(&Member, &Member); 3] {
        [(&self.a, &self.b), (&self.b, &self.c), (&self.c, &self.a)]
    }

    pub(super) fn name_of(&self, identity: &CertHash) -> String {
        let member = self.members().into_iter().find(|member| member.identity() == *identity);
        member.map_or_else(|| identity.short(), |member| member.name.to_owned())
    }
}

/// Fresh identities that trust each other: A and B by hash, C by the key of an operator.
fn credentials() -> Result<[NetCredential; 3]> {
    let operator = SigningKey::generate();
    let fresh = |signers: &[SigningKey]| {
        NetCredential::generate_self_signed(&["localhost"], signers).context("cannot make a key")
    };
    let (a, b, c) = (fresh(&[])?, fresh(&[])?, fresh(std::slice::from_ref(&operator))?);
    let (hash_a, hash_b): (CertHash, CertHash) = (a.identity(), b.identity());
    let signer: SignerKey = operator.public();
    Ok([
        a.trust_hash(hash_b).trust_key(signer),
        b.trust_hash(hash_a).trust_key(signer),
        c.trust_hash(hash_a).trust_hash(hash_b),
    ])
}

/// Sends every frame of `from` to the next node.
async fn pass_on(from: ConnectionHandle, relay: Member, next: CertHash) -> Result<()> {
    let mut to = relay.peer(&next).await?;
    let mut batch = Vec::with_capacity(BATCH);
    while take(&from, &mut batch).await? {
        for frame in batch.drain(..) {
            to = send(to, frame, &relay, next).await?;
        }
    }
    Ok(())
}

/// Sends one frame, over another connection where it is certain that it was not sent.
async fn send(
    mut to: ConnectionHandle,
    mut frame: Bytes,
    relay: &Member,
    next: CertHash,
) -> Result<ConnectionHandle> {
    loop {
        let Err(error) = to.send(frame).await else { return Ok(to) };
        let reason = error.to_string();
        frame = error.into_frame().with_context(|| format!("a frame may be lost: {reason}"))?;
        // Until it is registered anew, the peer is still the connection that has ended.
        to.closed().await;
        to = relay.peer(&next).await?;
    }
}

async fn finish(from: ConnectionHandle, sink: Arc<tokio::sync::Mutex<Sink>>) -> Result<()> {
    let mut batch = Vec::with_capacity(BATCH);
    while take(&from, &mut batch).await? {
        let mut sink = sink.lock().await;
        batch.drain(..).for_each(|frame| sink.take(&frame));
    }
    Ok(())
}

/// Takes what waits on `from`; `false` when the connection has ended in order.
async fn take(from: &ConnectionHandle, batch: &mut Vec<Bytes>) -> Result<bool> {
    match from.recv_many(batch, BATCH).await {
        Ok(_) => Ok(true),
        Err(RecvError::Closed { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
