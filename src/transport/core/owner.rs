//! Who owns the connection: what it is told, and the deadlines it watches.

use std::sync::Arc;
use std::time::Instant;

use super::{ConnectionCore, Deadline, Hook, Notice};

impl ConnectionCore {
    /// Somebody owns the connection, who watches its deadlines.
    pub(super) fn has_owner(&self) -> bool {
        self.hook.get().is_some()
    }

    /// Sets who is told of notices, once. What happened before is told at once.
    pub(crate) fn set_hook(self: &Arc<Self>, hook: Hook) {
        if self.hook.set(hook).is_err() {
            return;
        }
        let happened = [
            (self.has_peer_finished(), Notice::PeerFinished),
            (self.is_end_taken(), Notice::EndTaken),
            (self.look_at(Deadline::Frames).is_some(), Notice::Began(Deadline::Frames)),
            (self.look_at(Deadline::Lanes).is_some(), Notice::Began(Deadline::Lanes)),
            (self.is_complete(), Notice::Complete),
        ];
        for (_, notice) in happened.into_iter().filter(|(happened, _)| *happened) {
            self.notify(notice);
        }
    }

    /// Ends the connection if the deadline was missed; otherwise tells when to look again, if there is
    /// anything to look at.
    pub(crate) fn look_at(self: &Arc<Self>, deadline: Deadline) -> Option<Instant> {
        self.end_if_broken();
        match deadline {
            Deadline::Frames => self.check_frames(),
            Deadline::Lanes => self.check_lanes(),
        }
    }

    pub(super) fn notify(&self, notice: Notice) {
        if let Some(hook) = self.hook.get() {
            hook(notice);
        }
    }
}
