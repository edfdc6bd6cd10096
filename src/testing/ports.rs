//! Ports that stay free while nobody listens on them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below what systems hand out themselves, above what services are known by.
const FIRST: u16 = 10_000;
const PORTS: u16 = 20_000;

/// A port on loopback that nobody has, and that the system gives to nobody who asks for any: whoever
/// leaves it finds it again.
pub(super) fn free_port() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes that run beside each other begin at different places.
    let begin = u16::try_from(u64::from(std::process::id()) * 7 % u64::from(PORTS)).unwrap_or(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % PORTS;
        let port = FIRST + (begin + step) % PORTS;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if std::net::UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once_and_not_where_it_is_taken() {
        let ports: Vec<_> = (0..20).map(|_| free_port()).collect();
        let mut sorted = ports.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), ports.len());
        assert!(ports.iter().all(|address| (FIRST..FIRST + PORTS).contains(&address.port())));
    }
}
