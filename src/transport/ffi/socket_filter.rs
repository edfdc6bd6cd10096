//! A socket filter that drops empty datagrams before the library sees them.
//!
//! MsQuic before 2.5.10 leaks a receive block for every empty UDP datagram (microsoft/msquic
//! #6181): anybody could fill the memory of a listener, without a handshake. The filter sits on
//! the library's own sockets, which are found by their bound address.

use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;

/// Attaches the filter to every UDP socket of this process that is bound to `address`; returns to
/// how many.
#[cfg(target_os = "linux")]
pub(in crate::transport) fn drop_empty_datagrams(address: SocketAddr) -> io::Result<usize> {
    let sockets = sockets_on(address)?;
    sockets.iter().try_for_each(|socket| attach(*socket))?;
    Ok(sockets.len())
}

/// Whether this process has a UDP socket on `address`.
#[cfg(target_os = "linux")]
pub(in crate::transport) fn has_socket(address: SocketAddr) -> bool {
    sockets_on(address).is_ok_and(|sockets| !sockets.is_empty())
}

#[cfg(target_os = "linux")]
fn sockets_on(address: SocketAddr) -> io::Result<Vec<RawFd>> {
    let mut sockets = Vec::new();
    if address.port() == 0 {
        return Ok(sockets);
    }
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let fd = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok());
        let is_it =
            |fd: &RawFd| is_udp(*fd) && bound_to(*fd).is_some_and(|bound| covers(bound, address));
        sockets.extend(fd.filter(is_it));
    }
    Ok(sockets)
}

#[cfg(not(target_os = "linux"))]
pub(in crate::transport) fn has_socket(_address: SocketAddr) -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
pub(in crate::transport) fn drop_empty_datagrams(_address: SocketAddr) -> io::Result<usize> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

/// The library binds its listening sockets to the wildcard address, dual-stack, whatever address
/// was asked for, and sorts by address itself.
fn covers(bound: SocketAddr, address: SocketAddr) -> bool {
    let (bound_ip, ip) = (bound.ip().to_canonical(), address.ip().to_canonical());
    bound.port() == address.port() && (bound_ip == ip || bound_ip.is_unspecified())
}

#[cfg(target_os = "linux")]
fn is_udp(fd: RawFd) -> bool {
    let mut kind: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: value and length outlive the call; a descriptor that is no socket gives an error.
    let status = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_TYPE,
            (&raw mut kind).cast(),
            &raw mut length,
        )
    };
    status == 0 && kind == libc::SOCK_DGRAM
}

#[cfg(target_os = "linux")]
fn bound_to(fd: RawFd) -> Option<SocketAddr> {
    // SAFETY: a plain C struct of integers; all zero is valid.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: buffer and length outlive the call.
    let status = unsafe { libc::getsockname(fd, (&raw mut storage).cast(), &raw mut length) };
    if status != 0 || !matches!(i32::from(storage.ss_family), libc::AF_INET | libc::AF_INET6) {
        return None;
    }
    // SAFETY: a sockaddr_in or sockaddr_in6, by its family; `Addr` mirrors that union and is
    // smaller than the storage.
    let address = unsafe { std::ptr::from_ref(&storage).cast::<msquic::Addr>().read() };
    address.as_socket()
}

#[cfg(target_os = "linux")]
fn attach(fd: RawFd) -> io::Result<()> {
    // On a UDP socket the filter sees the UDP header (8 bytes) and what follows.
    const UDP_HEADER: u32 = 8;
    let instruction =
        |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_LEN, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, 0, 1, UDP_HEADER),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ];
    let filter =
        libc::sock_fprog { len: program.len() as libc::c_ushort, filter: program.as_mut_ptr() };
    // SAFETY: the program outlives the call, which copies it (SO_ATTACH_FILTER, socket(7)).
    let status = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
