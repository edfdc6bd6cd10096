//! The far end of a figure as a process of its own: this program, started again.
//!
//! Nothing that this program starts outlives it: a child reads its standard input, which its parent
//! holds open and never writes to. The parent kills it besides, when it has what it wanted.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use moorline::testing::ChaosProxy;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::arguments::{FarEndArgs, PathArgs, PeerName, Role, name};
use crate::certificates::Certificates;
use crate::path;
use crate::peer::{Peer, arrivals};
#[cfg(feature = "s2n")]
use crate::peers::S2nQuic;
use crate::peers::{MsQuicAsync, Quinn, TcpRustls};
use crate::traffic::{Frames, flood, leaked, send_back};
use crate::tunnel::{Side, in_own_namespace};
use crate::wait::{STEP_TIME_MAX, within};

/// In front of the reason, where a child says why there is nothing else to say.
pub(crate) const FAILED: &str = "failed: ";

/// How long a child that is done waits for its parent to end it.
const PARENT_TIME_MAX: Duration = Duration::from_secs(60);

/// The other process, and where it listens.
pub(crate) struct FarEnd {
    process: Child,
    address: SocketAddr,
    /// Held while it is used.
    _proxy: Option<ChaosProxy>,
}

impl FarEnd {
    /// Starts it, and waits until it listens.
    pub(crate) async fn start(
        peer: PeerName,
        role: Role,
        frames: Frames,
        folder: &Path,
        path: &PathArgs,
    ) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let tunnel = path::tunnel(path, peer, Side::Near, folder)?;
        let mut command =
            if tunnel.is_some() { in_own_namespace(&program) } else { Command::new(program) };
        command
            .args(["far-end", "--peer", &name(peer), "--role", &name(role)])
            .args(["--size", &frames.size.to_string(), "--certificates"])
            .arg(folder)
            .args(path.words())
            .args(frames.batched.then_some("--batched"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut process = command.spawn().context("cannot start the far end")?;
        let stdout = process.stdout.take().context("the far end has no output")?;
        let mut line = String::new();
        let mut stdout = BufReader::new(stdout);
        within(STEP_TIME_MAX, "the far end to listen", stdout.read_line(&mut line)).await??;
        let address = line.trim().parse();
        let address = address.with_context(|| format!("no address of a far end: {line:?}"))?;
        let Some(tunnel) = tunnel else {
            let proxy = path::proxy(path.network, address)?;
            let address = proxy.as_ref().map_or(address, ChaosProxy::address);
            return Ok(Self { process, address, _proxy: proxy });
        };
        tunnel.start(folder)?;
        Ok(Self { process, address, _proxy: None })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn id(&self) -> Option<u32> {
        self.process.id()
    }

    /// It keeps nothing that could be lost.
    pub(crate) async fn end(&mut self) -> Result<()> {
        within(STEP_TIME_MAX, "the far end to end", self.process.kill()).await??;
        Ok(())
    }
}

/// What a far end does in its own process.
pub(crate) async fn serve(args: FarEndArgs) -> Result<()> {
    end_with_parent()?;
    let served = match args.peer {
        PeerName::Quinn => serve_as::<Quinn>(args).await,
        #[cfg(feature = "s2n")]
        PeerName::S2nQuic => serve_as::<S2nQuic>(args).await,
        #[cfg(not(feature = "s2n"))]
        PeerName::S2nQuic => Err(anyhow::anyhow!("built without s2n-quic")),
        PeerName::MsquicAsync => serve_as::<MsQuicAsync>(args).await,
        PeerName::Tcp => serve_as::<TcpRustls>(args).await,
        PeerName::Tonic => serve_as_tonic(args).await,
    };
    wait_for_parent(served).await
}

async fn serve_as<P: Peer>(args: FarEndArgs) -> Result<()> {
    let folder = &args.certificates;
    if let Some(tunnel) = path::tunnel(&args.path, args.peer, Side::Far, folder)? {
        tunnel.start(folder)?;
    }
    let place = path::place(&args.path, args.peer, Side::Far);
    let peer = leaked(P::start(&Certificates::in_folder(folder), &place).await?);
    let mut arrivals = arrivals(peer);
    writeln!(std::io::stdout(), "{}", peer.address()?)?;
    let frames = Frames { size: args.size, batched: args.batched };
    // Each ends with its connection, in whatever way that ends.
    while let Some(link) = arrivals.recv().await {
        match args.role {
            Role::Echo => drop(tokio::spawn(send_back(link))),
            Role::Flood => drop(tokio::spawn(flood(link, frames))),
        }
    }
    Ok(())
}

#[cfg(feature = "tonic")]
async fn serve_as_tonic(args: FarEndArgs) -> Result<()> {
    let served = crate::peers::tonic::serve(&Certificates::in_folder(&args.certificates)).await;
    writeln!(std::io::stdout(), "{}", served?)?;
    std::future::pending().await
}

#[cfg(not(feature = "tonic"))]
async fn serve_as_tonic(_: FarEndArgs) -> Result<()> {
    anyhow::bail!("built without tonic")
}

/// Lets this process end with its parent: when that closes standard input, or is gone.
///
/// It ends at once. MsQuic waits at an orderly exit for connections that nobody is left to close.
pub(crate) fn end_with_parent() -> Result<()> {
    thread::Builder::new().name("parent".to_owned()).spawn(|| {
        let mut nothing = [0; 1];
        while std::io::stdin().read(&mut nothing).is_ok_and(|read| read > 0) {}
        std::process::abort();
    })?;
    Ok(())
}

/// Says what went wrong, or nothing, and waits to be ended.
pub(crate) async fn wait_for_parent(outcome: Result<()>) -> Result<()> {
    if let Err(error) = outcome {
        writeln!(std::io::stdout(), "{FAILED}{error:#}")?;
    }
    tokio::time::sleep(PARENT_TIME_MAX).await;
    std::process::abort()
}
