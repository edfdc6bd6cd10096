//! What becomes of frames, for who asked by message.

use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;

use super::{PeerCore, flow_of};
use crate::peers::by_message::TellFate;
use crate::peers::error::PeerSendError;
use crate::peers::out_flow::OUTCOME_BYTES;
use crate::session::flow_out::Fate;
use crate::transport::Lane;

impl PeerCore {
    /// Tells what becomes of the frame of this number, and gives the room back that this takes.
    pub(in crate::peers) fn outcome_later(
        self: &Arc<Self>,
        (lane, number): (Lane, u64),
        tell: TellFate,
        runtime: &Handle,
    ) {
        if self.by_message.wait_for_outcome(lane as usize, number, tell) {
            drop(runtime.spawn(serve(Arc::clone(self), lane)));
        }
    }

    /// What became of a frame, if that is known.
    pub(in crate::peers) fn fate_now(&self, lane: Lane, number: u64) -> Option<Fate> {
        self.flows.used_out(flow_of(lane, false))?.fate_now(number)
    }

    /// The error of a frame that was not accepted since the session is over, or closes.
    pub(in crate::peers) fn not_accepted(&self, frame: Bytes) -> PeerSendError {
        PeerSendError::Ended { ended: self.why_shut(), frame }
    }

    /// What each of its flows keeps at most, in bytes.
    pub(in crate::peers) fn flow_bytes_max(&self) -> usize {
        self.bounds.flow_bytes_max
    }
}

/// Tells one after the other: fates are known in this order. It ends with the last one, at the latest when
/// the session is over.
async fn serve(core: Arc<PeerCore>, lane: Lane) {
    while let Some(number) = core.by_message.first_outcome(lane as usize) {
        // Where much was taken at once nothing is waited for.
        tokio::task::consume_budget().await;
        let fate = core.out(lane, false).fate(number).await;
        if let Some(tell) = core.by_message.take_outcome(lane as usize, number) {
            tell(fate);
            core.out(lane, false).give_back(OUTCOME_BYTES);
        }
    }
}
