//! A link that can be cut: datagrams of clients and one server on their way through this process.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use anyhow::Result;
use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::task::{JoinHandle, JoinSet};

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
        let front = bind()?;
        let (address, state) = (front.local_addr()?, Arc::<State>::default());
        let moving = tokio::spawn(pass_on(front, server, Arc::clone(&state)));
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

/// Each client has a socket of its own towards the server, as behind a NAT.
async fn pass_on(front: UdpSocket, server: SocketAddr, state: Arc<State>) {
    let (front, mut datagram) = (Arc::new(front), vec![0; DATAGRAM_BYTES_MAX]);
    let (mut clients, mut answering) = (HashMap::new(), JoinSet::new());
    // What a socket does not take is lost, as on any link.
    while let Ok((bytes, client)) = front.recv_from(&mut datagram).await {
        let back = match clients.entry(client) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let Ok(back) = bind().map(Arc::new) else { continue };
                answering.spawn(answer(
                    Arc::clone(&back),
                    Arc::clone(&front),
                    client,
                    Arc::clone(&state),
                ));
                new.insert(back)
            }
        };
        if !state.is_cut.load(Relaxed) {
            if state.was_cut.load(Relaxed) {
                state.mended_by.get_or_init(Instant::now);
            }
            let _ = back.try_send_to(&datagram[..bytes], server);
        }
    }
}

async fn answer(
    back: Arc<UdpSocket>,
    front: Arc<UdpSocket>,
    client: SocketAddr,
    state: Arc<State>,
) {
    let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
    while let Ok((bytes, _)) = back.recv_from(&mut datagram).await {
        if !state.is_cut.load(Relaxed) {
            let _ = front.try_send_to(&datagram[..bytes], client);
        }
    }
}

fn bind() -> Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(LOOPBACK)?;
    socket.set_nonblocking(true)?;
    let options = SockRef::from(&socket);
    options.set_recv_buffer_size(WAITING_BYTES_MAX)?;
    options.set_send_buffer_size(WAITING_BYTES_MAX)?;
    Ok(UdpSocket::from_std(socket)?)
}
