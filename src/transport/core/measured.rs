//! What the library measures of a connection's path, looked at now and then.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::ConnectionCore;

/// How often the round trip is looked at, at most: a look costs a walk through the statistics.
const SAMPLE_INTERVAL_MS: u64 = 100;

/// As last looked at.
#[derive(Debug, Default)]
pub(super) struct Measured {
    rtt_us: AtomicU32,
    packets_sent: AtomicU64,
    packets_lost: AtomicU64,
    /// Milliseconds after the connection was begun.
    sampled_ms: AtomicU64,
}

impl ConnectionCore {
    pub(crate) fn rtt(&self) -> Duration {
        Duration::from_micros(u64::from(self.measured.rtt_us.load(Ordering::Relaxed)))
    }

    /// Packets sent, and those of them that were lost, as last looked at.
    pub(crate) fn packets(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.measured.packets_sent), read(&self.measured.packets_lost))
    }

    /// Looks at the round trip now and then. Only from this connection's callbacks.
    pub(in crate::transport) fn sample(&self) {
        let now = self.age_ms();
        let last = self.measured.sampled_ms.load(Ordering::Relaxed);
        if last != 0 && now < last + SAMPLE_INTERVAL_MS {
            return;
        }
        self.measured.sampled_ms.store(now.max(1), Ordering::Relaxed);
        if let Some(statistics) = self.slot.statistics() {
            self.measured.rtt_us.store(statistics.rtt_us, Ordering::Relaxed);
            self.measured.packets_sent.store(statistics.packets_sent, Ordering::Relaxed);
            self.measured.packets_lost.store(statistics.packets_lost, Ordering::Relaxed);
            let (rtt, least) = (statistics.rtt_us, statistics.least_rtt_us);
            self.lanes.iter().for_each(|lane| lane.set_round_trip(rtt, least));
        }
    }
}
