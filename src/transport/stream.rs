//! One stream: sending on ours, receiving on the peer's, and framing over both.
//!
//! Invariants: a sending stream that failed is never used again; a receiving stream is decoded in
//! its callback, which copies each byte once; what a length prefix announces over the limit ends
//! the connection before anything is allocated.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use tracing::debug;

use super::ffi::{self, ConnectionSlot, Received, SendRequest, StreamSlot};
use super::lane::SendLane;
use super::link::batch::{Batch, Sent};
use super::link::inbound::{Decoded, StreamEnd, StreamId};
use super::link::lanes::Lane;
use super::registration::LiveHandle;
use crate::error::{CloseCode, LibraryError, RecvError};
use crate::frame::{FrameDecoder, Piece, Position};
use crate::identity::CertHash;
use crate::lock::lock;

/// The connection, as its streams know it.
pub(super) trait StreamOwner: Send + Sync + Sized + 'static {
    /// The frames that go out on the stream.
    fn lane(&self, lane: Lane) -> &SendLane<Arc<OutStream<Self>>>;
    /// Hands over what the lane has ready.
    fn pump(self: &Arc<Self>, lane: Lane);
    /// Opening a stream of ours succeeded, or failed for good.
    fn stream_started(&self);
    /// A submission met its end.
    fn sent(self: &Arc<Self>, lane: Lane, batch: Sent, acknowledged: bool);
    /// The end of the lane's stream was acknowledged, or never will be.
    fn lane_finished(self: &Arc<Self>, lane: Lane);
    fn is_over(&self) -> bool;
    /// Whose connection it is.
    fn node(&self) -> CertHash;
    /// Looks at the path now and then.
    fn sample(&self);
    /// How many of `total` bytes the stream of the peer's may take over.
    fn budget(&self, id: StreamId, total: usize) -> usize;
    /// Stores what it brought.
    fn store(&self, id: StreamId, decoded: Decoded<'_>);
    /// It ended; returns whether it was the last one of a peer that has finished.
    fn end_stream(&self, id: StreamId, how: StreamEnd) -> bool;
    /// It ended there; `finished` as [`StreamOwner::end_stream`] said.
    fn stream_ended(&self, position: Position, finished: bool);
    /// Its handle is gone.
    fn remove_stream(&self, id: StreamId);
    /// The peer broke a rule: readers get what came before it, then `error`.
    fn fail_inbound(&self, error: RecvError, code: CloseCode);
    /// A callback panicked, or something happened in it that cannot.
    fn has_failed(&self);
}

/// A unidirectional stream of ours.
pub(super) struct OutStream<O> {
    slot: StreamSlot,
    lane: Lane,
    started: AtomicBool,
    failed: AtomicBool,
    owner: Arc<O>,
    live: LiveHandle,
}

impl<O: StreamOwner> OutStream<O> {
    /// Opens a stream; with `announce` the peer learns of it before the first byte.
    pub(super) fn open(
        owner: &Arc<O>,
        connection: &ConnectionSlot,
        live: LiveHandle,
        lane: Lane,
        announce: bool,
    ) -> Result<Arc<Self>, LibraryError> {
        let stream = Arc::new(Self {
            slot: StreamSlot::default(),
            lane,
            started: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            owner: Arc::clone(owner),
            live,
        });
        connection.open_stream(&stream, announce)?;
        Ok(stream)
    }

    /// Hands a batch over. If it is not accepted it comes back.
    #[expect(clippy::result_large_err, reason = "it goes back where it came from, without a box")]
    pub(super) fn send(&self, batch: Batch) -> Result<(), Batch> {
        if self.failed.load(Ordering::Acquire) {
            return Err(batch);
        }
        let (parts, count, sent) = batch.into_parts();
        let sent = self.slot.send(self, SendRequest::new(parts, count, sent));
        sent.map_err(|request| Batch::from_parts(request.into_parts()))
    }

    pub(super) fn lane(&self) -> Lane {
        self.lane
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
        let lane = self.owner.lane(self.lane);
        lane.discard_stream(|kept| std::ptr::eq(Arc::as_ptr(kept), self))
    }
}

impl<O> std::fmt::Debug for OutStream<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SendStream").field("handle", &self.slot).finish_non_exhaustive()
    }
}

impl<O: StreamOwner> ffi::StreamCallbacks for OutStream<O> {
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
        self.owner.stream_started();
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
        self.owner.sent(self.lane, batch, acknowledged);
    }

    fn send_finished(&self, graceful: bool) {
        let was_in_use = self.fail();
        if was_in_use && !self.failed_before_finish(graceful) {
            self.owner.lane_finished(self.lane);
        }
    }

    fn complete(&self) {
        self.fail();
        // What still waits goes out on another stream, if the connection lives.
        self.owner.pump(self.lane);
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

impl<O: StreamOwner> OutStream<O> {
    /// The end of a stream that nobody asked to end is a failure, not a finish.
    fn failed_before_finish(&self, graceful: bool) -> bool {
        !graceful && !self.owner.is_over()
    }
}

/// A unidirectional stream of the peer's.
pub(super) struct InStream<O> {
    slot: StreamSlot,
    /// Names its queue.
    id: StreamId,
    decoding: Mutex<Decoding>,
    /// How it ended, for those who read it alone.
    ended: OnceLock<RecvError>,
    owner: Arc<O>,
    live: LiveHandle,
}

struct Decoding {
    decoder: FrameDecoder,
    /// Kept between callbacks so that cutting allocates nothing of its own.
    pieces: Vec<Piece>,
    /// The stream broke a rule; what still comes is thrown away.
    broken: bool,
}

impl<O: StreamOwner> InStream<O> {
    /// For the queue `id`, with frames of up to `frame_bytes_max`.
    pub(super) fn new(
        owner: Arc<O>,
        live: LiveHandle,
        id: StreamId,
        frame_bytes_max: usize,
    ) -> Arc<Self> {
        let decoder = FrameDecoder::new(frame_bytes_max);
        Arc::new(Self {
            slot: StreamSlot::default(),
            id,
            decoding: Mutex::new(Decoding { decoder, pieces: Vec::new(), broken: false }),
            ended: OnceLock::new(),
            owner,
            live,
        })
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

impl<O> std::fmt::Debug for InStream<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadStream")
            .field("id", &self.id)
            .field("handle", &self.slot)
            .finish_non_exhaustive()
    }
}

impl<O: StreamOwner> ffi::StreamCallbacks for InStream<O> {
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
        self.owner.sample();
        let mut budget = self.owner.budget(self.id, total);
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
        self.owner.store(self.id, Decoded { pieces, bytes, held, position, paused });
        drop(decoding);
        match refused {
            None => bytes as u64,
            Some(too_large) => {
                let (announced, limit) = (too_large.announced, too_large.limit);
                let error = RecvError::FrameTooLarge { announced, limit };
                self.owner.fail_inbound(error, CloseCode::FRAME_TOO_LARGE);
                received.total()
            }
        }
    }

    fn peer_finished(&self) {
        let position = self.position();
        let _ = self.ended.set(RecvError::EndOfStream { position });
        // Inside a frame that is no end that anybody is told as such.
        let how = match position {
            Position::Boundary => StreamEnd::Finished,
            Position::InLength { .. } | Position::InBody { .. } => StreamEnd::Gone,
        };
        let finished = self.owner.end_stream(self.id, how);
        self.owner.stream_ended(position, finished);
    }

    fn peer_reset(&self, code: u64) {
        let position = self.position();
        let code = CloseCode::from_wire(code);
        let _ = self.ended.set(RecvError::Reset { code, position });
        let how = if code == CloseCode::UNUSED { StreamEnd::Gone } else { StreamEnd::Reset };
        if self.owner.end_stream(self.id, how) {
            // The end that said it all was known before this one.
            self.owner.stream_ended(Position::Boundary, true);
        }
    }

    fn peer_stopped(&self, _code: u64) {}

    fn sent(&self, (): (), _acknowledged: bool) {}

    fn send_finished(&self, _graceful: bool) {}

    fn complete(&self) {
        self.owner.remove_stream(self.id);
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
