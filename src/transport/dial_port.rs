//! The workers and local ports of dialled connections.
//!
//! The library gives every dialled connection sockets of its own: on two cores four descriptors
//! and about 100 KiB. Connections to one address can share them, if they name the same local
//! address. But shared sockets tell nobody that a port is closed, so that a dial would wait for
//! the whole handshake time: sockets are shared only where there are many connections. One shared
//! socket is served by one worker, so there are several of them.
//!
//! Invariants: a port that is shared is held by a socket of ours, so that the system gives it to
//! nobody else; counts are given back when the connection's handle is closed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock};

use socket2::{Domain, SockAddr, Socket, Type};
use tracing::debug;

use super::dial_socket::DialSocket;
use super::ffi::Place;
use crate::lock::lock;

/// Connections to one address that each get sockets of their own. A port that was just let go of may
/// lose the first packets of the next connection, which are sent again a second later: where few
/// come and go, none share.
const ALONE_MAX: usize = 16;

/// Shared sockets for one address: enough to keep the workers of a machine busy evenly.
const PORTS: usize = 8;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct DialPorts(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Connections to each address, from their dial until their handle is closed.
    peers: HashMap<SocketAddr, usize>,
    /// The sockets that hold the ports, by the local address they are for.
    held: HashMap<IpAddr, Held>,
    /// Counts the dials.
    turn: usize,
}

#[derive(Debug)]
struct Held {
    sockets: [Socket; PORTS],
    /// Dials that use them.
    dials: usize,
}

/// One dialled connection, from its dial until its handle is closed.
#[derive(Debug)]
pub(super) struct Dial {
    ports: Arc<DialPorts>,
    remote: SocketAddr,
    place: Place,
    socket: Arc<DialSocket>,
}

impl DialPorts {
    pub(super) fn begin(self: &Arc<Self>, remote: SocketAddr) -> Dial {
        let mut state = lock(&self.0);
        let count = state.peers.entry(remote).or_default();
        *count += 1;
        let shares = *count > ALONE_MAX;
        let turn = state.turn;
        state.turn = turn.wrapping_add(1);
        let shared = if shares { state.hold(remote, turn) } else { None };
        drop(state);
        let worker = worker_of(if shared.is_some() { turn % PORTS } else { turn });
        let socket = Arc::new(DialSocket::new(remote, shared));
        Dial { ports: Arc::clone(self), remote, place: Place { worker, shared }, socket }
    }
}

impl State {
    /// The local address that connections to `remote` share, held from now on.
    fn hold(&mut self, remote: SocketAddr, turn: usize) -> Option<SocketAddr> {
        if matches!(remote, SocketAddr::V6(v6) if v6.scope_id() != 0) {
            // Its local address is good on one interface only.
            return None;
        }
        let address = source_of(remote)
            .and_then(|ip| match self.held.entry(ip) {
                Entry::Occupied(held) => held.into_mut().take(turn),
                Entry::Vacant(free) => free.insert(Held::new(ip)?).take(turn),
            })
            .inspect_err(|cause| debug!(%remote, %cause, "sockets cannot be shared"));
        address.ok()?.as_socket()
    }
}

/// The worker for a turn. The library has one for each processor and would take that of the
/// processor on which the caller happens to run.
fn worker_of(turn: usize) -> u16 {
    static WORKERS: OnceLock<usize> = OnceLock::new();
    let processors = || std::thread::available_parallelism().map_or(1, usize::from);
    u16::try_from(turn % WORKERS.get_or_init(processors)).unwrap_or(0)
}

impl Held {
    fn new(ip: IpAddr) -> std::io::Result<Self> {
        let sockets = (0..PORTS).map(|_| hold_port(ip)).collect::<std::io::Result<Vec<_>>>()?;
        let sockets = sockets.try_into().map_err(|_| std::io::ErrorKind::Other)?;
        Ok(Self { sockets, dials: 0 })
    }

    fn take(&mut self, turn: usize) -> std::io::Result<SockAddr> {
        let address = self.sockets[turn % PORTS].local_addr()?;
        self.dials += 1;
        Ok(address)
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
    pub(super) fn place(&self) -> Place {
        self.place
    }

    pub(super) fn socket(&self) -> Arc<DialSocket> {
        Arc::clone(&self.socket)
    }
}

impl Drop for Dial {
    fn drop(&mut self) {
        let mut state = lock(&self.ports.0);
        if let Entry::Occupied(mut count) = state.peers.entry(self.remote) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        if let Some(shared) = self.place.shared
            && let Entry::Occupied(mut held) = state.held.entry(shared.ip())
        {
            held.get_mut().dials -= 1;
            if held.get().dials == 0 {
                held.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn remote() -> SocketAddr {
        ([127, 0, 0, 1], 4433).into()
    }

    #[test]
    fn many_dials_at_once_share_too() {
        let ports = Arc::new(DialPorts::default());
        let dials: Vec<Dial> = (0..=ALONE_MAX).map(|_| ports.begin(remote())).collect();
        let shared = dials.iter().filter(|dial| dial.place().shared.is_some()).count();
        assert_eq!(shared, 1);
    }

    #[test]
    fn what_has_ended_is_forgotten() {
        let ports = Arc::new(DialPorts::default());
        let dial = ports.begin(remote());
        let many: Vec<Dial> = (0..2 * ALONE_MAX).map(|_| ports.begin(remote())).collect();
        let addresses: HashSet<SocketAddr> =
            many.iter().filter_map(|dial| dial.place().shared).collect();
        assert_eq!(addresses.len(), PORTS);
        drop((dial, many));
        let state = lock(&ports.0);
        assert!(state.peers.is_empty() && state.held.is_empty());
        drop(state);
        assert_eq!(ports.begin(remote()).place().shared, None);
    }

    #[test]
    fn a_held_port_is_given_to_nobody_else() {
        let ports = Arc::new(DialPorts::default());
        let _many: Vec<Dial> = (0..ALONE_MAX).map(|_| ports.begin(remote())).collect();
        let sharing = ports.begin(remote());
        let address = sharing.place().shared.expect("a shared address");
        let taken = std::net::UdpSocket::bind(address).expect_err("it is held");
        assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    }
}
