//! What tells the peer what was taken: when, by [`Telling`], over the link that the session has.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::PeerCore;
use crate::lock::lock;
use crate::peers::in_flow::InFlow;
use crate::peers::link::{Frames, Link};
use crate::session::flow::PerFlow;
use crate::session::message::{Message, Taken};
use crate::session::telling::{Say, Telling};
use crate::transport::clock;

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

impl Default for Teller {
    fn default() -> Self {
        let not_yet = || AtomicBool::new(false);
        // Without a link nothing can be told.
        let waits = AtomicBool::new(true);
        Self { telling: Mutex::default(), waits, later: not_yet(), spoke: not_yet() }
    }
}

impl Teller {
    /// Whether small things wait; changed under its lock alone.
    pub(super) fn waits(&self) -> &AtomicBool {
        &self.waits
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
}

impl PeerCore {
    /// Tells the peer what was taken, as far as it is due.
    pub(super) fn tell_taken(&self) {
        let stalled = {
            // Counters must not overtake each other on their way.
            let telling = &mut *lock(&self.teller.telling);
            let Some(link) = self.link() else { return };
            self.tell_over(&link, telling).then_some(link)
        };
        if let Some(link) = stalled {
            link.stalled();
        }
    }

    /// The peer has what it was told over this link.
    pub(super) fn word_came(&self, over: &Link) {
        if self.link().is_some_and(|link| std::ptr::eq(Arc::as_ptr(&link), over)) {
            lock(&self.teller.telling).came();
            self.incoming.iter().for_each(InFlow::word_came);
            self.tell_taken();
        }
    }

    /// Whether the link stalls by that.
    fn tell_over(&self, link: &Link, telling: &mut Telling) -> bool {
        // Before the look: whoever takes something behind it comes here.
        self.teller.waits.store(false, Ordering::Relaxed);
        let (mut frames, mut presses) = (0, false);
        for flow in &self.incoming {
            let (gathered, is_much) = flow.gathered();
            frames += gathered;
            presses |= is_much;
        }
        let spoke = self.teller.spoke.load(Ordering::Relaxed);
        let say = telling.look(clock::now(), frames, spoke);
        let mut stalls = false;
        if say == Say::Now || presses {
            let (waits, on_its_way) = (say != Say::Now, telling.is_on_its_way());
            let flows = PerFlow::of(|flow| self.flow_in(flow).tell(waits, on_its_way));
            self.teller.spoke.store(false, Ordering::Relaxed);
            telling.told(frames, spoke);
            stalls = !link.put(&Message::Taken(Taken { flows }));
        } else if say == Say::Later
            && !self.teller.later.swap(true, Ordering::AcqRel)
            && let Some(node) = self.node.upgrade()
        {
            let myself: Weak<dyn Frames> = Weak::<Self>::clone(&self.myself);
            node.look_later(myself);
        }
        self.teller.waits.store(telling.is_on_its_way() || say == Say::Later, Ordering::Relaxed);
        stalls
    }

    /// It was looked for a while at what gathers.
    pub(super) fn look_at_what_gathers(&self) {
        self.teller.later.store(false, Ordering::Release);
        self.tell_taken();
    }
}
