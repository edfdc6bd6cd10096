//! Connection handles and the callback MsQuic calls for them.

use std::ffi::{CString, c_void};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use msquic::ffi::{
    HQUIC, QUIC_CONNECTION_EVENT, QUIC_STATISTICS_V2, QUIC_STATUS, QUIC_VERSION_SETTINGS,
};

use super::configuration::Configuration;
use super::connection_settings::{set_settings, set_windows, share_sockets};
use super::exit_guard;
use super::quic_settings::QuicSettings;
use super::raw::{RawHandle, STATUS_SUCCESS, Slot, bytes_of, call, check, check_open, status};
use super::registration::Registration;
use super::stream::{PeerStream, StreamCallbacks, StreamSlot};
use crate::error::LibraryError;
use crate::failpoint::{self, Failpoint};
use crate::identity::CertHash;
use crate::transport::bounds::Windows;
use crate::transport::callback::{guard, guard_or};

/// Where a dialled connection runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::transport) struct Place {
    /// The number of its worker. A socket belongs to the worker of the connection that made it, and
    /// those that share it follow: so a shared port always goes with the same worker.
    pub(in crate::transport) worker: u16,
    /// The local address to name, if the connection shares its sockets.
    pub(in crate::transport) shared: Option<SocketAddr>,
}

/// What a connection is told. All calls come from the connection's one worker, in order.
pub(in crate::transport) trait ConnectionCallbacks:
    Send + Sync + 'static
{
    fn slot(&self) -> &ConnectionSlot;
    /// The handshake is done and `alpn` was agreed on.
    fn connected(&self, alpn: &[u8]);
    /// The peer's leaf certificate as DER, if it sent one. `false` refuses it.
    fn peer_certificate(&self, leaf: Option<&[u8]>) -> bool;
    fn closed_by_transport(&self, status: u32, error_code: u64);
    fn closed_by_peer(&self, code: u64);
    /// The peer wants more streams than it may have.
    fn peer_needs_streams(&self);
    /// A stream of the peer's; if it is not taken it is refused.
    fn peer_stream(self: Arc<Self>, stream: PeerStream<'_>);
    /// Nothing comes after this; the handle is closed when it returns. Called again where it panicked.
    fn complete(&self);
    /// The handle is closed.
    fn released(&self);
    /// Whose it is.
    fn node(&self) -> CertHash;
    /// A callback panicked, or something happened in it that cannot.
    fn failed(&self);
}

/// A connection handle, until its last callback.
#[derive(Debug, Default)]
pub(in crate::transport) struct ConnectionSlot(pub(super) Slot);

/// Those of both ends of a connection, as far as they are known.
#[derive(Debug, Clone, Copy)]
pub(in crate::transport) struct Addresses {
    pub(in crate::transport) local: Option<SocketAddr>,
    pub(in crate::transport) remote: Option<SocketAddr>,
}

/// The part of `QUIC_STATISTICS_V2` this crate shows.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::transport) struct RawStatistics {
    pub(in crate::transport) rtt_us: u32,
    pub(in crate::transport) least_rtt_us: u32,
    pub(in crate::transport) packets_sent: u64,
    /// Those of them that were taken for lost and were not late.
    pub(in crate::transport) packets_lost: u64,
}

impl ConnectionSlot {
    /// Opens and starts a stream of ours: see [`StreamSlot`].
    pub(in crate::transport) fn open_stream<S: StreamCallbacks>(
        &self,
        stream: &Arc<S>,
        announce: bool,
    ) -> Result<(), LibraryError> {
        StreamSlot::open(&self.0, stream, announce)
    }

    /// Opens a handle for dialling, with `context` behind its callbacks. Where its sockets are shared the
    /// call waits for a worker.
    pub(in crate::transport) fn open<C: ConnectionCallbacks>(
        registration: &Registration,
        context: &Arc<C>,
        place: Place,
    ) -> Result<(), LibraryError> {
        let aborted = LibraryError { status: status::ABORTED };
        let _exit_waits = exit_guard::begin().ok_or(aborted)?;
        // Nothing shuts the handle down before it is in its slot.
        let _shutdown_waits = registration.opening();
        let raw_context = Arc::into_raw(Arc::clone(context));
        let mut handle: HQUIC = std::ptr::null_mut();
        // SAFETY: `raw_context` is a strong count that now belongs to MsQuic's callbacks and is
        // released after ConnectionClose (ConnectionOpen).
        let open = || unsafe {
            call!(ConnectionOpenInPartition)(
                registration.handle.as_ptr(),
                place.worker,
                Some(connection_callback::<C>),
                raw_context.cast_mut().cast::<c_void>(),
                &raw mut handle,
            )
        };
        let opened = check_open(|| context.node(), open);
        match (opened, RawHandle::new(handle)) {
            (Ok(()), Some(handle)) => {
                if let Some(local) = place.shared
                    && let Err(error) = share_sockets(handle, local)
                {
                    tracing::debug!(%error, %local, "sockets are not shared");
                }
                exit_guard::connection_opened(handle);
                context.slot().0.fill(handle);
                Ok(())
            }
            (result, _) => {
                // SAFETY: the open failed, so no callback will ever come for this count.
                drop(unsafe { Arc::from_raw(raw_context) });
                Err(result.err().unwrap_or(LibraryError { status: status::INVALID_STATE }))
            }
        }
    }

    /// Opens a handle that a script of this thread plays.
    #[cfg(test)]
    pub(super) fn open_scripted<C: ConnectionCallbacks>(
        context: &Arc<C>,
    ) -> Result<(), LibraryError> {
        let raw_context = Arc::into_raw(Arc::clone(context));
        let mut handle: HQUIC = std::ptr::null_mut();
        // SAFETY: as in `open`; the script needs no registration.
        check(unsafe {
            call!(ConnectionOpenInPartition)(
                std::ptr::null_mut(),
                0,
                Some(connection_callback::<C>),
                raw_context.cast_mut().cast::<c_void>(),
                &raw mut handle,
            )
        })?;
        RawHandle::new(handle).into_iter().for_each(|handle| context.slot().0.fill(handle));
        Ok(())
    }

    /// Starts the handshake with `remote`. On an error the handle still ends with `complete`.
    pub(in crate::transport) fn start(
        &self,
        configuration: &Configuration,
        remote: SocketAddr,
    ) -> Result<(), LibraryError> {
        // The address goes as text: setting the address parameter would wait for the worker.
        let invalid = LibraryError { status: status::INVALID_ADDRESS };
        let host = match remote {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), v6.scope_id()),
            _ => remote.ip().to_string(),
        };
        let family = if remote.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let started = CString::new(host).map_err(|_| invalid).and_then(|host| {
            // An exit closes the configuration.
            let aborted = LibraryError { status: status::ABORTED };
            let _exit_waits = exit_guard::begin().ok_or(aborted)?;
            let started = self.0.with(|handle| {
                // SAFETY: name and configuration outlive the call, which copies the one and
                // references the other (ConnectionStart).
                check(unsafe {
                    call!(ConnectionStart)(
                        handle,
                        configuration.as_ptr(),
                        u16::try_from(family).unwrap_or(0),
                        host.as_ptr(),
                        remote.port(),
                    )
                })
            });
            started.unwrap_or(Err(LibraryError { status: status::INVALID_STATE }))
        });
        if started.is_err() {
            self.shutdown(true, crate::error::CloseCode::DROPPED.value());
        }
        started
    }

    /// Asks for a shutdown; `silent` tells the peer nothing. Does not wait; repeating is harmless.
    pub(in crate::transport) fn shutdown(&self, silent: bool, code: u64) {
        let flags = if silent {
            msquic::ffi::QUIC_CONNECTION_SHUTDOWN_FLAGS_QUIC_CONNECTION_SHUTDOWN_FLAG_SILENT
        } else {
            msquic::ffi::QUIC_CONNECTION_SHUTDOWN_FLAGS_QUIC_CONNECTION_SHUTDOWN_FLAG_NONE
        };
        self.0.with(|handle| {
            // SAFETY: the slot's lock keeps the handle open; the call only queues.
            unsafe { call!(ConnectionShutdown)(handle, flags, code) }
        });
    }

    /// The addresses of both ends. Only from this connection's own callbacks: elsewhere the
    /// library would wait for the worker.
    pub(in crate::transport) fn addresses(&self) -> Addresses {
        let read = |parameter| {
            // An all-zero address is valid: family "unspecified".
            let mut address = msquic::Addr::from(SocketAddr::from(([0, 0, 0, 0], 0)));
            self.parameter(parameter, &mut address)?;
            address.as_socket()
        };
        Addresses {
            local: read(msquic::ffi::QUIC_PARAM_CONN_LOCAL_ADDRESS),
            remote: read(msquic::ffi::QUIC_PARAM_CONN_REMOTE_ADDRESS),
        }
    }

    /// Round trip and losses. Only from this connection's own callbacks.
    pub(in crate::transport) fn statistics(&self) -> Option<RawStatistics> {
        // SAFETY: a plain C struct of integers; all zero is valid.
        let mut statistics: QUIC_STATISTICS_V2 = unsafe { std::mem::zeroed() };
        self.parameter(msquic::ffi::QUIC_PARAM_CONN_STATISTICS_V2, &mut statistics)?;
        let suspected = statistics.SendSuspectedLostPackets;
        Some(RawStatistics {
            rtt_us: statistics.Rtt,
            least_rtt_us: statistics.MinRtt,
            packets_sent: statistics.SendTotalPackets,
            packets_lost: suspected.saturating_sub(statistics.SendSpuriousLostPackets),
        })
    }

    /// From here on the peer is taken for gone after that time without an acknowledgement, and no
    /// stream's window grows. Only from this connection's own callbacks.
    pub(in crate::transport) fn set_connected(
        &self,
        disconnect_time: Duration,
        stream_window: u32,
    ) {
        let settings = QuicSettings::connected(disconnect_time, stream_window);
        let set = self.0.with(|handle| set_settings(handle, &settings));
        if let Some(Err(error)) = set {
            tracing::debug!(%error, "the time for a disconnect stays that of the handshake");
        }
    }

    /// From here on the version is what it is: whatever names another one does nothing to it, or ends
    /// it. Only from the callback in which a connection that was dialled is connected: before, the
    /// library would dial the version that is named here, and behind it its faults are within reach
    /// (SECURITY.md).
    pub(in crate::transport) fn set_version_agreed(&self) {
        static VERSION_1: u32 = 1;
        let settings = QUIC_VERSION_SETTINGS {
            AcceptableVersions: &raw const VERSION_1,
            OfferedVersions: &raw const VERSION_1,
            // Of none of them there is a way to another one; a reserved one would be its own.
            FullyDeployedVersions: &raw const VERSION_1,
            AcceptableVersionsLength: 1,
            OfferedVersionsLength: 1,
            FullyDeployedVersionsLength: 0,
        };
        let set = self.0.with(|handle| {
            // SAFETY: the settings and what they point to are constants that outlive the call, which
            // copies them; on the connection's own worker it is executed inline (SetParam).
            check(unsafe {
                call!(SetParam)(
                    handle,
                    msquic::ffi::QUIC_PARAM_CONN_VERSION_SETTINGS,
                    u32::try_from(size_of_val(&settings)).unwrap_or(0),
                    (&raw const settings).cast::<c_void>(),
                )
            })
        });
        if let Some(Err(error)) = set {
            tracing::warn!(%error, "the version of a connection stays open (SECURITY.md)");
        }
    }

    fn parameter<T>(&self, parameter: u32, value: &mut T) -> Option<()> {
        let mut length = u32::try_from(size_of::<T>()).ok()?;
        self.0
            .with(|handle| {
                // SAFETY: `value` is a plain C struct of `length` bytes; on the connection's own
                // worker the call is executed inline (GetParam).
                check(unsafe {
                    call!(GetParam)(
                        handle,
                        parameter,
                        &raw mut length,
                        std::ptr::from_mut(value).cast::<c_void>(),
                    )
                })
                .ok()
            })
            .flatten()
    }

    /// Adopts an inbound handle: sets its callback, configuration and the `windows` that the
    /// configuration has not.
    ///
    /// # Safety
    ///
    /// `handle` is the connection of the NEW_CONNECTION event that is being handled.
    pub(super) unsafe fn adopt<C: ConnectionCallbacks>(
        handle: RawHandle,
        context: &Arc<C>,
        configuration: &Configuration,
        windows: Option<Windows>,
    ) -> Result<(), LibraryError> {
        let raw_context = Arc::into_raw(Arc::clone(context));
        exit_guard::connection_opened(handle);
        context.slot().0.fill(handle);
        // SAFETY: the pair of callback and context matches `C`; the strong count belongs to
        // MsQuic until ConnectionClose (SetCallbackHandler).
        unsafe {
            call!(SetCallbackHandler)(
                handle.as_ptr(),
                connection_callback::<C> as *mut c_void,
                raw_context.cast_mut().cast::<c_void>(),
            );
        }
        windows.map_or(Ok(()), |windows| set_windows(handle.as_ptr(), windows))?;
        // An exit closes the configuration.
        let aborted = LibraryError { status: status::ABORTED };
        let _exit_waits = exit_guard::begin().ok_or(aborted)?;
        // SAFETY: the handle is this event's connection; the library references the configuration.
        check(unsafe { call!(ConnectionSetConfiguration)(handle.as_ptr(), configuration.as_ptr()) })
    }
}

/// The callback of every connection.
///
/// # Safety
///
/// MsQuic calls it with the context that was given at open or adopt: a strong count of `C`.
unsafe extern "C" fn connection_callback<C: ConnectionCallbacks>(
    _handle: HQUIC,
    context: *mut c_void,
    event: *mut QUIC_CONNECTION_EVENT,
) -> QUIC_STATUS {
    let raw_context = context.cast_const().cast::<C>();
    // SAFETY: the count that MsQuic owns keeps the context alive during the callback.
    let connection = unsafe { &*raw_context };
    // SAFETY: MsQuic hands a valid event for the time of the call.
    let event = unsafe { &*event };
    if event.Type == msquic::ffi::QUIC_CONNECTION_EVENT_TYPE_QUIC_CONNECTION_EVENT_SHUTDOWN_COMPLETE
    {
        // SAFETY: this is the event behind which no other comes.
        unsafe { LastEvent::new(raw_context) }.handle();
        return STATUS_SUCCESS;
    }
    // SAFETY: `raw_context` came from `Arc::into_raw` and its count is still MsQuic's.
    let handle = || unsafe { handle_event(connection, raw_context, event) };
    guard_or("connection", handle, || connection.failed()).unwrap_or(status::ABORTED)
}

/// A SHUTDOWN_COMPLETE that is not handled yet.
struct LastEvent<C> {
    /// The strong count that MsQuic owned.
    context: *const C,
}

// SAFETY: the pointer is a strong count of an `Arc<C>` with `C: Send + Sync`.
unsafe impl<C: ConnectionCallbacks> Send for LastEvent<C> {}

impl<C: ConnectionCallbacks> LastEvent<C> {
    /// # Safety
    ///
    /// `context` is the strong count that MsQuic owns, and no other event of its connection comes.
    unsafe fn new(context: *const C) -> Self {
        Self { context }
    }

    fn handle(self) {
        // SAFETY: the count keeps the context alive.
        let connection = unsafe { &*self.context };
        match failpoint::complete_is_late(|| connection.node()) {
            None => self.close(),
            Some(late) => self.close_late(late),
        }
    }

    fn close_late(self, late: Duration) {
        let closer = std::thread::Builder::new().name("moorline-late".to_owned());
        let closed = closer.spawn(move || {
            std::thread::sleep(late);
            self.close();
        });
        if closed.is_err() {
            tracing::error!("no thread for an end that is planted to come late");
        }
    }

    fn close(self) {
        // SAFETY: the count keeps the context alive.
        let connection = unsafe { &*self.context };
        let complete = || {
            failpoint::in_callback(Failpoint::ConnectionCallbackComplete, || connection.node());
            connection.complete();
        };
        let failed = || {
            connection.failed();
            // Whoever waits for the end is told of it all the same.
            connection.complete();
        };
        guard_or("connection", complete, failed);
        let Some(handle) = connection.slot().0.take() else { return };
        exit_guard::connection_closing(handle);
        // SAFETY: the slot gave the handle away once, and no event comes any more; closing inside
        // SHUTDOWN_COMPLETE is the library's documented pattern, and behind it as good.
        unsafe { call!(ConnectionClose)(handle.as_ptr()) };
        // SAFETY: the count that MsQuic owned; no callback follows Close.
        let owned = unsafe { Arc::from_raw(self.context) };
        guard("connection", move || owned.released());
    }
}

/// # Safety
///
/// `context` is `connection`, as `Arc::into_raw` gave it.
unsafe fn handle_event<C: ConnectionCallbacks>(
    connection: &C,
    context: *const C,
    event: &QUIC_CONNECTION_EVENT,
) -> QUIC_STATUS {
    use msquic::ffi as q;
    let reached = |point| failpoint::in_callback(point, || connection.node());
    match event.Type {
        q::QUIC_CONNECTION_EVENT_TYPE_QUIC_CONNECTION_EVENT_CONNECTED => {
            // SAFETY: the field that belongs to this event type.
            let connected = unsafe { event.__bindgen_anon_1.CONNECTED };
            // SAFETY: MsQuic gives that many bytes for the time of the callback.
            let alpn = unsafe {
                bytes_of(connected.NegotiatedAlpn, usize::from(connected.NegotiatedAlpnLength))
            };
            reached(Failpoint::ConnectionCallbackConnected);
            connection.connected(alpn.unwrap_or_default());
        }
        q::QUIC_CONNECTION_EVENT_TYPE_QUIC_CONNECTION_EVENT_PEER_CERTIFICATE_RECEIVED => {
            // SAFETY: the field that belongs to this event type.
            let received = unsafe { event.__bindgen_anon_1.PEER_CERTIFICATE_RECEIVED };
            // SAFETY: with portable certificates the pointer is null or a QUIC_BUFFER.
            let buffer =
                unsafe { received.Certificate.cast::<q::QUIC_BUFFER>().cast_const().as_ref() };
            let leaf = buffer
                // SAFETY: the buffer's bytes live during the callback.
                .and_then(|buffer| unsafe { bytes_of(buffer.Buffer, buffer.Length as usize) });
            if !connection.peer_certificate(leaf) {
                return match leaf {
                    Some(_) => status::BAD_CERTIFICATE,
                    None => status::REQUIRED_CERTIFICATE,
                };
            }
        }
        q::QUIC_CONNECTION_EVENT_TYPE_QUIC_CONNECTION_EVENT_SHUTDOWN_INITIATED_BY_TRANSPORT => {
            // SAFETY: the field that belongs to this event type.
            let ended = unsafe { event.__bindgen_anon_1.SHUTDOWN_INITIATED_BY_TRANSPORT };
            reached(Failpoint::ConnectionCallbackClosing);
            connection.closed_by_transport(ended.Status, ended.ErrorCode);
        }
        q::QUIC_CONNECTION_EVENT_TYPE_QUIC_CONNECTION_EVENT_SHUTDOWN_INITIATED_BY_PEER => {
            // SAFETY: the field that belongs to this event type.
            let ended = unsafe { event.__bindgen_anon_1.SHUTDOWN_INITIATED_BY_PEER };
            reached(Failpoint::ConnectionCallbackClosing);
            connection.closed_by_peer(ended.ErrorCode);
        }
        q::QUIC_CONNECTION_EVENT_TYPE_QUIC_CONNECTION_EVENT_PEER_STREAM_STARTED => {
            // SAFETY: the field that belongs to this event type.
            let started = unsafe { event.__bindgen_anon_1.PEER_STREAM_STARTED };
            // SAFETY: `context` is a live strong count; this makes one more of our own.
            unsafe { Arc::increment_strong_count(context) };
            // SAFETY: the count that was just made.
            let owned = unsafe { Arc::from_raw(context) };
            let mut taken = false;
            reached(Failpoint::ConnectionCallbackStream);
            if let Some(handle) = RawHandle::new(started.Stream) {
                owned.peer_stream(PeerStream::new(handle, &mut taken));
            }
            if !taken {
                // Not adopted: the library closes the stream itself.
                return status::ABORTED;
            }
        }
        q::QUIC_CONNECTION_EVENT_TYPE_QUIC_CONNECTION_EVENT_PEER_NEEDS_STREAMS => {
            connection.peer_needs_streams();
        }
        // Events of newer libraries, and those nobody here needs.
        _ => {}
    }
    STATUS_SUCCESS
}
