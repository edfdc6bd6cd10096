//! What the streams of a connection tell it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::intake::Perform;
use super::{ConnectionCore, Notice};
use crate::error::{CloseCode, RecvError};
use crate::failpoint::{Failpoint, in_callback};
use crate::frame::Position;
use crate::identity::CertHash;
use crate::never::never;
use crate::transport::callback::guard;
use crate::transport::clock;
use crate::transport::fault::{Fault, planted};
use crate::transport::ffi::{PeerStream, Stage};
use crate::transport::lane::{Next, SendLane};
use crate::transport::link::batch::Sent;
use crate::transport::link::inbound::{Decoded, EndedStream, StreamEnd, StreamId};
use crate::transport::link::lanes::Lane;
use crate::transport::stream::{InStream, OutStream, StreamOwner};

impl StreamOwner for ConnectionCore {
    fn lane(&self, lane: Lane) -> &SendLane<Arc<OutStream<Self>>> {
        self.lanes.get(lane)
    }

    // Where a name is taken by the connection itself, that one is called.

    fn pump(self: &Arc<Self>, lane: Lane) {
        Self::pump(self, lane);
    }

    fn stream_started(&self) {
        self.changed.notify_waiters();
    }

    fn sent(self: &Arc<Self>, lane: Lane, batch: Sent, acknowledged: bool) {
        let unsettled = Unsettled { queue: self.lanes.get(lane), batch: Some(batch), acknowledged };
        in_callback(Failpoint::StreamCallbackSent, || self.local_identity());
        assert!(!planted(Fault::CallbackPanics), "asked to by a test");
        if acknowledged {
            self.peer_has_spoken();
        }
        let narrow = self.narrow(lane);
        let next = unsettled.settle(narrow);
        self.hand_over(lane, next, narrow);
        self.end_if_broken();
    }

    fn lane_finished(self: &Arc<Self>, lane: Lane) {
        self.lanes.get(lane).finished();
        if lane == Lane::Data {
            self.changed.notify_waiters();
            self.notify(Notice::LanesFinished);
        } else if !self.is_over() {
            self.finish_lanes();
        }
    }

    fn is_over(&self) -> bool {
        Self::is_over(self)
    }

    fn node(&self) -> CertHash {
        self.local_identity()
    }

    fn sample(&self) {
        Self::sample(self);
    }

    fn budget(&self, id: StreamId, total: usize) -> usize {
        self.intake.frames.lock().inbound.budget(id, total)
    }

    fn store(&self, id: StreamId, decoded: Decoded<'_>) {
        let whole = !decoded.pieces.is_empty();
        let effects = self.intake.frames.lock().inbound.store(id, decoded, clock::now());
        self.perform(effects);
        if whole {
            self.intake.deliver(self);
        }
    }

    fn end_stream(&self, id: StreamId, how: StreamEnd) -> bool {
        let EndedStream { finished, effects } = self.intake.frames.lock().inbound.end(id, how);
        self.perform(effects);
        self.intake.waiting.wake_readers_of_streams();
        finished
    }

    fn stream_ended(&self, position: Position, finished: bool) {
        if position != Position::Boundary {
            self.fail_inbound(RecvError::EndOfStream { position }, CloseCode::FRAME_TRUNCATED);
        } else if finished {
            self.peer_finished.store(true, Ordering::Release);
            self.changed.notify_waiters();
            self.notify(Notice::PeerFinished);
        }
    }

    fn remove_stream(&self, id: StreamId) {
        let effects = self.intake.frames.lock().inbound.remove(id);
        self.perform(effects);
        self.intake.waiting.wake_readers_of_streams();
    }

    fn fail_inbound(&self, error: RecvError, code: CloseCode) {
        let effects = self.intake.frames.lock().inbound.close(error);
        self.perform(effects);
        self.cut(code);
    }

    fn has_failed(&self) {
        Self::has_failed(self);
    }
}

/// A submission that met its end: each of its frames gets its outcome and gives its room back, also where
/// something panics before that.
struct Unsettled<'a> {
    queue: &'a SendLane<Arc<OutStream<ConnectionCore>>>,
    batch: Option<Sent>,
    acknowledged: bool,
}

impl Unsettled<'_> {
    fn settle(mut self, narrow: bool) -> Next<Arc<OutStream<ConnectionCore>>> {
        self.end(narrow)
    }

    fn end(&mut self, narrow: bool) -> Next<Arc<OutStream<ConnectionCore>>> {
        match self.batch.take() {
            Some(batch) => self.queue.completed(batch, self.acknowledged, narrow),
            None => Next::Nothing,
        }
    }
}

impl Drop for Unsettled<'_> {
    fn drop(&mut self) {
        // A second panic would end the process.
        guard("the outcome of a submission", || {
            if let Next::Submit(batch, _) = self.end(false) {
                // The connection ends: nobody hands it over.
                self.queue.came_back(batch);
            }
        });
    }
}

impl ConnectionCore {
    /// Something of ours was acknowledged.
    pub(in crate::transport) fn peer_has_spoken(&self) {
        if !self.peer_spoke.swap(true, Ordering::AcqRel) {
            self.guard_socket(Stage::Established);
            self.changed.notify_waiters();
        }
        self.sample();
    }

    /// Adopts a stream that the peer opened.
    pub(super) fn accept_stream(self: &Arc<Self>, peer_stream: PeerStream<'_>) {
        // Not adopted, the library closes it itself.
        let Some(live) = self.live_handle() else { return };
        if self.carries_session() {
            return self.adopt_stream(live, peer_stream);
        }
        let Some(ordinal) = peer_stream.ordinal() else {
            never!("a stream of the peer's has no number");
            return;
        };
        let lane = Lane::of_ordinal(ordinal);
        let id = self.intake.frames.lock().inbound.add(lane);
        let frame_bytes_max = self.limits().frame_bytes_max;
        let stream = InStream::new(Arc::clone(self), live, id, frame_bytes_max);
        self.intake.frames.lock().inbound.attach(id, Arc::clone(&stream));
        peer_stream.accept(&stream);
    }
}
