//! One direction of a link, without a socket and a clock: when and how a datagram leaves.
//!
//! What happens to the n-th datagram depends on the seed and n, not on what was switched on before it:
//! each has a generator of its own, which draws in the same order whatever the conditions are.

use std::time::Duration;

use super::conditions::{Conditions, GilbertElliott, Loss, RateLimit};
use super::counters::Counters;
use super::rng::Rng;

/// A datagram on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Departure {
    /// When it leaves.
    pub(super) at: Duration,
    /// The bit of it that is flipped.
    pub(super) flip: Option<usize>,
    /// Whether it is held back so that others overtake it.
    pub(super) reordered: bool,
    /// How often it leaves: 1, or 2 for a duplicate.
    pub(super) copies: u8,
}

#[derive(Debug)]
pub(super) struct Path {
    seed: u64,
    /// Bytes of the IP and UDP headers.
    header_bytes: usize,
    /// Whether the link is in the bad state of [`GilbertElliott`].
    bad: bool,
    /// When the bottleneck is done with what it has.
    bottleneck_free: Duration,
    /// When the last one leaves that keeps its place in the order.
    last: Duration,
    lose_next: u64,
    /// Bytes that may still pass.
    pass_next: Option<u64>,
    pub(super) counters: Counters,
}

impl Path {
    pub(super) fn new(seed: u64, header_bytes: usize) -> Self {
        Self {
            seed,
            header_bytes,
            bad: false,
            bottleneck_free: Duration::ZERO,
            last: Duration::ZERO,
            lose_next: 0,
            pass_next: None,
            counters: Counters::default(),
        }
    }

    pub(super) fn lose_next(&mut self, datagrams: u64) {
        self.lose_next = datagrams;
    }

    pub(super) fn left_to_lose(&self) -> u64 {
        self.lose_next
    }

    pub(super) fn pass_next(&mut self, bytes: Option<u64>) {
        self.pass_next = bytes;
    }

    /// A datagram comes; none if it goes no further. `room` is how many bytes may be held back.
    pub(super) fn enter(
        &mut self,
        now: Duration,
        length: usize,
        conditions: &Conditions,
        room: usize,
    ) -> Option<Departure> {
        let mut rng = Rng::of(self.seed, self.counters.entered);
        self.counters.entered += 1;
        self.counters.entered_bytes += length as u64;
        if self.is_swallowed(length) || conditions.black_hole {
            self.counters.black_holed += 1;
            return None;
        }
        if conditions.mtu.is_some_and(|mtu| length + self.header_bytes > usize::from(mtu)) {
            self.counters.too_large += 1;
            return None;
        }
        if self.is_lost(&mut rng, conditions.loss) {
            self.counters.lost += 1;
            return None;
        }
        let Some(through) = self.bottleneck(now, length as u64, conditions.limit) else {
            self.counters.queue_full += 1;
            return None;
        };
        let departure = self.departure(&mut rng, through, length, conditions);
        let late = departure.at > now;
        if late && length * usize::from(departure.copies) > room {
            self.counters.not_held += 1;
            return None;
        }
        self.count(&departure, late);
        Some(departure)
    }

    fn is_swallowed(&mut self, length: usize) -> bool {
        if self.lose_next > 0 {
            self.lose_next -= 1;
            return true;
        }
        let Some(left) = &mut self.pass_next else { return false };
        // Once one was too much, smaller ones behind it do not pass either.
        let passes = left.checked_sub(length as u64);
        *left = passes.unwrap_or(0);
        passes.is_none()
    }

    fn is_lost(&mut self, rng: &mut Rng, loss: Loss) -> bool {
        let (mut of_turn, mut of_loss) = (Rng::new(rng.next()), Rng::new(rng.next()));
        match loss {
            Loss::None => false,
            Loss::Independent(share) => of_loss.happens(share),
            Loss::Bursts(GilbertElliott {
                turns_bad,
                turns_good,
                loss_when_good,
                loss_when_bad,
            }) => {
                let turns = if self.bad { turns_good } else { turns_bad };
                self.bad ^= of_turn.happens(turns);
                of_loss.happens(if self.bad { loss_when_bad } else { loss_when_good })
            }
        }
    }

    /// When the datagram is through the bottleneck; none if its queue is full.
    fn bottleneck(
        &mut self,
        now: Duration,
        length: u64,
        limit: Option<RateLimit>,
    ) -> Option<Duration> {
        let Some(limit) = limit else { return Some(now) };
        let rate = limit.bytes_a_second.max(1);
        let nanos_of = |bytes: u64| u128::from(bytes) * 1_000_000_000 / u128::from(rate);
        let starts = self.bottleneck_free.max(now);
        let waits = (starts - now).as_nanos();
        // The first one is never refused: it is on the link, not in the queue.
        if waits > 0 && waits + nanos_of(length) > nanos_of(limit.queue_bytes) {
            return None;
        }
        let takes = u64::try_from(nanos_of(length)).unwrap_or(u64::MAX);
        self.bottleneck_free = starts.saturating_add(Duration::from_nanos(takes));
        Some(self.bottleneck_free)
    }

    fn departure(
        &mut self,
        rng: &mut Rng,
        through: Duration,
        length: usize,
        conditions: &Conditions,
    ) -> Departure {
        let jitter = u64::try_from(conditions.jitter.as_nanos()).unwrap_or(u64::MAX);
        let longer = Duration::from_nanos(rng.up_to(jitter));
        let reordered = rng.happens(conditions.reorder);
        let corrupted = rng.happens(conditions.corrupt);
        let bit = rng.next();
        let duplicated = rng.happens(conditions.duplicate);
        let mut at = through.saturating_add(conditions.delay).saturating_add(longer).max(self.last);
        if reordered {
            at = at.saturating_add(conditions.reorder_by);
        } else {
            self.last = at;
        }
        let bits = length * 8;
        let flip = (corrupted && bits > 0).then(|| (bit % bits as u64) as usize);
        Departure { at, flip, reordered, copies: 1 + u8::from(duplicated) }
    }

    fn count(&mut self, departure: &Departure, late: bool) {
        let copies = u64::from(departure.copies);
        self.counters.duplicated += copies - 1;
        self.counters.corrupted += u64::from(departure.flip.is_some());
        self.counters.reordered += u64::from(departure.reordered);
        self.counters.delayed += if late { copies } else { 0 };
        self.counters.waiting += copies;
    }

    /// `datagrams` that were waiting are gone: handed on, or not to be delivered.
    pub(super) fn gone(&mut self, datagrams: u64, bytes: u64, delivered: bool) {
        self.counters.waiting -= datagrams;
        if delivered {
            self.counters.left += datagrams;
            self.counters.left_bytes += bytes;
        } else {
            self.counters.undeliverable += datagrams;
        }
    }
}

#[cfg(test)]
#[path = "path_tests.rs"]
mod tests;
