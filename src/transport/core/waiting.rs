//! Readers that wait, and how they are woken.

use std::sync::atomic::Ordering;

use crate::sync::{AtomicUsize, Notify};
use crate::transport::link::inbound::From;
use crate::transport::link::lanes::Lane;

/// Readers that wait, by what they wait for.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    all: Waiters,
    lanes: [Waiters; 3],
    streams: Waiters,
}

#[derive(Debug, Default)]
pub(super) struct Waiters {
    count: AtomicUsize,
    pub(super) ready: Notify,
}

impl Waiters {
    /// Counts until the guard is dropped: only who is counted is woken.
    pub(super) fn enter(&self) -> Counted<'_> {
        self.count.fetch_add(1, Ordering::AcqRel);
        Counted(&self.count)
    }

    pub(super) fn any(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    /// Wakes one of them.
    pub(super) fn wake_one(&self) {
        if self.any() {
            self.ready.notify_one();
        }
    }
}

impl Waiting {
    pub(super) fn of(&self, from: From) -> &Waiters {
        match from {
            From::All => &self.all,
            From::Lane(lane) => &self.lanes[lane as usize],
            From::Stream(_) => &self.streams,
        }
    }

    /// Something came on the lane.
    pub(super) fn wake(&self, lane: Lane) {
        self.all.wake_one();
        self.lanes[lane as usize].wake_one();
        if self.streams.any() {
            self.streams.ready.notify_waiters();
        }
    }

    /// A stream ended: those who read one alone are to look again.
    pub(super) fn wake_readers_of_streams(&self) {
        self.streams.ready.notify_waiters();
    }

    /// Whatever they wait for: they are to look again.
    pub(super) fn wake_everybody(&self) {
        for waiters in [&self.all, &self.streams].into_iter().chain(&self.lanes) {
            waiters.ready.notify_waiters();
        }
    }
}

pub(super) struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
