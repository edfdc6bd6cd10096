//! A UDP socket that takes and gives many datagrams in one system call, and tells them apart.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// What a socket's queue in the kernel is asked to hold: 20 ms of 200 MiB/s. The system may give less.
const QUEUE_BYTES: usize = 4 << 20;

/// Buffers of one system call that receives, each for a burst of datagrams of one sender.
const BURSTS: usize = 16;

/// The largest burst.
const BURST_BYTES: usize = 1 << 16;

#[derive(Debug)]
pub(super) struct Socket {
    io: UdpSocket,
    state: UdpSocketState,
}

impl Socket {
    /// A port of its own on the side of the machine that `peer` is on. Needs a runtime.
    pub(super) fn bind_towards(peer: SocketAddr) -> io::Result<Self> {
        let ip = match (peer.ip(), peer.ip().is_loopback()) {
            (IpAddr::V4(_), true) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            (IpAddr::V4(_), false) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            (IpAddr::V6(_), true) => IpAddr::V6(Ipv6Addr::LOCALHOST),
            (IpAddr::V6(_), false) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let socket = std::net::UdpSocket::bind(SocketAddr::new(ip, 0))?;
        let state = UdpSocketState::new((&socket).into())?;
        // With less it works as well: a burst is lost sooner.
        let _ = state.set_recv_buffer_size((&socket).into(), QUEUE_BYTES);
        let _ = state.set_send_buffer_size((&socket).into(), QUEUE_BYTES);
        Ok(Self { io: UdpSocket::from_std(socket)?, state })
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        self.io.readable().await
    }

    /// What came, without waiting: how many bursts.
    pub(super) fn receive(&self, buffers: &mut Buffers) -> io::Result<usize> {
        let mut slices = buffers.bytes.chunks_mut(BURST_BYTES).map(IoSliceMut::new);
        let mut slices: [IoSliceMut<'_>; BURSTS] =
            std::array::from_fn(|_| slices.next().unwrap_or_else(|| IoSliceMut::new(&mut [])));
        let receive = || self.state.recv((&self.io).into(), &mut slices, &mut buffers.metas);
        self.io.try_io(Interest::READABLE, receive)
    }

    /// How many datagrams one call may send.
    pub(super) fn segments_max(&self) -> usize {
        self.state.max_gso_segments()
    }

    pub(super) fn send(
        &self,
        to: SocketAddr,
        ecn: Option<EcnCodepoint>,
        contents: &[u8],
        segment: Option<usize>,
    ) -> io::Result<()> {
        let transmit =
            Transmit { destination: to, ecn, contents, segment_size: segment, src_ip: None };
        self.state.try_send((&self.io).into(), &transmit)
    }
}

/// Room for what one system call receives.
#[derive(Debug)]
pub(super) struct Buffers {
    bytes: Vec<u8>,
    metas: [RecvMeta; BURSTS],
}

impl Buffers {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; BURSTS * BURST_BYTES], metas: [RecvMeta::default(); BURSTS] }
    }

    /// The first `count` bursts: of whom, and their datagrams.
    pub(super) fn bursts(&self, count: usize) -> impl Iterator<Item = Received<'_>> {
        self.metas[..count].iter().zip(self.bytes.chunks(BURST_BYTES)).map(|(meta, bytes)| {
            let bytes = &bytes[..meta.len];
            Received { from: meta.addr, ecn: meta.ecn, bytes, stride: meta.stride.max(1) }
        })
    }
}

/// Datagrams of one sender that the kernel handed over together.
pub(super) struct Received<'a> {
    pub(super) from: SocketAddr,
    pub(super) ecn: Option<EcnCodepoint>,
    bytes: &'a [u8],
    /// Bytes of each but the last.
    stride: usize,
}

impl<'a> Received<'a> {
    pub(super) fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        // An empty datagram is one as well.
        let empty = self.bytes.is_empty().then_some(self.bytes);
        empty.into_iter().chain(self.bytes.chunks(self.stride))
    }
}
