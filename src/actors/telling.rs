//! What subscribers are told, and in which order.
//!
//! Invariants: `Disconnected` comes when every outcome of the connection is final, behind its
//! `Connected`; where a peer has no other connection that stands, the `Connected` of its next one waits
//! until the ends of those are told that were over when it came. So whoever keeps one connection a peer
//! never takes the end of the old one for that of the new one; and where a peer has several, none
//! waits for the ends of the others.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard};

use tokio::sync::{broadcast, watch};

use super::events::NodeEvent;
use super::handle::ConnectionHandle;
use crate::error::CloseReason;
use crate::identity::CertHash;
use crate::lock::lock;

/// Events kept for a subscriber that lags: enough for a burst of connections.
const EVENTS_KEPT: usize = 1024;

/// See the module. Generic over what stands for a connection, for its tests.
#[derive(Debug)]
pub(crate) struct Telling<H = ConnectionHandle> {
    events: broadcast::Sender<NodeEvent>,
    /// Peers with connections that stand, or are over and not told.
    peers: Mutex<HashMap<CertHash, OfPeer<H>>>,
    /// Connections whose end is not told yet.
    open: watch::Sender<usize>,
}

#[derive(Debug)]
struct OfPeer<H> {
    /// Connections that stand.
    standing: usize,
    /// Connections that are over and not told, by their epochs.
    over: Vec<u64>,
    /// Their successors, in the order in which they came.
    successors: Vec<Successor<H>>,
}

impl<H> Default for OfPeer<H> {
    fn default() -> Self {
        Self { standing: 0, over: Vec::new(), successors: Vec::new() }
    }
}

#[derive(Debug)]
struct Successor<H> {
    handle: H,
    /// Those of `over` that were there when it came.
    behind: Vec<u64>,
}

/// A connection that stands.
pub(crate) trait Told: Clone {
    fn peer(&self) -> CertHash;
    fn epoch(&self) -> u64;
    fn connected(self) -> NodeEvent;
}

impl Told for ConnectionHandle {
    fn peer(&self) -> CertHash {
        self.peer()
    }

    fn epoch(&self) -> u64 {
        self.epoch()
    }

    fn connected(self) -> NodeEvent {
        NodeEvent::Connected(self)
    }
}

impl<H: Told> Telling<H> {
    pub(crate) fn new() -> Self {
        Self {
            events: broadcast::channel(EVENTS_KEPT).0,
            peers: Mutex::default(),
            open: watch::channel(0).0,
        }
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<NodeEvent> {
        self.events.subscribe()
    }

    /// How many connections' ends are not told yet.
    pub(super) fn open(&self) -> watch::Receiver<usize> {
        self.open.subscribe()
    }

    /// Tells whoever listens; nobody may.
    pub(crate) fn emit(&self, event: NodeEvent) {
        drop(self.events.send(event));
    }

    /// A connection stands.
    pub(crate) fn connected(&self, handle: H) {
        self.open.send_modify(|open| *open += 1);
        // Events of one peer are sent under the lock, so that their order is that of their causes.
        let mut peers = self.lock();
        let of_peer = peers.entry(handle.peer()).or_default();
        let waits = !of_peer.successors.is_empty() || of_peer.standing == 0;
        of_peer.standing += 1;
        if waits && !of_peer.over.is_empty() {
            let behind = of_peer.over.clone();
            of_peer.successors.push(Successor { handle, behind });
        } else {
            self.emit(handle.connected());
        }
    }

    /// A connection of this peer is over; its outcomes are not all known.
    pub(crate) fn over(&self, peer: CertHash, epoch: u64) {
        let mut peers = self.lock();
        let of_peer = peers.entry(peer).or_default();
        of_peer.standing = of_peer.standing.saturating_sub(1);
        of_peer.over.push(epoch);
    }

    /// It is complete.
    pub(crate) fn complete(
        &self,
        peer: CertHash,
        epoch: u64,
        remote: SocketAddr,
        reason: CloseReason,
    ) {
        let mut all = self.lock();
        if let Entry::Occupied(mut entry) = all.entry(peer) {
            let of_peer = entry.get_mut();
            // It may have been a successor that did not live to be told.
            let own = |one: &mut Successor<H>| one.handle.epoch() == epoch;
            for one in of_peer.successors.extract_if(.., own) {
                self.emit(one.handle.connected());
            }
            self.emit(NodeEvent::Disconnected { peer, remote, epoch, reason });
            of_peer.over.retain(|over| *over != epoch);
            let waits_no_more = |one: &mut Successor<H>| {
                one.behind.retain(|over| *over != epoch);
                one.behind.is_empty()
            };
            for one in of_peer.successors.extract_if(.., waits_no_more) {
                self.emit(one.handle.connected());
            }
            if of_peer.over.is_empty() && of_peer.standing == 0 {
                entry.remove();
            }
        }
        drop(all);
        self.open.send_modify(|open| *open -= 1);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CertHash, OfPeer<H>>> {
        lock(&self.peers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::CloseCode;

    #[derive(Clone)]
    struct Connection(u8, u64);

    impl Told for Connection {
        fn peer(&self) -> CertHash {
            CertHash::from_bytes([self.0; 32])
        }

        fn epoch(&self) -> u64 {
            self.1
        }

        /// A handle needs a connection: its number stands for it.
        fn connected(self) -> NodeEvent {
            NodeEvent::Lagged(self.1)
        }
    }

    fn over(telling: &Telling<Connection>, one: &Connection) {
        telling.over(one.peer(), one.epoch());
    }

    fn complete(telling: &Telling<Connection>, one: &Connection) {
        let reason = CloseReason::Local { code: CloseCode::NORMAL };
        telling.complete(one.peer(), one.1, ([127, 0, 0, 1], 1).into(), reason);
    }

    /// `+` and `-` with the epoch of what was connected and disconnected.
    fn told(events: &mut broadcast::Receiver<NodeEvent>) -> String {
        let mut text = String::new();
        while let Ok(event) = events.try_recv() {
            text += &match event {
                NodeEvent::Lagged(epoch) => format!("+{epoch}"),
                NodeEvent::Disconnected { epoch, .. } => format!("-{epoch}"),
                event => format!("{event:?}"),
            };
        }
        text
    }

    #[test]
    fn a_successor_is_told_behind_the_end_of_its_predecessor() {
        let telling = Telling::new();
        let (mut events, mut open) = (telling.subscribe(), telling.open());
        let [one, two, three] = [1, 2, 3].map(|epoch| Connection(7, epoch));
        telling.connected(one.clone());
        over(&telling, &one);
        telling.connected(two.clone());
        telling.connected(three);
        assert_eq!(told(&mut events), "+1");
        complete(&telling, &one);
        assert_eq!(told(&mut events), "-1+2+3");
        over(&telling, &two);
        complete(&telling, &two);
        assert_eq!(told(&mut events), "-2");
        assert_eq!(*open.borrow_and_update(), 1);
        assert_eq!(telling.lock().len(), 1, "the third stands");
    }

    #[test]
    fn a_successor_waits_for_those_that_were_over_when_it_came_and_for_no_later_ones() {
        let telling = Telling::new();
        let mut events = telling.subscribe();
        let [one, two, three] = [1, 2, 3].map(|epoch| Connection(7, epoch));
        telling.connected(one.clone());
        over(&telling, &one);
        telling.connected(two.clone());
        over(&telling, &two);
        telling.connected(three);
        assert_eq!(told(&mut events), "+1");
        complete(&telling, &one);
        assert_eq!(told(&mut events), "-1+2", "and not the third, which is behind the second");
        complete(&telling, &two);
        assert_eq!(told(&mut events), "-2+3");
    }

    #[test]
    fn where_a_peer_has_several_none_waits_for_the_ends_of_the_others() {
        let telling = Telling::new();
        let mut events = telling.subscribe();
        let [one, two, three] = [1, 2, 3].map(|epoch| Connection(7, epoch));
        telling.connected(one.clone());
        telling.connected(two.clone());
        over(&telling, &one);
        telling.connected(three.clone());
        assert_eq!(told(&mut events), "+1+2+3", "the second stands");
        for one in [one, two, three] {
            if one.1 > 1 {
                over(&telling, &one);
            }
            complete(&telling, &one);
        }
        assert_eq!(told(&mut events), "-1-2-3");
        assert!(telling.lock().is_empty());
    }

    #[test]
    fn a_successor_that_ends_first_is_told_whole_and_another_peer_waits_for_nobody() {
        let telling = Telling::new();
        let mut events = telling.subscribe();
        let [one, two] = [1, 2].map(|epoch| Connection(7, epoch));
        telling.connected(one.clone());
        over(&telling, &one);
        telling.connected(two.clone());
        telling.connected(Connection(8, 3));
        assert_eq!(told(&mut events), "+1+3");
        over(&telling, &two);
        complete(&telling, &two);
        assert_eq!(told(&mut events), "+2-2");
        complete(&telling, &one);
        assert_eq!(told(&mut events), "-1");
        assert_eq!(telling.lock().len(), 1, "the other peer is there");
    }
}
