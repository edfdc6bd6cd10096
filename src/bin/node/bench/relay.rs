//! A link that can be cut: datagrams of one client and one server on their way through this process.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use anyhow::Result;
use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use super::pair::LOOPBACK;

/// More than any datagram has.
const DATAGRAM_BYTES_MAX: usize = 1 << 16;

/// Bytes that wait in the system, in each direction.
const WAITING_BYTES_MAX: usize = 4 << 20;

/// See the module; it passes everything on until it is cut.
pub(super) struct Relay {
    address: SocketAddr,
    state: Arc<State>,
    moving: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    is_cut: AtomicBool,
    /// When the first datagram behind the cut came from the client.
    mended_by: OnceLock<Instant>,
    was_cut: AtomicBool,
}

impl Relay {
    /// Stands in front of `server`.
    pub(super) fn start(server: SocketAddr) -> Result<Self> {
        let bind = || -> Result<UdpSocket> {
            let socket = std::net::UdpSocket::bind(LOOPBACK)?;
            socket.set_nonblocking(true)?;
            let options = SockRef::from(&socket);
            options.set_recv_buffer_size(WAITING_BYTES_MAX)?;
            options.set_send_buffer_size(WAITING_BYTES_MAX)?;
            Ok(UdpSocket::from_std(socket)?)
        };
        let (front, back) = (bind()?, bind()?);
        let (address, state) = (front.local_addr()?, Arc::<State>::default());
        let moving = tokio::spawn(pass_on(front, back, server, Arc::clone(&state)));
        Ok(Self { address, state, moving })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nothing passes any more.
    pub(super) fn cut(&self) {
        self.state.is_cut.store(true, Relaxed);
    }

    /// Everything passes again.
    pub(super) fn mend(&self) {
        self.state.was_cut.store(true, Relaxed);
        self.state.is_cut.store(false, Relaxed);
    }

    /// When the first datagram came through behind the cut.
    pub(super) fn mended_by(&self) -> Option<Instant> {
        self.state.mended_by.get().copied()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.moving.abort();
    }
}

/// The client is whoever wrote last: one that dials again may come from another port.
async fn pass_on(front: UdpSocket, back: UdpSocket, server: SocketAddr, state: Arc<State>) {
    let (mut there, mut here) = (vec![0; DATAGRAM_BYTES_MAX], vec![0; DATAGRAM_BYTES_MAX]);
    let mut client = None;
    loop {
        // What a socket does not take is lost, as on any link.
        tokio::select! {
            Ok((bytes, from)) = front.recv_from(&mut there) => {
                client = Some(from);
                if !state.is_cut.load(Relaxed) {
                    if state.was_cut.load(Relaxed) {
                        state.mended_by.get_or_init(Instant::now);
                    }
                    let _ = back.try_send_to(&there[..bytes], server);
                }
            }
            Ok((bytes, _)) = back.recv_from(&mut here) => {
                if let Some(client) = client.filter(|_| !state.is_cut.load(Relaxed)) {
                    let _ = front.try_send_to(&here[..bytes], client);
                }
            }
            else => return,
        }
    }
}
