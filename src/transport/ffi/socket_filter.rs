//! What the library's sockets let in: programs of classic BPF that the kernel runs on each datagram.
//!
//! On a UDP socket a program sees the UDP header and what follows, and may look back at the IP header
//! (socket(7), `SO_ATTACH_FILTER`). Of datagrams that the kernel merged it sees the first. It lives
//! beside the library's own program that spreads peers over the sockets of a port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use socket2::SockFilter;

/// What the program sees first.
const UDP_HEADER: u32 = 8;

/// The first byte of a QUIC packet, and the version behind it (RFC 8999, section 5).
const FIRST_BYTE: u32 = UDP_HEADER;
const VERSION: u32 = UDP_HEADER + 1;
const LONG_HEADER: u32 = 0x80;
const VERSION_NEGOTIATION: u32 = 0;
const VERSION_1: u32 = 1;

/// Where the IP header begins, and the destinations in it (`SKF_NET_OFF`, linux/filter.h).
const IP_HEADER: u32 = 0u32.wrapping_sub(0x10_0000);
const IPV4_DESTINATION: u32 = IP_HEADER.wrapping_add(16);
const IPV6_DESTINATION: u32 = IP_HEADER.wrapping_add(24);

const LOCALHOST: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Addresses that fit into a program beside what else it has (`BPF_MAXINSNS` is 4,096).
pub(super) const ADDRESSES_MAX: usize = 256;

const TAKE: u32 = u32::MAX;
const DROP: u32 = 0;

/// A program. Its steps stand behind each other; each that drops something returns by itself.
#[derive(Debug)]
pub(super) struct Filter(Vec<SockFilter>);

impl Filter {
    /// For sockets that listen at `addresses`: no empty datagram, of which the library leaks a block
    /// each, no version negotiation, which only clients get, and nothing for another address. But for
    /// `localhost`, which no network reaches: who dials it hears at once that nobody listens there.
    pub(super) fn listening(addresses: &[IpAddr]) -> Self {
        let addresses = [addresses, &LOCALHOST[..]].concat();
        let addresses = &addresses[..];
        let mut filter = Self::without_empty_datagrams();
        filter.load_byte(FIRST_BYTE);
        filter.jump(libc::BPF_JSET, LONG_HEADER, 0, 3);
        filter.load_word(VERSION);
        filter.jump(libc::BPF_JEQ, VERSION_NEGOTIATION, 0, 1);
        filter.end(DROP);
        let (v4, v6) = (Self::v4_among(addresses), Self::v6_among(addresses));
        filter.load_byte(IP_HEADER);
        filter.step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, 0xf0);
        filter.jump(libc::BPF_JEQ, 0x60, 0, 1);
        filter.step(libc::BPF_JMP | libc::BPF_JA, 0, 0, u32::try_from(v4.0.len()).unwrap_or(0));
        filter.0.extend(v4.0);
        filter.0.extend(v6.0);
        filter
    }

    /// For sockets that were dialled: what can be of use in a handshake. Version 1 is spoken alone.
    pub(super) fn handshake() -> Self {
        let mut filter = Self::without_empty_datagrams();
        filter.load_byte(FIRST_BYTE);
        filter.jump(libc::BPF_JSET, LONG_HEADER, 0, 3);
        filter.load_word(VERSION);
        filter.jump(libc::BPF_JEQ, VERSION_1, 1, 0);
        filter.end(DROP);
        filter.end(TAKE);
        filter
    }

    /// For the socket of one connection that stands: all it needs has a short header.
    pub(super) fn established() -> Self {
        let mut filter = Self::without_empty_datagrams();
        filter.load_byte(FIRST_BYTE);
        filter.jump(libc::BPF_JSET, LONG_HEADER, 0, 1);
        filter.end(DROP);
        filter.end(TAKE);
        filter
    }

    fn without_empty_datagrams() -> Self {
        let mut filter = Self(Vec::new());
        filter.step(libc::BPF_LD | libc::BPF_W | libc::BPF_LEN, 0, 0, 0);
        filter.jump(libc::BPF_JGT, UDP_HEADER, 1, 0);
        filter.end(DROP);
        filter
    }

    /// Ends with the verdict about an IPv4 packet.
    fn v4_among(addresses: &[IpAddr]) -> Self {
        let mut filter = Self(Vec::new());
        if is_any(addresses, IpAddr::is_ipv4) {
            filter.end(TAKE);
            return filter;
        }
        filter.load_word(IPV4_DESTINATION);
        for address in addresses {
            if let IpAddr::V4(address) = address {
                filter.jump(libc::BPF_JEQ, address.to_bits(), 0, 1);
                filter.end(TAKE);
            }
        }
        filter.end(DROP);
        filter
    }

    /// Ends with the verdict about an IPv6 packet.
    fn v6_among(addresses: &[IpAddr]) -> Self {
        let mut filter = Self(Vec::new());
        if is_any(addresses, IpAddr::is_ipv6) {
            filter.end(TAKE);
            return filter;
        }
        for address in addresses {
            let IpAddr::V6(address) = address else { continue };
            // Each word but the last has two instructions behind it for each that is left, and the end.
            for (at, to_the_next) in [(0, 7), (4, 5), (8, 3), (12, 1)] {
                filter.load_word(IPV6_DESTINATION.wrapping_add(at));
                let word = (address.to_bits() >> (96 - 8 * at)) as u32;
                filter.jump(libc::BPF_JEQ, word, 0, to_the_next);
            }
            filter.end(TAKE);
        }
        filter.end(DROP);
        filter
    }

    fn step(&mut self, code: u32, jt: u8, jf: u8, k: u32) {
        self.0.push(SockFilter::new(code as u16, jt, jf, k));
    }

    fn load_byte(&mut self, at: u32) {
        self.step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, at);
    }

    fn load_word(&mut self, at: u32) {
        self.step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, at);
    }

    /// Passes over so many steps: `jt` of them where it holds, `jf` where it does not.
    fn jump(&mut self, test: u32, k: u32, jt: u8, jf: u8) {
        self.step(libc::BPF_JMP | test | libc::BPF_K, jt, jf, k);
    }

    fn end(&mut self, verdict: u32) {
        self.step(libc::BPF_RET | libc::BPF_K, 0, 0, verdict);
    }

    pub(super) fn steps(&self) -> &[SockFilter] {
        &self.0
    }
}

/// Whether all of a family is listened to: `::` is both, as the system's sockets are.
fn is_any(addresses: &[IpAddr], family: fn(&IpAddr) -> bool) -> bool {
    let all = |ip: &IpAddr| ip.is_unspecified() && (family(ip) || ip.is_ipv6());
    addresses.len() > ADDRESSES_MAX || addresses.iter().any(all)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{SocketAddr, UdpSocket};
    use std::time::Duration;

    use socket2::{Domain, SockRef, Socket, Type};

    use super::*;

    /// A dual-stack socket, as the library's are, behind `filter`.
    fn behind(filter: &Filter) -> (UdpSocket, u16) {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, None).expect("a socket");
        socket.set_only_v6(false).expect("both families");
        let any: SocketAddr = ([0u16; 8], 0).into();
        socket.bind(&any.into()).expect("a port");
        SockRef::from(&socket).attach_filter(filter.steps()).expect("a good program");
        let socket = UdpSocket::from(socket);
        let port = socket.local_addr().expect("bound").port();
        (socket, port)
    }

    /// Which of `datagrams` get through to `to`; a last one that every filter takes ends the wait.
    fn taken<'a>(filter: &Filter, to: &str, datagrams: &[&'a [u8]], last: &str) -> Vec<&'a [u8]> {
        const LAST: &[u8] = &[0x40, 0x6c];
        let (socket, port) = behind(filter);
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
        let send = |to: &str, datagram: &[u8]| {
            let to = SocketAddr::new(to.parse().expect("an address"), port);
            let from = SocketAddr::new(to.ip(), 0);
            let sender = UdpSocket::bind(from).expect("an address of this machine");
            assert_eq!(sender.send_to(datagram, to).expect("sent"), datagram.len());
        };
        datagrams.iter().for_each(|datagram| send(to, datagram));
        send(last, LAST);
        let (mut taken, mut buffer) = (Vec::new(), [0; 64]);
        loop {
            let length = match socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("nothing more comes"),
                Err(error) => panic!("{error}"),
            };
            if &buffer[..length] == LAST {
                return taken;
            }
            taken.extend(datagrams.iter().filter(|datagram| **datagram == &buffer[..length]));
        }
    }

    const EMPTY: &[u8] = &[];
    const SHORT: &[u8] = &[0x41, 1, 2, 3, 4, 5];
    const V1: &[u8] = &[0xc0, 0, 0, 0, 1, 5];
    const V2: &[u8] = &[0xd0, 0x6b, 0x33, 0x43, 0xcf, 5];
    const NEGOTIATION: &[u8] = &[0xc0, 0, 0, 0, 0, 5];
    const UNKNOWN: &[u8] = &[0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 5];
    const CUT_OFF: &[u8] = &[0xc0, 0, 0];
    const ALL: &[&[u8]] = &[EMPTY, SHORT, V1, V2, NEGOTIATION, UNKNOWN, CUT_OFF];

    #[test]
    fn a_handshake_takes_version_1_and_short_headers() {
        for local in ["127.0.0.1", "::1"] {
            assert_eq!(taken(&Filter::handshake(), local, ALL, local), [SHORT, V1]);
        }
    }

    #[test]
    fn a_connection_that_stands_takes_short_headers_alone() {
        for local in ["127.0.0.1", "::1"] {
            assert_eq!(taken(&Filter::established(), local, ALL, local), [SHORT]);
        }
    }

    #[test]
    fn a_listener_takes_every_version_and_no_version_negotiation() {
        for local in ["127.0.0.1", "::1"] {
            let filter = Filter::listening(&[local.parse().expect("an address")]);
            assert_eq!(taken(&filter, local, ALL, local), [SHORT, V1, V2, UNKNOWN]);
        }
    }

    #[test]
    fn a_listener_takes_what_is_sent_to_its_addresses_alone() {
        let v4 = |last| format!("127.0.0.{last}");
        let cases: &[(&[&str], &[&str], &[&str])] = &[
            (&["127.0.0.1"], &["127.0.0.1", "::1"], &["127.0.0.2"]),
            (&["127.0.0.3", "127.0.0.4"], &["127.0.0.3", "127.0.0.4"], &["127.0.0.2"]),
            (&["fd00::1", "::1", "127.0.0.2"], &["::1", "127.0.0.2"], &["127.0.0.3"]),
            (&["fd00::1"], &["::1", "127.0.0.1"], &["127.0.0.2"]),
            (&["0.0.0.0"], &["127.0.0.1", "127.0.0.2", "::1"], &[]),
            (&["::"], &["127.0.0.1", "127.0.0.2", "::1"], &[]),
            (&["127.0.0.1", "::"], &["127.0.0.1", "127.0.0.2", "::1"], &[]),
        ];
        for (listened, reached, other) in cases {
            let listened: Vec<IpAddr> =
                listened.iter().map(|ip| ip.parse().expect("an address")).collect();
            let filter = Filter::listening(&listened);
            for to in *reached {
                assert_eq!(taken(&filter, to, &[V1], reached[0]), [V1], "{listened:?}, to {to}");
            }
            for to in *other {
                let none: [&[u8]; 0] = [];
                assert_eq!(taken(&filter, to, &[V1], reached[0]), none, "{listened:?}, to {to}");
            }
        }
        let many: Vec<IpAddr> =
            (2..=200).map(|last| v4(last).parse().expect("an address")).collect();
        let filter = Filter::listening(&many);
        assert_eq!(taken(&filter, &v4(200), &[V1], &v4(2)), [V1]);
        let none: [&[u8]; 0] = [];
        assert_eq!(taken(&filter, &v4(201), &[V1], &v4(2)), none);
    }
}
