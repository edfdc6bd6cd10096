//! What a peer sent, for an actor: an invitation to take it.

use std::sync::Arc;

use ractor::{ActorStatus, DerivedActorRef};

use crate::identity::CertHash;
use crate::peers::by_message::{Invite, IsGone, News};
use crate::peers::error::PeerEnded;
use crate::peers::handle::{Incoming, Peer};
use crate::transport::Lane;

/// Frames that one batch gives: enough to share the cost of a message, few enough for an actor's handler.
const BATCH_MAX: usize = 256;

/// What a peer sent, for a subscriber: an iterator that takes it, the most urgent lane first, up to 256 of
/// them. The next batch comes when this is dropped, if there is more.
///
/// A frame is taken when the iterator gives it, and not before: what is left when the batch is dropped, or
/// the actor dies, is what comes next, to this subscriber or to the next reader. An actor that drops a batch
/// without a look gets the next one when more has come.
///
/// A batch holds the session.
#[derive(Debug)]
pub struct PeerBatch {
    peer: Peer,
    /// Of the subscription.
    number: u64,
    left: usize,
    looked: bool,
    ended: Option<PeerEnded>,
}

impl PeerBatch {
    /// The peer that sent it.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Who that is.
    #[must_use]
    pub fn identity(&self) -> CertHash {
        self.peer.identity()
    }

    /// The next frame of one lane, as the iterator gives those of all.
    pub fn next_on(&mut self, lane: Lane) -> Option<Incoming> {
        self.take(&[lane])
    }

    /// Why the session is over: in the last batch, in which nothing else is.
    #[must_use]
    pub fn ended(&self) -> Option<&PeerEnded> {
        self.ended.as_ref()
    }

    fn take(&mut self, lanes: &[Lane]) -> Option<Incoming> {
        self.looked = true;
        // A subscription that was ended gives nothing more, however late its batch is read.
        if self.left == 0 || !self.peer.core().by_message.is_number(self.number) {
            return None;
        }
        let incoming = self.peer.take_now(lanes)?;
        self.left -= 1;
        Some(incoming)
    }
}

impl Iterator for PeerBatch {
    type Item = Incoming;

    fn next(&mut self) -> Option<Incoming> {
        self.take(&Lane::ALL)
    }
}

impl Drop for PeerBatch {
    fn drop(&mut self) {
        self.peer.core().by_message.invitation_done(self.number, self.looked);
        self.peer.core().invite(News::Done);
    }
}

impl Peer {
    /// Gives what this peer sends to an actor from here on, in batches that it takes from. There is one
    /// subscriber: no, if there is one that lives. It does not hold the session, and outlives connections; it
    /// ends with the actor, with the session, or by [`unsubscribe`](Self::unsubscribe).
    pub fn subscribe(&self, subscriber: DerivedActorRef<PeerBatch>) -> bool {
        let cell = subscriber.get_cell();
        let is_gone: IsGone = Arc::new(move || {
            matches!(cell.get_status(), ActorStatus::Stopping | ActorStatus::Stopped)
        });
        // Weak, because the session keeps its subscriber.
        let (core, sessions) = (Arc::downgrade(self.core()), Arc::downgrade(self.sessions()));
        let gone = Arc::clone(&is_gone);
        let invite: Invite = Arc::new(move |number, is_last| {
            let (Some(core), Some(sessions)) = (core.upgrade(), sessions.upgrade()) else {
                return false;
            };
            if gone() {
                return false;
            }
            let ended = is_last.then(|| core.ended().cloned().into());
            let peer = Self::new(core, sessions);
            let batch = PeerBatch { peer, number, left: BATCH_MAX, looked: false, ended };
            subscriber.send_message(batch).is_ok()
        });
        let subscribed = self.core().by_message.subscribe(invite, is_gone);
        if subscribed {
            self.core().invite(News::Came);
        }
        subscribed
    }

    /// Ends the subscription; whether there was one. A batch that is on its way gives nothing any more.
    pub fn unsubscribe(&self) -> bool {
        self.core().unsubscribe()
    }
}
