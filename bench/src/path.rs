//! What is between the two processes of a figure: the same that `moorline bench` puts there, and a tunnel
//! of the same conditions for what the kernel speaks.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use moorline::testing::{ChaosProxy, Conditions};

use crate::arguments::{Network, PathArgs, PeerName};
use crate::peer::Place;
use crate::tunnel::{Side, Tunnel};

/// Which datagrams a path loses.
const SEED: u64 = 1;

fn conditions(network: Network) -> Option<Conditions> {
    match network {
        Network::Loopback => None,
        Network::Wan => Some(Conditions::wan()),
        Network::Mobile => Some(Conditions::mobile()),
    }
}

/// Puts a proxy in front of `server`, for as long as it is held.
pub(crate) fn proxy(network: Network, server: SocketAddr) -> Result<Option<ChaosProxy>> {
    let Some(conditions) = conditions(network) else { return Ok(None) };
    let proxy = ChaosProxy::start(server, SEED)?;
    proxy.set_both(conditions);
    Ok(Some(proxy))
}

/// One end of a tunnel, where `peer` takes one.
pub(crate) fn tunnel(
    path: &PathArgs,
    peer: PeerName,
    side: Side,
    folder: &Path,
) -> Result<Option<Tunnel>> {
    let Some(conditions) = conditions(path.network).filter(|_| path.is_tunnel_of(peer)) else {
        return Ok(None);
    };
    Tunnel::bind(side, folder, conditions, SEED).map(Some)
}

/// Where `peer` is on one side of the path.
pub(crate) fn place(path: &PathArgs, peer: PeerName, side: Side) -> Place {
    let address = if path.is_tunnel_of(peer) { side.address() } else { Place::LOOPBACK.address };
    Place { address, congestion: path.congestion.clone() }
}
