//! Datagrams that leave together: of one size, to one receiver, in one system call.

use std::net::SocketAddr;
use std::sync::Arc;

use quinn_udp::EcnCodepoint;

use super::socket::Socket;
use crate::testing::conditions::Towards;

/// The largest payload of UDP over IPv4, less what the kernel may want for itself.
const BYTES_MAX: usize = 65_000;

/// Where a datagram goes.
#[derive(Debug, Clone)]
pub(super) struct Way {
    pub(super) towards: Towards,
    pub(super) socket: Arc<Socket>,
    pub(super) to: SocketAddr,
    pub(super) ecn: Option<EcnCodepoint>,
}

impl Way {
    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.socket, &other.socket) && self.to == other.to && self.ecn == other.ecn
    }
}

/// Datagrams that were sent, or that the system did not take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) towards: Towards,
    pub(super) datagrams: u64,
    pub(super) bytes: u64,
    pub(super) delivered: bool,
}

#[derive(Debug, Default)]
pub(super) struct Burst {
    way: Option<Way>,
    bytes: Vec<u8>,
    /// Bytes of each but the last.
    segment: usize,
    count: usize,
}

impl Burst {
    /// Adds a datagram, and sends what it does not fit to first.
    pub(super) fn add(
        &mut self,
        way: &Way,
        datagram: &[u8],
        flip: Option<usize>,
        sent: &mut impl FnMut(Sent),
    ) {
        if !self.fits(way, datagram) {
            self.flush(sent);
            self.segment = datagram.len();
            self.way = Some(way.clone());
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(datagram);
        if let Some(bit) = flip {
            self.bytes[start + bit / 8] ^= 1 << (bit % 8);
        }
        self.count += 1;
    }

    fn fits(&self, way: &Way, datagram: &[u8]) -> bool {
        let Some(own) = &self.way else { return false };
        // A smaller one, and an empty one all the more, is the last of its burst.
        let open = self.count > 0 && self.bytes.len() == self.count * self.segment;
        open && own.is_same(way)
            && (1..=self.segment).contains(&datagram.len())
            && self.count < own.socket.segments_max()
            && self.bytes.len() + datagram.len() <= BYTES_MAX
    }

    /// Sends what is there.
    pub(super) fn flush(&mut self, sent: &mut impl FnMut(Sent)) {
        let Some(Way { towards, socket, to, ecn }) = self.way.take() else { return };
        let tell = |datagrams: usize, bytes: usize, delivered| Sent {
            towards,
            datagrams: datagrams as u64,
            bytes: bytes as u64,
            delivered,
        };
        let segment = (self.count > 1).then_some(self.segment);
        let whole = socket.send(to, ecn, &self.bytes, segment);
        if whole.is_ok() || self.count == 1 {
            sent(tell(self.count, self.bytes.len(), whole.is_ok()));
        } else {
            // Something on the way takes no bursts.
            for datagram in self.bytes.chunks(self.segment) {
                let alone = socket.send(to, ecn, datagram, None);
                sent(tell(1, datagram.len(), alone.is_ok()));
            }
        }
        self.bytes.clear();
        self.count = 0;
    }
}
