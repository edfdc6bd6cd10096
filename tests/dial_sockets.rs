//! What the socket of a dialled connection lets in, and what anybody who has the peer's address can do
//! to the connection: nothing that ends the process.

mod common;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use moorline::{ConnectError, Limits, MsQuicNetConnection, MsQuicTransport, NetCredential};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use common::{friends, loopback, within};

const VERSION_1: u32 = 1;
/// Versions that the library knows beside version 1, that it does not know, and reserved ones.
const OTHERS: [u32; 6] = [0x6b33_43cf, 0xabcd_0000, 0xff00_001d, 0x0a0a_0a0a, 0x1a2a_3a4a, 7];
const NEGOTIATION: u32 = 0;

/// Stands between clients and a server, and can speak to the clients with the server's address.
struct Middle {
    front: Arc<UdpSocket>,
    clients: Arc<Mutex<HashMap<SocketAddr, Client>>>,
    _tasks: JoinSet<()>,
}

/// What a client is known by.
#[derive(Clone)]
struct Client {
    back: Arc<UdpSocket>,
    /// The connection identifiers that it chose, one a connection: empty on a socket of its own.
    ids: Vec<Vec<u8>>,
}

impl Middle {
    async fn start(server: SocketAddr) -> Self {
        let front = Arc::new(UdpSocket::bind(loopback()).await.expect("a socket"));
        let clients: Arc<Mutex<HashMap<SocketAddr, Client>>> = Arc::default();
        let mut tasks = JoinSet::new();
        tasks.spawn({
            let (front, clients) = (Arc::clone(&front), Arc::clone(&clients));
            async move {
                let (mut buffer, mut downward) = (vec![0; 65_536], JoinSet::new());
                loop {
                    let Ok((length, from)) = front.recv_from(&mut buffer).await else { continue };
                    let known = clients.lock().expect("no panic").get(&from).cloned();
                    let back = if let Some(client) = known {
                        client.back
                    } else {
                        let back = Arc::new(UdpSocket::bind(loopback()).await.expect("a socket"));
                        back.connect(server).await.expect("an address");
                        downward.spawn(pass_down(Arc::clone(&back), Arc::clone(&front), from));
                        back
                    };
                    {
                        let mut clients = clients.lock().expect("no panic");
                        let client = clients
                            .entry(from)
                            .or_insert_with(|| Client { back: Arc::clone(&back), ids: Vec::new() });
                        let id = source_id(&buffer[..length]);
                        client.ids.extend(id.filter(|id| !client.ids.contains(id)));
                    }
                    drop(back.send(&buffer[..length]).await);
                }
            }
        });
        Self { front, clients, _tasks: tasks }
    }

    fn address(&self) -> SocketAddr {
        self.front.local_addr().expect("bound")
    }

    /// The clients whose sockets carry several connections, or one of their own.
    fn clients(&self, shared: bool) -> Vec<(SocketAddr, Client)> {
        let clients = self.clients.lock().expect("no panic");
        let wanted = |client: &Client| client.ids.iter().any(|id| id.is_empty()) != shared;
        clients
            .iter()
            .filter(|(_, client)| wanted(client))
            .map(|(address, client)| (*address, client.clone()))
            .collect()
    }

    /// Sends every client what `packets` make of its identifiers, as the server would.
    async fn send(&self, shared: bool, packets: impl Fn(&[u8]) -> Vec<Vec<u8>>) {
        for (address, client) in self.clients(shared) {
            for id in &client.ids {
                for packet in packets(id) {
                    self.front.send_to(&packet, address).await.expect("sent");
                }
            }
        }
    }
}

async fn pass_down(back: Arc<UdpSocket>, front: Arc<UdpSocket>, client: SocketAddr) {
    let mut buffer = vec![0; 65_536];
    loop {
        if let Ok(length) = back.recv(&mut buffer).await {
            drop(front.send_to(&buffer[..length], client).await);
        }
    }
}

/// The identifier that the sender of a long header chose (RFC 8999, section 5.1).
fn source_id(datagram: &[u8]) -> Option<Vec<u8>> {
    let (first, rest) = datagram.split_first()?;
    let (to, rest) = rest.get(4..)?.split_first()?;
    let (from, rest) = rest.get(usize::from(*to)..)?.split_first()?;
    (first & 0x80 != 0).then(|| rest.get(..usize::from(*from)).map(<[u8]>::to_vec))?
}

/// A packet with a long header; the fields behind the identifiers are those of version 1.
fn long_header(kind: u8, version: u32, to: &[u8]) -> Vec<u8> {
    let mut packet = vec![0xc0 | kind << 4];
    packet.extend(version.to_be_bytes());
    packet.push(u8::try_from(to.len()).expect("short"));
    packet.extend(to);
    packet.extend([8, 1, 2, 3, 4, 5, 6, 7, 8]);
    if version == NEGOTIATION {
        return packet;
    }
    if kind == 0 {
        packet.push(0);
    }
    packet.extend([0x40, 40]);
    packet.extend([0x5a; 40]);
    packet
}

fn short_header(to: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x40];
    packet.extend(to);
    packet.extend([0x5a; 40]);
    packet
}

/// Long headers of every kind and version, each alone and behind packets of version 1.
fn long_headers(to: &[u8]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for version in OTHERS.into_iter().chain([VERSION_1]) {
        for kind in 0..4 {
            let packet = long_header(kind, version, to);
            for before in
                [long_header(2, VERSION_1, to), long_header(0, VERSION_1, to), short_header(to)]
            {
                packets.push([before, packet.clone()].concat());
            }
            packets.push(packet);
        }
    }
    packets
}

/// Version negotiation of what the library knows and does not know, alone and behind another packet.
fn negotiations(to: &[u8]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for version in OTHERS {
        let packet = [long_header(0, NEGOTIATION, to), version.to_be_bytes().to_vec()].concat();
        packets.push([long_header(2, VERSION_1, to), packet.clone()].concat());
        packets.push(packet);
    }
    packets
}

/// A server that answers frames, with `count` connections to it through a middle.
struct Network {
    transport: MsQuicTransport,
    middle: Middle,
    connections: Vec<MsQuicNetConnection>,
    credential: NetCredential,
    _server: JoinSet<()>,
}

impl Network {
    async fn with(count: usize) -> Self {
        let (a, b) = friends();
        let transport = MsQuicTransport::new();
        let listener =
            within("listening", transport.create_listener(loopback(), &["test"], a)).await;
        let listener = listener.expect("a listener");
        let middle = Middle::start(listener.local_addr()).await;
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut echoes = JoinSet::new();
            while let Ok(request) = listener.accept().await {
                echoes.spawn(async move {
                    let Ok(connection) = request.accept().await else { return };
                    while let Ok((frame, _)) = connection.recv().await {
                        drop(connection.send(frame).await);
                    }
                });
            }
        });
        let mut network =
            Self { transport, middle, connections: Vec::new(), credential: b, _server: server };
        for _ in 0..count {
            let connection = network.dial().await;
            network.connections.push(connection);
        }
        network
    }

    async fn dial(&self) -> MsQuicNetConnection {
        let address = self.middle.address();
        let dialled = self.transport.connect(address, &["test"], self.credential.clone());
        within("connecting", dialled).await.expect("a connection")
    }

    async fn exchange(&self) {
        for connection in &self.connections {
            answered(connection).await;
        }
    }

    /// The process lives, and is as good as before: for those who dial anew at the latest.
    async fn serves(&self) {
        answered(&self.dial().await).await;
    }
}

async fn answered(connection: &MsQuicNetConnection) {
    connection.send("are you there").await.expect("taken over");
    let (frame, _) = within("the answer", connection.recv()).await.expect("a frame");
    assert_eq!(frame, "are you there");
}

#[tokio::test]
async fn long_headers_from_the_peers_address_do_nothing_to_a_connection_on_a_socket_of_its_own() {
    let network = Network::with(2).await;
    assert_eq!(network.middle.clients(false).len(), 2);
    // Connected, and nobody has spoken.
    network.middle.send(false, long_headers).await;
    network.exchange().await;
    network.middle.send(false, long_headers).await;
    network.middle.send(false, negotiations).await;
    network.exchange().await;
    network.serves().await;
}

#[tokio::test]
async fn long_headers_that_name_a_connection_do_nothing_to_it_on_a_socket_that_others_share() {
    let network = Network::with(24).await;
    let sharing: usize =
        network.middle.clients(true).iter().map(|(_, client)| client.ids.len()).sum();
    assert_eq!(sharing, 8);
    network.middle.send(true, long_headers).await;
    network.exchange().await;
    network.middle.send(true, long_headers).await;
    network.exchange().await;
    network.serves().await;
}

#[tokio::test]
async fn version_negotiation_ends_no_process_where_it_reaches_a_connection() {
    let network = Network::with(18).await;
    network.middle.send(false, negotiations).await;
    network.middle.send(true, negotiations).await;
    for connection in &network.connections {
        // One that somebody on the path has ended is ended in order.
        if connection.send("are you there").await.is_ok() {
            drop(within("an answer, or the end", connection.recv()).await);
        }
    }
    network.serves().await;
}

#[tokio::test]
async fn a_handshake_on_its_way_takes_no_notice_of_version_negotiation() {
    let (_, credential) = friends();
    let mut limits = Limits::default();
    limits.handshake_time_max = Duration::from_secs(3);
    let transport = MsQuicTransport::with_limits(limits).expect("good limits");
    let peer = UdpSocket::bind(loopback()).await.expect("a socket");
    let address = peer.local_addr().expect("bound");
    let speaks = async {
        let mut buffer = vec![0; 65_536];
        // The second packet comes when the first was not answered for a while.
        for _ in 0..2 {
            let (_, from) = within("a packet", peer.recv_from(&mut buffer)).await.expect("one");
            peer.connect(from).await.expect("an address");
        }
        let unknown = 7u32.to_be_bytes().to_vec();
        let packet = [long_header(0, NEGOTIATION, &[]), unknown].concat();
        peer.send(&packet).await.expect("sent");
    };
    let dial = within("the dial", transport.connect(address, &["test"], credential));
    let (error, ()) = tokio::join!(dial, speaks);
    let error = error.expect_err("nobody speaks QUIC there");
    let ConnectError::TimedOut { peer, .. } = error else { panic!("{error:?}") };
    assert_eq!(peer, address);
}
