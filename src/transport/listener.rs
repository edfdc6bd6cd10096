//! Listening, and connections on their way in.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex as StdMutex, OnceLock};
use std::time::Instant;

use tokio::sync::{Mutex, mpsc};
use tracing::{debug, warn};

use super::admission::{Admission, Place, places_for_all, retry_from};
use super::bounds::Bounds;
use super::connection::MsQuicNetConnection;
use super::core::{ConnectionCore, Direction};
use super::ffi::{self, ListenerCallbacks, ListenerSlot, NewConnection};
use super::handshake::Handshake;
use super::listen_port::ListenPort;
use super::registration::{LiveHandle, RegistrationWrapper};
use crate::error::{AcceptError, CloseCode, LibraryError};
use crate::identity::{CertHash, NetCredential};
use crate::lock::lock;
use crate::never;

/// A bound address that takes connections. Dropping it stops it; established connections live on.
#[derive(Debug)]
pub struct MsQuicListener {
    core: Arc<ListenerCore>,
    incoming: Mutex<mpsc::UnboundedReceiver<MsQuicNetIncomingRequest>>,
    local_addr: SocketAddr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Listening,
    Stopping,
    Stopped,
}

struct ListenerCore {
    slot: ListenerSlot,
    configuration: Arc<ffi::Configuration>,
    credential: NetCredential,
    bounds: Arc<Bounds>,
    /// Bounds `incoming`: a place for each connection that is not accepted yet.
    admission: Arc<Admission>,
    incoming: OnceLock<mpsc::UnboundedSender<MsQuicNetIncomingRequest>>,
    life: tokio::sync::watch::Sender<Life>,
    /// Until it is stopped.
    port: StdMutex<Option<ListenPort>>,
    live: LiveHandle,
}

impl std::fmt::Debug for ListenerCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ListenerCore").field("handle", &self.slot).finish_non_exhaustive()
    }
}

/// Ports that are tried where the system chooses.
const PORT_ATTEMPTS: usize = 8;

impl MsQuicListener {
    pub(super) fn start(
        registration: &Arc<RegistrationWrapper>,
        address: SocketAddr,
        alpns: &[String],
        configuration: &Arc<ffi::Configuration>,
        credential: &NetCredential,
        bounds: &Arc<Bounds>,
    ) -> Result<Self, LibraryError> {
        let mut attempts = if address.port() == 0 { PORT_ATTEMPTS } else { 1 };
        loop {
            let (configuration, credential) = (Arc::clone(configuration), credential.clone());
            let bounds = Arc::clone(bounds);
            attempts -= 1;
            let started = ListenPort::claim(address).and_then(|port| {
                Self::start_at(registration, port, alpns, configuration, credential, bounds)
            });
            match started {
                // Another process took the port meanwhile.
                Err(error) if attempts > 0 && error.status == ffi::status::ADDRESS_IN_USE => {}
                started => return started,
            }
        }
    }

    fn start_at(
        registration: &Arc<RegistrationWrapper>,
        port: ListenPort,
        alpns: &[String],
        configuration: Arc<ffi::Configuration>,
        credential: NetCredential,
        bounds: Arc<Bounds>,
    ) -> Result<Self, LibraryError> {
        ask_for_proof_of_addresses(bounds.limits.handshakes_pending_max);
        let (sender, incoming) = mpsc::unbounded_channel();
        let address = port.address();
        let core = Arc::new(ListenerCore {
            slot: ListenerSlot::default(),
            configuration,
            credential,
            admission: Admission::new(&bounds.limits, &bounds.arrivals),
            bounds,
            incoming: OnceLock::from(sender),
            life: tokio::sync::watch::channel(Life::Listening).0,
            port: StdMutex::new(Some(port)),
            live: LiveHandle::new(registration),
        });
        let local_addr = ListenerSlot::open(registration.raw()?, &core, address, alpns)?;
        lock(&core.port).iter().for_each(ListenPort::started);
        Ok(Self { core, incoming: Mutex::new(incoming), local_addr })
    }

    /// The bound address, with the port the system chose if 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The next connection that a peer asks for, before its handshake is judged.
    ///
    /// At most `Limits::handshakes_pending_max` wait here; more are refused, and so are those over
    /// `Limits::handshakes_per_address_max`.
    ///
    /// # Errors
    ///
    /// [`AcceptError::Stopped`] after [`stop`](Self::stop).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a request is taken only when it is returned.
    pub async fn accept(&self) -> Result<MsQuicNetIncomingRequest, AcceptError> {
        let mut life = self.core.life.subscribe();
        let mut incoming = self.incoming.lock().await;
        tokio::select! {
            biased;
            _ = life.wait_for(|life| *life != Life::Listening) => Err(AcceptError::Stopped),
            request = incoming.recv() => request.ok_or(AcceptError::Stopped),
        }
    }

    /// Takes no more connections and frees the address. Does not wait.
    pub fn stop(&self) {
        self.core.life.send_if_modified(|life| {
            let first = *life == Life::Listening;
            if first {
                *life = Life::Stopping;
            }
            first
        });
        self.core.slot.stop();
    }

    /// Stops, and waits until the address is free again.
    pub async fn stopped(&self) {
        self.stop();
        let mut life = self.core.life.subscribe();
        // The sender lives in `self.core`, so this ends only by the value.
        let _ = life.wait_for(|life| *life == Life::Stopped).await;
    }
}

/// From a quarter of the places on who is new must prove his address.
fn ask_for_proof_of_addresses(places: usize) {
    match ffi::retry_from(retry_from(places), places_for_all(places)) {
        Ok(handshakes) => debug!(handshakes, "addresses must be proven from so many on"),
        Err(error) => warn!(%error, "addresses are not proven before places run out"),
    }
}

impl Drop for MsQuicListener {
    fn drop(&mut self) {
        self.stop();
    }
}

impl ListenerCallbacks for ListenerCore {
    fn slot(&self) -> &ListenerSlot {
        &self.slot
    }

    fn new_connection(&self, new: NewConnection<'_>) {
        let Some(remote_addr) = new.remote_addr() else { return };
        let granted = match self.admission.ask(remote_addr.ip(), Instant::now()) {
            Ok(granted) => granted,
            Err(why) => return debug!(%remote_addr, ?why, "refused: no place for its handshake"),
        };
        let Some(incoming) = self.incoming.get() else { return };
        let Some(registration) = self.live.registration() else { return };
        let core = ConnectionCore::new(
            LiveHandle::new(&registration),
            Direction::Inbound,
            self.credential.clone(),
            None,
            &self.bounds,
        );
        core.set_remote_addr(remote_addr);
        core.set_handshake_place(granted.handshake);
        new.accept(&core, &self.configuration, core.smaller_windows());
        // Dropped with the channel if the listener is gone: that refuses it.
        drop(incoming.send(MsQuicNetIncomingRequest {
            core: Some(core),
            remote_addr,
            _place: granted.place,
        }));
    }

    fn complete(&self) {
        drop(lock(&self.port).take());
        self.life.send_replace(Life::Stopped);
    }

    fn released(&self) {
        self.live.release();
    }

    fn node(&self) -> CertHash {
        self.credential.identity()
    }

    fn failed(&self) {
        self.bounds.counts.impossible(never::take_marks().max(1));
    }
}

/// A connection that a peer asks for. Dropping it refuses it.
#[derive(Debug)]
pub struct MsQuicNetIncomingRequest {
    core: Option<Arc<ConnectionCore>>,
    remote_addr: SocketAddr,
    _place: Place,
}

impl MsQuicNetIncomingRequest {
    /// Where it comes from: not proven before the handshake is done.
    #[must_use]
    pub fn remote_addr(&self) -> SocketAddr {
        self.remote_addr
    }

    /// Waits for the handshake, at most for `Limits::handshake_time_max` after the peer asked, and for
    /// its certificate at most for `Limits::handshake_answer_max`.
    ///
    /// # Errors
    ///
    /// [`AcceptError`] with the peer's address and the reason: a refused certificate, a time-out.
    ///
    /// # Cancel safety
    ///
    /// Cancelled, the connection is refused.
    pub async fn accept(mut self) -> Result<MsQuicNetConnection, AcceptError> {
        let peer = self.remote_addr;
        let Some(core) = self.core.take() else { return Err(AcceptError::Stopped) };
        let closed = |reason| AcceptError::Closed { peer, reason };
        let handshake = Handshake::new(core);
        handshake.done_by_peer().await.map_err(closed)?;
        MsQuicNetConnection::new(handshake.keep()).map_err(closed)
    }

    /// Refuses the connection with `code`.
    ///
    /// Before the handshake is done QUIC hides the code from the peer, which sees
    /// [`CloseReason::Refused`](crate::CloseReason::Refused) (RFC 9000, section 10.2.3).
    pub fn refuse(mut self, code: CloseCode) {
        if let Some(core) = self.core.take() {
            core.cut(code);
        }
    }
}

impl Drop for MsQuicNetIncomingRequest {
    fn drop(&mut self) {
        if let Some(core) = self.core.take() {
            core.cut(CloseCode::REFUSED);
        }
    }
}
