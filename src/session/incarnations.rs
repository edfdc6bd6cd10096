//! Incarnations of peers that were replaced by later ones, and are refused from there on.

use std::collections::{BTreeMap, VecDeque};

use super::message::Incarnation;
use crate::identity::CertHash;

/// See the module.
#[derive(Debug)]
pub(super) struct Incarnations {
    each_max: usize,
    identities_max: usize,
    replaced: BTreeMap<CertHash, VecDeque<Incarnation>>,
    /// Identities, in the order in which they came.
    order: VecDeque<CertHash>,
}

impl Incarnations {
    pub(super) fn new(each_max: usize, identities_max: usize) -> Self {
        Self { each_max, identities_max, replaced: BTreeMap::new(), order: VecDeque::new() }
    }

    /// Remembers it, and forgets the oldest where there is no room: an incarnation, or an identity.
    pub(super) fn replace(&mut self, peer: CertHash, old: Incarnation) -> (bool, bool) {
        if !self.replaced.contains_key(&peer) {
            self.order.push_back(peer);
        }
        let of_peer = self.replaced.entry(peer).or_default();
        if !of_peer.contains(&old) {
            of_peer.push_back(old);
        }
        let incarnation = of_peer.len() > self.each_max;
        while of_peer.len() > self.each_max {
            of_peer.pop_front();
        }
        let identity = self.order.len() > self.identities_max;
        while self.order.len() > self.identities_max {
            if let Some(oldest) = self.order.pop_front() {
                self.replaced.remove(&oldest);
            }
        }
        (incarnation, identity)
    }

    pub(super) fn was_replaced(&self, peer: CertHash, incarnation: Incarnation) -> bool {
        self.replaced.get(&peer).is_some_and(|of_peer| of_peer.contains(&incarnation))
    }
}
