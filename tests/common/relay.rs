//! A network between one client and one server that can go bad: a UDP relay on loopback.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// More than any test sends.
const OPEN: i64 = i64::MAX / 2;

/// Passes datagrams on in both directions while it may.
pub(crate) struct Relay {
    address: SocketAddr,
    to_server: Arc<AtomicI64>,
    to_client: Arc<AtomicI64>,
    to_lose: Arc<AtomicI64>,
    mtu: Arc<AtomicI64>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Stands in front of `server`.
    pub(crate) async fn start(server: SocketAddr) -> Self {
        Self::start_with(server, None).await
    }

    /// As [`start`](Self::start), and passes no more than so many bytes a second on to the server; what
    /// more than [`QUEUE_BYTES`] would wait for is lost, as on any link.
    pub(crate) async fn start_slow(server: SocketAddr, bytes_a_second: u32) -> Self {
        Self::start_with(server, Some(bytes_a_second)).await
    }

    async fn start_with(server: SocketAddr, bytes_a_second: Option<u32>) -> Self {
        let front = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let back = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        back.connect(server).await.expect("an address");
        let address = front.local_addr().expect("a bound socket");
        let to_server = Arc::new(AtomicI64::new(OPEN));
        let to_client = Arc::new(AtomicI64::new(OPEN));
        let to_lose = Arc::new(AtomicI64::new(0));
        let mtu = Arc::new(AtomicI64::new(OPEN));
        let budgets = [&to_server, &to_client, &to_lose, &mtu].map(Arc::clone);
        let task = tokio::spawn(relay(front, back, budgets, Link::new(bytes_a_second)));
        Self { address, to_server, to_client, to_lose, mtu, task }
    }

    /// What the client dials.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Loses everything in both directions from here on.
    pub(crate) fn cut(&self) {
        self.to_server.store(0, Ordering::Release);
        self.to_client.store(0, Ordering::Release);
    }

    /// Passes everything on again.
    pub(crate) fn mend(&self) {
        self.to_server.store(OPEN, Ordering::Release);
        self.to_client.store(OPEN, Ordering::Release);
    }

    /// Loses everything that the server says from here on.
    pub(crate) fn mute_server(&self) {
        self.to_client.store(0, Ordering::Release);
    }

    /// Passes so many more bytes on to the server, then loses what comes.
    pub(crate) fn let_through_to_server(&self, bytes: i64) {
        self.to_server.store(bytes, Ordering::Release);
    }

    /// Loses the next `count` datagrams to the server.
    pub(crate) fn lose_to_server(&self, count: i64) {
        self.to_lose.store(count, Ordering::Release);
    }

    /// Loses every datagram from here on that would need packets of more bytes than this, with the
    /// headers of IPv4 and UDP.
    pub(crate) fn set_mtu(&self, bytes: i64) {
        self.mtu.store(bytes - 28, Ordering::Release);
    }

    /// Datagrams that [`Relay::lose_to_server`] still waits for.
    pub(crate) fn left_to_lose(&self) -> i64 {
        self.to_lose.load(Ordering::Acquire)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a slow link holds back.
const QUEUE_BYTES: usize = 64 << 10;

/// The link to the server.
struct Link {
    bytes_a_second: Option<u32>,
    queue: VecDeque<Vec<u8>>,
    queued: usize,
    /// When the first one may go on.
    due: Instant,
}

impl Link {
    fn new(bytes_a_second: Option<u32>) -> Self {
        Self { bytes_a_second, queue: VecDeque::new(), queued: 0, due: Instant::now() }
    }

    /// A datagram that may go on at once comes back.
    fn enter<'a>(&mut self, datagram: &'a [u8]) -> Option<&'a [u8]> {
        if self.bytes_a_second.is_none() {
            return Some(datagram);
        }
        if self.queued + datagram.len() <= QUEUE_BYTES {
            if self.queue.is_empty() {
                self.due = self.due.max(Instant::now());
            }
            self.queued += datagram.len();
            self.queue.push_back(datagram.to_vec());
        }
        None
    }

    /// The next one whose time has come.
    fn leave(&mut self) -> Option<Vec<u8>> {
        if self.due > Instant::now() {
            return None;
        }
        let first = self.queue.pop_front()?;
        self.queued -= first.len();
        let rate = f64::from(self.bytes_a_second?);
        self.due += Duration::from_secs_f64(first.len() as f64 / rate);
        Some(first)
    }
}

async fn relay(
    front: UdpSocket,
    back: UdpSocket,
    [to_server, to_client, to_lose, mtu]: [Arc<AtomicI64>; 4],
    mut link: Link,
) {
    let mut client = None;
    let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
    let fits =
        |length: usize| i64::try_from(length).is_ok_and(|l| l <= mtu.load(Ordering::Acquire));
    loop {
        // An error of one datagram (a refused one before) says nothing about the next.
        tokio::select! {
            Ok((length, from)) = front.recv_from(&mut up) => {
                client = Some(from);
                let lost = passes(&to_lose, 1);
                if !lost && fits(length) && passes(&to_server, length)
                    && let Some(datagram) = link.enter(&up[..length])
                {
                    drop(back.send(datagram).await);
                }
            }
            // not synchronisation: the time that a datagram takes on the link
            () = tokio::time::sleep_until(link.due), if !link.queue.is_empty() => {
                while let Some(datagram) = link.leave() {
                    drop(back.send(&datagram).await);
                }
            }
            Ok(length) = back.recv(&mut down) => {
                if let Some(client) = client.filter(|_| fits(length) && passes(&to_client, length)) {
                    drop(front.send_to(&down[..length], client).await);
                }
            }
            else => {}
        }
    }
}

/// Takes `length` off what may pass.
fn passes(budget: &AtomicI64, length: usize) -> bool {
    let length = i64::try_from(length).expect("a datagram");
    let take = |left: i64| (left >= length).then_some(left - length);
    budget.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_ok()
}
