//! The MsQuic registration: the parent of every handle, closed after the last of them.
//!
//! Invariants: every handle's context holds a [`LiveHandle`]; the registration is closed by a
//! thread of its own, because its last owner may be dropped inside a callback and the close waits
//! for the workers that run callbacks.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tracing::{debug, error, info, warn};

use super::ffi;
use super::library::{LINKAGE, LibraryVersion};
use crate::error::{CloseCode, LibraryError};
use crate::lock::lock;

/// Owns the registration; everything that has a handle owns a share of it.
///
/// Dropping the last share closes the registration: no handle is left then.
#[derive(Debug)]
pub struct RegistrationWrapper {
    registration: Option<ffi::Registration>,
    live: AtomicUsize,
    idle: Notify,
    /// `true` once the registration is closed; outlives the wrapper.
    closed: watch::Sender<bool>,
}

impl RegistrationWrapper {
    pub(super) fn open() -> Result<Arc<Self>, LibraryError> {
        announce_library();
        let registration = ffi::Registration::open()?;
        debug!("registration opened");
        Ok(Arc::new(Self {
            registration: Some(registration),
            live: AtomicUsize::new(0),
            idle: Notify::new(),
            closed: watch::channel(false).0,
        }))
    }

    /// For connections that a script plays.
    #[cfg(test)]
    pub(super) fn scripted() -> Arc<Self> {
        Arc::new(Self {
            registration: None,
            live: AtomicUsize::new(0),
            idle: Notify::new(),
            closed: watch::channel(false).0,
        })
    }

    /// Handles that MsQuic still has: listeners, connections, streams.
    #[must_use]
    pub fn live_handles(&self) -> usize {
        self.live.load(Ordering::Acquire)
    }

    /// Waits until no handle is left, at most for `limit`; tells whether that came true.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only watches.
    pub async fn wait_idle(&self, limit: Duration) -> bool {
        let idle = async {
            loop {
                let changed = self.idle.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if self.live_handles() == 0 {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(limit, idle).await.is_ok()
    }

    /// Ends what is left at once and tells no peer. Nothing can be opened after that.
    pub(crate) fn cut_silently(&self) {
        if let Some(registration) = &self.registration {
            registration.shutdown(true, CloseCode::DROPPED.value());
        }
    }

    /// Tells when the registration is closed, which is after the last owner let go of it.
    pub(crate) fn watch_closed(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }

    pub(super) fn raw(&self) -> Result<&ffi::Registration, LibraryError> {
        self.registration.as_ref().ok_or(LibraryError { status: ffi::status::INVALID_STATE })
    }
}

impl Drop for RegistrationWrapper {
    fn drop(&mut self) {
        let Some(registration) = self.registration.take() else { return };
        let closed = self.closed.clone();
        let Some(closing) = registration.begin_close() else { return };
        // Not owned by the thread: one that does not start would close it here, perhaps in a callback.
        let closing = Arc::new(Mutex::new(Some(closing)));
        let to_close = Arc::clone(&closing);
        let close = move || {
            drop(lock(&to_close).take());
            debug!("registration closed");
            closed.send_replace(true);
        };
        let closer = std::thread::Builder::new().name("moorline-close".to_owned());
        if let Err(cause) = closer.spawn(close) {
            error!(%cause, "no thread to close the registration with; it stays until exit");
            if let Some(closing) = lock(&closing).take() {
                closing.leave_to_the_exit();
            }
        }
    }
}

/// One handle that MsQuic has: counted from before it is opened until after it was closed.
///
/// Lives in the handle's context, which may live longer than the handle.
#[derive(Debug)]
pub(super) struct LiveHandle(Mutex<Option<Arc<RegistrationWrapper>>>);

impl LiveHandle {
    pub(super) fn new(registration: &Arc<RegistrationWrapper>) -> Self {
        registration.live.fetch_add(1, Ordering::AcqRel);
        Self(Mutex::new(Some(Arc::clone(registration))))
    }

    /// The registration, while the handle is open.
    pub(super) fn registration(&self) -> Option<Arc<RegistrationWrapper>> {
        lock(&self.0).clone()
    }

    /// The handle is closed, or was never opened.
    pub(super) fn release(&self) {
        let Some(registration) = lock(&self.0).take() else { return };
        if registration.live.fetch_sub(1, Ordering::AcqRel) == 1 {
            registration.idle.notify_waiters();
        }
    }
}

impl Drop for LiveHandle {
    fn drop(&mut self) {
        self.release();
    }
}

/// Says once per process which library this is, and warns of its known faults.
fn announce_library() {
    static ANNOUNCED: OnceLock<()> = OnceLock::new();
    ANNOUNCED.get_or_init(|| {
        let version = LibraryVersion::linked();
        info!(msquic = %version, linkage = LINKAGE, "library");
        if version.is_affected() {
            warn!(
                msquic = %version,
                "this MsQuic has known faults, contained where that is possible (SECURITY.md); \
                 an installed 2.5.10 or later and the Cargo feature `system` cure some of them"
            );
        }
        if ffi::msquic_is_debug_build() {
            warn!(
                "this MsQuic is a debug build, several times slower: put \
                 [profile.dev.package.msquic] opt-level = 3 into the program's Cargo.toml, or build \
                 with --release"
            );
        }
    });
}
