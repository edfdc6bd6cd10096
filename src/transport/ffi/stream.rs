//! Stream handles and the callback MsQuic calls for them.

use std::ffi::c_void;
use std::sync::Arc;

use bytes::Bytes;
use msquic::ffi::{HQUIC, QUIC_BUFFER, QUIC_STATUS, QUIC_STREAM_EVENT};

use super::raw::{RawHandle, STATUS_SUCCESS, Slot, call, check, check_open, status};
use crate::error::LibraryError;
use crate::failpoint::{self, Failpoint};
use crate::identity::CertHash;
use crate::never::never;
use crate::transport::callback::{guard, guard_or};

/// Buffers of one submission: small frames behind each other, and large payloads between them.
pub(in crate::transport) const PARTS_MAX: usize = 8;

/// What a stream is told. All calls come from the connection's one worker, in order.
pub(in crate::transport) trait StreamCallbacks: Send + Sync + 'static {
    /// What comes back with each completed submission.
    type Batch: Send + 'static;

    fn slot(&self) -> &StreamSlot;
    /// Opening succeeded, or failed for good.
    fn started(&self, result: Result<(), LibraryError>);
    /// Returns how many bytes were consumed; fewer than there are pauses the stream.
    fn received(&self, received: &Received<'_>) -> u64;
    /// The peer ended its direction.
    fn peer_finished(&self);
    fn peer_reset(&self, code: u64);
    /// The peer will not read any more.
    fn peer_stopped(&self, code: u64);
    /// Exactly one per accepted submission; `acknowledged` by the peer's transport, or lost.
    fn sent(&self, batch: Self::Batch, acknowledged: bool);
    /// Our direction is over; `graceful` if the peer acknowledged its end.
    fn send_finished(&self, graceful: bool);
    /// Nothing comes after this; the handle is closed when it returns.
    fn complete(&self);
    /// The handle is closed.
    fn released(&self);
    /// Whose it is.
    fn node(&self) -> CertHash;
    /// A callback panicked, or something happened in it that cannot.
    fn failed(&self);
}

/// What arrived: borrowed from MsQuic for the time of the callback.
pub(in crate::transport) struct Received<'a> {
    buffers: &'a [QUIC_BUFFER],
    total: u64,
}

impl Received<'_> {
    pub(in crate::transport) fn total(&self) -> u64 {
        self.total
    }

    pub(in crate::transport) fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.buffers.iter().filter(|buffer| buffer.Length > 0).map(|buffer| {
            // SAFETY: MsQuic keeps the buffers of a RECEIVE event valid during its callback.
            unsafe { std::slice::from_raw_parts(buffer.Buffer, buffer.Length as usize) }
        })
    }
}

/// Bytes on their way, and what to remember until they are acknowledged.
///
/// It stays where it is from submission to completion: MsQuic reads the buffer array late.
pub(in crate::transport) struct SendRequest<T> {
    buffers: [QUIC_BUFFER; PARTS_MAX],
    parts: [Bytes; PARTS_MAX],
    count: usize,
    pub(in crate::transport) batch: T,
}

impl<T> SendRequest<T> {
    /// Up to [`PARTS_MAX`] parts, sent one behind the other.
    pub(in crate::transport) fn new(
        parts: [Bytes; PARTS_MAX],
        count: usize,
        batch: T,
    ) -> Box<Self> {
        let empty = QUIC_BUFFER { Length: 0, Buffer: std::ptr::null_mut() };
        let mut buffers = [empty; PARTS_MAX];
        for (buffer, part) in buffers.iter_mut().zip(&parts[..count]) {
            // Parts are pieces of a frame at most; MsQuic never writes to it.
            never!(part.len() > u32::MAX as usize, "a part of {} bytes", part.len());
            buffer.Length = u32::try_from(part.len()).unwrap_or(u32::MAX);
            buffer.Buffer = part.as_ptr().cast_mut();
        }
        Box::new(Self { buffers, parts, count, batch })
    }

    pub(in crate::transport) fn into_parts(self) -> ([Bytes; PARTS_MAX], usize, T) {
        (self.parts, self.count, self.batch)
    }
}

/// A stream handle, until its last callback.
#[derive(Debug, Default)]
pub(in crate::transport) struct StreamSlot(Slot);

impl StreamSlot {
    /// Opens and starts a unidirectional stream, with `context` behind its callbacks. The result
    /// of the start comes as `started`. With `announce` the peer learns of it at once.
    pub(super) fn open<S: StreamCallbacks>(
        connection: &Slot,
        context: &Arc<S>,
        announce: bool,
    ) -> Result<(), LibraryError> {
        use msquic::ffi as q;
        let closed = LibraryError { status: status::INVALID_STATE };
        let mut flags = q::QUIC_STREAM_START_FLAGS_QUIC_STREAM_START_FLAG_SHUTDOWN_ON_FAIL;
        if announce {
            flags |= q::QUIC_STREAM_START_FLAGS_QUIC_STREAM_START_FLAG_IMMEDIATE;
        }
        // The connection's lock is held over both calls: a start that is queued before the
        // connection closes is answered by the library, one behind it would never be.
        let opened = connection.with(|connection| {
            let raw_context = Arc::into_raw(Arc::clone(context));
            let mut handle: HQUIC = std::ptr::null_mut();
            // SAFETY: `raw_context` is a strong count that now belongs to MsQuic's callbacks and
            // is released after StreamClose (StreamOpen).
            let open = || unsafe {
                call!(StreamOpen)(
                    connection,
                    q::QUIC_STREAM_OPEN_FLAGS_QUIC_STREAM_OPEN_FLAG_UNIDIRECTIONAL,
                    Some(stream_callback::<S>),
                    raw_context.cast_mut().cast::<c_void>(),
                    &raw mut handle,
                )
            };
            let opened = check_open(|| context.node(), open);
            let (Ok(()), Some(handle)) = (opened, RawHandle::new(handle)) else {
                // SAFETY: the open failed, so no callback will ever come for this count.
                drop(unsafe { Arc::from_raw(raw_context) });
                return Err(opened.err().unwrap_or(closed));
            };
            context.slot().0.fill(handle);
            // SAFETY: the handle was just opened and is in nobody else's hands (StreamStart).
            check(unsafe { call!(StreamStart)(handle.as_ptr(), flags) }).inspect_err(|_| {
                // Ends with SHUTDOWN_COMPLETE, where the handle is closed.
                context.slot().shutdown(Shutdown::Abort(0));
            })
        });
        opened.unwrap_or(Err(closed))
    }

    /// Hands a submission over. If it is not accepted it comes back.
    pub(in crate::transport) fn send<S: StreamCallbacks>(
        &self,
        context: &S,
        request: Box<SendRequest<S::Batch>>,
    ) -> Result<(), Box<SendRequest<S::Batch>>> {
        if failpoint::send_fails(|| context.node()) {
            return Err(request);
        }
        let raw = Box::into_raw(request);
        let sent = self.0.with(|handle| {
            // SAFETY: the request is ours until the call succeeds, and stays where it is until
            // SEND_COMPLETE hands it back.
            let request = unsafe { &*raw };
            // SAFETY: buffers and bytes live in `raw`, which is reclaimed by SEND_COMPLETE or,
            // if the call fails, right here: a failed StreamSend has no event (StreamSend).
            check(unsafe {
                call!(StreamSend)(
                    handle,
                    request.buffers.as_ptr(),
                    request.count as u32,
                    msquic::ffi::QUIC_SEND_FLAGS_QUIC_SEND_FLAG_NONE,
                    raw.cast::<c_void>(),
                )
            })
        });
        match sent {
            Some(Ok(())) => Ok(()),
            // SAFETY: not accepted, so the box is still ours alone.
            _ => Err(unsafe { Box::from_raw(raw) }),
        }
    }

    /// Ends the stream. Does not wait; repeating is harmless.
    pub(in crate::transport) fn shutdown(&self, how: Shutdown) {
        use msquic::ffi as q;
        let (flags, code) = match how {
            Shutdown::Finish => {
                (q::QUIC_STREAM_SHUTDOWN_FLAGS_QUIC_STREAM_SHUTDOWN_FLAG_GRACEFUL, 0)
            }
            Shutdown::Abort(code) => (
                q::QUIC_STREAM_SHUTDOWN_FLAGS_QUIC_STREAM_SHUTDOWN_FLAG_ABORT
                    | q::QUIC_STREAM_SHUTDOWN_FLAGS_QUIC_STREAM_SHUTDOWN_FLAG_IMMEDIATE,
                code,
            ),
        };
        self.0.with(|handle| {
            // SAFETY: the slot's lock keeps the handle open; the call only queues. Its status
            // tells what the events tell as well.
            let _ = unsafe { call!(StreamShutdown)(handle, flags, code) };
        });
    }

    /// What goes first among the streams of a connection: the larger number. Only from the
    /// connection's own callbacks: elsewhere the library would wait for the worker.
    pub(in crate::transport) fn set_priority(&self, priority: u16) {
        let set = self.0.with(|handle| {
            // SAFETY: a u16 that outlives the call; on the connection's own worker it is executed
            // inline (SetParam).
            check(unsafe {
                call!(SetParam)(
                    handle,
                    msquic::ffi::QUIC_PARAM_STREAM_PRIORITY,
                    size_of::<u16>() as u32,
                    (&raw const priority).cast::<c_void>(),
                )
            })
        });
        if let Some(Err(error)) = set {
            tracing::debug!(%error, "a stream keeps the usual priority");
        }
    }

    /// Lets receive events come again after a partial consumption.
    pub(in crate::transport) fn resume_receive(&self) {
        self.0.with(|handle| {
            // SAFETY: the slot's lock keeps the handle open; the call only queues. It fails only
            // on a stream that is ending, which its events tell.
            let _ = unsafe { call!(StreamReceiveSetEnabled)(handle, 1) };
        });
    }
}

/// How a stream ends.
#[derive(Debug, Clone, Copy)]
pub(in crate::transport) enum Shutdown {
    /// After everything that was accepted (FIN).
    Finish,
    /// At once, both directions.
    Abort(u64),
}

/// A stream the peer opened, during its PEER_STREAM_STARTED event.
pub(in crate::transport) struct PeerStream<'a> {
    handle: RawHandle,
    taken: &'a mut bool,
}

impl<'a> PeerStream<'a> {
    pub(super) fn new(handle: RawHandle, taken: &'a mut bool) -> Self {
        Self { handle, taken }
    }

    /// How many unidirectional streams the peer opened before this one (RFC 9000, section 2.1: the two
    /// lowest bits of a stream's number tell its kind).
    pub(in crate::transport) fn ordinal(&self) -> Option<u64> {
        let mut number = 0_u64;
        let mut length = size_of::<u64>() as u32;
        // SAFETY: the handle of this very event, on the connection's own worker, where the call is
        // executed inline; the number outlives it (GetParam, QUIC_PARAM_STREAM_ID).
        let status = unsafe {
            call!(GetParam)(
                self.handle.as_ptr(),
                msquic::ffi::QUIC_PARAM_STREAM_ID,
                &raw mut length,
                (&raw mut number).cast::<c_void>(),
            )
        };
        check(status).ok().map(|()| number >> 2)
    }

    /// Adopts the stream, with `context` behind its callbacks. Not adopted, it is refused.
    pub(in crate::transport) fn accept<S: StreamCallbacks>(self, context: &Arc<S>) {
        let raw_context = Arc::into_raw(Arc::clone(context));
        context.slot().0.fill(self.handle);
        // SAFETY: the pair of callback and context matches `S`; the strong count belongs to
        // MsQuic until StreamClose (SetCallbackHandler).
        unsafe {
            call!(SetCallbackHandler)(
                self.handle.as_ptr(),
                stream_callback::<S> as *mut c_void,
                raw_context.cast_mut().cast::<c_void>(),
            );
        }
        *self.taken = true;
    }
}

/// The callback of every stream.
///
/// # Safety
///
/// MsQuic calls it with the context that was given at open or accept: a strong count of `S`.
unsafe extern "C" fn stream_callback<S: StreamCallbacks>(
    _handle: HQUIC,
    context: *mut c_void,
    event: *mut QUIC_STREAM_EVENT,
) -> QUIC_STATUS {
    let raw_context = context.cast_const().cast::<S>();
    // SAFETY: the count that MsQuic owns keeps the context alive during the callback.
    let stream = unsafe { &*raw_context };
    // SAFETY: MsQuic hands a valid event, for this callback alone, for the time of the call.
    let event = unsafe { &mut *event };
    guard_or("stream", || handle_event(stream, event), || stream.failed());
    if event.Type == msquic::ffi::QUIC_STREAM_EVENT_TYPE_QUIC_STREAM_EVENT_SHUTDOWN_COMPLETE
        && let Some(handle) = stream.slot().0.take()
    {
        // SAFETY: the slot gave the handle away once; closing inside SHUTDOWN_COMPLETE is the
        // library's documented pattern.
        unsafe { call!(StreamClose)(handle.as_ptr()) };
        // SAFETY: the count that MsQuic owned; no callback follows Close.
        let owned = unsafe { Arc::from_raw(raw_context) };
        guard("stream", move || owned.released());
    }
    STATUS_SUCCESS
}

fn handle_event<S: StreamCallbacks>(stream: &S, event: &mut QUIC_STREAM_EVENT) {
    use msquic::ffi as q;
    let reached = |point| failpoint::in_callback(point, || stream.node());
    match event.Type {
        q::QUIC_STREAM_EVENT_TYPE_QUIC_STREAM_EVENT_START_COMPLETE => {
            // SAFETY: the field that belongs to this event type.
            let complete = unsafe { event.__bindgen_anon_1.START_COMPLETE };
            stream.started(check(complete.Status));
        }
        q::QUIC_STREAM_EVENT_TYPE_QUIC_STREAM_EVENT_RECEIVE => {
            // SAFETY: the field that belongs to this event type.
            let receive = unsafe { &mut event.__bindgen_anon_1.RECEIVE };
            let total = receive.TotalBufferLength;
            // If the guard catches a panic in here, nothing counts as consumed.
            receive.TotalBufferLength = 0;
            let buffers = if receive.BufferCount == 0 {
                &[]
            } else {
                // SAFETY: MsQuic gives that many buffers for the time of the callback.
                unsafe { std::slice::from_raw_parts(receive.Buffers, receive.BufferCount as usize) }
            };
            reached(Failpoint::StreamCallbackReceive);
            let consumed = stream.received(&Received { buffers, total });
            receive.TotalBufferLength = consumed.min(total);
        }
        q::QUIC_STREAM_EVENT_TYPE_QUIC_STREAM_EVENT_SEND_COMPLETE => {
            // SAFETY: the field that belongs to this event type.
            let complete = unsafe { event.__bindgen_anon_1.SEND_COMPLETE };
            let raw = complete.ClientContext.cast::<SendRequest<S::Batch>>();
            if never!(raw.is_null(), "a submission ends that nobody made") {
                return;
            }
            // SAFETY: the box `send` gave away; there is exactly one SEND_COMPLETE for it.
            let request = unsafe { Box::from_raw(raw) };
            stream.sent(request.batch, complete.Canceled == 0);
        }
        q::QUIC_STREAM_EVENT_TYPE_QUIC_STREAM_EVENT_PEER_SEND_SHUTDOWN => stream.peer_finished(),
        q::QUIC_STREAM_EVENT_TYPE_QUIC_STREAM_EVENT_PEER_SEND_ABORTED => {
            // SAFETY: the field that belongs to this event type.
            stream.peer_reset(unsafe { event.__bindgen_anon_1.PEER_SEND_ABORTED }.ErrorCode);
        }
        q::QUIC_STREAM_EVENT_TYPE_QUIC_STREAM_EVENT_PEER_RECEIVE_ABORTED => {
            // SAFETY: the field that belongs to this event type.
            stream.peer_stopped(unsafe { event.__bindgen_anon_1.PEER_RECEIVE_ABORTED }.ErrorCode);
        }
        q::QUIC_STREAM_EVENT_TYPE_QUIC_STREAM_EVENT_SEND_SHUTDOWN_COMPLETE => {
            // SAFETY: the field that belongs to this event type.
            let complete = unsafe { event.__bindgen_anon_1.SEND_SHUTDOWN_COMPLETE };
            stream.send_finished(complete.Graceful != 0);
        }
        q::QUIC_STREAM_EVENT_TYPE_QUIC_STREAM_EVENT_SHUTDOWN_COMPLETE => {
            reached(Failpoint::StreamCallbackComplete);
            stream.complete();
        }
        // Events of newer libraries, and those nobody here needs.
        _ => {}
    }
}

// SAFETY: the raw pointers in `buffers` point into `parts`, which the request owns and never
// changes; `Bytes` may be read and dropped on any thread.
unsafe impl<T: Send> Send for SendRequest<T> {}
