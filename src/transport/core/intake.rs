//! The receiving half of a connection, as many threads use it: [`Frames`] behind a lock, and who waits.
//!
//! Invariant: nothing of anybody else runs under the lock: what a change brings with it is performed
//! behind it.

use std::sync::Arc;

use super::readers::Frames;
use super::waiting::Waiting;
use crate::marks::mark;
use crate::transport::fault::{Fault, planted};
use crate::transport::guarded::{Alarm, Guarded};
use crate::transport::link::inbound::{Effects, From, Inbound, Look};

/// See the module. `S` is what can be resumed.
pub(super) struct Intake<S> {
    pub(super) frames: Guarded<Frames<S>>,
    pub(super) waiting: Waiting,
}

/// What is done outside the lock.
pub(super) trait Perform<S> {
    fn perform(&self, effects: Effects<S>);
}

/// Why a reader waits no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waited {
    /// Something may be there.
    Woken,
    /// A frame may be overdue.
    Overdue,
}

impl<S: Clone> Intake<S> {
    /// `alarm` is told of what cannot happen.
    pub(super) fn new(inbound: Inbound<S>, alarm: &Arc<Alarm>) -> Self {
        Self { frames: Guarded::new(Frames::new(inbound), alarm), waiting: Waiting::default() }
    }

    /// Waits until something may be there for `from`, or until `look` is to be called again.
    pub(super) async fn wait(
        &self,
        from: From,
        look: impl FnOnce(&mut Inbound<S>) -> Look,
    ) -> Waited {
        let waiters = self.waiting.of(from);
        let looked_before =
            planted(Fault::ReaderLooksBeforeItWaits) && !self.frames.lock().is_ready(from);
        let _counted = waiters.enter();
        let notified = waiters.ready.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        let deadline = {
            let state = &mut *self.frames.lock();
            // Between the last look and `enable` something may have come.
            if !looked_before && state.is_ready(from) {
                return Waited::Woken;
            }
            look(&mut state.inbound)
        };
        match deadline {
            Look::Nothing => notified.await,
            Look::At(deadline) => {
                if tokio::time::timeout_at(deadline.into(), notified).await.is_err() {
                    return Waited::Overdue;
                }
            }
            Look::Overdue { .. } => return Waited::Overdue,
        }
        Waited::Woken
    }

    /// Behind taking: passes the wake-up on if more is there.
    pub(super) fn pass_on(&self, from: From) {
        let waiters = self.waiting.of(from);
        if waiters.any() && self.frames.lock().inbound.has_something(from) {
            mark!("a reader passes the wake-up on");
            waiters.wake_one();
        }
    }
}
