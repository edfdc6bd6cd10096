//! What goes out over the link that the session has.

use std::sync::{Arc, Weak};

use bytes::Bytes;

use super::PeerCore;
use crate::error::CloseCode;
use crate::lock::lock;
use crate::peers::kept::Left;
use crate::peers::out_flow::Submission;
use crate::session::flow::FlowId;
use crate::session::frame_head::StreamHead;
use crate::transport::clock;
use crate::transport::core::ConnectionCore;
use crate::transport::session_streams::{OutStream, Outlet, Parts};

impl PeerCore {
    /// A frame was accepted, which may go at once.
    pub(super) fn pushed(&self, flow: FlowId, may_go: bool) {
        self.teller.spoke();
        if may_go {
            self.pump(flow);
        }
    }

    /// Hands over what the flow has ready, if nobody else is at it.
    pub(super) fn pump(&self, flow: FlowId) {
        let Some(link) = self.link() else { return };
        let Some(out) = self.flows.used_out(flow) else { return };
        let core = link.core();
        let (path, generation) = (core.path(), link.generation());
        while let Some(submission) = out.next(generation, path, |number| self.left(flow, number)) {
            let Submission { first, stream, parts, bytes } = submission;
            let stream = stream.or_else(|| self.open(core, flow, generation, first));
            let sent = stream.filter(|stream| stream.send(parts, bytes as u64));
            let is_sent = sent.is_some();
            out.handed_over(generation, sent);
            if !is_sent {
                // Nothing of the flow can go over it any more; another connection goes on.
                return core.cut(CloseCode::INTERNAL);
            }
        }
    }

    fn open(
        &self,
        core: &Arc<ConnectionCore>,
        flow: FlowId,
        generation: u64,
        first: u64,
    ) -> Option<Arc<OutStream<ConnectionCore>>> {
        let outlet = FlowOutlet { peer: Weak::clone(&self.myself), flow, generation };
        let stream = core.open_outlet(priority(flow), Arc::new(outlet)).ok()?;
        let mut head = Vec::new();
        StreamHead::Flow { generation, flow, first }.encode(&mut head);
        stream.send(Parts::of(Bytes::from(head)), HEAD).then_some(stream)
    }

    /// What is left of the time of a request that goes out.
    fn left(&self, flow: FlowId, number: u64) -> Left {
        let id = (flow.lane(), number);
        match lock(&self.asking).requests.left(id, clock::now()) {
            Some(left) => Left::Ms(u32::try_from(left.as_millis()).unwrap_or(u32::MAX)),
            None => Left::Nothing,
        }
    }
}

/// What names the head of a stream; frames are named by their bytes.
const HEAD: u64 = 0;

/// Is told of one stream of a flow.
struct FlowOutlet {
    peer: Weak<PeerCore>,
    flow: FlowId,
    generation: u64,
}

impl Outlet for FlowOutlet {
    fn sent(&self, token: u64, _acknowledged: bool) {
        let Some(peer) = self.peer.upgrade().filter(|_| token != HEAD) else { return };
        let bytes = usize::try_from(token).unwrap_or(usize::MAX);
        if let Some(out) = peer.flows.used_out(self.flow) {
            out.acknowledged(self.generation, bytes);
        }
        peer.pump(self.flow);
    }

    fn gone(&self) {}
}

/// Replies go before the messages of their lane.
fn priority(flow: FlowId) -> u16 {
    let lane = [0xc000, 0x8000, 0x4000][usize::from(flow.lane())];
    lane + if flow.is_replies() { 0x1000 } else { 0 }
}
