//! A network between one client and one server that can go bad: a UDP relay on loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

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
        let front = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let back = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        back.connect(server).await.expect("an address");
        let address = front.local_addr().expect("a bound socket");
        let to_server = Arc::new(AtomicI64::new(OPEN));
        let to_client = Arc::new(AtomicI64::new(OPEN));
        let to_lose = Arc::new(AtomicI64::new(0));
        let mtu = Arc::new(AtomicI64::new(OPEN));
        let budgets = [&to_server, &to_client, &to_lose, &mtu].map(Arc::clone);
        let task = tokio::spawn(relay(front, back, budgets));
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

async fn relay(
    front: UdpSocket,
    back: UdpSocket,
    [to_server, to_client, to_lose, mtu]: [Arc<AtomicI64>; 4],
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
                if !lost && fits(length) && passes(&to_server, length) {
                    drop(back.send(&up[..length]).await);
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
