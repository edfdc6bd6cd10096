//! What one process measures: each workload once, for any peer.

mod connections;
mod one_way;
mod round_trips;

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Result, bail};
use tempfile::TempDir;

use crate::arguments::{FigureArgs, PeerName, Workload, name};
use crate::certificates::Certificates;
use crate::far_end::{end_with_parent, wait_for_parent};
use crate::figure::Figure;
use crate::peer::Peer;
use crate::peers::{MsQuicAsync, Quinn, TcpRustls};
use crate::wait::within;

pub(crate) use one_way::flood;
pub(crate) use round_trips::send_back;

const SMALL_BYTES: usize = 128;
const LARGE_BYTES: usize = 1 << 20;
const FANIN_BYTES: usize = 1 << 10;
const FANIN_CONNECTIONS: usize = 64;

/// What a figure may take beside the times that it was told.
const OVERHEAD_TIME_MAX: Duration = Duration::from_secs(60);

/// Frames that are sent one way, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frames {
    pub(crate) size: usize,
    pub(crate) batched: bool,
}

/// Measures one figure, prints it, and waits to be ended.
pub(crate) async fn figure(args: FigureArgs) -> Result<()> {
    end_with_parent()?;
    let figure = match args.peer {
        PeerName::Quinn => measure::<Quinn>(&args).await,
        PeerName::MsquicAsync => measure::<MsQuicAsync>(&args).await,
        PeerName::Tcp => measure::<TcpRustls>(&args).await,
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
    let peer = leaked(P::start(&certificates).await?);
    let frames = |size| Frames { size, batched: args.batched };
    let limit = 6 * args.warm_up + args.seconds + OVERHEAD_TIME_MAX;
    let measuring = async {
        match (args.workload, args.two_processes) {
            (Workload::Throughput, false) => {
                one_way::within_process(peer, 1, frames(LARGE_BYTES), args).await
            }
            (Workload::Small, false) => {
                one_way::within_process(peer, 1, frames(SMALL_BYTES), args).await
            }
            (Workload::Fanin, false) => {
                one_way::within_process(peer, FANIN_CONNECTIONS, frames(FANIN_BYTES), args).await
            }
            (Workload::Throughput, true) => {
                one_way::from_far_end(peer, frames(LARGE_BYTES), folder.path(), args).await
            }
            (Workload::Small, true) => {
                one_way::from_far_end(peer, frames(SMALL_BYTES), folder.path(), args).await
            }
            (Workload::Pingpong, false) => round_trips::within_process(peer, args).await,
            (Workload::Pingpong, true) => {
                round_trips::with_far_end(peer, folder.path(), args).await
            }
            (Workload::Connrate, false) => connections::rate(peer, args).await,
            (Workload::Memory, false) => connections::memory(peer, args).await,
            (Workload::Connrate | Workload::Memory | Workload::Fanin, true) => {
                bail!("--two-processes goes with throughput, small and pingpong")
            }
        }
    };
    within(limit, "the figure", measuring).await?
}

/// A peer lives as long as its process: MsQuic waits for every connection when its registration is
/// closed, and nobody is left to close them all.
pub(crate) fn leaked<P: Peer>(peer: P) -> &'static P {
    Box::leak(Box::new(peer))
}
