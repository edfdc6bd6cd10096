//! What is between the two processes of a figure: the same that `moorline bench` puts there.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use moorline::testing::{ChaosProxy, Conditions, Loss, Share};

use crate::arguments::Network;

/// Which datagrams a path loses.
const SEED: u64 = 1;

/// Puts a path in front of `server`, for as long as the proxy is held.
pub(crate) fn start(network: Network, server: SocketAddr) -> Result<Option<ChaosProxy>> {
    let (delay, percent) = match network {
        Network::Loopback => return Ok(None),
        Network::Wan => (Duration::from_millis(20), 1),
        Network::Mobile => (Duration::from_millis(60), 3),
    };
    let proxy = ChaosProxy::start(server, SEED)?;
    let mut conditions = Conditions::default();
    conditions.delay = delay;
    conditions.loss = Loss::Independent(Share::percent(percent));
    proxy.set_both(conditions);
    Ok(Some(proxy))
}
