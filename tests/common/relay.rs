//! A network between one client and one server that can go bad, in the words of these tests.

use std::net::SocketAddr;

use moorline::testing::{ChaosProxy, Conditions, RateLimit, Towards};

/// What a slow link holds back.
const QUEUE_BYTES: u64 = 64 << 10;

/// Passes datagrams on in both directions while it may.
pub(crate) struct Relay(ChaosProxy);

impl Relay {
    /// Stands in front of `server`.
    pub(crate) async fn start(server: SocketAddr) -> Self {
        Self(ChaosProxy::start(server, 1).expect("a proxy"))
    }

    /// As [`start`](Self::start), and passes no more than so many bytes a second on to the server.
    pub(crate) async fn start_slow(server: SocketAddr, bytes_a_second: u32) -> Self {
        let relay = Self::start(server).await;
        let bytes_a_second = u64::from(bytes_a_second);
        let mut slow = Conditions::default();
        slow.limit = Some(RateLimit { bytes_a_second, queue_bytes: QUEUE_BYTES });
        relay.0.set(Towards::Server, slow);
        relay
    }

    /// What the client dials.
    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// Loses everything in both directions from here on.
    pub(crate) fn cut(&self) {
        self.0.cut();
    }

    /// Passes everything on again.
    pub(crate) fn mend(&self) {
        self.0.mend();
    }

    /// Passes so many more bytes on to the server, then loses what comes.
    pub(crate) fn let_through_to_server(&self, bytes: u64) {
        self.0.pass_next(Towards::Server, Some(bytes));
    }

    /// Loses the next `count` datagrams to the server.
    pub(crate) fn lose_to_server(&self, count: u64) {
        self.0.lose_next(Towards::Server, count);
    }

    /// Loses every datagram from here on that would need packets of more bytes than this.
    pub(crate) fn set_mtu(&self, bytes: u16) {
        let mut narrow = Conditions::default();
        narrow.mtu = Some(bytes);
        self.0.set_both(narrow);
    }

    /// Datagrams that [`Relay::lose_to_server`] still waits for.
    pub(crate) fn left_to_lose(&self) -> u64 {
        self.0.left_to_lose(Towards::Server)
    }
}
