//! Requests of one session, both ways.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{Answer, NotAsked, PeerCore, flow_of};
use crate::lock::lock;
use crate::peers::link::Violated;
use crate::peers::out_flow::OutFlow;
use crate::session::flow::FlowId;
use crate::session::frame_head::{FrameHead, ReplyStatus};
use crate::session::handling::Arrived;
use crate::session::message::{Cancel, Message};
use crate::session::requests::{Reply, RequestEnd, RequestId};
use crate::transport::{Lane, Limit, clock};

impl PeerCore {
    /// Issues a request for which room was taken: its answer comes by what is returned.
    pub(in crate::peers) fn ask(
        &self,
        lane: Lane,
        frame: Bytes,
        deadline: Instant,
    ) -> Result<(RequestId, oneshot::Receiver<Answer>), NotAsked> {
        if let Some(in_flight) = self.begin_request() {
            self.out(lane, false).give_back(OutFlow::cost(frame.len()));
            return Err(NotAsked::TooMany(in_flight, frame));
        }
        self.ask_begun(lane, frame, deadline)
    }

    /// As [`ask`](Self::ask), for who has a place already: it is used up.
    pub(in crate::peers) fn ask_begun(
        &self,
        lane: Lane,
        frame: Bytes,
        deadline: Instant,
    ) -> Result<(RequestId, oneshot::Receiver<Answer>), NotAsked> {
        let (tell, told) = oneshot::channel();
        let flow = flow_of(lane, false);
        let left = deadline.saturating_duration_since(clock::now());
        let left_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
        // A flow's lock goes before this one: what is left of requests is looked up under it.
        let register = |number| {
            let mut asking = lock(&self.asking);
            asking.begun -= 1;
            asking.requests.issue((flow.lane(), number), deadline);
            asking.count();
            asking.waiting.insert((flow.lane(), number), tell);
        };
        let head = FrameHead::Request { left_ms };
        let pushed = self.flow_out(flow).push(head, frame, register);
        let (number, may_go) = pushed.map_err(|frame| {
            self.unbegin_request();
            NotAsked::Ended(frame)
        })?;
        self.pushed(flow, may_go);
        Ok(((flow.lane(), number), told))
    }

    /// Waits for a place for a request; no: the session is over. Cancel safe: nothing is awaited behind it.
    #[cfg(feature = "tower")]
    pub(in crate::peers) async fn place(&self) -> Option<()> {
        loop {
            let freed = self.places.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.ended.get().is_some() {
                // For the next one who waits.
                self.places.notify_one();
                return None;
            }
            if self.begin_request().is_none() {
                // There may be more than one.
                self.places.notify_one();
                return Some(());
            }
            freed.await;
        }
    }

    /// Gives a place back that was not used.
    pub(in crate::peers) fn unbegin_request(&self) {
        {
            let mut asking = lock(&self.asking);
            asking.begun -= 1;
            asking.count();
        }
        self.look_at_rest();
        self.places.notify_one();
    }

    /// Takes a place for a request, or tells how many have one.
    pub(super) fn begin_request(&self) -> Option<usize> {
        let mut asking = lock(&self.asking);
        let in_flight = asking.requests.in_flight() + asking.begun;
        if in_flight >= asking.requests.max() {
            drop(asking);
            self.reached(Limit::Requests);
            return Some(in_flight);
        }
        if asking.places.are_all_taken() {
            drop(asking);
            self.reached(Limit::NodeRequests);
            return Some(in_flight);
        }
        asking.begun += 1;
        asking.count();
        None
    }

    /// Nobody waits for the answer any more; how the request ended, if it has not before.
    pub(in crate::peers) fn give_up(&self, id: RequestId) -> Option<RequestEnd> {
        let flow = FlowId::new(id.0, false)?;
        let submitted = self.flow_out(flow).last_submitted();
        let end = {
            let mut asking = lock(&self.asking);
            asking.waiting.remove(&id);
            let end = asking.requests.cancel(id, submitted)?;
            asking.count();
            end
        };
        self.places.notify_one();
        self.look_at_rest();
        if let (true, Some(link)) = (end.may_have_run(), self.link()) {
            link.say(&Message::Cancel(Cancel { lane: id.0, number: id.1 }));
        }
        Some(end)
    }

    /// A reply came, on this flow of replies.
    pub(super) fn replied(
        &self,
        on: FlowId,
        head: FrameHead,
        payload: Bytes,
    ) -> Result<(), Violated> {
        let FrameHead::Reply { lane, number, status } = head else { return Ok(()) };
        if lane != on.lane() {
            return Err(Violated::by("a reply on the flow of another lane's"));
        }
        let flow = FlowId::new(lane, false)
            .ok_or_else(|| Violated::by("a reply to a lane that there is not"))?;
        let submitted = self.flow_out(flow).last_submitted();
        let (end, waiter) = {
            let mut asking = lock(&self.asking);
            let reply = asking.requests.replied((lane, number), status, submitted);
            asking.count();
            match reply.map_err(Violated::by)? {
                Reply::Late => return Ok(()),
                Reply::End(end) => (end, asking.waiting.remove(&(lane, number))),
            }
        };
        self.places.notify_one();
        if let Some(waiter) = waiter {
            // Whoever gave up meanwhile needs no answer.
            let _ = waiter.send((end, payload));
        }
        self.look_at_rest();
        Ok(())
    }

    /// A request came, and nobody can have taken it yet; which one it is if there are too many.
    pub(super) fn request_arrived(
        &self,
        flow: FlowId,
        number: u64,
        left_ms: u32,
    ) -> Option<RequestId> {
        let id = (flow.lane(), number);
        let left = Duration::from_millis(left_ms.into());
        let mut handling = lock(&self.handling);
        if handling.places.are_all_taken() {
            handling.requests.passed(id.0, id.1);
            self.reached(Limit::NodeRequests);
            return Some(id);
        }
        let arrived = handling.requests.arrived(id, left, clock::now());
        handling.count();
        let refused = arrived == Arrived::Refuse;
        if refused {
            self.reached(Limit::Requests);
        }
        refused.then_some(id)
    }

    /// Answers without a payload, if there is room; the peer's deadline answers else.
    pub(super) fn reply_now(&self, id: RequestId, status: ReplyStatus) {
        let Some(flow) = FlowId::new(id.0, true) else { return };
        if self.flow_out(flow).try_admit(OutFlow::cost(0)).is_ok() {
            let head = FrameHead::Reply { lane: id.0, number: id.1, status };
            drop(self.push(flow, head, Bytes::new(), |_| {}));
        }
    }

    /// The handler answers, or lets go; whether anybody waits for it.
    pub(in crate::peers) fn handled(&self, id: RequestId) -> bool {
        let is_wanted = {
            let mut handling = lock(&self.handling);
            handling.cancels.remove(&id);
            let is_wanted = handling.requests.finish(id);
            handling.count();
            is_wanted
        };
        self.look_at_rest();
        is_wanted
    }

    /// The handler lets go without an answer.
    pub(in crate::peers) fn not_handled(&self, id: RequestId) {
        let _answering = self.answering();
        if self.handled(id) {
            self.reply_now(id, ReplyStatus::NoReply);
        }
    }

    pub(in crate::peers) fn cancelled_by_peer(&self, cancel: Cancel) {
        let id = (cancel.lane, cancel.number);
        let told = {
            let mut handling = lock(&self.handling);
            if handling.requests.is_full_of_cancels() {
                self.reached(Limit::EarlyCancels);
            }
            let told = handling.requests.cancel(id);
            handling.count();
            told.then(|| handling.cancels.remove(&id)).flatten()
        };
        if let Some(told) = told {
            told.tell();
        }
    }
}
