//! Watches: what happens to one peer, as messages to an actor.

use ractor::{ActorId, DerivedActorRef};
use tokio::sync::{oneshot, watch};

use crate::identity::CertHash;
use crate::peers::handle::Peer;
use crate::peers::status::{PeerChange, Status, Watching};

/// What happened to a peer, for an actor that watches it. The next one comes when this is dropped.
#[derive(Debug)]
pub struct PeerNews {
    peer: CertHash,
    protocol: String,
    change: PeerChange,
    /// Dropped with it.
    _dealt_with: oneshot::Sender<()>,
}

impl PeerNews {
    /// Who it is.
    #[must_use]
    pub fn peer(&self) -> CertHash {
        self.peer
    }

    /// What both speak.
    #[must_use]
    pub fn protocol(&self) -> &str {
        &self.protocol
    }

    /// What happened.
    #[must_use]
    pub fn change(&self) -> &PeerChange {
        &self.change
    }
}

impl Peer {
    /// Tells `watcher` what happens to this peer from here on, beginning with whether it has a connection:
    /// [`Up`](PeerChange::Up) and [`Down`](PeerChange::Down) in turn, and at last
    /// [`Ended`](PeerChange::Ended). Nothing of that is lost or out of order. One message is on its way at a
    /// time: where a peer goes and comes back meanwhile, its last loss and return are told.
    ///
    /// It ends with the actor, with the session, or by [`unwatch`](Self::unwatch); it does not hold the
    /// session. An actor has one watch of a peer: another one takes its place.
    ///
    /// No: 64 actors watch it already.
    pub fn watch(&self, watcher: DerivedActorRef<PeerNews>) -> bool {
        let status = self.core().status.subscribe();
        let (id, peer, protocol) = (watcher.get_id(), self.identity(), self.protocol().to_owned());
        let tells = || self.runtime().spawn(tell(status, peer, protocol, watcher)).abort_handle();
        self.core().by_message.watch(id, tells)
    }

    /// Ends the watch of this actor. What is in its mailbox, or on its way there, still comes.
    pub fn unwatch(&self, watcher: ActorId) {
        self.core().by_message.unwatch(watcher);
    }
}

async fn tell(
    mut status: watch::Receiver<Status>,
    peer: CertHash,
    protocol: String,
    watcher: DerivedActorRef<PeerNews>,
) {
    let mut watching = Watching::default();
    let actor = watcher.get_cell();
    let tells = async {
        loop {
            let next = watching.next(&status.borrow_and_update());
            let Some(change) = next else {
                // Without a session there is nobody who changes it.
                if watching.is_over() || status.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let (dealt_with, is_dealt_with) = oneshot::channel();
            let protocol = protocol.clone();
            let news = PeerNews { peer, protocol, change, _dealt_with: dealt_with };
            if watcher.send_message(news).is_err() {
                return;
            }
            // Nothing is ever sent through it.
            let _ = is_dealt_with.await;
        }
    };
    tokio::select! {
        () = tells => {}
        // It fails for no limit.
        _ = actor.wait(None) => {}
    }
}
