//! What keeps a process that just returns from `main` from aborting.
//!
//! The C library frees its memory pools in a destructor that runs at exit. A connection that is
//! still open, or a registration that is being closed, then uses them from another thread, and
//! the process aborts. Likewise OpenSSL frees its tables under a thread that loads a credential or
//! frees one. So at exit, before that, such calls are awaited, every open registration is shut down
//! and given a moment to finish, and what else would keep it open (configurations that are kept for
//! the next dial) is closed.
//!
//! A process that was forked from this one has neither the library's threads nor its connections. The
//! destructor would wait for those threads for ever, so there the exit ends without it.

use std::collections::BTreeSet;
use std::ffi::c_int;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use super::listeners::listeners;
use super::raw::{RawHandle, call};
use crate::lock::lock;

/// How long an exit may take for that: a shutdown tells the peers and ends within milliseconds.
const EXIT_TIME_MAX: Duration = Duration::from_secs(1);

/// How long peers may take to acknowledge that we leave.
const PEERS_TOLD_MAX: Duration = Duration::from_millis(200);

/// How often an exit looks whether connections are left; their end wakes nobody here.
const EXIT_STEP: Duration = Duration::from_millis(5);

struct Registrations {
    open: Vec<RawHandle>,
    closing: usize,
    /// The handles of configurations, by their addresses. Each holds its registration open.
    configurations: BTreeSet<usize>,
    /// Calls that must not meet the exit.
    calls: usize,
    /// The process is at its exit.
    ending: bool,
}

static REGISTRATIONS: Mutex<Registrations> = Mutex::new(Registrations {
    open: Vec::new(),
    closing: 0,
    configurations: BTreeSet::new(),
    calls: 0,
    ending: false,
});

/// The process that the handler belongs to; 0: there is none.
static OWNER: AtomicU32 = AtomicU32::new(0);

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
    lock(&CONNECTIONS)
}
static CLOSED: Condvar = Condvar::new();

fn registrations() -> MutexGuard<'static, Registrations> {
    lock(&REGISTRATIONS)
}

/// A registration was opened.
pub(super) fn opened(registration: RawHandle) {
    static AT_EXIT: Once = Once::new();
    AT_EXIT.call_once(|| {
        OWNER.store(std::process::id(), Ordering::Release);
        // SAFETY: a plain function that does not unwind. Handlers run in reverse order, before
        // the destructors of the executable, which were there first (atexit(3), on_exit(3)). If it
        // cannot be registered, there is no guard and nothing else changes.
        #[cfg(target_env = "gnu")]
        let _ = unsafe { on_exit(at_exit_with, std::ptr::null_mut()) };
        // SAFETY: as above.
        #[cfg(not(target_env = "gnu"))]
        let _ = unsafe { libc::atexit(at_exit) };
    });
    registrations().open.push(registration);
}

/// Whether this process was forked from the one that opened the registrations.
fn is_fork() -> bool {
    OWNER.load(Ordering::Acquire) != std::process::id()
}

#[cfg(target_env = "gnu")]
unsafe extern "C" {
    /// As `atexit`, and tells the status (on_exit(3)).
    fn on_exit(
        handler: extern "C" fn(c_int, *mut std::ffi::c_void),
        argument: *mut std::ffi::c_void,
    ) -> c_int;
}

#[cfg(target_env = "gnu")]
extern "C" fn at_exit_with(status: c_int, _: *mut std::ffi::c_void) {
    // What is left when the time is over would make the destructor abort, or wait for ever.
    if is_fork() || end_within(EXIT_TIME_MAX).is_none() {
        leave_library(status);
    }
}

/// Where no handler is told the status.
#[cfg(not(target_env = "gnu"))]
extern "C" fn at_exit() {
    if is_fork() {
        leave_library(libc::EXIT_FAILURE);
    }
    // What is left when the time is over meets the destructor.
    let _ = end_within(EXIT_TIME_MAX);
}

/// Ends the process without the destructor of the library. Takes no lock of ours: in a forked process
/// a thread that is not there may have held it.
fn leave_library(status: c_int) -> ! {
    // SAFETY: what is buffered is written, as any exit does (fflush(3)); the C library has its own
    // locks in order after a fork.
    unsafe { libc::fflush(std::ptr::null_mut()) };
    // SAFETY: `_exit` runs nothing of this process any more (_exit(2)).
    unsafe { libc::_exit(status) }
}

/// A configuration was opened.
pub(super) fn configuration_opened(configuration: RawHandle) {
    registrations().configurations.insert(configuration.as_ptr().expose_provenance());
}

/// A configuration is about to be closed by its owner; `false` if the exit has closed it.
pub(super) fn configuration_closing(configuration: RawHandle) -> bool {
    registrations().configurations.remove(&configuration.as_ptr().expose_provenance())
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

/// A registration that was about to be closed is not: the exit closes it.
pub(super) fn left_open(registration: RawHandle) {
    let mut registrations = registrations();
    registrations.closing -= 1;
    registrations.open.push(registration);
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

/// Ends everything; `None` when the time is over, or there is no thread to close with.
fn end_within(limit: Duration) -> Option<()> {
    let deadline = Instant::now() + limit;
    let mut registrations = registrations();
    registrations.ending = true;
    while registrations.calls > 0 {
        registrations = wait(registrations, deadline)?;
    }
    // From here on nobody else closes them, and nobody uses a configuration.
    let open = std::mem::take(&mut registrations.open);
    let configurations = std::mem::take(&mut registrations.configurations);
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
        registrations = wait(registrations, deadline)?;
    }
    drop(registrations);
    for configuration in configurations {
        // SAFETY: taken from the set, it is closed by nobody else; connections that use it hold
        // references of their own (ConfigurationClose).
        unsafe { call!(ConfigurationClose)(std::ptr::with_exposed_provenance_mut(configuration)) };
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
        std::thread::Builder::new().spawn(close).ok()?;
    }
    let mut registrations = self::registrations();
    while registrations.closing > 0 || registrations.calls > 0 {
        registrations = wait(registrations, deadline)?;
    }
    Some(())
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
                // Whoever speaks meanwhile is answered with it.
                crate::error::CloseCode::GOING_AWAY.value(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::NetCredential;
    use crate::transport::MsQuicTransport;

    /// How the process ended that `status` is of, as a shell says it.
    fn ended(status: c_int) -> String {
        if libc::WIFEXITED(status) {
            format!("exit {}", libc::WEXITSTATUS(status))
        } else {
            format!("signal {}", libc::WTERMSIG(status))
        }
    }

    /// Forks, and lets the other process exit with `status`; how that ended within ten seconds.
    fn fork_and_exit(status: c_int) -> String {
        // SAFETY: the other process calls nothing but `exit`, as any program that was forked may; its
        // handlers are what is tested (fork(2)).
        let forked = unsafe { libc::fork() };
        assert!(forked >= 0, "{}", std::io::Error::last_os_error());
        if forked == 0 {
            // SAFETY: the one thread there is calls it, once (exit(3)).
            unsafe { libc::exit(status) };
        }
        let (limit, mut ended_with) = (Instant::now() + Duration::from_secs(10), 0);
        while Instant::now() < limit {
            // SAFETY: the status outlives the call (waitpid(2)).
            match unsafe { libc::waitpid(forked, &raw mut ended_with, libc::WNOHANG) } {
                // not synchronisation: nobody tells, it is asked again and again
                0 => std::thread::sleep(Duration::from_millis(5)),
                _ => return ended(ended_with),
            }
        }
        // SAFETY: a child of this process that was not waited for, so its number is still its own.
        unsafe { libc::kill(forked, libc::SIGKILL) };
        // SAFETY: as above.
        unsafe { libc::waitpid(forked, &raw mut ended_with, 0) };
        format!("hangs, {}", ended(ended_with))
    }

    #[cfg(target_env = "gnu")]
    #[tokio::test]
    async fn a_forked_process_that_exits_ends_with_its_status_while_a_listener_stands_here() {
        let transport = MsQuicTransport::new();
        let credential = NetCredential::generate_self_signed(&["test"], &[]).expect("one");
        let listening =
            transport.create_listener(([127, 0, 0, 1], 0).into(), &["test"], credential);
        let listener = listening.await.expect("a listener");
        assert_eq!(fork_and_exit(0), "exit 0");
        assert_eq!(fork_and_exit(7), "exit 7");
        // It was no business of this process.
        assert_eq!(OWNER.load(Ordering::Acquire), std::process::id());
        let registration = transport.registration().expect("a registration");
        assert_eq!(registration.live_handles(), 1);
        listener.stopped().await;
    }
}
