//! Which frames were sent, and what became of them: lost, twice, out of order, damaged.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::ranges::{Inserted, Ranges};
use super::stamp::{Stamp, StampError, lane_index};
use crate::lock::lock;
use crate::transport::Lane;

/// Numbers of doubled, late and unknown frames that are kept of each lane, as examples.
const EXAMPLES: usize = 8;

/// Numbers frames for each sender and lane, and says at the end what was lost, came twice, came out of
/// order or came damaged, by name.
///
/// A sender is a name for frames that go to one receiver: whoever sends to two has two names. It keeps
/// runs of numbers, not each of them, and is cheap to clone: both ends of a test write into one.
///
/// # Examples
///
/// ```
/// use moorline::Lane;
/// use moorline::testing::Ledger;
///
/// let ledger = Ledger::new();
/// let alice = ledger.sender("alice to bob");
/// let frames: Vec<_> = (0..4).map(|_| alice.frame(Lane::Data, 100)).collect();
/// for number in [0, 2, 2] {
///     ledger.receive(&frames[number])?;
/// }
/// let report = ledger.report();
/// assert!(!report.is_clean());
/// assert_eq!(
///     report.to_string(),
///     "alice to bob, data: 4 sent, 2 received; 2 lost (1, 3); 1 came again (2)\n"
/// );
/// # Ok::<(), moorline::testing::StampError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    senders: Vec<String>,
    /// By the number of the sender and the index of the lane.
    flows: BTreeMap<(u32, usize), Flow>,
    damaged: u64,
    last_damage: Option<StampError>,
}

/// The frames of one sender on one lane.
#[derive(Debug, Default)]
struct Flow {
    sent: u64,
    received: Ranges,
    /// Frames of which it is known, and fine, that they do not come.
    excused: Ranges,
    last: Option<u64>,
    again: Examples,
    out_of_order: Examples,
    never_sent: Examples,
    uncertain: u64,
}

/// How many there were, and the first few.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Examples {
    count: u64,
    first: Vec<u64>,
}

impl Examples {
    fn add(&mut self, number: u64) {
        self.count += 1;
        if self.first.len() < EXAMPLES {
            self.first.push(number);
        }
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The numbers of the first few.
    #[must_use]
    pub fn first(&self) -> &[u64] {
        &self.first
    }
}

impl fmt::Display for Examples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first: Vec<String> = self.first.iter().map(u64::to_string).collect();
        f.write_str(&first.join(", "))?;
        if self.count > self.first.len() as u64 { f.write_str(", …") } else { Ok(()) }
    }
}

/// Numbers the frames of one sender.
#[derive(Debug, Clone)]
pub struct LedgerSender {
    ledger: Ledger,
    sender: u32,
}

impl Ledger {
    /// Without a frame in it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A sender by this name; the same one for the same name.
    #[must_use]
    pub fn sender(&self, name: &str) -> LedgerSender {
        let mut inner = lock(&self.inner);
        let known = inner.senders.iter().position(|known| known == name);
        let index = known.unwrap_or_else(|| {
            inner.senders.push(name.to_owned());
            inner.senders.len() - 1
        });
        // More senders than that do not fit into memory.
        let sender = u32::try_from(index).unwrap_or(u32::MAX);
        drop(inner);
        LedgerSender { ledger: self.clone(), sender }
    }

    /// A frame came.
    ///
    /// # Errors
    ///
    /// [`StampError`] if it is damaged, or was never numbered; that is in the report as well.
    pub fn receive(&self, frame: &[u8]) -> Result<Stamp, StampError> {
        let read = Stamp::read(frame);
        let mut inner = lock(&self.inner);
        match read {
            Ok(stamp) => inner.flow(stamp).receive(stamp.number),
            Err(error) => {
                inner.damaged += 1;
                inner.last_damage = Some(error);
            }
        }
        read
    }

    /// This frame does not have to come: it came back to its sender, or its connection broke and nobody
    /// sends it again. It may come nevertheless.
    pub fn excuse(&self, stamp: Stamp) {
        lock(&self.inner).flow(stamp).excused.insert(stamp.number);
    }

    /// What was sent of `stamp`'s sender and lane in another process: all numbers up to and with this one.
    pub fn sent_elsewhere(&self, stamp: Stamp) {
        let mut inner = lock(&self.inner);
        let flow = inner.flow(stamp);
        flow.sent = flow.sent.max(stamp.number.saturating_add(1));
    }

    /// How many frames came, without those that came again.
    #[must_use]
    pub fn received(&self) -> u64 {
        lock(&self.inner).flows.values().map(|flow| flow.received.count()).sum()
    }

    /// What became of all frames up to here.
    #[must_use]
    pub fn report(&self) -> LedgerReport {
        let inner = lock(&self.inner);
        let flows = inner.flows.iter().map(|((sender, lane), flow)| {
            let name = inner.senders.get(*sender as usize).cloned();
            let name = name.unwrap_or_else(|| format!("unknown sender {sender}"));
            flow.report(name, Lane::ALL[*lane])
        });
        LedgerReport {
            flows: flows.collect(),
            damaged: inner.damaged,
            last_damage: inner.last_damage,
        }
    }
}

impl LedgerSender {
    /// The next frame on `lane`, with `bytes` bytes, at least [`STAMP_BYTES`](super::STAMP_BYTES).
    #[must_use]
    pub fn frame(&self, lane: Lane, bytes: usize) -> Bytes {
        self.stamp(lane).frame(bytes)
    }

    /// The number of the next frame on `lane`, which counts as sent.
    #[must_use]
    pub fn stamp(&self, lane: Lane) -> Stamp {
        let mut inner = lock(&self.ledger.inner);
        let flow = inner.flow(Stamp::new(self.sender, lane, 0));
        let number = flow.sent;
        flow.sent += 1;
        Stamp::new(self.sender, lane, number)
    }
}

impl Inner {
    fn flow(&mut self, stamp: Stamp) -> &mut Flow {
        self.flows.entry((stamp.sender, lane_index(stamp.lane))).or_default()
    }
}

impl Flow {
    fn receive(&mut self, number: u64) {
        if number >= self.sent {
            self.never_sent.add(number);
        }
        match self.received.insert(number) {
            Inserted::Again => return self.again.add(number),
            Inserted::Forgotten => self.uncertain += 1,
            Inserted::Fresh => {}
        }
        if self.last.is_some_and(|last| number < last) {
            self.out_of_order.add(number);
        }
        self.last = self.last.max(Some(number));
    }

    fn report(&self, sender: String, lane: Lane) -> FlowReport {
        FlowReport {
            sender,
            lane,
            sent: self.sent,
            received: self.received.count(),
            lost: self.received.missing_below(self.sent, &self.excused),
            again: self.again.clone(),
            out_of_order: self.out_of_order.clone(),
            never_sent: self.never_sent.clone(),
            uncertain: self.uncertain,
            forgotten_below: self.received.forgotten_below().max(self.excused.forgotten_below()),
        }
    }
}

/// What became of all frames; its text names what is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LedgerReport {
    /// For each sender and lane with a frame.
    pub flows: Vec<FlowReport>,
    /// Frames that came damaged, or were never numbered.
    pub damaged: u64,
    /// What was wrong with the last one of them.
    pub last_damage: Option<StampError>,
}

/// What became of the frames of one sender on one lane.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FlowReport {
    /// Its name.
    pub sender: String,
    /// The lane.
    pub lane: Lane,
    /// Frames that were numbered.
    pub sent: u64,
    /// Frames that came, each counted once.
    pub received: u64,
    /// Numbers that did not come, without those that were excused.
    pub lost: Ranges,
    /// Frames that came although they had come.
    pub again: Examples,
    /// Frames that came behind a later one.
    pub out_of_order: Examples,
    /// Frames with a number that nobody gave.
    pub never_sent: Examples,
    /// Frames that came so late, behind so many gaps, that nobody knows whether they had come.
    pub uncertain: u64,
    /// Below this number not all that was lost is known; 0 unless thousands of gaps were there.
    pub forgotten_below: u64,
}

impl FlowReport {
    /// Whether everything came, once and in order.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let wrong = [&self.again, &self.out_of_order, &self.never_sent];
        let none = wrong.iter().all(|examples| examples.count() == 0);
        none && self.lost.is_empty() && self.uncertain == 0 && self.forgotten_below == 0
    }
}

impl LedgerReport {
    /// Whether everything came, once, in order and undamaged.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.damaged == 0 && self.flows.iter().all(FlowReport::is_clean)
    }
}

impl fmt::Display for FlowReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lane = format!("{:?}", self.lane).to_lowercase();
        write!(f, "{}, {lane}: {} sent, {} received", self.sender, self.sent, self.received)?;
        if !self.lost.is_empty() {
            write!(f, "; {} lost ({})", self.lost.count(), self.lost)?;
        }
        for (examples, what) in [
            (&self.again, "came again"),
            (&self.out_of_order, "out of order"),
            (&self.never_sent, "never sent"),
        ] {
            if examples.count() > 0 {
                write!(f, "; {} {what} ({examples})", examples.count())?;
            }
        }
        if self.uncertain > 0 {
            write!(f, "; {} too late to tell", self.uncertain)?;
        }
        if self.forgotten_below > 0 {
            write!(f, "; not all is known below {}", self.forgotten_below)?;
        }
        Ok(())
    }
}

/// A line for each sender and lane.
impl fmt::Display for LedgerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for flow in &self.flows {
            writeln!(f, "{flow}")?;
        }
        match self.last_damage {
            Some(error) => writeln!(f, "{} damaged; the last one: {error}", self.damaged),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
