//! What one connection shares between its handle, its streams and MsQuic's callbacks.
//!
//! Invariants: the first specific cause of the end wins and is published before any waiter is
//! failed; `complete` is set after every outcome was counted and every stream was closed; no
//! callback waits.

mod arriving;
mod broken;
mod callbacks;
mod carrying;
mod delivery;
mod intake;
mod limits;
mod measured;
mod owner;
mod readers;
mod receiving;
mod sending;
mod stall;
mod streams;
#[cfg(test)]
mod tests;
mod waiting;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;
use tracing::debug;

use self::intake::Intake;
use self::measured::{Measured, Packets};
pub(crate) use self::readers::{IsGone, Reader, Received, Subscriber};
use super::admission::HandshakePlace;
use super::bounds::{Bounds, Windows, window_floor};
use super::clock;
use super::counts::Limit;
use super::dial_port::Dial;
use super::ffi::ConnectionSlot;
use super::guarded::Alarm;
use super::lane::SendLane;
use super::lanes::Lanes;
use super::link::flight::Path;
use super::link::inbound::Inbound;
pub(crate) use super::link::inbound::{From, Lent};
use super::link::lanes::{GivingWay, Lane};
use super::link::share::Share;
use super::link::stall::Still;
pub(crate) use super::link::watch::Deadline;
use super::link::watch::Watch;
use super::registration::LiveHandle;
use super::session_streams::PeerStreams;
use super::stream::{InStream, OutStream};
use crate::config::Limits;
use crate::error::{CloseCode, CloseReason};
use crate::identity::{CertHash, KeyPrefixes, NetCredential, Refusal};
use crate::lock::lock;

/// Which end opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The peer dialled.
    Inbound,
    /// This side dialled.
    Outbound,
}

/// What the owner of a connection is told, from MsQuic's threads. It must not block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    /// The peer ended its last stream between two frames: it sends no more.
    PeerFinished,
    /// A reader has seen the end of the peer's frames.
    EndTaken,
    /// Everything accepted was acknowledged, and the ends of our streams as well.
    LanesFinished,
    /// There is something with a deadline, which somebody must watch.
    Began(Deadline),
    /// All handles are closed and all outcomes are known.
    Complete,
}

type Hook = Box<dyn Fn(Notice) + Send + Sync>;

/// Called once with the reason of the end, on whatever thread it is found out. Must not block.
pub(crate) type OnOver = Box<dyn FnOnce(&CloseReason) + Send>;

/// The peer's certificate, once the handshake proved that the peer has its key.
#[derive(Debug, Clone)]
struct PeerCertificate {
    identity: CertHash,
    der: Bytes,
}

/// See the module.
pub(crate) struct ConnectionCore {
    weak: Weak<Self>,
    slot: ConnectionSlot,
    direction: Direction,
    credential: NetCredential,
    expected: Option<CertHash>,
    bounds: Arc<Bounds>,
    windows: Windows,
    /// What they are of all that the node's connections have: until the handle is closed.
    window_share: Mutex<Share>,
    lanes: Lanes<Arc<OutStream<Self>>>,
    still: Mutex<Still>,
    intake: Intake<Arc<InStream<Self>>>,
    /// What happened to it that cannot.
    alarm: Arc<Alarm>,
    /// Of a connection that carries a session.
    session_streams: PeerStreams<Self>,
    certificate: OnceLock<PeerCertificate>,
    refused: OnceLock<(Refusal, Option<KeyPrefixes>)>,
    alpn: OnceLock<String>,
    local_addr: OnceLock<SocketAddr>,
    remote_addr: OnceLock<SocketAddr>,
    over: OnceLock<CloseReason>,
    connected: AtomicBool,
    peer_spoke: AtomicBool,
    peer_finished: AtomicBool,
    /// A reader was told of the end of the peer's frames.
    end_taken: AtomicBool,
    /// Nobody watches for that end, and no reader was told of it.
    end_untold: AtomicBool,
    complete: AtomicBool,
    shutdown_asked: AtomicBool,
    /// Of lanes that may stand still.
    lane_watch: Watch,
    changed: Notify,
    hook: OnceLock<Hook>,
    on_over: Mutex<Vec<OnOver>>,
    on_complete: Mutex<Vec<OnOver>>,
    started: Instant,
    measured: Measured,
    giving_way: GivingWay,
    /// The number of the next stream of ours.
    next_ordinal: Mutex<u64>,
    /// Of a connection that was dialled, while its handle is open.
    dial: Mutex<Option<Dial>>,
    /// Of a connection that came in, until its handshake is done.
    handshake_place: Mutex<Option<HandshakePlace>>,
    live: LiveHandle,
}

impl ConnectionCore {
    pub(super) fn new(
        live: LiveHandle,
        direction: Direction,
        credential: NetCredential,
        expected: Option<CertHash>,
        bounds: &Arc<Bounds>,
    ) -> Arc<Self> {
        let limits = &bounds.limits;
        let share = Share::new(&bounds.receiving, limits.inbound_bytes_max);
        let alarm = Alarm::new(&bounds.counts);
        let intake = Intake::new(Inbound::new(share, limits), &alarm);
        let window_max = limits.window_bytes_max;
        let mut window_share = Share::with_floor(&bounds.windows, window_floor(limits), window_max);
        // What a peer may send is told in the handshake, so that it counts from here on.
        window_share.set_busy(true);
        let core = Arc::new_cyclic(|weak: &Weak<Self>| Self {
            weak: weak.clone(),
            slot: ConnectionSlot::default(),
            direction,
            credential,
            expected,
            windows: Windows::out_of(limits, window_share.bytes()),
            window_share: Mutex::new(window_share),
            lanes: Lanes::new(bounds, &alarm),
            still: Mutex::default(),
            intake,
            alarm,
            session_streams: PeerStreams::default(),
            bounds: Arc::clone(bounds),
            certificate: OnceLock::new(),
            refused: OnceLock::new(),
            alpn: OnceLock::new(),
            local_addr: OnceLock::new(),
            remote_addr: OnceLock::new(),
            over: OnceLock::new(),
            connected: AtomicBool::new(false),
            peer_spoke: AtomicBool::new(false),
            peer_finished: AtomicBool::new(false),
            end_taken: AtomicBool::new(false),
            end_untold: AtomicBool::new(false),
            complete: AtomicBool::new(false),
            shutdown_asked: AtomicBool::new(false),
            lane_watch: Watch::default(),
            changed: Notify::new(),
            hook: OnceLock::new(),
            on_over: Mutex::new(Vec::new()),
            on_complete: Mutex::new(Vec::new()),
            started: clock::now(),
            measured: Measured::default(),
            giving_way: GivingWay::default(),
            next_ordinal: Mutex::new(0),
            dial: Mutex::new(None),
            handshake_place: Mutex::default(),
            live,
        });
        core.alarm.set_bell(Self::bell(&core));
        if core.smaller_windows().is_some() {
            core.reached(Limit::NodeWindowBytes);
        }
        core
    }

    // ---- facts

    pub(super) fn slot_for_streams(&self) -> &ConnectionSlot {
        &self.slot
    }

    /// Its windows, where they are smaller than those of the configuration.
    pub(super) fn smaller_windows(&self) -> Option<Windows> {
        Some(self.windows).filter(|windows| *windows != Windows::largest(self.limits()))
    }

    /// A count for one more handle; `None` once this connection's is closed.
    pub(super) fn live_handle(&self) -> Option<LiveHandle> {
        self.live.registration().as_ref().map(LiveHandle::new)
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.bounds.limits
    }

    pub(crate) fn direction(&self) -> Direction {
        self.direction
    }

    pub(crate) fn local_identity(&self) -> CertHash {
        self.credential.identity()
    }

    /// Set once connected.
    pub(crate) fn remote_identity(&self) -> Option<CertHash> {
        self.certificate.get().map(|certificate| certificate.identity)
    }

    /// Of a connection that stands.
    pub(crate) fn remote_certificate(&self) -> Bytes {
        let shown = self.certificate.get().map(|certificate| certificate.der.clone());
        self.expect_known(shown)
    }

    /// Of a connection that stands.
    pub(crate) fn alpn(&self) -> &str {
        self.expect_known(self.alpn.get().map(String::as_str))
    }

    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr.get().copied()
    }

    pub(crate) fn remote_addr(&self) -> Option<SocketAddr> {
        self.remote_addr.get().copied()
    }

    pub(super) fn set_remote_addr(&self, address: SocketAddr) {
        self.remote_addr.get_or_init(|| address);
    }

    pub(super) fn set_dial(&self, dial: Dial) {
        *lock(&self.dial) = Some(dial);
    }

    /// The handle is there. A cut that came before could not reach it.
    pub(super) fn opened(&self) {
        if self.is_over() {
            self.slot.shutdown(true, CloseCode::DROPPED.value());
        }
    }

    /// Milliseconds since it was begun.
    fn age_ms(&self) -> u64 {
        u64::try_from(clock::now().saturating_duration_since(self.started).as_millis())
            .unwrap_or(u64::MAX)
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Why the connection is over, if it is.
    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        self.over.get().cloned()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.get().is_some()
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    pub(crate) fn has_peer_finished(&self) -> bool {
        self.peer_finished.load(Ordering::Acquire)
    }

    pub(crate) fn is_end_taken(&self) -> bool {
        self.end_taken.load(Ordering::Acquire)
    }

    pub(crate) fn rtt(&self) -> Duration {
        self.measured.rtt()
    }

    /// As last looked at.
    pub(crate) fn path(&self) -> Path {
        self.measured.path()
    }

    /// As last looked at.
    pub(crate) fn packets(&self) -> Packets {
        self.measured.packets()
    }

    /// Looks at the path now and then. Only from this connection's callbacks.
    pub(super) fn sample(&self) {
        if self.measured.is_due(self.age_ms())
            && let Some(statistics) = self.slot.statistics()
        {
            self.measured.keep(&statistics);
            let path = self.measured.path();
            self.lanes.iter().for_each(|lane| lane.set_path(path));
        }
    }

    // ---- waiting

    pub(super) async fn wait_for<R>(&self, look: impl Fn(&Self) -> Option<R>) -> R {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(found) = look(self) {
                return found;
            }
            changed.await;
        }
    }

    /// Waits until the handshake is done, or the connection is over.
    pub(crate) async fn connected(&self) -> Result<(), CloseReason> {
        let connected = |core: &Self| core.connected.load(Ordering::Acquire).then_some(Ok(()));
        self.wait_for(|core| core.close_reason().map(Err).or_else(|| connected(core))).await
    }

    /// Waits for a sign that the peer accepted us, for a short time.
    ///
    /// A client is connected before the server has judged its certificate. The first stream or
    /// acknowledgement of the server's proves that it did; a refusal takes one round trip. A peer
    /// that gives no sign within the limit is taken to have accepted.
    pub(crate) async fn accepted(&self) -> Result<(), CloseReason> {
        let limit = (self.rtt() * 4).max(Duration::from_millis(250));
        let sign = self.wait_for(|core| {
            let spoke = core.peer_spoke.load(Ordering::Acquire).then_some(Ok(()));
            core.close_reason().map(Err).or(spoke)
        });
        tokio::time::timeout(limit, sign).await.unwrap_or(Ok(()))
    }

    /// Waits until the connection is over and everything about it is known.
    pub(crate) async fn closed(&self) -> CloseReason {
        self.wait_for(|core| core.is_complete().then(|| core.close_reason()).flatten()).await
    }

    // ---- ending

    /// Accepts no more frames, and ends our direction behind what was accepted.
    /// Whoever comes too late is told `reason`.
    pub(crate) fn begin_close(self: &Arc<Self>, reason: &CloseReason) {
        self.lanes.iter().for_each(|lane| lane.shut(reason));
        self.finish_lanes();
    }

    /// Ends the streams of the lanes, that of `Data` when the others have ended: the peer takes the
    /// end of the last stream it knows for the end of all frames.
    fn finish_lanes(self: &Arc<Self>) {
        let mut finished = true;
        for lane in [Lane::Control, Lane::Bulk] {
            self.lanes.get(lane).finish_unused();
            finished &= self.lanes.get(lane).is_finished();
            self.finish_lane(lane);
        }
        if finished {
            self.finish_lane(Lane::Data);
        }
    }

    fn finish_lane(self: &Arc<Self>, lane: Lane) {
        self.lanes.get(lane).finish();
        self.pump(lane);
    }

    /// Whether everything accepted was acknowledged, and the ends of our streams as well.
    pub(crate) fn is_finished(&self) -> bool {
        self.lanes.iter().all(SendLane::is_finished)
    }

    /// Ends the connection now and tells the peer `code`.
    pub(crate) fn cut(&self, code: CloseCode) {
        self.publish(CloseReason::Local { code });
        self.ask_shutdown(false, code);
    }

    /// As [`ConnectionCore::cut`], for a handshake: the peer is told nothing, unless something of it
    /// came meanwhile. That the library answers with the code, also of an end that is silent.
    pub(crate) fn cut_silently(&self, reason: CloseReason) {
        let code = match &reason {
            CloseReason::HandshakeTimedOut => CloseCode::HANDSHAKE_TIMEOUT,
            reason => reason.code().unwrap_or(CloseCode::DROPPED),
        };
        self.publish(reason);
        self.ask_shutdown(true, code);
    }

    /// Once: the library executes the latest shutdown first, so that a second one would change
    /// the code of the first.
    fn ask_shutdown(&self, silent: bool, code: CloseCode) {
        if !self.shutdown_asked.swap(true, Ordering::AcqRel) {
            self.slot.shutdown(silent, code.value());
        }
    }

    fn publish(&self, reason: CloseReason) {
        let mut first = false;
        // What the peer was told already.
        let broken =
            self.alarm.is_raised().then_some(CloseReason::Local { code: CloseCode::INTERNAL });
        let reason = broken.unwrap_or(reason);
        let reason = self.over.get_or_init(|| {
            first = true;
            reason
        });
        if first {
            debug!(%reason, remote = ?self.remote_addr(), "connection over");
            self.ended_by_limit(reason);
            self.leave_handshake();
            self.lanes.iter().for_each(|lane| lane.shut(reason));
            self.lanes.iter().for_each(SendLane::abandon);
            self.close_inbound(reason);
            self.changed.notify_waiters();
            let callbacks = std::mem::take(&mut *lock(&self.on_over));
            for callback in callbacks {
                callback(reason);
            }
        }
    }

    /// Calls `callback` when the connection is over; at once if it is.
    pub(crate) fn on_over(&self, callback: OnOver) {
        let mut waiting = lock(&self.on_over);
        match self.over.get() {
            None => waiting.push(callback),
            Some(reason) => {
                drop(waiting);
                callback(reason);
            }
        }
    }
}

impl Drop for ConnectionCore {
    fn drop(&mut self) {
        let unused = self.intake.frames.lock().inbound.release_extra();
        self.bounds.large.give_back(unused);
    }
}

impl std::fmt::Debug for ConnectionCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectionCore")
            .field("direction", &self.direction)
            .field("remote", &self.remote_addr())
            .field("over", &self.over.get())
            .finish_non_exhaustive()
    }
}
