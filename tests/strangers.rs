//! What strangers may take of a listener, and what they leave to its peers.

mod common;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::process::in_its_own_runtime;
use common::{
    LIMIT, event, friends, loopback, node_with, one_peer_with_many, stranger, until, within,
};
use moorline::{
    AcceptError, CloseCode, CloseReason, ConnectError, MsQuicTransport, Node, NodeEvent, Redial,
    Target,
};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// The first datagram of a dial: it opens a connection wherever it is sent from.
async fn first_datagram() -> Vec<u8> {
    let silent = UdpSocket::bind(loopback()).await.expect("a socket");
    let address = silent.local_addr().expect("it is bound");
    let dialling = tokio::spawn(async move {
        MsQuicTransport::new().connect(address, &[moorline::DEFAULT_ALPN], stranger()).await
    });
    let mut datagram = vec![0; 2048];
    let received = within("the dial", silent.recv_from(&mut datagram)).await;
    let (length, _) = received.expect("a datagram");
    datagram.truncate(length);
    dialling.abort();
    datagram
}

/// Opens connections and never says more.
struct Flood {
    sent: Arc<AtomicUsize>,
    goes_on: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Flood {
    /// So many a second, from one socket after the other: those of as many addresses, or of one.
    async fn start(server: SocketAddr, a_second: u32, sockets: u16, one_address: bool) -> Self {
        let datagram = first_datagram().await;
        let mut from = Vec::new();
        for number in 0..sockets {
            let [high, low] = if one_address { [0, 1] } else { number.to_be_bytes() };
            let address = Ipv4Addr::new(127, 1, high, low.max(1));
            from.push(UdpSocket::bind((address, 0)).await.expect("a socket"));
        }
        let (sent, goes_on) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(true)));
        let (counted, wanted) = (Arc::clone(&sent), Arc::clone(&goes_on));
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / a_second);
            for socket in from.iter().cycle() {
                if !wanted.load(Ordering::Relaxed) {
                    return;
                }
                ticks.tick().await;
                // What is lost is lost, as from any stranger.
                drop(socket.send_to(&datagram, server).await);
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { sent, goes_on, task }
    }

    fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    async fn end(self) {
        self.goes_on.store(false, Ordering::Relaxed);
        within("the end of the flood", self.task).await.expect("no panic");
    }
}

/// A node that listens, its address, and one that it trusts.
async fn server_and_peer(
    change: impl FnOnce(&mut moorline::NodeConfig),
) -> (Node, SocketAddr, Node) {
    let (a, b) = friends();
    let (server, peer) = (node_with(a, change).await, node_with(b, one_peer_with_many).await);
    let address = within("listening", server.listen(loopback())).await.expect("a listener");
    (server, address, peer)
}

/// A dial and a close; how long the dial took.
async fn dial(peer: &Node, address: SocketAddr) -> Result<Duration, ConnectError> {
    let began = Instant::now();
    let target = Target::from(address).redial(Redial::Never);
    let connection = within("a dial", peer.connect(target)).await?;
    let took = began.elapsed();
    within("the close", connection.close(CloseCode::NORMAL)).await;
    Ok(took)
}

/// As [`dial`], again and again: the library turns handshakes away when its workers are late. What the
/// listener itself turns away is counted.
async fn dial_until_taken(peer: &Node, address: SocketAddr) -> Duration {
    loop {
        match dial(peer, address).await {
            Ok(took) => return took,
            Err(ConnectError::Closed { reason: CloseReason::Refused, .. }) => {
                tokio::task::yield_now().await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

async fn end<const N: usize>(nodes: [Node; N]) {
    for node in nodes {
        within("the end", node.close(LIMIT)).await.expect("an orderly end");
    }
}

/// Dials while a flood goes on: the first time from an address that is not known.
async fn peers_dial_under_a_flood(a_second: u32) {
    let (server, address, peer) = server_and_peer(|_| ()).await;
    let flood = Flood::start(address, a_second, 400, false).await;
    until("the flood is more than there are places", || flood.sent() >= 500).await;
    let mut times = Vec::new();
    for _ in 0..16 {
        times.push(within("a dial", dial_until_taken(&peer, address)).await);
    }
    until("the flood went on meanwhile", || flood.sent() >= 800).await;
    times.sort_unstable();
    let counts = server.admissions();
    eprintln!(
        "{a_second} a second: dials took {:?} to {:?}, half of them {:?}; {counts:?}",
        times[0],
        times[times.len() - 1],
        times[times.len() / 2]
    );
    assert_eq!(counts.no_place, 0, "{counts:?}");
    flood.end().await;
    end([peer, server]).await;
}

#[test]
fn peers_get_in_while_strangers_open_hundreds_of_connections_a_second_and_say_no_more() {
    let test = "peers_get_in_while_strangers_open_hundreds_of_connections_a_second_and_say_no_more";
    in_its_own_runtime(test, async {
        for a_second in [100, 1_000] {
            peers_dial_under_a_flood(a_second).await;
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_that_is_not_known_has_its_bound_of_handshakes_and_is_counted() {
    let (server, address, peer) = server_and_peer(|config| {
        config.limits.handshakes_per_address_max = 4;
    })
    .await;
    let flood = Flood::start(address, 500, 100, true).await;
    until("more than one address may have", || server.admissions().too_many_of_address >= 50).await;
    let counts = server.admissions();
    assert_eq!((counts.admitted, counts.no_place), (4, 0), "{counts:?}");
    within("another address", dial_until_taken(&peer, address)).await;
    flood.end().await;
    end([peer, server]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_from_which_a_peer_was_connected_has_no_bound_of_its_own() {
    let (server, address, peer) = server_and_peer(|config| {
        config.limits.handshakes_per_address_max = 1;
        one_peer_with_many(config);
    })
    .await;
    within("the first", dial_until_taken(&peer, address)).await;
    let dials = (0..20).map(|_| {
        let peer = peer.clone();
        tokio::spawn(async move { dial_until_taken(&peer, address).await })
    });
    for dialled in dials.collect::<Vec<_>>() {
        within("a dial", dialled).await.expect("no panic");
    }
    let counts = server.admissions();
    assert_eq!((counts.no_place, counts.too_many_of_address), (0, 0), "{counts:?}");
    end([peer, server]).await;
}

#[tokio::test]
async fn who_asks_and_shows_no_certificate_is_given_up_before_the_limit_of_the_handshake() {
    let (server, address, peer) = server_and_peer(|config| {
        config.limits.handshake_answer_max = Duration::from_millis(300);
        config.limits.handshake_time_max = LIMIT;
    })
    .await;
    let mut events = server.subscribe();
    let (datagram, socket) = (first_datagram().await, UdpSocket::bind(loopback()).await);
    let (socket, began) = (socket.expect("a socket"), Instant::now());
    socket.send_to(&datagram, address).await.expect("it is sent");
    let mut seen = Vec::new();
    let refused = event(&mut events, "it is given up", &mut seen, |event| match event {
        NodeEvent::Refused { remote, error } => Some((*remote, error.clone())),
        _ => None,
    });
    let (remote, error) = refused.await;
    assert_eq!(Some(remote), socket.local_addr().ok());
    let AcceptError::Closed { reason, .. } = error else { panic!("{error:?}") };
    assert_eq!(reason, CloseReason::HandshakeTimedOut);
    assert!(began.elapsed() < LIMIT / 2, "{:?}", began.elapsed());
    assert_eq!(server.admissions().silent, 1);
    within("who answers", dial_until_taken(&peer, address)).await;
    end([peer, server]).await;
}
