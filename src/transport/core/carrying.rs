//! A connection whose streams carry a session.

use std::sync::Arc;

use super::ConnectionCore;
use crate::error::LibraryError;
use crate::identity::CertHash;
use crate::transport::ffi::{self, PeerStream};
use crate::transport::registration::LiveHandle;
use crate::transport::session_streams::{
    self, Carrier, OutStream, Outlet, SESSION_ALPN, StreamOwner,
};

impl StreamOwner for ConnectionCore {
    fn acknowledged(&self) {
        self.peer_has_spoken();
    }

    fn look_at_path(&self) {
        self.sample();
    }

    fn node(&self) -> CertHash {
        self.local_identity()
    }

    fn has_failed(&self) {
        Self::has_failed(self);
    }
}

impl ConnectionCore {
    /// Whether its streams carry a session.
    pub(crate) fn carries_session(&self) -> bool {
        self.alpn.get().is_some_and(|alpn| alpn == SESSION_ALPN)
    }

    /// From here on `carrier` reads what the peer's streams bring, also what came before. Once.
    pub(crate) fn carry(&self, carrier: &Arc<dyn Carrier>) {
        self.session_streams.carry(carrier);
    }

    /// Opens a stream of ours; the larger `priority` goes first.
    pub(crate) fn open_outlet(
        self: &Arc<Self>,
        priority: u16,
        outlet: Arc<dyn Outlet>,
    ) -> Result<Arc<OutStream<Self>>, LibraryError> {
        let live = self.live_handle().ok_or(ffi::CLOSED)?;
        session_streams::open(self, &self.slot, live, priority, outlet)
    }

    /// Adopts a stream of the peer's, whose bytes are not ours to read.
    pub(super) fn adopt_stream(self: &Arc<Self>, live: LiveHandle, peer_stream: PeerStream<'_>) {
        let stream = session_streams::adopt(self, live, peer_stream);
        self.session_streams.came(&stream);
    }
}
