//! The far end of a benchmark as a process of its own: this program, started again.
//!
//! It ends with its parent, whatever ends that: it reads its standard input, which its parent holds
//! open and never writes to. The parent kills it besides, when [`FarEnd`] is dropped.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use moorline::{CertHash, ConnectionHandle, NetCredential, Peer};
use tokio::sync::oneshot;

use super::measure::Processes;
use super::pair::{
    Dialler, LOOPBACK, STEP_TIME_MAX, arrivals, check_length, config, new_credential,
};
use super::path::{self, Path};
use super::sessions;
use super::streams::report;
use super::traffic::{flood, send_back};
use super::{BATCH, Report, WARM_UP};
use crate::app::App;
use crate::app::arguments::{FarEndArgs, FarEndRole};
use crate::app::wait::within;

/// The other process, and where it listens.
pub(super) struct FarEnd {
    process: Child,
    address: SocketAddr,
    identity: CertHash,
    /// Held while it is used.
    _path: Path,
}

impl FarEnd {
    /// Starts it, and waits until it listens.
    pub(super) async fn start(
        app: &App,
        role: FarEndRole,
        size: usize,
        trust: CertHash,
    ) -> Result<Self> {
        let role = match role {
            FarEndRole::Echo => "echo",
            FarEndRole::Flood => "flood",
        };
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        moorline::unskip_system_certificates(&mut command);
        let process = command
            .args(["bench-far-end", "--role", role, "--size", &size.to_string()])
            .args(["--trust", &trust.to_string()])
            .args(app.poll_idle.map(|time| format!("--poll-idle={time}")))
            .args(app.keep_alive.map(|time| format!("--keep-alive={}", time.as_secs_f64())))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the far end")?;
        // Owned from here on, so that no way out leaves it behind.
        let (address, identity) = (LOOPBACK, trust);
        let mut far_end = Self { process, address, identity, _path: Path::default() };
        let stdout = far_end.process.stdout.take().context("the far end has no output")?;
        let line = within(STEP_TIME_MAX, "the far end to listen", first_line(stdout)).await??;
        (far_end.address, far_end.identity) = parse(&line)
            .with_context(|| format!("the far end did not say where it listens: {line:?}"))?;
        (far_end.address, far_end._path) = path::start(app.network, far_end.address)?;
        tracing::info!(process = far_end.id(), address = %far_end.address, "the far end listens");
        Ok(far_end)
    }

    /// Connects to it, as the one it trusts.
    pub(super) async fn connect(&self, app: &App, own: NetCredential) -> Result<ConnectionHandle> {
        Dialler::start(app, own, self.address, self.identity).await?.connect().await
    }

    /// A session with it, as the one it trusts.
    pub(super) async fn open(&self, app: &App, own: NetCredential) -> Result<Peer> {
        sessions::open(app, own, self.address, self.identity).await
    }

    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for FarEnd {
    fn drop(&mut self) {
        // It keeps nothing that could be lost; it may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn first_line(stdout: ChildStdout) -> Result<String> {
    let (line, receiver) = oneshot::channel();
    // Ends with the process at the latest, which is killed where this is not waited for.
    std::thread::Builder::new().name("far-end".to_owned()).spawn(move || {
        let mut text = String::new();
        let read = BufReader::new(stdout).read_line(&mut text);
        let _ = line.send(read.map(|_| text));
    })?;
    receiver.await?.context("cannot read what the far end says")
}

fn parse(line: &str) -> Option<(SocketAddr, CertHash)> {
    let (address, identity) = line.trim().split_once(' ')?;
    Some((address.parse().ok()?, identity.parse().ok()?))
}

/// What a far end does in its own process.
pub(crate) async fn far_end(app: App, args: FarEndArgs) -> Result<()> {
    let credential = new_credential()?;
    let node = app.start(config(credential, args.trust)).await?;
    let (mut arrivals, mut begun) = (arrivals(&node), sessions::begun(&node));
    let address = node.listen(LOOPBACK).await?;
    crate::app::output::heading(&format!("{address} {}", node.identity()))?;
    let orphaned = orphaned()?;
    let payload = Bytes::from(vec![0x5a; args.size as usize]);
    let serving = async {
        loop {
            tokio::select! {
                Some(connection) = arrivals.recv() => match args.role {
                    FarEndRole::Echo => drop(tokio::spawn(send_back(connection))),
                    FarEndRole::Flood => drop(tokio::spawn(flood(connection, payload.clone()))),
                },
                Some(peer) = begun.next() => match args.role {
                    FarEndRole::Echo => drop(tokio::spawn(sessions::send_back(peer))),
                    FarEndRole::Flood => drop(tokio::spawn(sessions::flood(peer, payload.clone()))),
                },
                else => break,
            }
        }
    };
    tokio::select! {
        () = serving => {}
        _ = orphaned => {}
        () = app.stop.requested() => {}
    }
    Ok(())
}

/// Resolves when the parent has closed standard input, or is gone.
fn orphaned() -> Result<oneshot::Receiver<()>> {
    let (gone, receiver) = oneshot::channel();
    std::thread::Builder::new().name("parent".to_owned()).spawn(move || {
        let mut nothing = [0; 1];
        while std::io::stdin().read(&mut nothing).is_ok_and(|read| read > 0) {}
        let _ = gone.send(());
    })?;
    Ok(receiver)
}

/// Counts what another process sends as fast as it can; the CPU time is that of both.
pub(super) async fn drain(app: &App, size: usize, counted: Duration) -> Result<Report> {
    let credential = new_credential()?;
    let far_end = FarEnd::start(app, FarEndRole::Flood, size, credential.identity()).await?;
    let connection = far_end.connect(app, credential).await?;
    let processes = Processes { far_end: Some(far_end.id()) };
    let limit = WARM_UP + counted + STEP_TIME_MAX;
    within(limit, "the frames to be counted", async {
        let mut batch = Vec::with_capacity(BATCH);
        let warm_at = Instant::now() + WARM_UP;
        while Instant::now() < warm_at {
            take(&connection, &mut batch, size).await?;
        }
        let (started, mut frames) = (processes.start()?, 0);
        while started.at.elapsed() < counted {
            frames += take(&connection, &mut batch, size).await?;
        }
        report(started.spent()?, frames, size)
    })
    .await?
}

async fn take(connection: &ConnectionHandle, batch: &mut Vec<Bytes>, size: usize) -> Result<u64> {
    if connection.recv_many(batch, BATCH).await? == 0 {
        bail!("the far end stopped sending");
    }
    batch.iter().try_for_each(|frame| check_length(frame, size))?;
    let frames = batch.len() as u64;
    batch.clear();
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_far_end_is_understood() {
        let hash = "cd".repeat(32);
        let (address, identity) = parse(&format!("127.0.0.1:7 {hash}\n")).unwrap();
        assert_eq!((address.port(), identity.to_string()), (7, hash));
        assert!(parse("").is_none() && parse("127.0.0.1:7").is_none());
    }
}
