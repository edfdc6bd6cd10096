//! What MsQuic tells about the connection itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use bytes::Bytes;

use super::{ConnectionCore, Dial, Direction, Notice, OnOver, PeerCertificate};
use crate::error::{CertificateRefused, CloseCode, CloseReason};
use crate::identity::{CertHash, key_prefixes};
use crate::lock::lock;
use crate::never::never;
use crate::transport::callback::guard;
use crate::transport::counts::Limit;
use crate::transport::ffi::{ConnectionCallbacks, ConnectionSlot, PeerStream, Stage};
use crate::transport::refusal;

impl ConnectionCallbacks for ConnectionCore {
    fn slot(&self) -> &ConnectionSlot {
        &self.slot
    }

    fn connected(&self, alpn: &[u8]) {
        let _ = self.alpn.set(String::from_utf8_lossy(alpn).into_owned());
        let ends = self.slot.addresses();
        if let Some(local) = ends.local {
            let _ = self.local_addr.set(local);
        }
        if let Some(remote) = ends.remote {
            let _ = self.remote_addr.set(remote);
        }
        if self.direction == Direction::Outbound {
            self.slot.set_version_agreed();
        }
        self.guard_socket(Stage::Handshake);
        self.slot.set_connected(self.limits().disconnect_time_max, self.windows.stream);
        self.sample();
        self.connected.store(true, Ordering::Release);
        self.leave_handshake();
        self.changed.notify_waiters();
    }

    fn peer_certificate(&self, leaf: Option<&[u8]>) -> bool {
        self.guard_socket(Stage::Handshake);
        let judged = self.credential.trust().judge(leaf, self.expected, SystemTime::now());
        match (judged, leaf) {
            (Ok(identity), Some(leaf)) => {
                let der = Bytes::copy_from_slice(leaf);
                self.certificate.set(PeerCertificate { identity, der }).is_ok()
            }
            (Ok(_), None) => {
                never!("a peer without a certificate is trusted");
                false
            }
            (Err(refusal), leaf) => {
                let _ = self.refused.set((refusal, leaf.map(key_prefixes)));
                false
            }
        }
    }

    fn closed_by_transport(&self, status: u32, error_code: u64) {
        let connected = self.connected.load(Ordering::Acquire);
        if connected && !self.is_over() {
            self.ended_by_silence(status);
        }
        let refused = self.refused.get().map(|(refusal, keys)| CertificateRefused::ByUs {
            refusal: refusal.clone(),
            keys: keys.clone(),
        });
        let own = || refusal::own_keys(&self.credential);
        self.publish(match refused {
            Some(refused) if !connected => CloseReason::Certificate(Box::new(refused)),
            _ => refusal::resolve_transport_close(status, error_code, connected, own),
        });
    }

    fn closed_by_peer(&self, code: u64) {
        self.publish(CloseReason::Peer { code: CloseCode::from_wire(code) });
    }

    fn peer_needs_streams(&self) {
        self.reached(Limit::PeerStreams);
    }

    fn peer_stream(self: Arc<Self>, stream: PeerStream<'_>) {
        self.peer_finished.store(false, Ordering::Release);
        self.end_taken.store(false, Ordering::Release);
        self.end_untold.store(false, Ordering::Release);
        self.peer_has_spoken();
        self.accept_stream(stream);
        self.changed.notify_waiters();
    }

    fn complete(&self) {
        if self.is_complete() {
            return;
        }
        // A shutdown that nobody named: the registration's.
        self.publish(CloseReason::Local { code: CloseCode::DROPPED });
        // Before anybody is told: who dials then has its part.
        lock(&self.window_share).set_busy(false);
        self.completed();
    }

    fn released(&self) {
        drop(lock(&self.dial).take());
        lock(&self.window_share).set_busy(false);
        self.live.release();
    }

    fn failed(&self) {
        self.has_failed();
    }

    fn node(&self) -> CertHash {
        self.local_identity()
    }
}

impl ConnectionCore {
    /// Calls `callback` when everything about the connection is known; at once if it is.
    pub(crate) fn on_complete(&self, callback: OnOver) {
        let mut waiting = lock(&self.on_complete);
        match self.over.get().filter(|_| self.is_complete()) {
            None => waiting.push(callback),
            Some(reason) => {
                drop(waiting);
                callback(reason);
            }
        }
    }

    /// Of a connection that was dialled: sees to what its socket lets in. Only from its own callbacks.
    pub(super) fn guard_socket(&self, stage: Stage) {
        let socket = lock(&self.dial).as_ref().map(Dial::socket);
        if let Some(socket) = socket {
            socket.reached(self.local_addr().or_else(|| self.slot.addresses().local), stage);
        }
    }

    /// Whether the peer has shown a certificate, or that it has none.
    pub(crate) fn has_answered(&self) -> bool {
        self.certificate.get().is_some() || self.refused.get().is_some()
    }

    /// Everything is known.
    fn completed(&self) {
        let callbacks = {
            let mut waiting = lock(&self.on_complete);
            self.complete.store(true, Ordering::Release);
            std::mem::take(&mut *waiting)
        };
        match self.over.get() {
            Some(reason) => callbacks.into_iter().for_each(|callback| {
                // One that fails keeps it from nobody else.
                guard("the end of a connection", || callback(reason));
            }),
            None => never!("all is known but why the connection is over"),
        }
        self.session_streams.over();
        self.changed.notify_waiters();
        self.notify(Notice::Complete);
    }
}
