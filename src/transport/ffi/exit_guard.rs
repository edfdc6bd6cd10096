//! What keeps a process that just returns from `main` from aborting.
//!
//! The C library frees its memory pools in a destructor that runs at exit. A connection that is
//! still open, or a registration that is being closed, then uses them from another thread, and
//! the process aborts. So at exit, before that destructor, every open registration is shut down
//! and given a moment to finish.

use std::sync::{Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use super::{RawHandle, call};

/// How long an exit may take for that: a shutdown tells the peers and ends within milliseconds.
const EXIT_TIME_MAX: Duration = Duration::from_secs(1);

/// How often an exit looks whether connections are left; their end wakes nobody here.
const EXIT_STEP: Duration = Duration::from_millis(5);

struct Registrations {
    open: Vec<RawHandle>,
    closing: usize,
}

static REGISTRATIONS: Mutex<Registrations> =
    Mutex::new(Registrations { open: Vec::new(), closing: 0 });
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

/// A registration is about to be closed: nobody may touch it any more.
pub(super) fn closing(registration: RawHandle) {
    let mut registrations = registrations();
    registrations.open.retain(|known| known.as_ptr() != registration.as_ptr());
    registrations.closing += 1;
}

/// A registration is closed.
pub(super) fn closed() {
    registrations().closing -= 1;
    CLOSED.notify_all();
}

extern "C" fn end_all() {
    let mut registrations = registrations();
    for registration in &registrations.open {
        // SAFETY: in the list it is open; the call only queues (RegistrationShutdown).
        unsafe {
            call!(RegistrationShutdown)(
                registration.as_ptr(),
                msquic::ffi::QUIC_CONNECTION_SHUTDOWN_FLAGS_QUIC_CONNECTION_SHUTDOWN_FLAG_NONE,
                crate::error::CloseCode::GOING_AWAY.value(),
            );
        }
    }
    let deadline = Instant::now() + EXIT_TIME_MAX;
    while registrations.closing > 0 || super::live_connections() > 0 {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        let waited = CLOSED.wait_timeout(registrations, left.min(EXIT_STEP));
        registrations = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// Ends the process now, with `code`, without a word to any peer and without destructors: for a
/// second signal, when an orderly end takes too long.
pub fn exit_at_once(code: i32) -> ! {
    // SAFETY: `_exit` runs nothing of this process any more (_exit(2)).
    unsafe { libc::_exit(code) }
}
