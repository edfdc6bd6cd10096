//! What a connection that came in takes until its handshake is done, and what is learned from it.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::ConnectionCore;
use crate::lock::lock;
use crate::transport::admission::HandshakePlace;

impl ConnectionCore {
    pub(in crate::transport) fn set_handshake_place(&self, place: HandshakePlace) {
        *lock(&self.handshake_place) = Some(place);
    }

    /// The handshake is done or the connection over, in either direction: a peer was connected from that
    /// address, if it ever was.
    pub(super) fn leave_handshake(&self) {
        if self.connected.load(Ordering::Acquire)
            && let Some(remote) = self.remote_addr()
        {
            self.bounds.arrivals.saw(remote.ip(), Instant::now());
        }
        let place = lock(&self.handshake_place).take();
        drop(place);
    }

    /// The peer asked and showed no certificate in time.
    pub(in crate::transport) fn was_silent(&self) {
        self.bounds.arrivals.was_silent();
    }
}
