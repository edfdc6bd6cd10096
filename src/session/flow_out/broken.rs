//! What a flow does wrong where a fault is planted in it, when it goes on over another connection.

use super::{Entry, FlowOut};
use crate::session::flow::FlowState;
use crate::session::flow_fault::FlowFault;

impl<E: Entry> FlowOut<E> {
    /// What the peer says, or as much of it as leaves something to send again.
    pub(super) fn heard(&self, peer: FlowState) -> FlowState {
        let taken = if self.fault.is(FlowFault::NumberMissing) {
            self.taken.min(peer.taken)
        } else {
            peer.taken
        };
        FlowState { taken, ..peer }
    }

    pub(super) fn break_promise(&mut self, release: &mut impl FnMut(u64, E)) {
        if self.fault.is(FlowFault::FrameDropped) {
            self.drop_unreceived(release);
        }
        if self.fault.is(FlowFault::NumberMissing) {
            self.repeat_received();
        }
    }

    /// Drops the first entry that an earlier connection had and of which the peer has nothing.
    fn drop_unreceived(&mut self, release: &mut impl FnMut(u64, E)) {
        let at = self.slots.partition_point(|slot| slot.first <= self.received);
        let Some(slot) = self.slots.get(at).filter(|slot| slot.last <= self.submitted) else {
            return;
        };
        let frames = slot.entry.frames();
        let Some(slot) = self.slots.remove(at) else { return };
        for later in self.slots.iter_mut().skip(at) {
            later.first -= frames;
            later.last -= frames;
        }
        self.accepted -= frames;
        self.submitted -= frames;
        release(slot.first, slot.entry);
    }

    /// Sends the last entry again of which the peer has something, as one that it expects.
    fn repeat_received(&mut self) {
        let behind = self.slots.partition_point(|slot| slot.first <= self.received);
        let Some(at) = behind.checked_sub(1) else { return };
        let by = self.received + 1 - self.slots[at].first;
        for later in self.slots.iter_mut().skip(at) {
            later.first += by;
            later.last += by;
        }
        self.accepted += by;
        self.submitted += by;
        self.next = at;
    }
}
