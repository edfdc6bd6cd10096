//! What tells the other side what was taken, in the steps of the shell: between any two of them others may do
//! something.

use std::time::Instant;

use super::data::{Data, GRANT};
use crate::session::flow::PerFlow;
use crate::session::message::Taken;
use crate::session::telling::{LOOK, Say, Telling};

/// The most that a flow grants to a peer that could go faster.
const GRANT_MAX: u64 = 4 * GRANT;

#[derive(Debug)]
pub(super) struct Teller {
    telling: Telling,
    /// Small things wait to be told: whoever takes some more need not look at that.
    waits: bool,
    /// Somebody is about to look at what is due.
    is_called: bool,
    /// Then it is looked at what gathers.
    look_at: Option<Instant>,
    /// Something was sent since the peer was told.
    spoke: bool,
}

impl Default for Teller {
    fn default() -> Self {
        // Without a link nothing can be told.
        let (telling, waits) = (Telling::default(), true);
        Self { telling, waits, is_called: false, look_at: None, spoke: false }
    }
}

impl Teller {
    pub(super) fn waits(&self) -> bool {
        self.waits
    }

    pub(super) fn is_called(&self) -> bool {
        self.is_called
    }

    pub(super) fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// Something is due.
    pub(super) fn call(&mut self) {
        self.is_called = true;
    }

    pub(super) fn spoke(&mut self) {
        self.spoke = true;
    }

    pub(super) fn attached(&mut self) {
        self.telling.attached();
        self.call();
    }

    pub(super) fn detached(&mut self) {
        self.waits = true;
    }

    /// It was looked for a while at what gathers.
    pub(super) fn looked(&mut self) {
        self.look_at = None;
        self.call();
    }
}

impl Data {
    /// What the peer is told now, as far as it is due.
    pub(super) fn tell(&mut self, now: Instant) -> Option<Taken> {
        let teller = &mut self.teller;
        teller.is_called = false;
        self.attached?;
        let frames = self.inn.iter().map(|(_, flow)| flow.gathered()).sum();
        let presses = self.inn.iter().any(|(_, flow)| flow.presses());
        let say = teller.telling.look(now, frames, teller.spoke);
        let (waits, on_its_way) = (say != Say::Now, teller.telling.is_on_its_way());
        let often = teller.telling.is_often(now);
        let tells = !waits || presses;
        if tells {
            let spoke = std::mem::take(&mut teller.spoke);
            teller.telling.told(now, frames, spoke);
        } else if say == Say::Later {
            teller.look_at.get_or_insert(now + LOOK);
        }
        teller.waits = teller.telling.is_on_its_way() || say == Say::Later;
        let flows = PerFlow::of(|flow| {
            let flow = &mut self.inn[flow];
            if !tells || !flow.is_due(waits) {
                return None;
            }
            if flow.is_used_up(on_its_way) || often && flow.presses() {
                flow.grant((2 * flow.state().credit).min(GRANT_MAX));
            }
            Some(flow.tell(on_its_way))
        });
        tells.then_some(Taken { flows })
    }

    /// The peer has a word that it was told over the present link.
    pub(super) fn word_came(&mut self) {
        self.teller.telling.came();
        self.inn.0.iter_mut().for_each(|flow| flow.word_came());
        self.teller.call();
    }

    /// Frames of which the peer would never be told, unless more come.
    pub(super) fn is_forgotten(&self) -> bool {
        let Teller { telling, is_called, look_at, .. } = &self.teller;
        let is_seen_to = *is_called || look_at.is_some() || telling.is_on_its_way();
        self.attached.is_some()
            && !is_seen_to
            && self.inn.iter().any(|(_, flow)| flow.gathered() > 0)
    }
}
