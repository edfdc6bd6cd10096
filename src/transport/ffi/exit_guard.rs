//! What keeps a process that just returns from `main` from aborting.
//!
//! The C library frees its memory pools in a destructor that runs at exit. A connection that is
//! still open, or a registration that is being closed, then uses them from another thread, and
//! the process aborts. Likewise OpenSSL frees its tables under a thread that loads a credential or
//! frees one. So at exit, before that, such calls are awaited, every open registration is shut down
//! and given a moment to finish.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use super::listener::listeners;
use super::{RawHandle, call};

/// How long an exit may take for that: a shutdown tells the peers and ends within milliseconds.
const EXIT_TIME_MAX: Duration = Duration::from_secs(1);

/// How long peers may take to acknowledge that we leave.
const PEERS_TOLD_MAX: Duration = Duration::from_millis(200);

/// How often an exit looks whether connections are left; their end wakes nobody here.
const EXIT_STEP: Duration = Duration::from_millis(5);

struct Registrations {
    open: Vec<RawHandle>,
    closing: usize,
    /// Calls that must not meet the exit.
    calls: usize,
    /// The process is at its exit.
    ending: bool,
}

static REGISTRATIONS: Mutex<Registrations> =
    Mutex::new(Registrations { open: Vec::new(), closing: 0, calls: 0, ending: false });

/// The handles of connections that are open in the library, by their addresses.
static CONNECTIONS: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());

/// A connection was opened, or came in.
pub(super) fn connection_opened(connection: RawHandle) {
    connections().insert(connection.as_ptr().expose_provenance());
}

/// A connection is about to be closed: nobody may touch it any more.
pub(super) fn connection_closing(connection: RawHandle) {
    connections().remove(&connection.as_ptr().expose_provenance());
}

fn connections() -> MutexGuard<'static, BTreeSet<usize>> {
    CONNECTIONS.lock().unwrap_or_else(PoisonError::into_inner)
}
static CLOSED: Condvar = Condvar::new();

fn registrations() -> MutexGuard<'static, Registrations> {
    REGISTRATIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A registration was opened.
pub(super) fn opened(registration: RawHandle) {
    static AT_EXIT: Once = Once::new();
    AT_EXIT.call_once(|| {
        // SAFETY: a plain function that does not unwind. Handlers run in reverse order, before
        // the destructors of the executable, which were there first (atexit(3)). If it cannot be
        // registered, there is no guard and nothing else changes.
        let _ = unsafe { libc::atexit(end_all) };
    });
    registrations().open.push(registration);
}

/// A registration is about to be closed by its owner: nobody else may touch it any more. `false`
/// if the exit has taken it.
pub(super) fn closing(registration: RawHandle) -> bool {
    let mut registrations = registrations();
    let known = |open: &RawHandle| open.as_ptr() == registration.as_ptr();
    let Some(at) = registrations.open.iter().position(known) else { return false };
    registrations.open.swap_remove(at);
    registrations.closing += 1;
    true
}

/// A registration is closed.
pub(super) fn closed() {
    registrations().closing -= 1;
    CLOSED.notify_all();
}

/// The exit waits until this is dropped.
pub(super) struct ExitWaits(());

/// Begins a call that must not meet the exit; `None` if the process is at it.
pub(super) fn begin() -> Option<ExitWaits> {
    let mut registrations = registrations();
    if registrations.ending {
        return None;
    }
    registrations.calls += 1;
    Some(ExitWaits(()))
}

/// As [`begin`], for a call that the exit itself may need.
pub(super) fn begin_anyway() -> ExitWaits {
    registrations().calls += 1;
    ExitWaits(())
}

impl Drop for ExitWaits {
    fn drop(&mut self) {
        registrations().calls -= 1;
        CLOSED.notify_all();
    }
}

extern "C" fn end_all() {
    let deadline = Instant::now() + EXIT_TIME_MAX;
    let mut registrations = registrations();
    registrations.ending = true;
    while registrations.calls > 0 {
        let Some(waited) = wait(registrations, deadline) else { return };
        registrations = waited;
    }
    // From here on nobody else closes them.
    let open = std::mem::take(&mut registrations.open);
    registrations.closing += open.len();
    // A worker that is in a callback may need the lock, and a listener's stop may need the worker.
    drop(registrations);
    for registration in &open {
        let _alone = listeners();
        // SAFETY: taken from the list, it is open until it is closed below
        // (RegistrationShutdown).
        unsafe {
            call!(RegistrationShutdown)(
                registration.as_ptr(),
                msquic::ffi::QUIC_CONNECTION_SHUTDOWN_FLAGS_QUIC_CONNECTION_SHUTDOWN_FLAG_NONE,
                crate::error::CloseCode::GOING_AWAY.value(),
            );
        }
    }
    let mut registrations = self::registrations();
    let told = Instant::now() + PEERS_TOLD_MAX;
    let mut silenced = false;
    while !connections().is_empty() {
        if !silenced && Instant::now() >= told {
            silenced = true;
            silence_connections();
        }
        let Some(waited) = wait(registrations, deadline) else { return };
        registrations = waited;
    }
    // The last callback of a connection comes before the worker has let go of it: only the close
    // of its registration tells that.
    for registration in open {
        let close = move || {
            // SAFETY: taken from the list, it is closed by nobody else. The call waits for what
            // is left of the registration; who waits for it in turn has a limit.
            unsafe { call!(RegistrationClose)(registration.into_ptr()) };
            closed();
        };
        if std::thread::Builder::new().spawn(close).is_err() {
            return;
        }
    }
    while registrations.closing > 0 || registrations.calls > 0 {
        let Some(waited) = wait(registrations, deadline) else { return };
        registrations = waited;
    }
}

/// Ends what waits for an answer: handshakes, and peers that are gone.
fn silence_connections() {
    for connection in connections().iter() {
        let handle = std::ptr::with_exposed_provenance_mut(*connection);
        // SAFETY: in the set, and while its lock is held, the handle is open: it leaves the set
        // before it is closed. The call only queues (ConnectionShutdown).
        unsafe {
            call!(ConnectionShutdown)(
                handle,
                msquic::ffi::QUIC_CONNECTION_SHUTDOWN_FLAGS_QUIC_CONNECTION_SHUTDOWN_FLAG_SILENT,
                0,
            );
        }
    }
}

/// Lets go of the lock for a moment; `None` when the time is over.
fn wait(
    registrations: MutexGuard<'static, Registrations>,
    deadline: Instant,
) -> Option<MutexGuard<'static, Registrations>> {
    let left = deadline.checked_duration_since(Instant::now())?;
    let waited = CLOSED.wait_timeout(registrations, left.min(EXIT_STEP));
    Some(waited.unwrap_or_else(PoisonError::into_inner).0)
}

/// Ends the process now, with `code`, without a word to any peer and without destructors: for a
/// second signal, when an orderly end takes too long.
pub fn exit_at_once(code: i32) -> ! {
    // SAFETY: `_exit` runs nothing of this process any more (_exit(2)).
    unsafe { libc::_exit(code) }
}
