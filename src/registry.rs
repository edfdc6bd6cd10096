//! The open connections, by peer.
//!
//! Generic over the handle: it knows no actor and no transport. A peer may have several
//! connections at once, for example when both sides dial; the newest, with the highest epoch, is
//! the active one.
//!
//! Invariants: a connection is removed by its peer *and* its epoch, so what is told late about an
//! old connection never removes its successor; a peer without connections has no entry; there are
//! never more connections than the limit, nor more of one peer than its own.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dashmap::{DashMap, Entry};

use crate::identity::CertHash;

/// Numbers connections: from 1, ever higher, never twice in one process.
#[derive(Debug)]
pub(crate) struct EpochSource(AtomicU64);

impl EpochSource {
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(1))
    }

    /// An epoch that nobody else has.
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

impl Default for EpochSource {
    fn default() -> Self {
        Self::new()
    }
}

/// The registry has as many connections as it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RegistryFull {
    #[error("there are {limit} connections already, and that is the limit")]
    OfAll { limit: usize },
    #[error("the peer has {limit} connections already, and that is the limit")]
    OfPeer { limit: usize },
}

/// One connection of a peer.
#[derive(Debug)]
struct Connection<H> {
    epoch: u64,
    handle: H,
}

/// Connections by peer. Every call locks a part of the map for a moment and waits for nothing
/// else; a handle's `clone` must not call back into the registry.
#[derive(Debug)]
pub(crate) struct Registry<H> {
    /// By epoch, newest last; never empty.
    peers: DashMap<CertHash, Vec<Connection<H>>>,
    /// Counts a connection from before it enters the map until after it left.
    connections: AtomicUsize,
    limit: usize,
    peer_limit: usize,
}

impl<H: Clone> Registry<H> {
    /// A registry of at most `limit` connections, over all peers, and at least one and at most
    /// `peer_limit` of each.
    pub(crate) fn new(limit: usize, peer_limit: usize) -> Self {
        Self { peers: DashMap::new(), connections: AtomicUsize::new(0), limit, peer_limit }
    }

    /// Adds a connection. It becomes the active one unless a newer one is there. The same epoch
    /// again replaces the handle.
    ///
    /// # Errors
    /// [`RegistryFull`] if a limit is reached; then nothing has changed.
    pub(crate) fn insert(&self, peer: CertHash, epoch: u64, handle: H) -> Result<(), RegistryFull> {
        self.reserve()?;
        let replaced = {
            let mut connections = self.peers.entry(peer).or_default();
            // Almost always the newest, so the search is over at once.
            let place = connections.iter().rposition(|other| other.epoch <= epoch);
            match place {
                Some(index) if connections[index].epoch == epoch => {
                    Some(std::mem::replace(&mut connections[index].handle, handle))
                }
                // A peer that is there has one, so that no empty entry is left.
                _ if connections.len() >= self.peer_limit.max(1) => {
                    drop(connections);
                    self.release();
                    return Err(RegistryFull::OfPeer { limit: self.peer_limit });
                }
                Some(index) => {
                    connections.insert(index + 1, Connection { epoch, handle });
                    None
                }
                None => {
                    connections.insert(0, Connection { epoch, handle });
                    None
                }
            }
        };
        // Out here, where no lock is held while a handle is dropped.
        if replaced.is_some() {
            self.release();
        }
        Ok(())
    }

    /// The active connection of a peer.
    pub(crate) fn get(&self, peer: &CertHash) -> Option<H> {
        self.peers.get(peer).and_then(|connections| active(&connections))
    }

    /// Removes the connection of this peer that has this epoch, and no other. If it was the active
    /// one, the next newest becomes active.
    pub(crate) fn remove(&self, peer: &CertHash, epoch: u64) -> Option<H> {
        let Connection { handle, .. } = match self.peers.entry(*peer) {
            Entry::Vacant(_) => None,
            Entry::Occupied(mut entry) => {
                let connections = entry.get_mut();
                let index = connections.iter().position(|other| other.epoch == epoch)?;
                let removed = connections.remove(index);
                if connections.is_empty() {
                    entry.remove();
                }
                Some(removed)
            }
        }?;
        self.release();
        Some(handle)
    }

    /// The active connection of every peer, in no order. Peers that come or go meanwhile may be
    /// seen or not.
    pub(crate) fn peers(&self) -> Vec<H> {
        self.peers.iter().filter_map(|entry| active(entry.value())).collect()
    }

    /// Every connection, under the same conditions as [`peers`](Self::peers). Those of one peer stand
    /// together, newest last.
    pub(crate) fn connections(&self) -> Vec<H> {
        let mut connections = Vec::with_capacity(self.len());
        for entry in &self.peers {
            connections.extend(entry.value().iter().map(|connection| connection.handle.clone()));
        }
        connections
    }

    /// How many connections there are.
    pub(crate) fn len(&self) -> usize {
        self.connections.load(Ordering::Acquire)
    }

    /// How many peers have a connection.
    #[cfg(test)]
    pub(crate) fn peer_count(&self) -> usize {
        self.peers.len()
    }

    /// Whether there is no connection.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the place of one connection, so that the limit holds however many insert at once.
    fn reserve(&self) -> Result<(), RegistryFull> {
        let take = |count| (count < self.limit).then_some(count + 1);
        self.connections
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, take)
            .map(drop)
            .map_err(|_| RegistryFull::OfAll { limit: self.limit })
    }

    fn release(&self) {
        self.connections.fetch_sub(1, Ordering::AcqRel);
    }
}

fn active<H: Clone>(connections: &[Connection<H>]) -> Option<H> {
    connections.last().map(|newest| newest.handle.clone())
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    fn peer(number: u8) -> CertHash {
        CertHash::from_bytes([number; 32])
    }

    #[test]
    fn epochs_start_at_one_and_never_repeat() {
        let source = EpochSource::default();
        assert_eq!((source.next(), source.next()), (1, 2));
        let mut epochs: Vec<u64> = thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..1_000).map(|_| source.next()).collect::<Vec<_>>()))
                .collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        });
        epochs.sort_unstable();
        epochs.dedup();
        assert_eq!(epochs, (3..4_003).collect::<Vec<_>>());
    }

    #[test]
    fn newest_connection_is_active_in_whatever_order_they_come() {
        let registry = Registry::new(8, usize::MAX);
        for epoch in [5, 9, 7] {
            registry.insert(peer(1), epoch, epoch).unwrap();
        }
        assert_eq!(registry.get(&peer(1)), Some(9));
        assert_eq!(registry.connections(), [5, 7, 9]);
        assert_eq!(registry.peers(), [9]);
        assert_eq!((registry.len(), registry.peer_count()), (3, 1));
    }

    #[test]
    fn removal_takes_the_named_epoch_only_and_the_next_newest_becomes_active() {
        let registry = Registry::new(8, usize::MAX);
        registry.insert(peer(1), 1, "old").unwrap();
        registry.insert(peer(1), 2, "new").unwrap();
        assert_eq!(registry.remove(&peer(1), 3), None);
        assert_eq!(registry.remove(&peer(2), 1), None);
        assert_eq!(registry.remove(&peer(1), 2), Some("new"));
        assert_eq!(registry.remove(&peer(1), 2), None);
        assert_eq!(registry.get(&peer(1)), Some("old"));
        assert_eq!(registry.remove(&peer(1), 1), Some("old"));
        assert_eq!((registry.get(&peer(1)), registry.peer_count()), (None, 0));
        assert!(registry.is_empty());
    }

    #[test]
    fn full_registry_refuses_and_takes_again_after_a_removal() {
        let registry = Registry::new(2, usize::MAX);
        registry.insert(peer(1), 1, ()).unwrap();
        registry.insert(peer(2), 2, ()).unwrap();
        assert_eq!(registry.insert(peer(3), 3, ()), Err(RegistryFull::OfAll { limit: 2 }));
        assert_eq!((registry.get(&peer(3)), registry.peer_count()), (None, 2));
        registry.remove(&peer(1), 1).unwrap();
        assert_eq!(registry.insert(peer(3), 3, ()), Ok(()));
        assert_eq!(registry.len(), 2);
        assert!(Registry::new(0, usize::MAX).insert(peer(1), 1, ()).is_err());
    }

    #[test]
    fn a_peer_with_all_its_connections_is_refused_and_another_is_not() {
        let registry = Registry::new(8, 2);
        for epoch in [3, 1] {
            registry.insert(peer(1), epoch, epoch).unwrap();
        }
        for epoch in [0, 2, 4] {
            let refused = registry.insert(peer(1), epoch, epoch);
            assert_eq!(refused, Err(RegistryFull::OfPeer { limit: 2 }));
        }
        registry.insert(peer(1), 3, 33).expect("the same again");
        registry.insert(peer(2), 5, 5).expect("another peer");
        assert_eq!((registry.get(&peer(1)), registry.len()), (Some(33), 3));
        registry.remove(&peer(1), 1).unwrap();
        registry.insert(peer(1), 6, 6).expect("there is room again");
        assert_eq!((registry.get(&peer(1)), registry.len()), (Some(6), 3));
    }

    #[test]
    fn same_epoch_again_replaces_the_handle_and_counts_once() {
        let registry = Registry::new(2, usize::MAX);
        registry.insert(peer(1), 1, "first").unwrap();
        registry.insert(peer(1), 1, "second").unwrap();
        assert_eq!((registry.get(&peer(1)), registry.len()), (Some("second"), 1));
        assert_eq!(registry.remove(&peer(1), 1), Some("second"));
        assert!(registry.is_empty());
    }

    /// Every worker replaces the connection of the same few peers and removes its predecessor,
    /// twice, as a late notice would.
    #[test]
    fn removal_of_a_predecessor_never_removes_its_successor() {
        const WORKERS: usize = 4;
        const ROUNDS: usize = 5_000;
        let (registry, epochs) = (Registry::new(usize::MAX, usize::MAX), EpochSource::new());
        let start = Barrier::new(WORKERS);
        thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| {
                    start.wait();
                    let mut last = [0; 3];
                    for round in 0..ROUNDS {
                        let index = round % last.len();
                        let peer = peer(u8::try_from(index).unwrap());
                        let epoch = epochs.next();
                        registry.insert(peer, epoch, epoch).unwrap();
                        let previous = std::mem::replace(&mut last[index], epoch);
                        let expected = (previous != 0).then_some(previous);
                        assert_eq!(registry.remove(&peer, previous), expected);
                        assert_eq!(registry.remove(&peer, previous), None);
                        // One's own is there, so the active one is that or a newer one.
                        assert!(registry.get(&peer).is_some_and(|active| active >= epoch));
                    }
                    for (index, epoch) in last.into_iter().enumerate() {
                        let peer = peer(u8::try_from(index).unwrap());
                        assert_eq!(registry.remove(&peer, epoch), Some(epoch));
                    }
                });
            }
        });
        assert!(registry.is_empty());
        assert_eq!((registry.peer_count(), registry.connections().len()), (0, 0));
    }

    #[test]
    fn limit_is_exact_however_many_insert_at_once() {
        const WORKERS: u8 = 8;
        const LIMIT: usize = 100;
        for _ in 0..50 {
            let (registry, epochs) = (Registry::new(LIMIT, usize::MAX), EpochSource::new());
            let start = Barrier::new(usize::from(WORKERS));
            let fill = |worker| {
                start.wait();
                let insert = |_: &usize| registry.insert(peer(worker), epochs.next(), ()).is_ok();
                (0..LIMIT).filter(insert).count()
            };
            let fill = &fill;
            let inserted: usize = thread::scope(|scope| {
                let workers: Vec<_> =
                    (0..WORKERS).map(|worker| scope.spawn(move || fill(worker))).collect();
                workers.into_iter().map(|worker| worker.join().unwrap()).sum()
            });
            assert_eq!(inserted, LIMIT);
            assert_eq!((registry.len(), registry.connections().len()), (LIMIT, LIMIT));
        }
    }

    #[test]
    fn limit_holds_while_connections_come_and_go() {
        const LIMIT: usize = 3;
        let (registry, epochs) = (Registry::new(LIMIT, usize::MAX), EpochSource::new());
        let open = AtomicUsize::new(0);
        thread::scope(|scope| {
            for worker in 0..6 {
                let (registry, epochs, open) = (&registry, &epochs, &open);
                scope.spawn(move || {
                    for _ in 0..5_000 {
                        let epoch = epochs.next();
                        if registry.insert(peer(worker), epoch, ()).is_ok() {
                            assert!(open.fetch_add(1, Ordering::SeqCst) < LIMIT);
                            open.fetch_sub(1, Ordering::SeqCst);
                            registry.remove(&peer(worker), epoch).unwrap();
                        }
                    }
                });
            }
        });
        assert!(registry.is_empty());
    }
}
