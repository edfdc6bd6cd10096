//! What the application takes of one session.

use std::sync::Arc;

use bytes::Bytes;

use super::{Cancelled, PeerCore, Received, flow_of};
use crate::lock::lock;
use crate::peers::by_message::News;
use crate::peers::in_flow::{Frame, InFlow};
use crate::peers::link::Link;
use crate::session::flow::PerFlow;
use crate::session::frame_head::{FrameHead, ReplyStatus};
use crate::session::handling::Hand;
use crate::session::message::{Message, Taken};
use crate::session::requests::RequestId;
use crate::transport::{Lane, clock};

impl PeerCore {
    /// Takes the next frame of the first of these lanes that has one.
    pub(crate) fn take(&self, lanes: &[Lane]) -> Option<Received> {
        loop {
            let found = lanes.iter().find_map(|lane| {
                let flow = flow_of(*lane, false);
                Some((flow, self.flow_in(flow).take()?))
            });
            // With the room of a large one, which is given back here.
            let (flow, Frame { number, head, payload, large: _large }) = found?;
            // Behind the taking: whoever learns later that the peer was told looks again.
            if let Some(link) = self.link()
                && self.flow_in(flow).is_due(link.is_telling())
            {
                self.tell_taken(&link);
            }
            self.look_at_rest();
            match head {
                FrameHead::Request { .. } => {
                    if let Some(request) = self.hand((flow.lane(), number), payload) {
                        return Some(request);
                    }
                }
                _ => return Some(Received::Message(payload)),
            }
        }
    }

    /// Waits for the next frame of these lanes; none when the session is over and everything was taken.
    /// Cancel safe: nothing is awaited behind the taking.
    pub(crate) async fn receive(&self, lanes: &[Lane]) -> Option<Received> {
        loop {
            let readable = self.readable.notified();
            tokio::pin!(readable);
            readable.as_mut().enable();
            if let Some(received) = self.take(lanes) {
                if self.has_something() {
                    // For another one who reads beside.
                    self.readable.notify_one();
                }
                return Some(received);
            }
            if self.ended.get().is_some() {
                self.readable.notify_one();
                return None;
            }
            readable.await;
        }
    }

    /// Whether the application can take something now.
    pub(crate) fn has_something(&self) -> bool {
        self.incoming.iter().any(InFlow::has_something)
    }

    /// Invites the actor that is subscribed, if there is one and something for it.
    pub(crate) fn invite(&self, news: News) {
        if !self.by_message.is_subscribed() {
            return;
        }
        let is_over = self.ended.get().is_some();
        if !self.by_message.invite(news, is_over, self.has_something()) {
            // It is gone: others may read.
            self.readable.notify_one();
        }
    }

    /// Ends the subscription; whether there was one.
    pub(crate) fn unsubscribe(&self) -> bool {
        let ended = self.by_message.unsubscribe(None);
        if ended {
            // Others may read.
            self.readable.notify_one();
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

    /// Tells the peer what was taken, as far as it is due.
    pub(super) fn tell_taken(&self, link: &Link) {
        // Counters must not overtake each other on their way.
        let _in_order = lock(&self.telling);
        let on_its_way = link.is_telling();
        let flows = PerFlow::of(|flow| self.flow_in(flow).tell(on_its_way));
        if flows.iter().any(|(_, flow)| flow.is_some()) {
            link.say(&Message::Taken(Taken { flows }));
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
