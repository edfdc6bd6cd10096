//! Which connectors want to know that a peer has come by itself.
//!
//! A connector waits for longer and longer times while its peer is away. A connection of that peer
//! says that it is back.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard};

use ractor::{ActorId, ActorRef};

use super::handle::ConnectionHandle;
use super::message::connector::ConnectorMessage;
use crate::identity::CertHash;
use crate::lock::lock;

/// See the module. As many entries as there are connectors that know their peer.
#[derive(Debug, Default)]
pub(crate) struct Arrivals(Mutex<HashMap<CertHash, Vec<ActorRef<ConnectorMessage>>>>);

impl Arrivals {
    /// Tells `connector` of the inbound connections of `peer` from here on.
    pub(super) fn watch(&self, peer: CertHash, connector: ActorRef<ConnectorMessage>) {
        self.lock().entry(peer).or_default().push(connector);
    }

    pub(super) fn forget(&self, peer: &CertHash, connector: ActorId) {
        if let Entry::Occupied(mut watching) = self.lock().entry(*peer) {
            watching.get_mut().retain(|one| one.get_id() != connector);
            if watching.get().is_empty() {
                watching.remove();
            }
        }
    }

    /// A connection of the peer's came to stand.
    pub(super) fn tell(&self, arrived: &ConnectionHandle) {
        let watching = self.lock().get(&arrived.peer()).cloned();
        for connector in watching.into_iter().flatten() {
            // One that has ended needs nobody.
            drop(connector.cast(ConnectorMessage::Arrived(arrived.clone())));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CertHash, Vec<ActorRef<ConnectorMessage>>>> {
        lock(&self.0)
    }
}
