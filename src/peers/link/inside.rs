//! Whether a peer stopped inside a frame.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::config::Limits;
use crate::lock::lock;
use crate::transport::link::patience::Patience;

/// How many streams are inside a frame, and what came meanwhile on all of them.
pub(super) struct InsideFrames {
    streams: AtomicUsize,
    /// Bytes since the last look.
    bytes: AtomicUsize,
    patience: Mutex<Patience>,
}

impl InsideFrames {
    pub(super) fn new(limits: &Limits) -> Self {
        let patience = Patience::new(limits.frame_time_max, limits.frame_rate_min);
        let none = || AtomicUsize::new(0);
        Self { streams: none(), bytes: none(), patience: Mutex::new(patience) }
    }

    /// A stream brought so many bytes, and `was` and `is` inside a frame.
    pub(super) fn moved(&self, bytes: usize, was: bool, is: bool) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        match (was, is) {
            (false, true) => drop(self.streams.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(self.streams.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
    }

    /// Whether one stays unfinished for too long: to be asked now and then.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        let mut patience = lock(&self.patience);
        patience.moved(now, self.bytes.swap(0, Ordering::Relaxed));
        if self.streams.load(Ordering::Relaxed) == 0 {
            patience.rest();
            return false;
        }
        patience.wait(now) <= now
    }
}
