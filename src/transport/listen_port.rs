//! The port of a listener: that no other process has it, and what its sockets let in.
//!
//! The library binds the wildcard address, of both families, whatever was asked for, and shares ports
//! (SO_REUSEPORT): it would listen on an address of another machine, beside another process that gets
//! a part of the connections, and answer on every address of this one. So before a start the port is
//! claimed and the address tried, and after it a filter takes what is sent to addresses that are
//! listened on alone.
//!
//! The claim is a socket on that port and an address that nobody has. Its bind is exclusive, so that it
//! fails beside any claim and any socket of the library's; then it lets the library's own join. It ends
//! with the process, however that ends, and is good in this network namespace.
//!
//! Invariants: a process has one claim for a port, held until the library has ended the last listener
//! there; addresses stay in the filter while the sockets live, for the connections that were taken on
//! them.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, Weak};

use socket2::{Domain, Socket, Type};
use tracing::{debug, warn};

use super::ffi;
use crate::error::LibraryError;
use crate::lock::lock;

/// Where claims are: nobody has it, as what is sent there is discarded (RFC 6666).
const NOBODY: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0x6d6f, 0x6f72, 0x6c69, 0x6e65);

/// The ports that this process has listeners on, or had while their connections live.
static PORTS: Mutex<BTreeMap<u16, Port>> = Mutex::new(BTreeMap::new());

#[derive(Debug, Default)]
struct Port {
    claim: Weak<Claim>,
    /// What its sockets take datagrams for.
    addresses: Vec<IpAddr>,
}

/// Where the system knows no such socket there is none.
#[derive(Debug)]
struct Claim(#[allow(dead_code, reason = "it is held")] Option<Socket>);

/// A port to listen on. Whoever drops it gives it back.
#[derive(Debug)]
pub(super) struct ListenPort {
    address: SocketAddr,
    _claim: Arc<Claim>,
}

impl ListenPort {
    /// For a listener on `address`, if it is one of this machine's that no other process listens on;
    /// with port 0 one that is free now.
    pub(super) fn claim(mut address: SocketAddr) -> Result<Self, LibraryError> {
        let mut ports = lock(&PORTS);
        let open = ffi::wildcard_ports();
        ports.retain(|port, known| known.claim.strong_count() > 0 || open.contains(port));
        if address.port() == 0 {
            let free = UdpSocket::bind(address).and_then(|free| free.local_addr());
            address = unless_taken(free)?.unwrap_or(address);
        }
        // A listener of ours is there, or was and left its sockets to its connections: the library
        // says whether there may be another.
        let ours = ports.contains_key(&address.port())
            || open.contains(&address.port()) && ffi::listens_on(address.port());
        let held = ports.get(&address.port()).and_then(|known| known.claim.upgrade());
        let claim = match held {
            Some(held) => held,
            None => Arc::new(Claim(unless_taken(hold(address.port(), ours))?.flatten())),
        };
        let tried = if ours { SocketAddr::new(address.ip(), 0) } else { address };
        unless_taken(try_address(tried))?;
        ports.entry(address.port()).or_default().claim = Arc::downgrade(&claim);
        Ok(Self { address, _claim: claim })
    }

    /// Where to start the listener.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The listener is started: from here on its sockets take what is sent to its address, and to those
    /// of the others on its port.
    pub(super) fn started(&self) {
        let (address, mut ports) = (self.address, lock(&PORTS));
        let known = ports.entry(address.port()).or_default();
        if !known.addresses.contains(&address.ip()) {
            known.addresses.push(address.ip());
        }
        match ffi::guard_listening(address, &known.addresses) {
            Ok(sockets) => debug!(%address, sockets, "datagrams are filtered"),
            Err(cause) => warn!(%address, %cause, "datagrams cannot be filtered"),
        }
    }
}

/// Claims a port; `shared` if the library's sockets are there already.
#[cfg(target_os = "linux")]
fn hold(port: u16, shared: bool) -> io::Result<Option<Socket>> {
    let Ok(socket) = Socket::new(Domain::IPV6, Type::DGRAM, None) else { return Ok(None) };
    // The address is not this machine's.
    socket.set_freebind_v6(true)?;
    // The least the system allows: nothing is read from it.
    socket.set_recv_buffer_size(1)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&SocketAddr::from((NOBODY, port)).into())?;
    // For the library's sockets, and for the try of an address.
    socket.set_reuse_port(true)?;
    socket.set_reuse_address(true)?;
    Ok(Some(socket))
}

#[cfg(not(target_os = "linux"))]
fn hold(_port: u16, _shared: bool) -> io::Result<Option<Socket>> {
    Ok(None)
}

/// Whether somebody else has the address, or this machine has it not; the claim is in nobody's way.
fn try_address(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    socket.set_reuse_address(cfg!(target_os = "linux"))?;
    socket.bind(&address.into())
}

/// Whatever else is wrong, the library says.
fn unless_taken<T>(result: io::Result<T>) -> Result<Option<T>, LibraryError> {
    let status = match result.as_ref().map_err(io::Error::kind) {
        Err(ErrorKind::AddrInUse) => ffi::status::ADDRESS_IN_USE,
        Err(ErrorKind::AddrNotAvailable) => ffi::status::NO_ADDRESS,
        _ => return Ok(result.ok()),
    };
    Err(LibraryError { status })
}
