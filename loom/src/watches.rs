//! Lanes that are watched while anything is on its way: nothing is on its way unwatched.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use loom::thread;

use super::lane::SendLane;
use super::link::watch::Watch;
use super::rooms::{hand_over, lane, send, submit};
use crate::played::AtomicBool;
use crate::polling::play;

/// A lane, its watch, and what its owner knows.
struct Watched {
    lane: Arc<SendLane<u8>>,
    watch: Watch,
    /// There is an owner to tell.
    owned: AtomicBool,
    /// The owner was told and has not looked since.
    told: AtomicBool,
    /// The owner looks again after some time.
    timer: AtomicBool,
}

impl Watched {
    fn new(owned: bool) -> Arc<Self> {
        Arc::new(Self {
            lane: lane(1024),
            watch: Watch::default(),
            owned: AtomicBool::new(owned),
            told: AtomicBool::new(false),
            timer: AtomicBool::new(false),
        })
    }

    fn is_busy(&self) -> bool {
        self.lane.progress().busy
    }

    fn has_submitted(&self) {
        if self.owned.load(Ordering::Acquire) && self.watch.begin() {
            self.told.store(true, Ordering::Release);
        }
    }

    /// The owner looks, as when it is told or its time has come.
    fn look(&self) {
        self.told.swap(false, Ordering::AcqRel);
        let again = self.watch.look(|| self.is_busy());
        self.timer.store(again, Ordering::Relaxed);
    }

    fn expect_watched(&self) {
        let watched = self.told.load(Ordering::Acquire) || self.timer.load(Ordering::Acquire);
        assert!(watched || !self.is_busy(), "a lane is busy and nobody looks");
    }
}

/// One completes, one submits, and the owner looks.
pub fn what_is_on_its_way_is_watched() {
    play(|| {
        let it = Watched::new(true);
        let first = submit(&it.lane, 100);
        it.has_submitted();
        let (completing, submitting) = (Arc::clone(&it), Arc::clone(&it));
        let completes = thread::spawn(move || {
            let next = completing.lane.completed(first, true, false);
            hand_over(&completing.lane, next, |_| completing.has_submitted());
        });
        let submits = thread::spawn(move || {
            send(&submitting.lane, 100, |_| submitting.has_submitted());
        });
        it.look();
        completes.join().unwrap();
        submits.join().unwrap();
        it.expect_watched();
    });
}

/// The owner comes while something is handed over.
pub fn an_owner_that_comes_learns_what_is_on_its_way() {
    play(|| {
        let it = Watched::new(false);
        let submitting = Arc::clone(&it);
        let submits = thread::spawn(move || {
            send(&submitting.lane, 100, |_| submitting.has_submitted());
        });
        it.owned.store(true, Ordering::Release);
        it.look();
        submits.join().unwrap();
        it.expect_watched();
    });
}
