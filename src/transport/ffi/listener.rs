//! Listener handles and the callback MsQuic calls for them.

use std::ffi::c_void;
use std::net::SocketAddr;
use std::sync::Arc;

use msquic::ffi::{HQUIC, QUIC_LISTENER_EVENT, QUIC_NEW_CONNECTION_INFO, QUIC_STATUS};

use super::configuration::Configuration;
use super::connection::{ConnectionCallbacks, ConnectionSlot};
use super::exit_guard;
use super::listeners::listeners;
use super::raw::{
    RawHandle, STATUS_SUCCESS, Slot, call, check, check_open, socket_addr, status, with_buffers,
};
use super::registration::Registration;
use crate::error::LibraryError;
use crate::failpoint::{self, Failpoint};
use crate::identity::CertHash;
use crate::transport::bounds::Windows;
use crate::transport::callback::{guard, guard_or};

/// What a listener is told, on any worker of its registration.
pub(in crate::transport) trait ListenerCallbacks:
    Send + Sync + 'static
{
    fn slot(&self) -> &ListenerSlot;
    /// A peer wants a connection; if it is not taken it is refused. No handle may be closed here.
    fn new_connection(&self, new: NewConnection<'_>);
    /// Nothing comes after this; the handle is closed behind it. Called again where it panicked.
    fn complete(&self);
    /// The handle is closed.
    fn released(&self);
    /// Whose it is.
    fn node(&self) -> CertHash;
    /// A callback panicked, or something happened in it that cannot.
    fn failed(&self);
}

/// A listener handle, until its last callback.
#[derive(Debug, Default)]
pub(in crate::transport) struct ListenerSlot(Slot);

impl ListenerSlot {
    /// Opens and starts a listener, with `context` behind its callbacks; returns where it listens.
    pub(in crate::transport) fn open<L: ListenerCallbacks>(
        registration: &Registration,
        context: &Arc<L>,
        address: SocketAddr,
        alpns: &[String],
    ) -> Result<SocketAddr, LibraryError> {
        let aborted = LibraryError { status: status::ABORTED };
        let _exit_waits = exit_guard::begin().ok_or(aborted)?;
        let _alone = listeners();
        let raw_context = Arc::into_raw(Arc::clone(context));
        let mut handle: HQUIC = std::ptr::null_mut();
        // SAFETY: `raw_context` is a strong count that now belongs to MsQuic's callbacks and is
        // released after ListenerClose (ListenerOpen).
        let open = || unsafe {
            call!(ListenerOpen)(
                registration.handle.as_ptr(),
                Some(listener_callback::<L>),
                raw_context.cast_mut().cast::<c_void>(),
                &raw mut handle,
            )
        };
        let opened = check_open(|| context.node(), open);
        let (Ok(()), Some(handle)) = (opened, RawHandle::new(handle)) else {
            // SAFETY: the open failed, so no callback will ever come for this count.
            drop(unsafe { Arc::from_raw(raw_context) });
            return Err(opened.err().unwrap_or(LibraryError { status: status::INVALID_STATE }));
        };
        context.slot().0.fill(handle);
        let started = start(handle, address, alpns);
        if started.is_err()
            && let Some(handle) = context.slot().0.take()
        {
            // SAFETY: taken from its slot once. A listener that never started has no callback to
            // wait for, so this returns at once (ListenerClose).
            unsafe { call!(ListenerClose)(handle.as_ptr()) };
            // SAFETY: the count that MsQuic owned; no callback follows Close.
            let context = unsafe { Arc::from_raw(raw_context) };
            context.released();
        }
        started
    }

    /// Asks the listener to stop. Does not wait; only the first call does something.
    pub(in crate::transport) fn stop(&self) {
        let _alone = listeners();
        // Not under the slot's lock: the end may come as STOP_COMPLETE inside the call.
        if let Some(handle) = self.0.take() {
            // SAFETY: the handle was in its slot, so that STOP_COMPLETE had not come; whoever
            // closes it then waits for `_alone` (ListenerStop).
            unsafe { call!(ListenerStop)(handle.as_ptr()) }
        }
    }
}

fn start(
    handle: RawHandle,
    asked: SocketAddr,
    alpns: &[String],
) -> Result<SocketAddr, LibraryError> {
    let mut address = msquic::Addr::from(asked);
    if asked.is_ipv6() && asked.ip().is_unspecified() {
        // Its socket takes both families, and without a family the listener does too; with one the
        // library would tell peers of the other that they speak the wrong protocol.
        address.ipv6.sin6_family = msquic::ADDRESS_FAMILY_UNSPEC;
    }
    with_buffers(alpns, |buffers, count| {
        // SAFETY: names and address outlive the call, which copies them (ListenerStart).
        check(unsafe {
            call!(ListenerStart)(
                handle.as_ptr(),
                buffers,
                count,
                (&raw const address).cast::<msquic::ffi::QUIC_ADDR>(),
            )
        })
    })?;
    let mut length = u32::try_from(size_of_val(&address)).unwrap_or(0);
    // SAFETY: the buffer outlives the call, which for a listener waits for nobody (GetParam).
    check(unsafe {
        call!(GetParam)(
            handle.as_ptr(),
            msquic::ffi::QUIC_PARAM_LISTENER_LOCAL_ADDRESS,
            &raw mut length,
            (&raw mut address).cast::<c_void>(),
        )
    })?;
    let mut bound = asked;
    bound.set_port(address.port());
    Ok(bound)
}

/// A peer's wish for a connection, during its NEW_CONNECTION event.
pub(in crate::transport) struct NewConnection<'a> {
    handle: RawHandle,
    info: &'a QUIC_NEW_CONNECTION_INFO,
    taken: &'a mut bool,
}

impl NewConnection<'_> {
    pub(in crate::transport) fn remote_addr(&self) -> Option<SocketAddr> {
        // SAFETY: the address of the event lives during its callback.
        unsafe { socket_addr(self.info.RemoteAddress) }
    }

    /// Takes the connection, with `context` behind its callbacks and the `windows` that the
    /// configuration has not; the handshake goes on.
    pub(in crate::transport) fn accept<C: ConnectionCallbacks>(
        self,
        context: &Arc<C>,
        configuration: &Configuration,
        windows: Option<Windows>,
    ) {
        *self.taken = true;
        // SAFETY: the handle of this very event.
        if unsafe { ConnectionSlot::adopt(self.handle, context, configuration, windows) }.is_err() {
            // It is ours already: end it in the ordinary way.
            context.slot().shutdown(true, crate::error::CloseCode::INTERNAL.value());
        }
    }
}

/// The callback of every listener.
///
/// # Safety
///
/// MsQuic calls it with the context that was given at open: a strong count of `L`.
unsafe extern "C" fn listener_callback<L: ListenerCallbacks>(
    handle: HQUIC,
    context: *mut c_void,
    event: *mut QUIC_LISTENER_EVENT,
) -> QUIC_STATUS {
    use msquic::ffi as q;
    let raw_context = context.cast_const().cast::<L>();
    // SAFETY: the count that MsQuic owns keeps the context alive during the callback.
    let listener = unsafe { &*raw_context };
    // SAFETY: MsQuic hands a valid event for the time of the call.
    let event = unsafe { &*event };
    let reached = |point| failpoint::in_callback(point, || listener.node());
    match event.Type {
        q::QUIC_LISTENER_EVENT_TYPE_QUIC_LISTENER_EVENT_NEW_CONNECTION => {
            // SAFETY: the field that belongs to this event type.
            let new = unsafe { event.__bindgen_anon_1.NEW_CONNECTION };
            let mut taken = false;
            // SAFETY: the event's information lives during its callback.
            let info = unsafe { new.Info.as_ref() };
            if let (Some(info), Some(handle)) = (info, RawHandle::new(new.Connection)) {
                let new = NewConnection { handle, info, taken: &mut taken };
                let handle = || {
                    reached(Failpoint::ListenerCallbackNew);
                    listener.new_connection(new);
                };
                guard_or("listener", handle, || listener.failed());
            }
            // A refused connection is closed by the library itself.
            if taken { STATUS_SUCCESS } else { status::CONNECTION_REFUSED }
        }
        q::QUIC_LISTENER_EVENT_TYPE_QUIC_LISTENER_EVENT_STOP_COMPLETE => {
            // It may be the shutdown of the registration that ended it.
            let _ = listener.slot().0.take();
            let complete = || {
                reached(Failpoint::ListenerCallbackComplete);
                listener.complete();
            };
            let failed = || {
                listener.failed();
                // Whoever waits for the port is told of the end all the same.
                listener.complete();
            };
            guard_or("listener", complete, failed);
            // The library frees the listener only when this event has returned, and whoever waits
            // for the end wants it gone: so a thread of its own closes it.
            if let Some(handle) = RawHandle::new(handle) {
                let end = ListenerEnd { handle, context: raw_context };
                let closer = std::thread::Builder::new().name("moorline-close".to_owned());
                if closer.spawn(move || end.close()).is_err() {
                    tracing::error!("no thread to close a listener with; it stays until exit");
                }
            }
            STATUS_SUCCESS
        }
        // Events of newer libraries, and those nobody here needs.
        _ => STATUS_SUCCESS,
    }
}

/// A stopped listener on its way to the thread that closes it.
struct ListenerEnd<L> {
    handle: RawHandle,
    /// A strong count.
    context: *const L,
}

// SAFETY: the pointer is a strong count of an `Arc<L>` with `L: Send + Sync`.
unsafe impl<L: ListenerCallbacks> Send for ListenerEnd<L> {}

impl<L: ListenerCallbacks> ListenerEnd<L> {
    fn close(self) {
        let alone = listeners();
        // SAFETY: the one close of a stopped listener. It waits for the end of STOP_COMPLETE,
        // which waits for nobody (ListenerClose).
        unsafe { call!(ListenerClose)(self.handle.as_ptr()) };
        drop(alone);
        // SAFETY: the count that MsQuic owned; no callback follows Close.
        let listener = unsafe { Arc::from_raw(self.context) };
        guard("listener", move || listener.released());
    }
}
