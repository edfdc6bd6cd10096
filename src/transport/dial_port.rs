//! The local ports of dialled connections.
//!
//! The library gives every dialled connection sockets of its own: on two cores four descriptors
//! and about 100 KiB. Connections to one address can share them, if they name the same local
//! address. But shared sockets tell nobody that a port is closed, so that a dial would wait for
//! the whole handshake time: sockets are shared with a connection that stands, or when many dials
//! are on their way.
//!
//! Invariants: a port that is shared is held by a socket of ours, so that the system gives it to
//! nobody else; counts are given back when the connection's handle is closed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use socket2::{Domain, Socket, Type};
use tracing::debug;

use super::lock;

/// Dials to one address that each get sockets of their own, while no connection stands there.
const ALONE_MAX: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct DialPorts(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    peers: HashMap<SocketAddr, Counts>,
    /// The sockets that hold the ports, by the local address they are for.
    held: HashMap<IpAddr, Socket>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    dialling: usize,
    established: usize,
}

/// One dialled connection, from its dial until its handle is closed.
#[derive(Debug)]
pub(super) struct Dial {
    ports: Arc<DialPorts>,
    remote: SocketAddr,
    established: bool,
    shared: Option<SocketAddr>,
}

impl DialPorts {
    pub(super) fn begin(self: &Arc<Self>, remote: SocketAddr) -> Dial {
        let mut state = lock(&self.0);
        let counts = state.peers.entry(remote).or_default();
        let shares = counts.established > 0 || counts.dialling >= ALONE_MAX;
        counts.dialling += 1;
        let shared = if shares { state.hold(remote) } else { None };
        drop(state);
        Dial { ports: Arc::clone(self), remote, established: false, shared }
    }
}

impl State {
    /// The local address that connections to `remote` share, held from now on.
    fn hold(&mut self, remote: SocketAddr) -> Option<SocketAddr> {
        if matches!(remote, SocketAddr::V6(v6) if v6.scope_id() != 0) {
            // Its local address is good on one interface only.
            return None;
        }
        let address = source_of(remote)
            .and_then(|ip| match self.held.entry(ip) {
                Entry::Occupied(held) => held.get().local_addr(),
                Entry::Vacant(free) => free.insert(hold_port(ip)?).local_addr(),
            })
            .inspect_err(|cause| debug!(%remote, %cause, "sockets cannot be shared"));
        address.ok()?.as_socket()
    }
}

/// The local address that reaches `remote`.
fn source_of(remote: SocketAddr) -> std::io::Result<IpAddr> {
    let any: SocketAddr = match remote {
        SocketAddr::V4(_) => ([0; 4], 0).into(),
        SocketAddr::V6(_) => ([0; 16], 0).into(),
    };
    let probe = std::net::UdpSocket::bind(any)?;
    // Connecting a UDP socket sends nothing.
    probe.connect(remote)?;
    Ok(probe.local_addr()?.ip())
}

/// A socket on a port of its own that the library's sockets may join. Nothing is read from it:
/// datagrams of the peers go to the library's sockets, which are connected.
#[cfg(unix)]
fn hold_port(ip: IpAddr) -> std::io::Result<Socket> {
    let address = SocketAddr::new(ip, 0);
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    socket.set_reuse_port(true)?;
    // The least the system allows: strangers may send to it.
    socket.set_recv_buffer_size(1)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(not(unix))]
fn hold_port(_ip: IpAddr) -> std::io::Result<Socket> {
    Err(std::io::ErrorKind::Unsupported.into())
}

impl Dial {
    /// The local address to name, if the connection shares its sockets.
    pub(super) fn shared(&self) -> Option<SocketAddr> {
        self.shared
    }

    /// The handshake is done: others may share.
    pub(super) fn established(&mut self) {
        if !std::mem::replace(&mut self.established, true) {
            let mut state = lock(&self.ports.0);
            let counts = state.peers.entry(self.remote).or_default();
            counts.dialling -= 1;
            counts.established += 1;
        }
    }
}

impl Drop for Dial {
    fn drop(&mut self) {
        let mut state = lock(&self.ports.0);
        let counts = state.peers.entry(self.remote).or_default();
        match self.established {
            true => counts.established -= 1,
            false => counts.dialling -= 1,
        }
        if counts.established + counts.dialling == 0 {
            state.peers.remove(&self.remote);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote() -> SocketAddr {
        ([127, 0, 0, 1], 4433).into()
    }

    #[test]
    fn connections_share_one_port_once_one_stands() {
        let ports = Arc::new(DialPorts::default());
        let mut first = ports.begin(remote());
        let second = ports.begin(remote());
        assert_eq!((first.shared(), second.shared()), (None, None));
        first.established();
        let (third, fourth) = (ports.begin(remote()), ports.begin(remote()));
        let address = third.shared().expect("a shared address");
        assert_eq!((address.ip(), fourth.shared()), (remote().ip(), Some(address)));
        let elsewhere = ports.begin(([127, 0, 0, 1], 4434).into());
        assert_eq!(elsewhere.shared(), None);
    }

    #[test]
    fn many_dials_at_once_share_too() {
        let ports = Arc::new(DialPorts::default());
        let dials: Vec<Dial> = (0..=ALONE_MAX).map(|_| ports.begin(remote())).collect();
        let shared = dials.iter().filter(|dial| dial.shared().is_some()).count();
        assert_eq!(shared, 1);
    }

    #[test]
    fn what_has_ended_is_forgotten() {
        let ports = Arc::new(DialPorts::default());
        let mut dial = ports.begin(remote());
        dial.established();
        drop((dial, ports.begin(remote())));
        assert!(lock(&ports.0).peers.is_empty());
        assert_eq!(ports.begin(remote()).shared(), None);
    }

    #[test]
    fn a_held_port_is_given_to_nobody_else() {
        let ports = Arc::new(DialPorts::default());
        ports.begin(remote()).established();
        let mut stands = ports.begin(remote());
        stands.established();
        let address = ports.begin(remote()).shared().expect("a shared address");
        let taken = std::net::UdpSocket::bind(address).expect_err("it is held");
        assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    }
}
