//! What is between the two processes of a benchmark.

use std::net::SocketAddr;

use anyhow::Result;
#[cfg(feature = "testing")]
use moorline::testing::{ChaosProxy, Conditions};

use crate::app::arguments::Network;

/// See the module; it is gone with this.
#[derive(Default)]
pub(super) struct Path {
    #[cfg(feature = "testing")]
    _proxy: Option<ChaosProxy>,
}

/// Which datagrams a path loses: the same ones each time, as far as both ends send the same.
#[cfg(feature = "testing")]
const SEED: u64 = 1;

/// Puts a path in front of `server`, and tells what to dial instead.
pub(super) fn start(network: Network, server: SocketAddr) -> Result<(SocketAddr, Path)> {
    match network {
        Network::Loopback => Ok((server, Path::default())),
        #[cfg(feature = "testing")]
        Network::Wan => through(server, Conditions::wan()),
        #[cfg(feature = "testing")]
        Network::Mobile => through(server, Conditions::mobile()),
    }
}

#[cfg(feature = "testing")]
fn through(server: SocketAddr, conditions: Conditions) -> Result<(SocketAddr, Path)> {
    let proxy = ChaosProxy::start(server, SEED)?;
    proxy.set_both(conditions);
    Ok((proxy.address(), Path { _proxy: Some(proxy) }))
}
