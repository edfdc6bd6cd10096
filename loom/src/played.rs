//! What the library's files share state by, as loom sees it.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
pub(crate) use loom::sync::{Mutex, MutexGuard};

/// tokio's, each of whose steps loom sees as one access: tokio takes its lock or exchanges its state,
/// so that they have an order.
#[derive(Debug, Default)]
pub(crate) struct Notify {
    steps: Steps,
    tokio: tokio::sync::Notify,
}

#[derive(Debug, Default)]
struct Steps(AtomicUsize);

impl Steps {
    fn take(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

impl Notify {
    pub(crate) fn notify_one(&self) {
        self.steps.take();
        self.tokio.notify_one();
    }

    pub(crate) fn notify_waiters(&self) {
        self.steps.take();
        self.tokio.notify_waiters();
    }

    pub(crate) fn notified(&self) -> Notified<'_> {
        self.steps.take();
        Notified { steps: &self.steps, tokio: Box::pin(self.tokio.notified()) }
    }
}

/// Waits for a notification.
pub(crate) struct Notified<'a> {
    steps: &'a Steps,
    tokio: Pin<Box<tokio::sync::futures::Notified<'a>>>,
}

impl Notified<'_> {
    pub(crate) fn enable(self: Pin<&mut Self>) -> bool {
        self.steps.take();
        self.get_mut().tokio.as_mut().enable()
    }
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.steps.take();
        self.get_mut().tokio.as_mut().poll(context)
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        // The notification of one that goes is another one's.
        if !std::thread::panicking() {
            self.steps.take();
        }
    }
}
