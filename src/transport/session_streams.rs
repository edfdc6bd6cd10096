//! Streams whose bytes mean something to somebody else: those of a connection that carries a session.
//!
//! A stream of the peer's is read from when there is somebody to read it; what came before waits unread.
//! Whoever reads takes everything over at once: how much may come is bounded by what was granted, not by
//! the window.
//!
//! Invariants: bytes of one stream are told in order, one callback after the other; what was sent is told
//! once, acknowledged or not; behind the end of the connection nothing is told.

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::ffi::{self, ConnectionSlot, PeerStream, Received, SendRequest, StreamSlot};
use super::link::batch::PARTS_MAX;
use super::registration::LiveHandle;
use crate::error::{CloseCode, LibraryError};
use crate::failpoint::{Failpoint, in_callback};
use crate::identity::CertHash;
use crate::lock::lock;

/// The protocol of connections that carry sessions (TLS ALPN).
pub(crate) const SESSION_ALPN: &str = "moorline/1";

/// Who reads what the peer's streams bring.
pub(crate) trait Carrier: Send + Sync {
    /// The peer opened a stream: `stream` lets it go on when what it brought was not taken over.
    fn stream_came(&self, stream: Arc<dyn Paused>) -> Box<dyn Inlet>;
}

/// A stream of the peer's that may have to wait.
pub(crate) trait Paused: Send + Sync {
    /// What was not taken over is told again.
    fn resume(&self);
}

/// Takes what one stream of the peer's brings. Called from MsQuic's threads: it must not block.
pub(crate) trait Inlet: Send {
    /// The next bytes; returns how many of them were taken over. If not all were, the stream waits until
    /// it is resumed.
    fn received(&mut self, part: &[u8]) -> usize;
    /// All parts of what arrived together were told.
    fn rest(&mut self);
    /// Nothing more comes.
    fn ended(&mut self, end: InletEnd);
}

/// How a stream of the peer's ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InletEnd {
    Finished,
    Reset(CloseCode),
}

/// Is told what becomes of what was sent on one stream. Called from MsQuic's threads.
pub(crate) trait Outlet: Send + Sync {
    /// A submission met its end; `token` is what it was sent with.
    fn sent(&self, token: u64, acknowledged: bool);
    /// Nothing more goes out on the stream.
    fn gone(&self);
}

/// What goes out as one submission.
pub(crate) struct Parts {
    pub(crate) parts: [Bytes; PARTS_MAX],
    pub(crate) count: usize,
}

impl Parts {
    /// One part alone.
    pub(crate) fn of(part: Bytes) -> Self {
        let mut parts = <[Bytes; PARTS_MAX]>::default();
        parts[0] = part;
        Self { parts, count: 1 }
    }
}

/// The peer's streams of one connection.
pub(super) struct PeerStreams<O>(Mutex<State<O>>);

enum State<O> {
    /// Nobody reads yet.
    Unread(Vec<Arc<InStream<O>>>),
    Carried(Arc<dyn Carrier>),
    Over,
}

impl<O> Default for PeerStreams<O> {
    fn default() -> Self {
        Self(Mutex::new(State::Unread(Vec::new())))
    }
}

impl<O: StreamOwner> PeerStreams<O> {
    /// From here on `carrier` reads, also what came before.
    pub(super) fn carry(&self, carrier: &Arc<dyn Carrier>) {
        let waiting = {
            let state = &mut *lock(&self.0);
            match state {
                State::Unread(waiting) => {
                    let waiting = std::mem::take(waiting);
                    *state = State::Carried(Arc::clone(carrier));
                    waiting
                }
                State::Carried(_) | State::Over => return,
            }
        };
        for stream in waiting {
            stream.read_by(|stream| carrier.stream_came(stream));
        }
    }

    /// Nobody is told anything more.
    pub(super) fn over(&self) {
        let before = std::mem::replace(&mut *lock(&self.0), State::Over);
        drop(before);
    }

    pub(super) fn came(&self, stream: &Arc<InStream<O>>) {
        let carrier = match &mut *lock(&self.0) {
            State::Unread(waiting) => {
                waiting.push(Arc::clone(stream));
                return;
            }
            State::Carried(carrier) => Arc::clone(carrier),
            State::Over => return,
        };
        stream.read_by(|stream| carrier.stream_came(stream));
    }
}

/// The connection, as its streams know it.
pub(crate) trait StreamOwner: Send + Sync + 'static {
    /// Something of ours was acknowledged.
    fn acknowledged(&self);
    /// Looks at the path now and then.
    fn look_at_path(&self);
    /// Whose connection it is.
    fn node(&self) -> CertHash;
    /// A callback panicked, or something happened in it that cannot.
    fn has_failed(&self);
}

/// Opens a stream of ours; the larger `priority` goes first.
pub(super) fn open<O: StreamOwner>(
    owner: &Arc<O>,
    connection: &ConnectionSlot,
    live: LiveHandle,
    priority: u16,
    outlet: Arc<dyn Outlet>,
) -> Result<Arc<OutStream<O>>, LibraryError> {
    let stream = Arc::new(OutStream {
        slot: StreamSlot::default(),
        priority,
        failed: AtomicBool::new(false),
        outlet,
        owner: Arc::clone(owner),
        live,
    });
    connection.open_stream(&stream, false)?;
    Ok(stream)
}

/// Adopts a stream of the peer's.
pub(super) fn adopt<O: StreamOwner>(
    owner: &Arc<O>,
    live: LiveHandle,
    peer_stream: PeerStream<'_>,
) -> Arc<InStream<O>> {
    let stream = Arc::new(InStream {
        slot: StreamSlot::default(),
        reading: Mutex::new(Reading::Unread(None)),
        owner: Arc::clone(owner),
        live,
    });
    peer_stream.accept(&stream);
    stream
}

/// A unidirectional stream of ours.
pub(crate) struct OutStream<O> {
    slot: StreamSlot,
    priority: u16,
    failed: AtomicBool,
    outlet: Arc<dyn Outlet>,
    owner: Arc<O>,
    live: LiveHandle,
}

impl<O: StreamOwner> OutStream<O> {
    /// Hands parts over, to be named by `token` at their end; whether they were taken.
    pub(crate) fn send(&self, parts: Parts, token: u64) -> bool {
        if self.failed.load(Ordering::Acquire) {
            return false;
        }
        let Parts { parts, count } = parts;
        self.slot.send(self, SendRequest::new(parts, count, token)).is_ok()
    }

    /// Gives the stream up.
    pub(crate) fn reset(&self, code: CloseCode) {
        self.failed.store(true, Ordering::Release);
        self.slot.shutdown(ffi::Shutdown::Abort(code.value()));
    }
}

impl<O> std::fmt::Debug for OutStream<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutStream").field("handle", &self.slot).finish_non_exhaustive()
    }
}

impl<O: StreamOwner> ffi::StreamCallbacks for OutStream<O> {
    type Batch = u64;

    fn slot(&self) -> &StreamSlot {
        &self.slot
    }

    fn started(&self, result: Result<(), LibraryError>) {
        match result {
            Ok(()) => self.slot.set_priority(self.priority),
            Err(_) => self.failed.store(true, Ordering::Release),
        }
    }

    fn received(&self, received: &Received<'_>) -> u64 {
        // A stream of ours is unidirectional: nothing can come.
        received.total()
    }

    fn peer_finished(&self) {}

    fn peer_reset(&self, _code: u64) {}

    fn peer_stopped(&self, code: u64) {
        self.reset(CloseCode::from_wire(code));
    }

    fn sent(&self, token: u64, acknowledged: bool) {
        in_callback(Failpoint::StreamCallbackSent, || self.owner.node());
        if acknowledged {
            self.owner.acknowledged();
        }
        self.outlet.sent(token, acknowledged);
    }

    fn send_finished(&self, _graceful: bool) {
        self.failed.store(true, Ordering::Release);
    }

    fn complete(&self) {
        self.failed.store(true, Ordering::Release);
        self.outlet.gone();
    }

    fn released(&self) {
        self.live.release();
    }

    fn failed(&self) {
        self.owner.has_failed();
    }

    fn node(&self) -> CertHash {
        self.owner.node()
    }
}

/// A unidirectional stream of the peer's.
pub(super) struct InStream<O> {
    slot: StreamSlot,
    reading: Mutex<Reading>,
    owner: Arc<O>,
    live: LiveHandle,
}

enum Reading {
    /// Nobody reads yet; whether it has ended meanwhile.
    Unread(Option<InletEnd>),
    By(Box<dyn Inlet>),
    Gone,
}

impl<O: StreamOwner> Paused for InStream<O> {
    fn resume(&self) {
        self.slot.resume_receive();
    }
}

impl<O: StreamOwner> InStream<O> {
    fn read_by(self: &Arc<Self>, reader: impl FnOnce(Arc<dyn Paused>) -> Box<dyn Inlet>) {
        let stream: Arc<dyn Paused> = Arc::<Self>::clone(self);
        let mut inlet = reader(stream);
        {
            let mut reading = lock(&self.reading);
            let Reading::Unread(ended) = &*reading else { return };
            if let Some(end) = *ended {
                inlet.ended(end);
            }
            *reading = Reading::By(inlet);
        }
        self.slot.resume_receive();
    }

    fn ended(&self, end: InletEnd) {
        match &mut *lock(&self.reading) {
            Reading::Unread(ended) => *ended = Some(end),
            Reading::By(inlet) => inlet.ended(end),
            Reading::Gone => {}
        }
    }
}

impl<O: StreamOwner> ffi::StreamCallbacks for InStream<O> {
    type Batch = ();

    fn slot(&self) -> &StreamSlot {
        &self.slot
    }

    fn started(&self, _result: Result<(), LibraryError>) {}

    fn received(&self, received: &Received<'_>) -> u64 {
        // Unread it stays with the library, which stops telling until it is resumed.
        match &mut *lock(&self.reading) {
            Reading::Unread(_) => return 0,
            Reading::By(inlet) => {
                self.owner.look_at_path();
                let mut taken = 0;
                for part in received.parts() {
                    let of_part = inlet.received(part).min(part.len());
                    taken += of_part;
                    if of_part < part.len() {
                        break;
                    }
                }
                inlet.rest();
                return taken as u64;
            }
            Reading::Gone => {}
        }
        received.total()
    }

    fn peer_finished(&self) {
        self.ended(InletEnd::Finished);
    }

    fn peer_reset(&self, code: u64) {
        self.ended(InletEnd::Reset(CloseCode::from_wire(code)));
    }

    fn peer_stopped(&self, _code: u64) {}

    fn sent(&self, (): (), _acknowledged: bool) {}

    fn send_finished(&self, _graceful: bool) {}

    fn complete(&self) {
        // Whoever reads may hold the connection.
        let reading = std::mem::replace(&mut *lock(&self.reading), Reading::Gone);
        drop(reading);
    }

    fn released(&self) {
        self.live.release();
    }

    fn failed(&self) {
        self.owner.has_failed();
    }

    fn node(&self) -> CertHash {
        self.owner.node()
    }
}
