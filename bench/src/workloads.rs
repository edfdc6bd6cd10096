//! What one process measures: each workload once, for any peer.

mod connections;
mod one_way;
mod requests;
mod round_trips;

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Result, bail};
use tempfile::TempDir;

use crate::arguments::{FigureArgs, PeerName, Role, Workload, name};
use crate::certificates::Certificates;
use crate::far_end::{FarEnd, end_with_parent, wait_for_parent};
use crate::figure::Figure;
use crate::path;
use crate::peer::Peer;
#[cfg(feature = "s2n")]
use crate::peers::S2nQuic;
use crate::peers::{MsQuicAsync, Quinn, TcpRustls};
use crate::traffic::{Frames, leaked};
use crate::tunnel::Side;
use crate::wait::within;

const SMALL_BYTES: usize = 128;
const LARGE_BYTES: usize = 1 << 20;
const FANIN_BYTES: usize = 1 << 10;
const FANIN_CONNECTIONS: usize = 64;

/// What a figure may take beside the times that it was told.
const OVERHEAD_TIME_MAX: Duration = Duration::from_secs(60);

/// Measures one figure, prints it, and waits to be ended.
pub(crate) async fn figure(args: FigureArgs) -> Result<()> {
    end_with_parent()?;
    let figure = match args.peer {
        PeerName::Quinn => measure::<Quinn>(&args).await,
        #[cfg(feature = "s2n")]
        PeerName::S2nQuic => measure::<S2nQuic>(&args).await,
        #[cfg(not(feature = "s2n"))]
        PeerName::S2nQuic => Err(anyhow::anyhow!("built without s2n-quic")),
        PeerName::MsquicAsync => measure::<MsQuicAsync>(&args).await,
        PeerName::Tcp => measure::<TcpRustls>(&args).await,
        PeerName::Tonic => requests::by_tonic(&args).await,
    };
    let printed = figure.and_then(|figure| {
        let line = figure.to_json(&name(args.peer), &name(args.workload));
        Ok(writeln!(std::io::stdout(), "{line}")?)
    });
    wait_for_parent(printed).await
}

async fn measure<P: Peer>(args: &FigureArgs) -> Result<Figure> {
    let folder = TempDir::new()?;
    let certificates = Certificates::write(folder.path())?;
    let size = match args.workload {
        Workload::Throughput => LARGE_BYTES,
        Workload::Fanin => FANIN_BYTES,
        Workload::Small
        | Workload::Pingpong
        | Workload::Requests
        | Workload::Connrate
        | Workload::Memory => SMALL_BYTES,
    };
    let frames = Frames { size, batched: args.batched };
    let far_end = match (args.two_processes, args.workload) {
        (false, _) => None,
        (true, Workload::Throughput | Workload::Small) => Some(Role::Flood),
        (true, Workload::Pingpong | Workload::Requests) => Some(Role::Echo),
        (true, _) => bail!("--two-processes goes with throughput, small, pingpong and requests"),
    };
    let far_end = match far_end {
        Some(role) => {
            Some(FarEnd::start(args.peer, role, frames, folder.path(), &args.path).await?)
        }
        None => None,
    };
    // Behind the far end, whose start makes this end of a tunnel.
    let place = path::place(&args.path, args.peer, Side::Near);
    let peer = leaked(P::start(&certificates, &place).await?);
    // Read by all who need them: however this process ends, no key stays behind.
    drop(folder);
    let limit = 6 * args.warm_up + args.seconds + OVERHEAD_TIME_MAX;
    let measuring = async {
        match (args.workload, far_end) {
            (Workload::Pingpong, None) => round_trips::within_process(peer, args).await,
            (Workload::Pingpong, Some(far_end)) => {
                round_trips::with_far_end(peer, far_end, args).await
            }
            (Workload::Requests, None) => requests::within_process(peer, args).await,
            (Workload::Requests, Some(far_end)) => {
                requests::with_far_end(peer, far_end, args).await
            }
            (Workload::Connrate, _) => connections::rate(peer, args).await,
            (Workload::Memory, _) => connections::memory(peer, args).await,
            (Workload::Throughput | Workload::Small | Workload::Fanin, None) => {
                let fanin = args.workload == Workload::Fanin;
                let connections = if fanin { FANIN_CONNECTIONS } else { 1 };
                one_way::within_process(peer, connections, frames, args).await
            }
            (Workload::Throughput | Workload::Small | Workload::Fanin, Some(far_end)) => {
                one_way::from_far_end(peer, far_end, frames, args).await
            }
        }
    };
    within(limit, "the figure", measuring).await?
}
