//! Peers that stop, and are not to be dialled until they are back or their delay is over.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::identity::CertHash;

/// See the module.
#[derive(Debug)]
pub(super) struct Away {
    max: usize,
    until: BTreeMap<CertHash, Instant>,
}

impl Away {
    pub(super) fn new(max: usize) -> Self {
        Self { max, until: BTreeMap::new() }
    }

    /// Whether another one had to be forgotten for it.
    pub(super) fn leaves(&mut self, now: Instant, peer: CertHash, until: Instant) -> bool {
        let is_full = self.until.len() >= self.max && !self.until.contains_key(&peer);
        if is_full {
            self.until.retain(|_, until| *until > now);
        }
        let forgets = is_full && self.until.len() >= self.max;
        if forgets {
            self.until.pop_first();
        }
        self.until.insert(peer, until);
        forgets
    }

    /// Whether it was away.
    pub(super) fn is_back(&mut self, peer: CertHash) -> bool {
        self.until.remove(&peer).is_some()
    }

    /// Until when it is not to be dialled.
    pub(super) fn until(&self, now: Instant, peer: CertHash) -> Option<Instant> {
        self.until.get(&peer).copied().filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn those_whose_delay_is_over_are_forgotten_first() {
        let now = Instant::now();
        let peers = [1, 2, 3, 4].map(|byte| CertHash::from_bytes([byte; 32]));
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut away = Away::new(2);
        assert!(!away.leaves(now, peers[0], after(9)));
        assert!(!away.leaves(now, peers[1], after(1)));
        assert!(!away.leaves(now, peers[1], after(2)), "it is the same");
        assert!(!away.leaves(after(2), peers[2], after(9)));
        assert_eq!(away.until(after(2), peers[1]), None);
        assert!(away.leaves(after(3), peers[3], after(9)), "nobody is back");
        assert_eq!(away.until(after(3), peers[0]), None);
        assert_eq!(away.until(after(3), peers[2]), Some(after(9)));
        assert_eq!((away.is_back(peers[2]), away.is_back(peers[2])), (true, false));
        assert_eq!(away.until(after(3), peers[2]), None);
    }
}
