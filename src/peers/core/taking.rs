//! What the application takes of one session.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::{Cancelled, PeerCore, Received, flow_of};
use crate::lock::lock;
use crate::peers::by_message::News;
use crate::peers::in_flow::Frame;
use crate::session::flow::FlowId;
use crate::session::frame_head::{FrameHead, ReplyStatus};
use crate::session::handling::Hand;
use crate::session::requests::RequestId;
use crate::transport::{Lane, clock};

/// Frames that are taken together.
const GROUP: usize = 64;

impl PeerCore {
    /// Takes the next frame of the first of these lanes that has one.
    pub(crate) fn take(&self, lanes: &[Lane]) -> Option<Received> {
        loop {
            let mut taken = None;
            let flow = self.take_from(lanes, 1, |frame| taken = Some(frame))?;
            // Somebody beside may have been faster.
            if let Some(received) = taken.and_then(|frame| self.received(flow, frame)) {
                return Some(received);
            }
        }
    }

    /// Takes up to `max` frames of these lanes; how many.
    pub(crate) fn take_many(
        &self,
        lanes: &[Lane],
        max: usize,
        mut took: impl FnMut(Received),
    ) -> usize {
        let (mut count, mut frames) = (0, Vec::new());
        while count < max {
            // In groups: the flow's lock is never held for long.
            let group = GROUP.min(max - count);
            let Some(flow) = self.take_from(lanes, group, |frame| frames.push(frame)) else {
                break;
            };
            for received in frames.drain(..).filter_map(|frame| self.received(flow, frame)) {
                took(received);
                count += 1;
            }
        }
        count
    }

    /// Takes up to `max` frames of the first of these lanes that seems to have some.
    fn take_from(&self, lanes: &[Lane], max: usize, took: impl FnMut(Frame)) -> Option<FlowId> {
        let filled = self.flows.filled().load(Ordering::Acquire);
        let has_some = |flow: &FlowId| filled & (1 << flow.number()) != 0;
        let flow = lanes.iter().map(|lane| flow_of(*lane, false)).find(has_some)?;
        if self.flow_in(flow).take(max, || self.teller.waits(), took) {
            self.tell_taken();
        }
        Some(flow)
    }

    /// What was taken, as the application gets it: with the room of a large one, which is given back here.
    fn received(&self, flow: FlowId, frame: Frame) -> Option<Received> {
        let Frame { number, head, payload, large: _large } = frame;
        let received = match head {
            FrameHead::Request { .. } => self.hand((flow.lane(), number), payload),
            _ => Some(Received::Message(payload)),
        };
        self.look_at_rest();
        received
    }

    /// Waits for the next frame of these lanes; none when the session is over and everything was taken.
    /// Cancel safe: nothing is awaited behind the taking.
    pub(crate) async fn receive(&self, lanes: &[Lane]) -> Option<Received> {
        loop {
            if let Some(received) = self.take(lanes) {
                return Some(received);
            }
            let readable = self.readable.notified();
            tokio::pin!(readable);
            // From here on it is told of what comes: what came before is looked for once more.
            readable.as_mut().enable();
            if self.has_something_of(lanes) {
                continue;
            }
            if self.ended.get().is_some() {
                return None;
            }
            readable.await;
        }
    }

    /// Whether the application can take something now.
    pub(crate) fn has_something(&self) -> bool {
        self.has_something_of(&Lane::ALL)
    }

    fn has_something_of(&self, lanes: &[Lane]) -> bool {
        let of = |bits: u8, lane: &Lane| bits | 1 << flow_of(*lane, false).number();
        self.flows.filled().load(Ordering::Acquire) & lanes.iter().fold(0, of) != 0
    }

    /// Invites the actor that is subscribed, if there is one and something for it.
    pub(crate) fn invite(&self, news: News) {
        if !self.by_message.is_subscribed() {
            return;
        }
        let is_over = self.ended.get().is_some();
        if !self.by_message.invite(news, is_over, self.has_something()) {
            // It is gone: others may read.
            self.readable.notify_waiters();
        }
    }

    /// Ends the subscription; whether there was one.
    pub(crate) fn unsubscribe(&self) -> bool {
        let ended = self.by_message.unsubscribe(None);
        if ended {
            // Others may read.
            self.readable.notify_waiters();
        }
        ended
    }

    pub(super) fn hand(&self, id: RequestId, frame: Bytes) -> Option<Received> {
        let mut handling = lock(&self.handling);
        let hand = handling.requests.hand(id, clock::now());
        handling.count();
        match hand {
            Hand::Handle(deadline) => {
                let cancelled = Arc::new(Cancelled::default());
                handling.cancels.insert(id, Arc::clone(&cancelled));
                Some(Received::Request { id, deadline, cancelled, frame })
            }
            Hand::Forget => None,
            Hand::TooLate => {
                drop(handling);
                self.reply_now(id, ReplyStatus::DeadlineExceeded);
                None
            }
        }
    }
}

impl std::fmt::Debug for PeerCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerCore")
            .field("id", &self.id)
            .field("peer", &self.peer)
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
}
