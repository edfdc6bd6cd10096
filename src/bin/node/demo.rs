//! `demo`: three supervised nodes at work on loopback, with every claim checked.
//!
//! 1. The repository's files and generated data go around the ring, and arrive as they were.
//! 2. A connection actor is killed under load; its connector brings the peer back.
//! 3. A stranger is refused, and both sides can say so.
//! 4. The nodes stop in order, and every frame that was accepted has one known end.

mod progress;
mod report;
mod ring;
mod sink;
mod source;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use moorline::{
    AcceptError, CloseReason, ConnectError, ConnectionHandle, Events, NetCredential, NodeConfig,
    NodeEvent, Redial, Target,
};
use tokio::sync::watch;

use crate::app::App;
use crate::app::arguments::DemoArgs;
use crate::app::wait::within;
use progress::Progress;
use report::{Checks, Paces, Remark};
use ring::{Ring, STEP_TIME_MAX};
use sink::{Arrived, Sink};
use source::{FILLER, Hashes, Item};

/// How long all data may take around the ring. Far above what it takes, for machines that are busy.
const DATA_TIME_MAX: Duration = Duration::from_secs(120);

/// How long the nodes may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// Sent around after the connection is back.
const AFTERWARDS_BYTES: u64 = 4 << 20;

/// What keeps the connection busy that is killed.
const FILLER_BYTES: usize = 64 * 1024;

/// Sent before the kill, so that it happens under load.
const FILLERS_BEFORE_KILL: u64 = 200;

pub(crate) async fn demo(app: App, args: DemoArgs) -> Result<()> {
    tokio::select! {
        shown = show(&app, &args) => shown,
        () = app.stop.requested() => bail!("stopped before everything was shown"),
    }
}

async fn show(app: &App, args: &DemoArgs) -> Result<()> {
    let started = Instant::now();
    let mut checks = Checks::new(app.out);
    let mut items = source::repository_files(&std::env::current_dir()?)?;
    items.push(Item::Generated { bytes: u64::from(args.data) << 20 });

    let hashes = Hashes::default();
    let progress = Progress::new(items.iter().map(Item::bytes).sum());
    let (sink, mut arrived) = Sink::new(hashes.clone(), progress.clone());
    let ring = Ring::start(app, sink).await.context("the ring does not come to stand")?;
    for member in ring.members() {
        let (name, address, identity) = (member.name, member.address, member.identity().short());
        say(app, format!("{name} listens on {address} as {identity}…"))?;
    }

    say(
        app,
        "A sends to B, B to C, C to A; A and B are known by their hashes, C by its signer".into(),
    )?;

    progress.start();
    let data = transfer(&ring, &items, 0, &hashes, &mut arrived).await;
    progress.finish();
    let paces = match &data {
        Ok(took) => report::paces(&ring, *took),
        Err(_) => Paces::new(),
    };
    let files = items.len() - 1;
    checks.note(
        "everything came around the ring with its SHA-256",
        data.map(|took| {
            let seconds = took.as_secs_f64();
            format!("{files} files of the repository and {} MiB in {seconds:.1} s", args.data)
        }),
    )?;

    checks.note("a killed connection actor is replaced", kill_and_return(&ring).await)?;
    let afterwards = [Item::Generated { bytes: AFTERWARDS_BYTES }];
    let first = u32::try_from(items.len()).context("too many items")?;
    checks.note(
        "the ring is whole again",
        transfer(&ring, &afterwards, first, &hashes, &mut arrived)
            .await
            .map(|_| format!("another {} MiB came around", AFTERWARDS_BYTES >> 20)),
    )?;

    for (check, outcome) in stranger(app, &ring).await {
        checks.note(check, outcome)?;
    }

    checks.note("the nodes stop in order", stop(&ring).await)?;
    let rows = report::rows(&ring, &paces);
    checks.note("every accepted frame has one known end", balance(&rows))?;
    if !app.out.json {
        crate::app::output::heading(report::HEADING)?;
    }
    rows.iter().try_for_each(|row| app.out.line(row))?;
    checks.finish(started.elapsed())
}

fn say(app: &App, text: String) -> Result<()> {
    app.out.line(&Remark { event: "remark", text })
}

/// Sends `items` from A, and waits until they have come around.
async fn transfer(
    ring: &Ring,
    items: &[Item],
    first: u32,
    hashes: &Hashes,
    arrived: &mut watch::Receiver<Arrived>,
) -> Result<Duration> {
    let started = Instant::now();
    let last = first + u32::try_from(items.len()).context("too many items")?;
    let mut frames = source::frames(items.to_vec(), first, hashes.clone())?;
    let to = ring.a.peer(&ring.b.identity()).await?;
    let sending = async {
        while let Some(frame) = frames.recv().await {
            to.send(frame?).await?;
        }
        anyhow::Ok(())
    };
    let all = async {
        sending.await.context("A could not send")?;
        let done = arrived.wait_for(|seen| seen.items >= last || !seen.faults.is_empty()).await?;
        match done.faults.first() {
            Some(fault) => bail!("{fault}"),
            None => Ok(()),
        }
    };
    within(DATA_TIME_MAX, "the data to come around", all).await??;
    Ok(started.elapsed())
}

/// Kills the actor of A's connection to B while it is busy, and waits for the next one.
async fn kill_and_return(ring: &Ring) -> Result<String> {
    let old = ring.a.peer(&ring.b.identity()).await?;
    let mut events = ring.a.node.subscribe();
    let (sent, mut enough) = watch::channel(0);
    let filling = tokio::spawn(fill(old.clone(), sent));
    within(STEP_TIME_MAX, "load", enough.wait_for(|sent| *sent >= FILLERS_BEFORE_KILL)).await??;

    let killed_at = Instant::now();
    old.actor().kill();
    let what = "the killed connection to be reported closed";
    let reason = within(STEP_TIME_MAX, what, disconnected(&mut events, old.epoch())).await??;
    let what = "another connection in its place";
    let new = within(STEP_TIME_MAX, what, connected(&mut events, &old)).await??;
    let took = killed_at.elapsed();
    let what = "the senders of the killed connection to be told";
    within(STEP_TIME_MAX, what, filling).await??;
    Ok(format!(
        "epoch {} ended ({reason}), epoch {} came after {} ms",
        old.epoch(),
        new.epoch(),
        took.as_millis()
    ))
}

/// Sends until the connection ends; tells how many were admitted.
async fn fill(connection: ConnectionHandle, sent: watch::Sender<u64>) {
    let mut filler = vec![0; FILLER_BYTES];
    filler[0] = FILLER;
    let filler = Bytes::from(filler);
    while connection.send(filler.clone()).await.is_ok() {
        sent.send_modify(|sent| *sent += 1);
    }
}

async fn disconnected(events: &mut Events, epoch: u64) -> Result<CloseReason> {
    while let Some(event) = events.next().await {
        match event {
            NodeEvent::Disconnected { epoch: ended, reason, .. } if ended == epoch => {
                return Ok(reason);
            }
            _ => {}
        }
    }
    bail!("the node has stopped")
}

async fn connected(events: &mut Events, old: &ConnectionHandle) -> Result<ConnectionHandle> {
    while let Some(event) = events.next().await {
        match event {
            NodeEvent::Connected(new) if new.peer() == old.peer() && new.epoch() > old.epoch() => {
                return Ok(new);
            }
            _ => {}
        }
    }
    bail!("the node has stopped")
}

/// A node that trusts A, and whom nobody trusts, tries to connect to it.
async fn stranger(app: &App, ring: &Ring) -> [(&'static str, Result<String>); 2] {
    let mut events = ring.a.node.subscribe();
    let there = async { seen_by_the_stranger(app, ring).await };
    let here =
        async { within(STEP_TIME_MAX, "A to report a refusal", refused(&mut events)).await? };
    let (there, here) = tokio::join!(there, here);
    [("a stranger is refused and told so", there), ("A knows whom it refused", here)]
}

async fn seen_by_the_stranger(app: &App, ring: &Ring) -> Result<String> {
    let credential = NetCredential::generate_self_signed(&["localhost"], &[])?;
    let config = NodeConfig::new(credential.trust_hash(ring.a.identity()));
    let stranger = app.start(config).await?;
    let target = Target::from(ring.a.address).redial(Redial::Never);
    let connecting = stranger.connect(target);
    match within(STEP_TIME_MAX, "an answer to the stranger", connecting).await? {
        Err(error @ ConnectError::CertificateRefused { .. }) => Ok(error.to_string()),
        Err(error) => bail!("refused for another reason: {error}"),
        // TLS lets the dialling side finish before the other side has judged it.
        Ok(connection) => {
            let what = "the stranger to be refused";
            match within(STEP_TIME_MAX, what, connection.closed()).await? {
                reason @ CloseReason::Certificate(_) => Ok(reason.to_string()),
                reason => bail!("closed for another reason: {reason}"),
            }
        }
    }
}

async fn refused(events: &mut Events) -> Result<String> {
    while let Some(event) = events.next().await {
        if let NodeEvent::Refused { error, .. } = event {
            return match &error {
                AcceptError::Closed { reason: CloseReason::Certificate(_), .. } => {
                    Ok(error.to_string())
                }
                _ => bail!("refused for another reason: {error}"),
            };
        }
    }
    bail!("the node has stopped")
}

async fn stop(ring: &Ring) -> Result<String> {
    let started = Instant::now();
    let (a, b, c) = tokio::join!(
        ring.a.node.shutdown(GRACE),
        ring.b.node.shutdown(GRACE),
        ring.c.node.shutdown(GRACE)
    );
    for (outcome, member) in [a, b, c].into_iter().zip(ring.members()) {
        outcome.with_context(|| format!("{} did not stop in order", member.name))?;
    }
    Ok(format!("three nodes, {} ms", started.elapsed().as_millis()))
}

fn balance(rows: &[report::Row]) -> Result<String> {
    let wrong: Vec<_> = rows.iter().filter(|row| !row.balances()).map(report::Row::names).collect();
    if !wrong.is_empty() {
        bail!("accepted is not completed + not sent + maybe sent for {}", wrong.join(", "));
    }
    Ok("accepted = completed + not sent + maybe sent, everywhere".to_owned())
}
