//! Who watches a deadline: told once that there is something to watch, and again only after a look that
//! found nothing.
//!
//! Invariant: while there is something to watch, somebody has a timer for it or is about to be told.

use std::sync::atomic::Ordering;

use crate::sync::AtomicBool;
use crate::transport::fault::{Fault, planted};

use crate::marks::mark;

/// What has a deadline on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deadline {
    /// A frame that is not whole.
    Frames,
    /// Lanes with something on their way.
    Lanes,
}

impl Deadline {
    pub(crate) const ALL: [Self; 2] = [Self::Frames, Self::Lanes];
}

/// Whether somebody has a timer for one deadline.
#[derive(Debug, Default)]
pub(in crate::transport) struct Watch {
    armed: AtomicBool,
}

impl Watch {
    /// Something began: whether who watches is to be told, because there is no timer yet.
    pub(in crate::transport) fn begin(&self) -> bool {
        !self.armed.load(Ordering::Relaxed) && !self.armed.swap(true, Ordering::AcqRel)
    }

    /// Who watches looks: whether there is anything, so that it is to look again. If not, what begins
    /// next is told anew.
    pub(in crate::transport) fn look(&self, anything: impl Fn() -> bool) -> bool {
        if anything() {
            self.armed.store(true, Ordering::Release);
            return true;
        }
        self.armed.store(false, Ordering::Release);
        // What began before that was told to nobody.
        let began = !planted(Fault::WatchRestsWithoutALook) && anything();
        if began {
            mark!("something begins during a look that found nothing");
            self.armed.store(true, Ordering::Release);
        }
        began
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::marks::covers;

    #[test]
    fn a_beginning_is_told_once_until_a_look_finds_nothing() {
        let watch = Watch::default();
        assert!(watch.begin());
        assert!(!watch.begin(), "somebody has a timer");
        assert!(watch.look(|| true));
        assert!(!watch.begin());
        assert!(!watch.look(|| false));
        assert!(watch.begin());
    }

    #[test]
    fn what_begins_during_a_look_that_finds_nothing_is_seen_by_it_or_told() {
        covers!("something begins during a look that found nothing");
        let watch = Watch::default();
        assert!(watch.begin());
        let looks = Cell::new(0);
        let began = watch.look(|| {
            // Between the two something begins, and is not told: there was a timer.
            looks.set(looks.get() + 1);
            looks.get() == 2
        });
        assert!(began, "who looks goes on");
        assert!(!watch.begin());
    }
}
