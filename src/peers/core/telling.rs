//! Telling the peer what was taken, over the link that the session has.

use std::sync::{Arc, Weak};

use super::PeerCore;
use crate::peers::link::{Frames, Link};
use crate::peers::teller::{Hears, Word};
use crate::session::flow::PerFlow;
use crate::session::message::{Message, Taken};
use crate::transport::clock;

/// The link, and whose flows are told over it.
struct Told<'a> {
    core: &'a PeerCore,
    link: Arc<Link>,
}

impl Hears for Told<'_> {
    fn gathered(&self) -> (u64, bool) {
        let (mut frames, mut presses) = (0, false);
        for (_, flow) in self.core.flows.all_in() {
            let (gathered, is_much) = flow.gathered();
            frames += gathered;
            presses |= is_much;
        }
        (frames, presses)
    }

    fn tell(&self, word: Word) -> bool {
        let flows = PerFlow::of(|flow| self.core.flows.used_in(flow)?.tell(word));
        self.link.put(&Message::Taken(Taken { flows }))
    }

    fn look_later(&self) {
        if let Some(node) = self.core.node.upgrade() {
            let myself: Weak<dyn Frames> = Weak::<PeerCore>::clone(&self.core.myself);
            node.look_later(myself);
        }
    }
}

impl PeerCore {
    /// Tells the peer what was taken, as far as it is due.
    pub(super) fn tell_taken(&self) {
        let told = || Some(Told { core: self, link: self.link()? });
        if let Err(Told { link, .. }) = self.teller.tell(clock::now(), told) {
            link.stalled();
        }
    }

    /// The peer has what it was told over this link.
    pub(super) fn word_came(&self, over: &Link) {
        if self.link().is_some_and(|link| std::ptr::eq(Arc::as_ptr(&link), over)) {
            self.teller.came();
            self.flows.all_in().for_each(|(_, flow)| flow.word_came());
            self.tell_taken();
        }
    }

    /// It was looked for a while at what gathers.
    pub(super) fn look_at_what_gathers(&self) {
        self.teller.look();
        self.tell_taken();
    }
}
