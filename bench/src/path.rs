//! What is between the two processes of a figure: the same that `moorline bench` puts there.

use std::net::SocketAddr;

use anyhow::Result;
use moorline::testing::{ChaosProxy, Conditions};

use crate::arguments::Network;

/// Which datagrams a path loses.
const SEED: u64 = 1;

/// Puts a path in front of `server`, for as long as the proxy is held.
pub(crate) fn start(network: Network, server: SocketAddr) -> Result<Option<ChaosProxy>> {
    let conditions = match network {
        Network::Loopback => return Ok(None),
        Network::Wan => Conditions::wan(),
        Network::Mobile => Conditions::mobile(),
    };
    let proxy = ChaosProxy::start(server, SEED)?;
    proxy.set_both(conditions);
    Ok(Some(proxy))
}
