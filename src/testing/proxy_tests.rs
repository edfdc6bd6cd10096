//! A proxy between plain sockets.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use quinn_udp::{Transmit, UdpSocketState};

use super::super::conditions::Loss;
use super::super::share::Share;
use super::*;

/// Longer than anything takes on a loaded machine.
const LIMIT: Duration = Duration::from_secs(20);

struct Ends {
    server: UdpSocket,
    client: UdpSocket,
    proxy: ChaosProxy,
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

impl Ends {
    fn new() -> Self {
        let (server, client) = (socket(), socket());
        let proxy = ChaosProxy::start(server.local_addr().unwrap(), 5).unwrap();
        client.connect(proxy.address()).unwrap();
        Self { server, client, proxy }
    }

    /// What the server gets next, and of whom.
    fn received(&self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = [0; 2_048];
        let (length, from) = self.server.recv_from(&mut buffer).expect("a datagram in time");
        (buffer[..length].to_vec(), from)
    }

    fn with(conditions: Conditions) -> Self {
        let ends = Self::new();
        ends.proxy.set(Towards::Server, conditions);
        ends
    }

    fn until(&self, what: &str, holds: impl Fn(&ChaosProxy) -> bool) {
        let began = Instant::now();
        while !holds(&self.proxy) {
            assert!(began.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
            std::thread::yield_now();
        }
    }
}

#[test]
fn datagrams_pass_both_ways_as_they_are() {
    let ends = Ends::new();
    let other = socket();
    for (client, text) in [(&ends.client, "one"), (&other, "two"), (&ends.client, "")] {
        client.send_to(text.as_bytes(), ends.proxy.address()).unwrap();
        let (datagram, from) = ends.received();
        assert_eq!(datagram, text.as_bytes());
        ends.server.send_to(format!("{text}!").as_bytes(), from).unwrap();
        let mut answer = [0; 16];
        let length = client.recv(&mut answer).expect("an answer in time");
        assert_eq!(&answer[..length], format!("{text}!").as_bytes());
    }
    assert_eq!(ends.proxy.client_ports().len(), 2);
    let [to, back] = Towards::BOTH.map(|towards| ends.proxy.counters(towards));
    assert_eq!((to.entered, to.left, to.left_bytes), (3, 3, 6));
    assert_eq!((back.entered, back.left, back.left_bytes), (3, 3, 9));
    assert!(to.balance() && back.balance());
}

#[test]
fn each_datagram_of_a_burst_is_seen_by_itself() {
    let ends = Ends::new();
    let state = UdpSocketState::new((&ends.client).into()).unwrap();
    ends.client.set_nonblocking(false).unwrap();
    assert!(state.max_gso_segments() > 1 || !cfg!(target_os = "linux"), "the test needs bursts");
    ends.proxy.lose_next(Towards::Server, 2);
    let contents: Vec<u8> = (0..10_u8).flat_map(|number| [number; 1_200]).collect();
    // The last one is shorter.
    let contents = &contents[..contents.len() - 500];
    let destination = ends.proxy.address();
    let segment_size = Some(1_200);
    let transmit = Transmit { destination, ecn: None, contents, segment_size, src_ip: None };
    // On a connected socket the destination is said anyway.
    state.try_send((&ends.client).into(), &transmit).unwrap();
    for number in 2..10_u8 {
        let (datagram, _) = ends.received();
        let length = if number == 9 { 700 } else { 1_200 };
        assert_eq!(datagram, vec![number; length]);
    }
    let counters = ends.proxy.counters(Towards::Server);
    assert_eq!((counters.entered, counters.black_holed, counters.left), (10, 2, 8));
}

#[test]
fn what_is_delayed_comes_late_in_order_and_whole() {
    let delay = Duration::from_millis(30);
    let ends = Ends::with(Conditions { delay, ..Conditions::default() });
    let began = Instant::now();
    for number in 0..100_u8 {
        ends.client.send(&vec![number; 100 + usize::from(number)]).unwrap();
    }
    for number in 0..100_u8 {
        assert_eq!(ends.received().0, vec![number; 100 + usize::from(number)]);
    }
    assert!(began.elapsed() >= delay);
    assert_eq!(ends.proxy.counters(Towards::Server).delayed, 100);
}

#[test]
fn a_damaged_datagram_has_one_other_bit_and_a_doubled_one_comes_twice() {
    for delay in [Duration::ZERO, Duration::from_millis(2)] {
        let (corrupt, duplicate) = (Share::ALL, Share::ALL);
        let ends = Ends::with(Conditions { corrupt, duplicate, delay, ..Conditions::default() });
        let sent = vec![0xA5; 500];
        ends.client.send(&sent).unwrap();
        for _ in 0..2 {
            let (damaged, _) = ends.received();
            let bits: u32 = damaged.iter().zip(&sent).map(|(a, b)| (a ^ b).count_ones()).sum();
            assert_eq!((damaged.len(), bits), (500, 1));
        }
        ends.until("two left", |proxy| proxy.counters(Towards::Server).left == 2);
    }
}

#[test]
fn one_direction_is_cut_and_the_other_passes() {
    let ends = Ends::new();
    ends.client.send(b"hello").unwrap();
    let (_, from) = ends.received();
    ends.proxy.cut_towards(Towards::Server);
    ends.client.send(b"lost").unwrap();
    ends.until("a loss", |proxy| proxy.counters(Towards::Server).black_holed == 1);
    ends.server.send_to(b"heard", from).unwrap();
    assert_eq!(ends.client.recv(&mut [0; 16]).expect("an answer in time"), 5);
    ends.proxy.mend();
    ends.client.send(b"again").unwrap();
    assert_eq!(ends.received().0, b"again");
}

#[test]
fn the_mtu_counts_the_headers() {
    let ends = Ends::with(Conditions { mtu: Some(1_280), ..Conditions::default() });
    ends.client.send(&[1; 1_253]).unwrap();
    ends.client.send(&[2; 1_252]).unwrap();
    assert_eq!(ends.received().0, [2; 1_252]);
    assert_eq!(ends.proxy.counters(Towards::Server).too_large, 1);
}

#[test]
fn the_server_sees_another_port_and_its_answers_to_that_arrive() {
    let ends = Ends::new();
    let mut ports = Vec::new();
    for change in 0..3 {
        if change > 0 {
            assert_eq!(ends.proxy.change_client_port(), 1);
        }
        ends.client.send(b"hello").unwrap();
        let (_, from) = ends.received();
        assert_eq!(ends.proxy.client_ports(), [from.port()]);
        assert!(!ports.contains(&from.port()), "{from} after {ports:?}");
        ports.push(from.port());
        ends.server.send_to(b"hello yourself", from).unwrap();
        assert_eq!(ends.client.recv(&mut [0; 16]).expect("an answer in time"), 14);
    }
}

#[test]
fn a_script_changes_the_port_and_ends_its_faults() {
    let ends = Ends::new();
    ends.client.send(b"hello").unwrap();
    let (_, before) = ends.received();
    let text = "at 0 s: black hole towards the client; at 10 ms: change the client's port\n\
                at 0 s: lose 100 % towards the server for 50 ms";
    ends.proxy.play(&text.parse().unwrap());
    assert!(ends.proxy.conditions(Towards::Client).black_hole);
    let lost = |proxy: &ChaosProxy| proxy.conditions(Towards::Server).loss != Loss::None;
    ends.until("the end of the loss", |proxy| !lost(proxy));
    ends.until("another port", |proxy| proxy.client_ports() != [before.port()]);
    ends.client.send(b"again").unwrap();
    let (datagram, after) = ends.received();
    assert_eq!(datagram, b"again");
    assert_ne!(after, before);
    ends.proxy.stop_script();
    assert_eq!(ends.proxy.conditions(Towards::Client), Conditions::default());
}

#[test]
fn a_dropped_proxy_has_given_its_ports_back() {
    let ends = Ends::new();
    ends.client.send(b"hello").unwrap();
    let (_, back) = ends.received();
    let front = ends.proxy.address();
    drop(ends.proxy);
    for address in [front, back] {
        UdpSocket::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    }
}

#[test]
fn the_client_who_was_silent_longest_is_forgotten() {
    let ends = Ends::new();
    let clients: Vec<_> = (0..260).map(|_| socket()).collect();
    for client in &clients {
        client.send_to(b"hello", ends.proxy.address()).unwrap();
        ends.received();
    }
    assert_eq!(ends.proxy.client_ports().len(), 256);
}

#[test]
fn clients_that_fell_silent_make_place_for_the_next_one() {
    let ends = Ends::new();
    let comes = |minutes: u64, client: &UdpSocket| {
        ends.proxy.engine(|engine| engine.age(Duration::from_secs(60 * minutes)));
        client.send_to(b"hello", ends.proxy.address()).unwrap();
        ends.received();
        ends.proxy.client_ports().len()
    };
    let [one, two, three] = [(); 3].map(|()| socket());
    assert_eq!([comes(0, &one), comes(1, &two)], [1, 2]);
    // The second one still talks.
    assert_eq!(comes(1, &two), 2);
    assert_eq!(comes(1, &three), 2);
}

#[cfg(target_os = "linux")]
#[test]
fn what_the_system_loses_before_the_proxy_is_told() {
    let ends = Ends::new();
    assert_eq!(ends.proxy.overruns(Towards::Server), Some(0));
    // The proxy cannot read while its engine is held.
    let sent = ends.proxy.engine(|_| {
        let mut sent = 0_u64;
        while ends.proxy.overruns(Towards::Server) == Some(0) {
            ends.client.send(&[1; 60_000]).unwrap();
            sent += 1;
        }
        sent
    });
    let told = |proxy: &ChaosProxy| {
        let entered = proxy.counters(Towards::Server).entered;
        entered + proxy.overruns(Towards::Server).unwrap() == sent
    };
    ends.until("each one read or told", told);
}
