//! Who tells the peer what was taken: whoever took it where that is due, else whoever comes later.
//!
//! When that is says [`Telling`]. Here is that nobody is missed: what was taken and is not told is looked
//! at when the word on its way has come, or in a while.

use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::lock::lock;
use crate::session::telling::{Say, Telling};
use crate::sync::{AtomicBool, Mutex};
use crate::transport::fault::{Fault, planted};

/// See the module.
pub(super) struct Teller {
    telling: Mutex<Telling>,
    /// Small things wait to be told: whoever takes some more need not look at that.
    waits: AtomicBool,
    /// It is looked in a while at what gathers.
    later: AtomicBool,
    /// Something was sent since the peer was told.
    spoke: AtomicBool,
}

/// A connection of the session, and the flows in whose frames were taken.
pub(super) trait Hears {
    /// Frames that were taken of which the peer was not told, and whether those of one flow press.
    fn gathered(&self) -> (u64, bool);

    /// Tells the peer, all or what presses; whether that goes on its way.
    fn tell(&self, word: Word) -> bool;

    /// Looks in a while: [`Teller::look`].
    fn look_later(&self);
}

/// What the peer is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word {
    /// Of flows that press alone.
    pub(super) waits: bool,
    /// The word before is on its way.
    pub(super) on_its_way: bool,
    /// The word before is not long ago.
    pub(super) often: bool,
}

impl Default for Teller {
    fn default() -> Self {
        let not_yet = || AtomicBool::new(false);
        // Without a link nothing can be told.
        let waits = AtomicBool::new(true);
        Self { telling: Mutex::new(Telling::default()), waits, later: not_yet(), spoke: not_yet() }
    }
}

impl Teller {
    /// Whether small things wait. To be read under the lock under which something is taken: who says behind
    /// that reading that nothing waits finds it.
    pub(super) fn waits(&self) -> bool {
        self.waits.load(Ordering::Relaxed)
    }

    /// Something was sent.
    pub(super) fn spoke(&self) {
        // Read before it is written: it is each frame that comes here.
        if !self.spoke.load(Ordering::Relaxed) {
            self.spoke.store(true, Ordering::Relaxed);
        }
    }

    /// There is a link, over which nothing was told.
    pub(super) fn attached(&self) {
        lock(&self.telling).attached();
    }

    /// There is no link. Whoever tells has done with it then, or finds none.
    pub(super) fn detached(&self) {
        let _telling = lock(&self.telling);
        self.waits.store(true, Ordering::Relaxed);
    }

    /// Tells the peer what was taken, as far as it is due, over what `link` finds; that comes back if the word
    /// does not go on its way.
    pub(super) fn tell<L: Hears>(
        &self,
        now: Instant,
        link: impl FnOnce() -> Option<L>,
    ) -> Result<(), L> {
        // Held over the telling: counters must not overtake each other on their way.
        let telling = &mut *lock(&self.telling);
        let Some(link) = link() else { return Ok(()) };
        // Before the look: whoever takes something behind it comes here.
        let rests_late = planted(Fault::TellerLooksBeforeItRests);
        if !rests_late {
            self.waits.store(false, Ordering::Relaxed);
        }
        let (frames, presses) = link.gathered();
        if rests_late {
            self.waits.store(false, Ordering::Relaxed);
        }
        let spoke = self.spoke.load(Ordering::Relaxed);
        let say = telling.look(now, frames, spoke);
        let mut goes = true;
        if say == Say::Now || presses {
            let (on_its_way, often) = (telling.is_on_its_way(), telling.is_often(now));
            self.spoke.store(false, Ordering::Relaxed);
            goes = link.tell(Word { waits: say != Say::Now, on_its_way, often });
            telling.told(now, frames, spoke);
        } else if say == Say::Later && !self.later.swap(true, Ordering::AcqRel) {
            link.look_later();
        }
        self.waits.store(telling.is_on_its_way() || say == Say::Later, Ordering::Relaxed);
        if goes { Ok(()) } else { Err(link) }
    }

    /// The word is there: [`tell`](Self::tell) follows.
    pub(super) fn came(&self) {
        lock(&self.telling).came();
    }

    /// It was looked for a while at what gathers: [`tell`](Self::tell) follows.
    pub(super) fn look(&self) {
        self.later.store(false, Ordering::Release);
    }
}
