//! `sessions-memory`: what idle sessions cost, beside their connections and without one.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use moorline::{ErrorKind, NetCredential, Node, NodeEvent, Peer, PeerError, Target};
use tokio::task::JoinSet;

use super::Report;
use super::connections::affordable;
use super::measure::rss_kib;
use super::pair::{LOOPBACK, Pair, STEP_TIME_MAX, config, new_credential};
use super::relay::Relay;
use super::sessions::SessionPair;
use crate::app::App;
use crate::app::exit::CheckFailed;
use crate::app::wait::within;

/// Made before anything is counted, so that what is allocated once is not.
const NOT_COUNTED: usize = 5;

/// Before a dial is made again.
const AGAIN: Duration = Duration::from_millis(200);

/// What a handshake leaves behind is freed by then.
const REST: Duration = Duration::from_secs(2);

/// Nodes that begin sessions at once and are lost then, sessions of each, and how often: 10,000 in all, of
/// which the first are not over when the last ones are there.
const NODES: usize = 5;
const SESSIONS: usize = 400;
const WAVES: usize = 5;

/// How long a node that nobody hears may take to end.
const UNHEARD: Duration = Duration::from_millis(1);

/// Growth of resident memory, of which a pair is both ends in this process: of connections, then of sessions
/// with one each. What the second is above the first is two ends of a session.
pub(super) async fn connected(app: &App, wanted: usize) -> Result<Report> {
    let sessions = affordable(2 * wanted) / 2;
    ensure!(sessions > 0, "not one session can be had");
    let mut plain = Pair::start(app).await?;
    let mut links = Vec::with_capacity(sessions + NOT_COUNTED);
    for _ in 0..NOT_COUNTED {
        links.push(plain.link().await?);
    }
    let before = rested().await?;
    for _ in 0..sessions {
        links.push(plain.link().await?);
    }
    let of_connections = rested().await? - before;
    let mut pair = SessionPair::start(app).await?;
    let mut kept = Vec::with_capacity(sessions + NOT_COUNTED);
    for _ in 0..NOT_COUNTED {
        kept.push(pair.link().await?);
    }
    let before = rested().await?;
    for _ in 0..sessions {
        kept.push(pair.link().await?);
    }
    let after = rested().await?;
    if !kept.iter().all(|link| link.near.is_connected() && link.far.is_connected()) {
        return Err(CheckFailed("a session lost its connection".to_owned()).into());
    }
    let (connection, session) =
        (of_connections / sessions as f64, (after - before) / sessions as f64);
    let mut report = Report::new("rss_above_connection", (session - connection) / 2.0, "KiB")
        .with("pair_of_sessions", session)
        .with("pair_of_connections", connection)
        .with("sessions", sessions as f64)
        .with("rss_mib", after / 1024.0);
    report.workload = "sessions-memory";
    Ok(report)
}

/// Growth of resident memory over sessions whose peers were lost: their connections are gone, and so are
/// those who dialled them.
pub(super) async fn without_connection(app: &App) -> Result<Report> {
    let own = new_credential()?;
    let identity = own.identity();
    let others: Vec<NetCredential> =
        (0..=NODES * WAVES).map(|_| new_credential()).collect::<Result<_>>()?;
    let first = others[0].identity();
    let trusting = others.iter().skip(1).fold(own, |own, it| own.trust_hash(it.identity()));
    let server = app.start(config(trusting, first)).await?;
    let address = within(STEP_TIME_MAX, "a listener", server.listen(LOOPBACK)).await??;
    let protocols: Vec<String> = (0..SESSIONS).map(|number| format!("idle/{number}")).collect();
    let mut begun: Vec<_> = protocols.iter().map(|protocol| server.accept(protocol)).collect();
    let mut kept: Vec<Peer> = Vec::with_capacity(NODES * SESSIONS * WAVES);
    let (mut waves, mut before) = (others.chunks(NODES), None);
    for wave in 0..WAVES {
        let relay = Relay::start(address)?;
        let target = Target::from(relay.address()).expect(identity);
        let mut nodes = Vec::new();
        for credential in waves.next().context("a wave too much")? {
            let node = Node::spawn(config(credential.clone(), identity)).await?;
            nodes.push((open_all(&node, &target, &protocols).await?, node));
        }
        for begun in &mut begun {
            for _ in 0..NODES {
                let came = within(STEP_TIME_MAX, "a session to arrive", begun.next()).await?;
                kept.push(came.context("the listening node has stopped")?);
            }
        }
        relay.cut();
        all_are_lost(&kept, &server).await?;
        for (peers, node) in nodes {
            drop(peers);
            // Nobody hears its goodbye, on which nothing depends.
            let _ = node.close(UNHEARD).await;
        }
        if wave == 0 {
            before = Some((rested().await?, kept.len()));
        }
    }
    let (before, counted_from) = before.context("nothing was begun")?;
    let after = rested().await?;
    let counted = (kept.len() - counted_from) as f64;
    let mut report = Report::new("rss_without_connection", (after - before) / counted, "KiB")
        .with("sessions", kept.len() as f64)
        .with("rss_mib", after / 1024.0);
    report.workload = "sessions-lost";
    Ok(report)
}

async fn open_all(node: &Node, target: &Target, protocols: &[String]) -> Result<Vec<Peer>> {
    const WIDTH: usize = 16;
    let mut peers = Vec::with_capacity(protocols.len());
    for part in protocols.chunks(WIDTH) {
        let mut opening = JoinSet::new();
        for protocol in part {
            let (node, target, protocol) = (node.clone(), target.clone(), protocol.clone());
            opening.spawn(async move { open(&node, target, &protocol).await });
        }
        let opened = within(STEP_TIME_MAX, "sessions", opening.join_all()).await?;
        for peer in opened {
            peers.push(peer?);
        }
    }
    Ok(peers)
}

/// Asks again where so many dials at once are too much for a slow machine.
async fn open(node: &Node, target: Target, protocol: &str) -> Result<Peer, PeerError> {
    loop {
        match node.peer(target.clone(), protocol).await {
            Err(error) if error.kind() == ErrorKind::Retry => tokio::time::sleep(AGAIN).await,
            opened => return opened,
        }
    }
}

async fn all_are_lost(peers: &[Peer], server: &Node) -> Result<()> {
    let mut events = server.subscribe();
    within(STEP_TIME_MAX, "the loss of all", async {
        while peers.iter().any(Peer::is_connected) {
            let event = events.next().await.context("the node has ended")?;
            if let NodeEvent::PeerEnded { reason, .. } = event {
                return Err(CheckFailed(format!("a session ended: {reason}")).into());
            }
        }
        Ok(())
    })
    .await?
}

/// Resident memory, once what is not needed is given back.
async fn rested() -> Result<f64> {
    tokio::time::sleep(REST).await;
    moorline::release_freed_memory();
    rss_kib()
}
