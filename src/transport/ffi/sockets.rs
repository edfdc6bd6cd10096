//! The library's own UDP sockets: it gives no descriptor away, so they are found by their addresses.
//!
//! What is done to a socket is done through a duplicate that was looked at again: a number that was let
//! go of meanwhile may be a socket of somebody else's.
//!
//! Invariants: the filter of a connection that stands is not replaced by the one for its handshake;
//! nothing here waits for the library.

use std::net::SocketAddr;

#[cfg(target_os = "linux")]
pub(in crate::transport) use linux::{
    guard_dialled, guard_listening, listens_on, next_descriptor, wildcard_ports,
};

/// How far a dialled connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::transport) enum Stage {
    /// On its way, or on a socket that others share.
    Handshake,
    /// The peer has shown that its handshake is done, too.
    Established,
}

/// What a dialled connection's socket is known by.
#[derive(Debug, Clone, Copy)]
pub(in crate::transport) struct Dialled {
    /// A descriptor that was free before it was opened: it is probably the next one used.
    pub(in crate::transport) near: i32,
    /// Where it is bound, once that is known.
    pub(in crate::transport) local: Option<SocketAddr>,
    /// Where it is connected to.
    pub(in crate::transport) remote: SocketAddr,
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeSet;
    use std::io;
    use std::net::{IpAddr, SocketAddr};
    use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
    use std::sync::Mutex;

    use socket2::{Socket, Type};

    use crate::lock::lock;
    use crate::transport::ffi::socket_filter::Filter;
    use crate::transport::ffi::sockets::{Dialled, Stage};

    /// Descriptors that are looked at where only the remote address is known, which comes from the
    /// caller: the sockets of a handful of dials at once.
    const NEAR: RawFd = 32;

    /// So many numbers in a row that are not in use: the end of those that are.
    const UNUSED_MAX: RawFd = 256;

    /// Held from the look at a socket's filter to its change.
    static FILTERS: Mutex<()> = Mutex::new(());

    /// The lowest descriptor that is free; 0 if there is none.
    pub(in crate::transport) fn next_descriptor() -> RawFd {
        io::stderr().as_fd().try_clone_to_owned().map_or(0, |copy| copy.as_raw_fd())
    }

    /// The ports on which this process takes what comes to any address: the library, where it has a
    /// listener or one has left its sockets to connections, and others.
    pub(in crate::transport) fn wildcard_ports() -> BTreeSet<u16> {
        let bound = descriptors().into_iter().flatten().filter_map(local_address);
        bound.filter(|bound| bound.ip().is_unspecified()).map(|bound| bound.port()).collect()
    }

    /// Whether the library has sockets on `port` for what comes from everybody.
    pub(in crate::transport) fn listens_on(port: u16) -> bool {
        listening(port).is_ok_and(|sockets| !sockets.is_empty())
    }

    /// Makes the sockets behind a listener on `address` take what is sent to `destinations` alone, and
    /// no child inherit them; returns how many there are.
    pub(in crate::transport) fn guard_listening(
        address: SocketAddr,
        destinations: &[IpAddr],
    ) -> io::Result<usize> {
        let sockets = listening(address.port())?;
        let filter = Filter::listening(destinations);
        for (number, socket) in &sockets {
            close_on_exec(*number)?;
            socket.attach_filter(filter.steps())?;
        }
        Ok(sockets.len())
    }

    /// Makes the socket of a dialled connection take what is of use at `stage` alone, and no child
    /// inherit it; returns its descriptor, if it was found.
    pub(in crate::transport) fn guard_dialled(dialled: &Dialled, stage: Stage) -> Option<RawFd> {
        let guard = |number: RawFd| guard_if_it(number, dialled, stage).then_some(number);
        let near = dialled.near..dialled.near.saturating_add(NEAR);
        if dialled.local.is_none() {
            // Others may be on their way to the same address: all of them need it.
            return near.fold(None, |found, number| guard(number).or(found));
        }
        near.clone().find_map(guard).or_else(|| {
            let below = (0..dialled.near).rev().find_map(guard);
            below.or_else(|| used_from(near.end).find_map(guard))
        })
    }

    /// The numbers from `first` on, up to the end of those in use.
    fn used_from(first: RawFd) -> impl Iterator<Item = RawFd> {
        let mut unused = 0;
        (first..RawFd::MAX).take_while(move |number| {
            // SAFETY: asks about a number, whatever it stands for (fcntl(2)).
            let used = unsafe { libc::fcntl(*number, libc::F_GETFD) } >= 0;
            unused = if used { 0 } else { unused + 1 };
            unused < UNUSED_MAX
        })
    }

    fn guard_if_it(number: RawFd, dialled: &Dialled, stage: Stage) -> bool {
        let is_it = |socket: &Socket| {
            let [Some(local), Some(peer)] = [socket.local_addr(), socket.peer_addr()]
                .map(|address| address.ok().and_then(|address| address.as_socket()))
            else {
                return false;
            };
            same(peer, dialled.remote)
                && match dialled.local {
                    Some(known) => same(local, known),
                    None => is_of_the_library(socket) && !has_filter(socket.as_raw_fd()),
                }
        };
        let looks_right = |bound: SocketAddr| match dialled.local {
            Some(local) => bound.port() == local.port(),
            None => bound.port() != 0 && !has_filter(number),
        };
        if !local_address(number).is_some_and(looks_right) {
            return false;
        }
        let _alone = lock(&FILTERS);
        let Some(socket) = duplicate(number).filter(is_it) else { return false };
        let filter = match stage {
            Stage::Handshake if has_filter(socket.as_raw_fd()) => return true,
            Stage::Handshake => Filter::handshake(),
            Stage::Established => Filter::established(),
        };
        let done = close_on_exec(number).and_then(|()| socket.attach_filter(filter.steps()));
        if let Err(cause) = &done {
            tracing::debug!(%cause, ?dialled, ?stage, "a socket is not filtered");
        }
        done.is_ok()
    }

    /// The library's UDP sockets are of IPv6, and ask for more about a datagram than others do.
    fn is_of_the_library(socket: &Socket) -> bool {
        socket.recv_tclass_v6().unwrap_or(false)
            && socket.recv_hoplimit_v6().unwrap_or(false)
            && !socket.only_v6().unwrap_or(true)
    }

    /// A look only, at whatever the number stands for.
    fn has_filter(number: RawFd) -> bool {
        let mut steps: libc::socklen_t = 0;
        // SAFETY: with a length of 0 nothing is written but the number of steps there are
        // (SO_GET_FILTER, which is SO_ATTACH_FILTER; socket(7)).
        let asked = unsafe {
            libc::getsockopt(
                number,
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                std::ptr::null_mut(),
                &raw mut steps,
            )
        };
        asked == 0 && steps > 0
    }

    /// The library's sockets on `port` that take what comes from everybody, by their descriptors. Those
    /// of listeners are bound to the wildcard address, whatever was asked for.
    fn listening(port: u16) -> io::Result<Vec<(RawFd, Socket)>> {
        let mut sockets = Vec::new();
        let wanted = |bound: SocketAddr| bound.ip().is_unspecified() && bound.port() == port;
        for number in descriptors()? {
            if !local_address(number).is_some_and(wanted) {
                continue;
            }
            let is_it = |socket: &Socket| {
                let bound = socket.local_addr().ok().and_then(|bound| bound.as_socket());
                // One that is connected takes what comes from its peer alone.
                bound.is_some_and(wanted)
                    && socket.peer_addr().is_err()
                    && is_of_the_library(socket)
            };
            sockets.extend(duplicate(number).filter(is_it).map(|socket| (number, socket)));
        }
        Ok(sockets)
    }

    /// Those that are open.
    fn descriptors() -> io::Result<impl Iterator<Item = RawFd>> {
        let entries = std::fs::read_dir("/proc/self/fd")?;
        Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()))
    }

    fn same(one: SocketAddr, other: SocketAddr) -> bool {
        one.port() == other.port() && one.ip().to_canonical() == other.ip().to_canonical()
    }

    /// Where the socket behind a number is bound; a look only, at whatever it is.
    fn local_address(number: RawFd) -> Option<SocketAddr> {
        // SAFETY: a plain C struct of integers; all zero is valid.
        let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        // SAFETY: buffer and length outlive the call; a number that is no socket gives an error.
        let status =
            unsafe { libc::getsockname(number, (&raw mut storage).cast(), &raw mut length) };
        let family = i32::from(storage.ss_family);
        if status != 0 || !matches!(family, libc::AF_INET | libc::AF_INET6) {
            return None;
        }
        // SAFETY: a sockaddr_in or sockaddr_in6, by its family; `Addr` mirrors that union and is
        // smaller than the storage.
        let address = unsafe { std::ptr::from_ref(&storage).cast::<msquic::Addr>().read() };
        address.as_socket()
    }

    /// Another descriptor for the UDP socket behind a number, if it is one.
    fn duplicate(number: RawFd) -> Option<Socket> {
        // SAFETY: asks for a copy of whatever the number stands for (fcntl(2)).
        let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 0) };
        if copy < 0 {
            return None;
        }
        // SAFETY: the call made it, and nobody else knows it.
        let copy = unsafe { OwnedFd::from_raw_fd(copy) };
        let socket = Socket::from(copy);
        socket.r#type().is_ok_and(|kind| kind == Type::DGRAM).then_some(socket)
    }

    /// The library opens its sockets so that children inherit them, and keep their port.
    fn close_on_exec(number: RawFd) -> io::Result<()> {
        // SAFETY: sets a flag that is right for every descriptor of this process (fcntl(2)).
        let status = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use std::collections::BTreeSet;
    use std::io;
    use std::net::{IpAddr, SocketAddr};

    use crate::transport::ffi::sockets::{Dialled, Stage};

    pub(in crate::transport) fn next_descriptor() -> i32 {
        0
    }

    pub(in crate::transport) fn wildcard_ports() -> BTreeSet<u16> {
        BTreeSet::new()
    }

    pub(in crate::transport) fn listens_on(_port: u16) -> bool {
        false
    }

    pub(in crate::transport) fn guard_listening(
        _address: SocketAddr,
        _destinations: &[IpAddr],
    ) -> io::Result<usize> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    pub(in crate::transport) fn guard_dialled(_dialled: &Dialled, _stage: Stage) -> Option<i32> {
        None
    }
}

#[cfg(not(target_os = "linux"))]
pub(in crate::transport) use elsewhere::{
    guard_dialled, guard_listening, listens_on, next_descriptor, wildcard_ports,
};
