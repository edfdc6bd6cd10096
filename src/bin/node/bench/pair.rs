//! Two nodes that know each other's certificate.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use moorline::{
    CertHash, ConnectionHandle, NetCredential, Node, NodeConfig, NodeEvent, Redial, Target,
};
use tokio::sync::mpsc;

use crate::app::App;
use crate::app::wait::within;

/// How long anything between two nodes on loopback may take before the figure is worthless.
pub(super) const STEP_TIME_MAX: Duration = Duration::from_secs(10);

pub(super) const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// What both ends say first, so that a lane is open in each direction.
const HELLO: Bytes = Bytes::from_static(b"h");

pub(super) fn new_credential() -> Result<NetCredential> {
    NetCredential::generate_self_signed(&["localhost"], &[]).context("cannot make a credential")
}

/// The end that dials.
#[derive(Clone)]
pub(super) struct Dialler {
    node: Node,
    target: Target,
}

/// Connections that a benchmark may open, all with one peer, and sessions: more than files are left for.
const CONNECTIONS_MAX: usize = 1 << 20;

/// Trusts `peer`, for as many connections as are asked for.
pub(super) fn config(credential: NetCredential, peer: CertHash) -> NodeConfig {
    let mut config = NodeConfig::new(credential.trust_hash(peer));
    config.limits.connections_max = CONNECTIONS_MAX;
    config.limits.connections_per_peer_max = CONNECTIONS_MAX;
    config.limits.sessions.sessions_max = CONNECTIONS_MAX;
    // However slow the machine is: it is no peer that stays away.
    config.limits.sessions.session_time_max = Duration::from_secs(3_600);
    // All of them come from one address.
    config.limits.handshakes_per_address_max = config.limits.handshakes_pending_max;
    config.limits.connections_per_minute_max = CONNECTIONS_MAX;
    config.limits.connections_burst_max = CONNECTIONS_MAX;
    config
}

impl Dialler {
    /// Starts a node that dials `address` and accepts `peer` there, and nobody else.
    pub(super) async fn start(
        app: &App,
        credential: NetCredential,
        address: SocketAddr,
        peer: CertHash,
    ) -> Result<Self> {
        let node = app.start(config(credential, peer)).await?;
        // Every call makes a connection of its own, and none comes back by itself.
        let target = Target::from(address).expect(peer).redial(Redial::Never);
        Ok(Self { node, target })
    }

    pub(super) async fn connect(&self) -> Result<ConnectionHandle> {
        let connecting = self.node.connect(self.target.clone());
        Ok(within(STEP_TIME_MAX, "a connection", connecting).await??)
    }
}

/// Both ends in this process.
pub(super) struct Pair {
    pub dialler: Dialler,
    arrivals: mpsc::UnboundedReceiver<ConnectionHandle>,
}

impl Pair {
    pub(super) async fn start(app: &App) -> Result<Self> {
        let (own, other) = (new_credential()?, new_credential()?);
        let (own_identity, other_identity) = (own.identity(), other.identity());
        let server = app.start(config(own, other_identity)).await?;
        let arrivals = arrivals(&server);
        let address = within(STEP_TIME_MAX, "a listener", server.listen(LOOPBACK)).await??;
        let dialler = Dialler::start(app, other, address, own_identity).await?;
        Ok(Self { dialler, arrivals })
    }

    /// A connection, both ends of it, with a lane open in each direction.
    pub(super) async fn link(&mut self) -> Result<Link> {
        let near = self.dialler.connect().await?;
        let far = self.arrival().await?;
        greet(&near, &far).await?;
        Ok(Link { near, far })
    }

    async fn arrival(&mut self) -> Result<ConnectionHandle> {
        let arrival =
            within(STEP_TIME_MAX, "the connection to arrive", self.arrivals.recv()).await?;
        arrival.context("the listening node has stopped")
    }

    /// What arrives, for those who take it themselves.
    pub(super) fn into_arrivals(self) -> (Dialler, mpsc::UnboundedReceiver<ConnectionHandle>) {
        (self.dialler, self.arrivals)
    }
}

/// Both ends of one connection.
pub(super) struct Link {
    /// The end that dialled.
    pub near: ConnectionHandle,
    /// The end that accepted.
    pub far: ConnectionHandle,
}

async fn greet(near: &ConnectionHandle, far: &ConnectionHandle) -> Result<()> {
    near.send(HELLO).await?;
    within(STEP_TIME_MAX, "the first frame", far.recv()).await??;
    far.send(HELLO).await?;
    within(STEP_TIME_MAX, "the first answer", near.recv()).await??;
    Ok(())
}

/// The dialling half of [`Pair::link`].
pub(super) async fn greet_from_near(near: &ConnectionHandle) -> Result<()> {
    near.send(HELLO).await?;
    near.recv().await?;
    Ok(())
}

/// The accepting half of [`Pair::link`].
pub(super) async fn greet_from_far(far: &ConnectionHandle) -> Result<()> {
    far.recv().await?;
    far.send(HELLO).await?;
    Ok(())
}

/// Every connection that `node` takes, in the order of its events.
pub(super) fn arrivals(node: &Node) -> mpsc::UnboundedReceiver<ConnectionHandle> {
    let mut events = node.subscribe();
    let (arrivals, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            let passed_on = match event {
                NodeEvent::Connected(connection) => arrivals.send(connection).map_err(drop),
                NodeEvent::Lagged(missed) => {
                    // The figure would be wrong: whoever waits for a connection is told.
                    tracing::error!(missed, "events were lost");
                    Err(())
                }
                _ => Ok(()),
            };
            if passed_on.is_err() {
                return;
            }
        }
    });
    receiver
}

/// Refuses a figure that was not measured on what was meant.
pub(super) fn check_length(frame: &Bytes, size: usize) -> Result<()> {
    if frame.len() != size {
        bail!("a frame of {} bytes arrived where {size} were sent", frame.len());
    }
    Ok(())
}
