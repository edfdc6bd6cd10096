//! The end of a lane, and of its stream.

use super::effects::{Ended, Freed};
use super::{Finish, Outgoing};
use crate::error::CloseReason;
use crate::marks::mark;
use crate::transport::fault::{Fault, planted};
use crate::transport::link::batch::Batch;

impl<S, W> Outgoing<S, W> {
    /// Refuses frames from here on; those waiting for admission are to be told at once.
    pub(in crate::transport) fn shut(&mut self, reason: &CloseReason) -> Freed<W> {
        self.shut.get_or_insert_with(|| reason.clone());
        let mut wake = self.room.shut();
        wake.extend(self.large_turn.shut());
        wake.extend(self.at_node.take());
        Freed { wake, large: 0 }
    }

    /// Nothing more will be sent: what was not handed over is told so.
    pub(in crate::transport) fn abandon(&mut self) -> Ended<W> {
        debug_assert!(self.adds_up());
        self.abandoned = true;
        self.queued_bytes = 0;
        self.room.end();
        let not_sent: Vec<Batch> = std::mem::take(&mut self.queue).into();
        self.counts.not_sent += not_sent.iter().map(|batch| batch.sent.frames).sum::<u64>();
        let large = not_sent.iter().map(|batch| batch.sent.large).sum();
        // The lane's own room is shut; other lanes wait for the node's.
        let freed = self.free_large(large);
        debug_assert!(self.adds_up());
        Ended { not_sent, freed }
    }

    /// Ends the stream once everything accepted was handed over.
    pub(in crate::transport) fn finish(&mut self) {
        if self.finish == Finish::No {
            self.finish = Finish::Wanted;
        }
    }

    /// As [`Outgoing::finish`] for a lane that nothing was sent on: it has finished.
    pub(in crate::transport) fn finish_unused(&mut self) {
        if self.stream.is_none() && self.counts.accepted == 0 {
            self.finish = Finish::Done;
        }
    }

    /// The end of the stream was acknowledged, or will never be.
    pub(in crate::transport) fn finished(&mut self) {
        self.finish = Finish::Done;
    }

    /// Whether [`Outgoing::finish`] was asked for and has come true.
    pub(in crate::transport) fn is_finished(&self) -> bool {
        self.finish == Finish::Done
    }

    /// Forgets a stream that failed or ended; the next send opens another one.
    pub(in crate::transport) fn discard_stream(
        &mut self,
        is_it: impl FnOnce(&S) -> bool,
    ) -> Option<S> {
        let discarded = self.stream.take_if(|stream| is_it(stream));
        if discarded.is_some() && self.finish == Finish::Asked && !planted(Fault::EndIsLost) {
            mark!("the end of a lane is said again on another stream");
            // Its end is lost with it: the next one is to say it.
            self.finish = Finish::Wanted;
        }
        discarded
    }
}
