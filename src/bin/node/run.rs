//! `run`: a node until it is told to stop. One line an event.

use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, bail};
use bytes::Bytes;
use moorline::{
    CertHash, ConnectionHandle, Direction, NetCredential, Node, NodeConfig, NodeEvent, Redial,
    Target,
};
use serde::Serialize;
use tokio::time::Instant;
use tracing::Instrument;

use crate::app::App;
use crate::app::arguments::RunArgs;
use crate::app::dial::trusting;
use crate::app::exit::Usage;
use crate::app::output::{Output, escaped};
use crate::app::refusals::Refusals;

/// Frames taken from a connection at once: enough to share the cost of a wake-up.
const BATCH: usize = 64;

/// Bytes of a frame that are printed.
const PRINTED_BYTES_MAX: usize = 200;

pub(crate) async fn run(app: App, args: RunArgs) -> Result<()> {
    if args.listen.is_empty() && args.connect.is_empty() {
        let hint = "nothing to do: give --listen ADDR, --connect ADDR, or both";
        return Err(Usage(hint.to_owned()).into());
    }
    let credential = trusting(NetCredential::from_files(&args.cert, &args.key)?, &args.trust);
    // Whoever reads the logs of several nodes in one place knows whose line it is.
    let span = tracing::info_span!("node", identity = %credential.identity().short());
    let mut config = NodeConfig::new(credential);
    if !args.alpn.is_empty() {
        config.alpns.clone_from(&args.alpn);
    }
    serve(app, args, config).instrument(span).await
}

async fn serve(app: App, args: RunArgs, config: NodeConfig) -> Result<()> {
    if args.trust.is_empty() {
        warn_about_trust(&args);
    }
    let node = app.start(config).await?;
    let mut events = node.subscribe();
    for address in &args.listen {
        let address = node.listen(*address).await?;
        app.out.line(&Line::Listening { address, identity: node.identity() })?;
    }
    for peer in &args.connect {
        let target = Target::from(peer.address.0.clone()).redial(Redial::Always);
        let target = match peer.expect {
            Some(hash) => target.expect(hash),
            None => target,
        };
        tokio::spawn(keep(node.clone(), target).in_current_span());
    }
    let readers = Readers::new(app.out, &args);
    let mut refusals = Refusals::default();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = refusals.window_ends() => {
                sum_up(app.out, refusals.untold(Instant::now()))?;
                continue;
            }
            () = app.stop.requested() => break,
        };
        let Some(event) = event else { bail!("the node has stopped by itself") };
        let told = match event {
            NodeEvent::Refused { .. } => {
                sum_up(app.out, refusals.untold(Instant::now()))?;
                refusals.is_told(Instant::now())
            }
            _ => true,
        };
        if let Some(line) = Line::of(&event).filter(|_| told) {
            app.out.line(&line)?;
        }
        match event {
            NodeEvent::Connected(connection) => readers.read(connection),
            // Some connections may have come unseen.
            NodeEvent::Lagged(_) => node.connections().into_iter().for_each(|c| readers.read(c)),
            _ => {}
        }
    }
    sum_up(app.out, refusals.rest())?;
    app.out.line(&Line::Stopping { connections: node.connections().len() })
}

/// Says how many refusals were not shown, if there were any.
fn sum_up(out: Output, untold: u64) -> Result<()> {
    match untold {
        0 => Ok(()),
        refusals => {
            release_memory();
            out.line(&Line::MoreRefused { refusals })
        }
    }
}

/// What many strangers took at once and gave back stays with the allocator.
fn release_memory() {
    let release = || {
        let begun = Instant::now();
        moorline::release_freed_memory();
        tracing::info!(took = ?begun.elapsed(), "freed memory is given back");
    };
    // Where there is no thread it stays a while longer.
    drop(std::thread::Builder::new().name("memory".to_owned()).spawn(release));
}

/// Nobody is trusted by default, which looks like a fault to whoever forgot to say.
fn warn_about_trust(args: &RunArgs) {
    let hint = "give --trust HASH or --trust-key HEX";
    if !args.listen.is_empty() {
        tracing::warn!("everybody who connects will be refused, for nobody is trusted: {hint}");
    } else if args.connect.iter().any(|peer| peer.expect.is_none()) {
        tracing::warn!("peers will be refused, for nobody is trusted: {hint}, or ADDR=HASH");
    }
}

/// Asks for a connection that is kept up. Failures come as events, and are tried again.
async fn keep(node: Node, target: Target) {
    if let Err(error) = node.connect(target).await {
        tracing::debug!(%error, "gave up connecting");
    }
}

/// Reads every connection, so that no peer waits for a window that nobody opens.
#[derive(Clone)]
struct Readers {
    out: Output,
    echo: bool,
    print: bool,
    /// Epochs of the connections that are being read.
    reading: Arc<Mutex<HashSet<u64>>>,
}

impl Readers {
    fn new(out: Output, args: &RunArgs) -> Self {
        Self { out, echo: args.echo, print: args.print, reading: Arc::default() }
    }

    fn read(&self, connection: ConnectionHandle) {
        if self.with_reading(|reading| reading.insert(connection.epoch())) {
            let readers = self.clone();
            let read = async move {
                if let Err(error) = readers.read_all(&connection).await {
                    let peer = connection.peer();
                    tracing::debug!(%peer, epoch = connection.epoch(), "reading ended: {error:#}");
                }
                readers.with_reading(|reading| reading.remove(&connection.epoch()));
            };
            tokio::spawn(read.in_current_span());
        }
    }

    async fn read_all(&self, connection: &ConnectionHandle) -> Result<()> {
        let mut batch = Vec::with_capacity(BATCH);
        let mut echo = self.echo;
        loop {
            connection.recv_many(&mut batch, BATCH).await?;
            for frame in batch.drain(..) {
                if self.print {
                    self.show(connection, &frame)?;
                }
                // A peer that has heard enough may still have said more: what came is read on.
                echo = echo && connection.send(frame).await.is_ok();
            }
        }
    }

    fn show(&self, connection: &ConnectionHandle, frame: &Bytes) -> Result<()> {
        let (peer, epoch) = (connection.peer(), connection.epoch());
        let text = escaped(frame, PRINTED_BYTES_MAX);
        self.out.line(&Line::Frame { peer, epoch, bytes: frame.len(), text })
    }

    fn with_reading<T>(&self, change: impl FnOnce(&mut HashSet<u64>) -> T) -> T {
        change(&mut self.reading.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What is printed.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line {
    Listening { address: SocketAddr, identity: CertHash },
    Connected { peer: CertHash, epoch: u64, direction: &'static str, remote: SocketAddr },
    Disconnected { peer: CertHash, epoch: u64, remote: SocketAddr, reason: String },
    DialFailed { target: String, error: String, retry_in_ms: Option<u128> },
    Abandoned { target: String, reason: String },
    Refused { remote: SocketAddr, error: String },
    MoreRefused { refusals: u64 },
    ListenerRestarted { address: SocketAddr },
    ConnectorRestarted { target: String },
    Lagged { events: u64 },
    Frame { peer: CertHash, epoch: u64, bytes: usize, text: String },
    Stopping { connections: usize },
}

impl Line {
    fn of(event: &NodeEvent) -> Option<Self> {
        Some(match event {
            NodeEvent::Connected(connection) => Self::Connected {
                peer: connection.peer(),
                epoch: connection.epoch(),
                direction: match connection.direction() {
                    Direction::Inbound => "inbound",
                    Direction::Outbound => "outbound",
                },
                remote: connection.remote_addr(),
            },
            NodeEvent::Disconnected { peer, remote, epoch, reason } => Self::Disconnected {
                peer: *peer,
                epoch: *epoch,
                remote: *remote,
                reason: reason.to_string(),
            },
            NodeEvent::DialFailed { target, error, retry_in } => Self::DialFailed {
                target: target.to_string(),
                error: error.to_string(),
                retry_in_ms: retry_in.map(|wait| wait.as_millis()),
            },
            NodeEvent::Abandoned { target, reason } => {
                Self::Abandoned { target: target.to_string(), reason: reason.to_string() }
            }
            NodeEvent::Refused { remote, error } => {
                Self::Refused { remote: *remote, error: error.to_string() }
            }
            NodeEvent::ListenerRestarted { address } => {
                Self::ListenerRestarted { address: *address }
            }
            NodeEvent::ConnectorRestarted { target } => {
                Self::ConnectorRestarted { target: target.to_string() }
            }
            NodeEvent::Lagged(events) => Self::Lagged { events: *events },
            // Said when `listen` returned, together with the identity.
            NodeEvent::Listening { .. } => return None,
            _ => return None,
        })
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listening { address, identity } => write!(f, "listening {address} as {identity}"),
            Self::Connected { peer, epoch, direction, remote } => {
                write!(f, "connected {direction} {remote} epoch {epoch} peer {peer}")
            }
            Self::Disconnected { peer, epoch, remote, reason } => {
                write!(f, "disconnected {remote} epoch {epoch} peer {peer}: {reason}")
            }
            Self::DialFailed { target, error, retry_in_ms: Some(wait) } => {
                write!(f, "dial failed {target}: {error}; again in {wait} ms")
            }
            Self::DialFailed { target, error, retry_in_ms: None } => {
                write!(f, "dial failed {target}: {error}; not tried again")
            }
            Self::Abandoned { target, reason } => {
                write!(f, "abandoned {target}: {reason}; not dialled again")
            }
            Self::Refused { remote, error } => write!(f, "refused {remote}: {error}"),
            Self::MoreRefused { refusals } => write!(f, "refused {refusals} more, not shown"),
            Self::ListenerRestarted { address } => write!(f, "listener restarted {address}"),
            Self::ConnectorRestarted { target } => write!(f, "connector restarted {target}"),
            Self::Lagged { events } => write!(f, "lagged: {events} events were not shown"),
            Self::Frame { peer, epoch, bytes, text } => {
                write!(f, "frame epoch {epoch} peer {} {bytes} bytes: {text}", peer.short())
            }
            Self::Stopping { connections } => write!(f, "stopping {connections} connections"),
        }
    }
}
