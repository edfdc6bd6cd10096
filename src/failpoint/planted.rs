//! What is planted in this process, and what comes of it.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use super::Failpoint;
use crate::identity::CertHash;
use crate::lock::lock;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// Whoever gets there panics.
    Panic(Failpoint),
    /// Whoever gets there goes on after that time: an actor lets others run meanwhile, a callback keeps its
    /// thread of MsQuic, and all connections on it.
    Stall(Failpoint, Duration),
    /// MsQuic takes nothing over that is to be sent on a stream (StreamSend).
    SendFails,
    /// MsQuic has no memory left for another handle: what dials, listens or begins a stream is told so (ConnectionOpen,
    /// ListenerOpen, StreamOpen).
    NoMemory,
    /// The last event of a connection (SHUTDOWN_COMPLETE) comes so much later, that of others does not.
    LateComplete(Duration),
}

impl Failure {
    /// Each time and in every node, until it is told otherwise.
    #[must_use]
    pub const fn plan(self) -> Plan {
        Plan { failure: self, node: None, skip: 0, times: u64::MAX }
    }

    /// Plants it in every node of the process, for as long as that lives.
    #[must_use = "it is planted for as long as this lives"]
    pub fn plant(self) -> Planted {
        self.plan().plant()
    }
}

/// A [`Failure`], and when and where it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    failure: Failure,
    node: Option<CertHash>,
    skip: u64,
    times: u64,
}

impl Plan {
    /// In the node of this identity alone.
    #[must_use]
    pub const fn at(mut self, node: CertHash) -> Self {
        self.node = Some(node);
        self
    }

    /// Not the first `count` times that somebody gets there.
    #[must_use]
    pub const fn skip(mut self, count: u64) -> Self {
        self.skip = count;
        self
    }

    /// So often, and not again.
    #[must_use]
    pub const fn times(mut self, count: u64) -> Self {
        self.times = count;
        self
    }

    /// Plants it for as long as that lives.
    #[must_use = "it is planted for as long as this lives"]
    pub fn plant(self) -> Planted {
        let entry = Arc::new(Entry {
            plan: self,
            reached: AtomicU64::new(0),
            struck: watch::Sender::new(0),
        });
        let mut all = lock(&PLANTED);
        all.push(Arc::clone(&entry));
        COUNT.store(all.len(), Ordering::Release);
        Planted(entry)
    }
}

/// A failure that is planted; dropped, it is not there any more.
#[derive(Debug)]
pub struct Planted(Arc<Entry>);

impl Planted {
    /// How often it came.
    #[must_use]
    pub fn struck(&self) -> u64 {
        *self.0.struck.borrow()
    }

    /// Waits until it came so often. A test that wants a failure should, lest it pass because nothing
    /// happened.
    ///
    /// # Cancel safety
    ///
    /// Cancelled, nothing is lost.
    pub async fn strikes(&self, times: u64) {
        let mut struck = self.0.struck.subscribe();
        // Its sender lives as long as this.
        let _ = struck.wait_for(|struck| *struck >= times).await;
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        let mut all = lock(&PLANTED);
        all.retain(|entry| !Arc::ptr_eq(entry, &self.0));
        COUNT.store(all.len(), Ordering::Release);
    }
}

#[derive(Debug)]
struct Entry {
    plan: Plan,
    /// How often somebody got there.
    reached: AtomicU64,
    struck: watch::Sender<u64>,
}

impl Entry {
    /// Whether it comes this time.
    fn comes(&self, node: CertHash) -> bool {
        if self.plan.node.is_some_and(|of| of != node) {
            return false;
        }
        let before = self.reached.fetch_add(1, Ordering::Relaxed);
        let comes = before >= self.plan.skip && before - self.plan.skip < self.plan.times;
        if comes {
            self.struck.send_modify(|struck| *struck += 1);
        }
        comes
    }
}

static PLANTED: Mutex<Vec<Arc<Entry>>> = Mutex::new(Vec::new());

/// How many are planted: usually none, which is all that anybody looks at then.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// The first failure that is planted, is wanted, and comes this time.
fn strike(node: impl FnOnce() -> CertHash, wanted: impl Fn(Failure) -> bool) -> Option<Failure> {
    if COUNT.load(Ordering::Acquire) == 0 {
        return None;
    }
    let node = node();
    let all = lock(&PLANTED).clone();
    let comes = |entry: &&Arc<Entry>| wanted(entry.plan.failure) && entry.comes(node);
    all.iter().find(comes).map(|entry| entry.plan.failure)
}

fn strike_at(point: Failpoint, node: impl FnOnce() -> CertHash) -> Option<Failure> {
    let is_here =
        |failure| matches!(failure, Failure::Panic(at) | Failure::Stall(at, _) if at == point);
    strike(node, is_here)
}

fn panics(point: Failpoint) -> ! {
    panic!("planted at {point}")
}

/// An actor is at `point`: panics, or waits, as planted.
pub(crate) async fn in_actor(point: Failpoint, node: impl FnOnce() -> CertHash) {
    match strike_at(point, node) {
        Some(Failure::Panic(_)) => panics(point),
        Some(Failure::Stall(_, time)) => tokio::time::sleep(time).await,
        Some(Failure::SendFails | Failure::NoMemory | Failure::LateComplete(_)) | None => {}
    }
}

/// A callback of MsQuic is at `point`: panics, or keeps MsQuic's thread, as planted.
pub(crate) fn in_callback(point: Failpoint, node: impl FnOnce() -> CertHash) {
    match strike_at(point, node) {
        Some(Failure::Panic(_)) => panics(point),
        Some(Failure::Stall(_, time)) => std::thread::sleep(time),
        Some(Failure::SendFails | Failure::NoMemory | Failure::LateComplete(_)) | None => {}
    }
}

/// Whether a StreamSend is not to be tried.
pub(crate) fn send_fails(node: impl FnOnce() -> CertHash) -> bool {
    strike(node, |failure| failure == Failure::SendFails).is_some()
}

/// Whether no handle is to be had.
pub(crate) fn no_memory(node: impl FnOnce() -> CertHash) -> bool {
    strike(node, |failure| failure == Failure::NoMemory).is_some()
}

/// How much later a SHUTDOWN_COMPLETE of a connection is to be told.
pub(crate) fn complete_is_late(node: impl FnOnce() -> CertHash) -> Option<Duration> {
    match strike(node, |failure| matches!(failure, Failure::LateComplete(_))) {
        Some(Failure::LateComplete(time)) => Some(time),
        _ => None,
    }
}

impl fmt::Display for Failpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no failpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no failpoint {0:?}")]
pub struct UnknownFailpoint(String);

impl FromStr for Failpoint {
    type Err = UnknownFailpoint;

    fn from_str(text: &str) -> Result<Self, UnknownFailpoint> {
        let named = Self::ALL.iter().find(|point| point.name() == text);
        named.copied().ok_or_else(|| UnknownFailpoint(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: CertHash = CertHash::from_bytes([101; 32]);
    const THERE: CertHash = CertHash::from_bytes([102; 32]);

    #[test]
    fn a_name_that_is_unknown_is_an_error() {
        for point in Failpoint::ALL {
            assert_eq!(point.to_string().parse(), Ok(*point));
        }
        let error = "connection.handel".parse::<Failpoint>().expect_err("there is none");
        assert_eq!(error.to_string(), "there is no failpoint \"connection.handel\"");
    }

    #[test]
    fn a_failure_comes_where_and_as_often_as_planned_and_not_any_more() {
        let planted = Failure::SendFails.plan().at(HERE).skip(2).times(2).plant();
        let comes = |node| (0..6).map(|_| send_fails(|| node)).collect::<Vec<_>>();
        assert_eq!(comes(THERE), [false; 6]);
        assert_eq!(comes(HERE), [false, false, true, true, false, false]);
        assert_eq!(planted.struck(), 2);
        let again = Failure::SendFails.plan().at(HERE).plant();
        assert_eq!(comes(HERE), [true; 6]);
        drop(again);
        assert_eq!(comes(HERE), [false; 6]);
    }

    #[test]
    fn a_point_that_is_not_named_is_passed() {
        let _planted = Failure::Panic(Failpoint::StreamCallbackSent).plan().at(HERE).plant();
        in_callback(Failpoint::StreamCallbackReceive, || HERE);
        let there = std::panic::catch_unwind(|| {
            in_callback(Failpoint::StreamCallbackSent, || HERE);
        });
        assert!(there.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_actor_that_stalls_goes_on_after_that_time() {
        let time = Duration::from_secs(3);
        let planted = Failure::Stall(Failpoint::PeerHandle, time).plan().at(HERE).plant();
        let before = tokio::time::Instant::now();
        in_actor(Failpoint::PeerHandle, || HERE).await;
        planted.strikes(1).await;
        assert!(before.elapsed() >= time);
    }
}
