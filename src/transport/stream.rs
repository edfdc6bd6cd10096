//! One stream: sending on ours, receiving on the peer's, and framing over both.
//!
//! Invariants: a sending stream that failed is never used again; a receiving stream is decoded in
//! its callback, which copies each byte once; what a length prefix announces over the limit ends
//! the connection before anything is allocated.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tracing::debug;

use super::core::ConnectionCore;
use super::ffi::{self, PeerStream, Received, SendRequest, StreamSlot};
use super::lane::Sent;
use super::lanes::Lane;
use super::link::inbound::{Decoded, StreamEnd, StreamId};
use super::lock;
use super::registration::LiveHandle;
use crate::error::{CloseCode, LibraryError, RecvError, SendError};
use crate::frame::{FrameDecoder, Piece, Position};

/// A unidirectional stream of ours.
pub struct SendStream {
    slot: StreamSlot,
    lane: Lane,
    started: AtomicBool,
    failed: AtomicBool,
    connection: Arc<ConnectionCore>,
    live: LiveHandle,
}

impl SendStream {
    /// Opens a stream; with `announce` the peer learns of it before the first byte.
    pub(super) fn open(
        connection: &Arc<ConnectionCore>,
        lane: Lane,
        announce: bool,
    ) -> Result<Arc<Self>, LibraryError> {
        let live = connection.live_handle().ok_or(ffi::CLOSED)?;
        let stream = Arc::new(Self {
            slot: StreamSlot::default(),
            lane,
            started: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            connection: Arc::clone(connection),
            live,
        });
        StreamSlot::open(connection.slot_for_streams(), &stream, announce)?;
        Ok(stream)
    }

    pub(super) fn send(
        &self,
        request: Box<SendRequest<Sent>>,
    ) -> Result<(), Box<SendRequest<Sent>>> {
        if self.failed.load(Ordering::Acquire) {
            return Err(request);
        }
        self.slot.send(self, request)
    }

    /// Ends the stream behind everything that was sent.
    pub(super) fn finish(&self) {
        self.slot.shutdown(ffi::Shutdown::Finish);
    }

    /// Whether the stream came to stand; `None` while that is open.
    pub(super) fn has_started(&self) -> Option<bool> {
        if self.failed.load(Ordering::Acquire) {
            return Some(false);
        }
        self.started.load(Ordering::Acquire).then_some(true)
    }

    /// Gives the stream up: what it carries is `MaybeSent`, the next send opens another one.
    pub(super) fn discard(&self, code: CloseCode) {
        self.fail();
        self.slot.shutdown(ffi::Shutdown::Abort(code.value()));
    }

    /// Gives up a stream that nobody uses: only its number was needed.
    pub(super) fn pass_over(&self) {
        self.failed.store(true, Ordering::Release);
        self.slot.shutdown(ffi::Shutdown::Abort(CloseCode::UNUSED.value()));
    }

    /// Returns whether it was the one of its lane.
    fn fail(&self) -> bool {
        self.failed.store(true, Ordering::Release);
        let lane = self.connection.lane(self.lane);
        lane.discard_stream(|kept| std::ptr::eq(Arc::as_ptr(kept), self))
    }
}

impl std::fmt::Debug for SendStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SendStream").field("handle", &self.slot).finish_non_exhaustive()
    }
}

impl ffi::StreamCallbacks for SendStream {
    type Batch = Sent;

    fn slot(&self) -> &StreamSlot {
        &self.slot
    }

    fn started(&self, result: Result<(), LibraryError>) {
        match result {
            Ok(()) => {
                self.slot.set_priority(self.lane.priority());
                self.started.store(true, Ordering::Release);
            }
            Err(error) => {
                debug!(%error, "a stream did not start");
                self.fail();
            }
        }
        self.connection.stream_started();
    }

    fn received(&self, received: &Received<'_>) -> u64 {
        // A stream of ours is unidirectional: nothing can come.
        received.total()
    }

    fn peer_finished(&self) {}

    fn peer_reset(&self, _code: u64) {}

    fn peer_stopped(&self, code: u64) {
        debug!(code, "the peer stopped reading a stream");
        self.discard(CloseCode::from_wire(code));
    }

    fn sent(&self, batch: Sent, acknowledged: bool) {
        self.connection.lane(self.lane).completed(batch, acknowledged);
        if acknowledged {
            self.connection.peer_has_spoken();
        }
        self.connection.pump(self.lane);
    }

    fn send_finished(&self, graceful: bool) {
        let was_in_use = self.fail();
        if was_in_use && !self.failed_before_finish(graceful) {
            self.connection.lane_finished(self.lane);
        }
    }

    fn complete(&self) {
        self.fail();
        // What still waits goes out on another stream, if the connection lives.
        self.connection.pump(self.lane);
    }

    fn released(&self) {
        self.live.release();
    }

    fn panicked(&self) {
        self.connection.cut(CloseCode::INTERNAL);
    }
}

impl SendStream {
    /// The end of a stream that nobody asked to end is a failure, not a finish.
    fn failed_before_finish(&self, graceful: bool) -> bool {
        !graceful && !self.connection.is_over()
    }
}

/// A unidirectional stream of the peer's.
pub struct ReadStream {
    slot: StreamSlot,
    /// Names its queue.
    id: StreamId,
    decoding: Mutex<Decoding>,
    /// How it ended, for those who read it alone.
    ended: OnceLock<RecvError>,
    connection: Arc<ConnectionCore>,
    live: LiveHandle,
}

struct Decoding {
    decoder: FrameDecoder,
    /// Kept between callbacks so that cutting allocates nothing of its own.
    pieces: Vec<Piece>,
    /// The stream broke a rule; what still comes is thrown away.
    broken: bool,
}

impl ReadStream {
    /// Adopts a stream the peer opened.
    pub(super) fn accept(connection: Arc<ConnectionCore>, peer_stream: PeerStream<'_>) {
        // Not adopted, the library closes it itself.
        let Some(live) = connection.live_handle() else { return };
        let lane = peer_stream.ordinal().map_or(Lane::Data, Lane::of_ordinal);
        let id = connection.add_stream(lane);
        let frame_bytes_max = connection.limits().frame_bytes_max;
        let stream = Arc::new(Self {
            slot: StreamSlot::default(),
            id,
            decoding: Mutex::new(Decoding {
                decoder: FrameDecoder::new(frame_bytes_max),
                pieces: Vec::new(),
                broken: false,
            }),
            ended: OnceLock::new(),
            live,
            connection,
        });
        stream.connection.attach_stream(id, &stream);
        peer_stream.accept(&stream);
    }

    pub(super) fn id(&self) -> StreamId {
        self.id
    }

    /// How it ended, if it did.
    pub(super) fn ended_with(&self) -> Option<RecvError> {
        self.ended.get().cloned()
    }

    pub(super) fn resume(&self) {
        self.slot.resume_receive();
    }

    fn position(&self) -> Position {
        lock(&self.decoding).decoder.position()
    }
}

impl std::fmt::Debug for ReadStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadStream")
            .field("id", &self.id)
            .field("handle", &self.slot)
            .finish_non_exhaustive()
    }
}

impl ffi::StreamCallbacks for ReadStream {
    type Batch = ();

    fn slot(&self) -> &StreamSlot {
        &self.slot
    }

    fn started(&self, _result: Result<(), LibraryError>) {}

    fn received(&self, received: &Received<'_>) -> u64 {
        let total = usize::try_from(received.total()).unwrap_or(usize::MAX);
        let mut decoding = lock(&self.decoding);
        let Decoding { decoder, pieces, broken } = &mut *decoding;
        if *broken || total == 0 {
            return received.total();
        }
        self.connection.sample();
        let mut budget = self.connection.budget(self.id, total);
        let paused = budget < total;
        let (mut bytes, mut refused) = (0, None);
        for part in received.parts() {
            let part = &part[..part.len().min(budget)];
            budget -= part.len();
            bytes += part.len();
            if let Err(error) = decoder.feed(part, &mut |piece| pieces.push(piece)) {
                refused = Some(error);
                *broken = true;
                break;
            }
        }
        let (held, position) = (decoder.held_bytes(), decoder.position());
        self.connection.store(self.id, Decoded { pieces, bytes, held, position, paused });
        drop(decoding);
        match refused {
            None => bytes as u64,
            Some(too_large) => {
                let (announced, limit) = (too_large.announced, too_large.limit);
                let error = RecvError::FrameTooLarge { announced, limit };
                self.connection.fail_inbound(error, CloseCode::FRAME_TOO_LARGE);
                received.total()
            }
        }
    }

    fn peer_finished(&self) {
        let position = self.position();
        let _ = self.ended.set(RecvError::EndOfStream { position });
        let finished = self.connection.end_stream(self.id, StreamEnd::Finished);
        self.connection.stream_ended(position, finished);
    }

    fn peer_reset(&self, code: u64) {
        let position = self.position();
        let code = CloseCode::from_wire(code);
        let _ = self.ended.set(RecvError::Reset { code, position });
        let how = if code == CloseCode::UNUSED { StreamEnd::Gone } else { StreamEnd::Reset };
        if self.connection.end_stream(self.id, how) {
            // The end that said it all was known before this one.
            self.connection.stream_ended(Position::Boundary, true);
        }
    }

    fn peer_stopped(&self, _code: u64) {}

    fn sent(&self, (): (), _acknowledged: bool) {}

    fn send_finished(&self, _graceful: bool) {}

    fn complete(&self) {
        self.connection.remove_stream(self.id);
    }

    fn released(&self) {
        self.live.release();
    }

    fn panicked(&self) {
        self.connection.cut(CloseCode::INTERNAL);
    }
}

/// Hands `buffer` over as one frame on `stream`'s connection and waits for admission.
///
/// # Errors
///
/// [`SendError`] says whether anything was sent.
///
/// # Cancel safety
///
/// Cancel safe: a frame is taken over whole or not at all.
pub async fn write_buffer_to_stream(
    stream: &SendStream,
    buffer: impl Into<Bytes>,
) -> Result<(), SendError> {
    stream.connection.send(stream.lane, buffer.into()).await
}

/// The next frame of `stream` alone, and how long it took from its first byte to its last.
///
/// # Errors
///
/// An end of the stream is an error that says where it was; a length over the limit is refused
/// before anything is allocated.
///
/// # Cancel safety
///
/// Cancel safe at any byte: a frame is taken only when it is returned.
pub async fn read_message_from_stream(stream: &ReadStream) -> Result<(Bytes, Duration), RecvError> {
    stream.connection.recv_from_stream(stream).await
}
