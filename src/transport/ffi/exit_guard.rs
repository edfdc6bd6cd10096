//! What keeps a process that just returns from `main` from aborting.
//!
//! The C library frees its memory pools in a destructor that runs at exit; a connection that is
//! still open then uses them from another thread, and the process aborts. So at exit, before that
//! destructor, every open registration is shut down and given a moment to finish.

use std::sync::{Condvar, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use super::{RawHandle, call};

/// How long an exit may take for that: a shutdown tells the peers and ends within milliseconds.
const EXIT_TIME_MAX: Duration = Duration::from_secs(1);

static OPEN: Mutex<Vec<RawHandle>> = Mutex::new(Vec::new());
static CLOSED: Condvar = Condvar::new();

/// A registration was opened.
pub(super) fn opened(registration: RawHandle) {
    static AT_EXIT: Once = Once::new();
    AT_EXIT.call_once(|| {
        // SAFETY: a plain function that does not unwind. Handlers run in reverse order, before
        // the destructors of the executable, which were there first (atexit(3)). If it cannot be
        // registered, there is no guard and nothing else changes.
        let _ = unsafe { libc::atexit(end_all) };
    });
    OPEN.lock().unwrap_or_else(PoisonError::into_inner).push(registration);
}

/// A registration is about to be closed: nobody may touch it any more.
pub(super) fn closing(registration: RawHandle) {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    open.retain(|known| known.as_ptr() != registration.as_ptr());
}

/// A registration is closed.
pub(super) fn closed() {
    CLOSED.notify_all();
}

extern "C" fn end_all() {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    for registration in open.iter() {
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
    while !open.is_empty() && super::live_connections() > 0 {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        let step = left.min(Duration::from_millis(5));
        open = CLOSED.wait_timeout(open, step).unwrap_or_else(PoisonError::into_inner).0;
    }
}
