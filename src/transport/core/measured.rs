//! What the library measures of a connection's path, looked at now and then.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::transport::ffi::RawStatistics;
use crate::transport::link::flight::Path;

/// How often the round trip is looked at, at most: a look costs a walk through the statistics.
const SAMPLE_INTERVAL_MS: u64 = 100;

/// Packets on the path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packets {
    pub(crate) sent: u64,
    /// Those of them that were lost.
    pub(crate) lost: u64,
}

/// As last looked at.
#[derive(Debug, Default)]
pub(super) struct Measured {
    rtt_us: AtomicU32,
    /// Of the empty path.
    least_rtt_us: AtomicU32,
    packets_sent: AtomicU64,
    packets_lost: AtomicU64,
    /// Milliseconds after the connection was begun.
    sampled_ms: AtomicU64,
}

impl Measured {
    pub(super) fn rtt(&self) -> Duration {
        Duration::from_micros(u64::from(self.rtt_us.load(Ordering::Relaxed)))
    }

    pub(super) fn path(&self) -> Path {
        let read = |microseconds: &AtomicU32| microseconds.load(Ordering::Relaxed);
        Path::of_round_trip(read(&self.rtt_us), read(&self.least_rtt_us))
    }

    pub(super) fn packets(&self) -> Packets {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Packets { sent: read(&self.packets_sent), lost: read(&self.packets_lost) }
    }

    /// Whether to look again; counts as a look if so.
    pub(super) fn is_due(&self, now_ms: u64) -> bool {
        let last = self.sampled_ms.load(Ordering::Relaxed);
        let due = last == 0 || now_ms >= last + SAMPLE_INTERVAL_MS;
        if due {
            self.sampled_ms.store(now_ms.max(1), Ordering::Relaxed);
        }
        due
    }

    pub(super) fn keep(&self, statistics: &RawStatistics) {
        self.rtt_us.store(statistics.rtt_us, Ordering::Relaxed);
        self.least_rtt_us.store(statistics.least_rtt_us, Ordering::Relaxed);
        self.packets_sent.store(statistics.packets_sent, Ordering::Relaxed);
        self.packets_lost.store(statistics.packets_lost, Ordering::Relaxed);
    }
}
