//! A session that ends, or whose peer closes or stops, or whose own node does.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::PeerCore;
use crate::error::CloseCode;
use crate::lock::lock;
use crate::peers::by_message::News;
use crate::peers::error::PeerEnded;
use crate::peers::status::{PeerChange, Step};
use crate::session::effect::EndReason;
use crate::session::flow::{FlowId, FlowState, PerFlow};
use crate::session::flow_out::Fate;
use crate::session::requests::{RequestEnd, RequestId};

impl PeerCore {
    /// The peer stops, and takes no message and no request over behind these numbers. Replies go on.
    pub(in crate::peers) fn cut(&self, last: &PerFlow<u64>) {
        let _ = self.shut_by.set(PeerEnded::ByPeer { code: CloseCode::GOING_AWAY });
        self.flows.cut(last);
        let behind =
            |id: &RequestId| FlowId::new(id.0, false).is_some_and(|flow| id.1 > last[flow]);
        let told: Vec<_> = {
            let mut asking = lock(&self.asking);
            let ids: Vec<_> = asking.waiting.keys().copied().filter(behind).collect();
            let told = ids
                .into_iter()
                .filter_map(|id| {
                    // None of them was taken over.
                    asking.requests.cancel(id, 0)?;
                    asking.waiting.remove(&id)
                })
                .collect();
            asking.count();
            told
        };
        for waiter in told {
            let _ = waiter.send((RequestEnd::NotSent, Bytes::new()));
        }
    }

    /// The peer sends nothing behind these numbers.
    pub(in crate::peers) fn peer_closes(&self, code: CloseCode, finals: PerFlow<u64>) {
        let _ = self.finals.set(finals);
        self.shut(PeerEnded::ByPeer { code });
        self.readable.notify_waiters();
    }

    /// Whether the peer closes and the application took everything.
    pub(in crate::peers) fn is_drained(&self) -> bool {
        let taken = |finals: &PerFlow<u64>| {
            let states = self.flows.states();
            finals.iter().all(|(flow, last)| states[flow].taken >= *last)
        };
        self.finals.get().is_some_and(taken)
    }

    /// It is over, and this is what the peer took in the end, where that is known; what is to be told of it.
    pub(in crate::peers) fn end(
        &self,
        reason: EndReason,
        flows: Option<&PerFlow<FlowState>>,
    ) -> Vec<PeerChange> {
        let mut changes = self.detach();
        let _ = self.shut_by.set(reason.clone().into());
        self.flows.end(flows);
        // Nothing is issued behind the end of the flows.
        let ids: Vec<RequestId> = lock(&self.asking).waiting.keys().copied().collect();
        let fates: HashMap<RequestId, Fate> = ids
            .into_iter()
            .filter_map(|id| {
                let out = self.flows.used_out(FlowId::new(id.0, false)?)?;
                Some((id, out.fate_now(id.1)?))
            })
            .collect();
        let told: Vec<_> = {
            let mut asking = lock(&self.asking);
            let fate = |id| fates.get(&id).copied().unwrap_or(Fate::MaybeSent);
            let ended = asking.requests.end(fate);
            asking.count();
            let tell = |(id, end)| Some((asking.waiting.remove(&id)?, end));
            ended.into_iter().filter_map(tell).collect()
        };
        for (waiter, end) in told {
            let _ = waiter.send((end, Bytes::new()));
        }
        let cancels: Vec<_> = {
            let mut handling = lock(&self.handling);
            let told = handling.requests.end();
            handling.count();
            told.into_iter().filter_map(|id| handling.cancels.remove(&id)).collect()
        };
        cancels.iter().for_each(|cancel| cancel.tell());
        changes.extend(self.step(Step::Ended(reason.clone())));
        let _ = self.ended.set(reason);
        self.set_up(false);
        self.readable.notify_waiters();
        self.places.notify_one();
        self.invite(News::Came);
        changes
    }

    /// Why nothing is accepted.
    pub(in crate::peers) fn why_shut(&self) -> PeerEnded {
        match self.ended.get() {
            Some(reason) => reason.clone().into(),
            // A flow is shut behind the reason for it, or at the end by nobody but this side.
            None => self.shut_by.get().cloned().unwrap_or(PeerEnded::GivenUp),
        }
    }

    /// This node stops: no message and no request is taken over from here on. Replies are.
    pub(in crate::peers) fn freeze(&self) {
        self.flows.freeze();
    }

    /// Waits until nothing is in flight: what was accepted was taken by the peer's application, what came
    /// by this one's, and every request either way has met its end; or until it is over.
    pub(in crate::peers) async fn rest(&self) {
        self.leaving.store(true, Ordering::Release);
        loop {
            let rested = self.rested.notified();
            tokio::pin!(rested);
            rested.as_mut().enable();
            if self.ended.get().is_some() || self.is_at_rest() {
                return;
            }
            rested.await;
        }
    }

    /// Something that was in flight may be no more.
    pub(in crate::peers) fn look_at_rest(&self) {
        if self.leaving.load(Ordering::Acquire) && self.is_at_rest() {
            self.rested.notify_waiters();
        }
    }

    /// Until what is returned is dropped, a reply is in flight whose handler has let go of the request.
    pub(in crate::peers) fn answering(&self) -> Answering<'_> {
        self.answering.fetch_add(1, Ordering::AcqRel);
        Answering(self)
    }

    fn is_at_rest(&self) -> bool {
        if self.answering.load(Ordering::Acquire) > 0 {
            return false;
        }
        let out = self.flows.all_out().all(|(_, out)| {
            let outcomes = out.outcomes();
            outcomes.accepted == outcomes.delivered + outcomes.not_sent + outcomes.maybe_sent
        });
        let asking = lock(&self.asking);
        let is_asking = asking.requests.in_flight() + asking.begun > 0;
        drop(asking);
        let is_handling = lock(&self.handling).requests.in_flight() > 0;
        out && !is_asking && !is_handling && !self.has_something()
    }
}

/// See [`PeerCore::answering`].
pub(in crate::peers) struct Answering<'a>(&'a PeerCore);

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.0.answering.fetch_sub(1, Ordering::AcqRel);
        self.0.look_at_rest();
    }
}
