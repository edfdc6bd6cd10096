//! The end of a flow: what was not sent is handed back.

use bytes::Bytes;

use super::{OutFlow, wake};
use crate::lock::lock;
use crate::peers::kept::Kept;
use crate::session::flow::FlowState;
use crate::session::flow_out::{Entry, Fate, FlowViolation};

impl OutFlow {
    /// The peer takes nothing over behind `last`, and nothing more is accepted.
    pub(in crate::peers) fn cut(&self, last: u64) -> Result<(), FlowViolation> {
        self.shut();
        let mut unsent = Vec::new();
        let mut state = lock(&self.state);
        let result = state.ledger.cut(last, |_, kept| unsent.push(kept));
        let granted = state.release(&unsent);
        drop(state);
        wake(granted);
        self.keep_unsent(unsent, None);
        result
    }

    /// The session is over, and this is what the peer took in the end, where that is known.
    pub(in crate::peers) fn end(&self, known: Option<FlowState>) {
        self.shut();
        let mut left = Vec::new();
        let mut state = lock(&self.state);
        let mut granted = state.detach();
        state.ledger.end(known, |first, kept| left.push((first, kept)));
        // Nothing is kept from here on, although somebody may hold a handle for long.
        let cost = left.iter().map(|(_, kept)| kept.cost).sum();
        granted.extend(state.room.free(cost, true));
        let carried = std::mem::take(&mut state.carried);
        state.keeping.carry(carried, 0);
        // Those of an entry that the peer may have had a part of are told apart by their numbers.
        let mut unsent = Vec::new();
        for (first, kept) in left {
            let fates: Vec<_> =
                (first..first + kept.frames()).map(|n| state.ledger.fate(n)).collect();
            unsent.push((kept, Some(fates)));
        }
        drop(state);
        wake(granted);
        for (kept, fates) in unsent {
            self.keep_unsent(vec![kept], fates);
        }
        self.progress.notify_waiters();
    }

    /// What was not sent, once: to be sent elsewhere.
    pub(in crate::peers) fn take_unsent(&self) -> Vec<Bytes> {
        std::mem::take(&mut lock(&self.state).unsent)
    }

    /// Nobody took these after all.
    pub(in crate::peers) fn put_back_unsent(&self, mut frames: Vec<Bytes>) {
        let mut state = lock(&self.state);
        frames.append(&mut state.unsent);
        state.unsent = frames;
    }

    fn keep_unsent(&self, kept: Vec<Kept>, fates: Option<Vec<Option<Fate>>>) {
        let payloads = kept.into_iter().flat_map(Kept::into_payloads).enumerate();
        let is_unsent = |at: usize| match &fates {
            None => true,
            Some(fates) => fates.get(at).is_some_and(|fate| *fate == Some(Fate::NotSent)),
        };
        let unsent: Vec<_> = payloads.filter(|(at, _)| is_unsent(*at)).map(|(_, it)| it).collect();
        if !unsent.is_empty() {
            lock(&self.state).unsent.extend(unsent);
        }
        self.progress.notify_waiters();
    }
}
