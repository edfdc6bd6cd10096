//! A peer as applications hold it: a handle that outlives connections.

mod asking;
#[cfg(feature = "tower")]
mod ready;
mod receiving;
mod request;
mod sending;

use std::sync::Arc;

use tokio::runtime::Handle;

#[cfg(feature = "tower")]
pub(in crate::peers) use self::ready::Ready;
pub use self::receiving::Incoming;
pub use self::request::Request;
pub use self::sending::Receipt;
use super::core::PeerCore;
use super::error::PeerEnded;
use super::sessions::Sessions;
use crate::error::CloseCode;
use crate::identity::CertHash;

/// Ends the session when the last handle goes, however many asked for it.
#[derive(Debug)]
struct Life {
    core: Arc<PeerCore>,
    sessions: Arc<Sessions>,
}

impl Drop for Life {
    fn drop(&mut self) {
        if self.core.leave() && self.core.ended().is_none() {
            self.sessions.give_up(&self.core);
        }
    }
}

/// A session with a peer under one protocol: what was accepted goes over as many connections as it takes,
/// in order within its lane, once.
///
/// Cheap to clone. When the last clone, the last [`Request`] and the session's actor, if it has one, are gone
/// the session ends at once; [`close`](Self::close) ends it in order.
#[derive(Debug, Clone)]
pub struct Peer {
    life: Arc<Life>,
}

impl Peer {
    pub(crate) fn new(core: Arc<PeerCore>, sessions: Arc<Sessions>) -> Self {
        core.hold();
        Self { life: Arc::new(Life { core, sessions }) }
    }

    pub(crate) fn core(&self) -> &Arc<PeerCore> {
        &self.life.core
    }

    pub(crate) fn sessions(&self) -> &Arc<Sessions> {
        &self.life.sessions
    }

    /// Where what goes on beside calls runs.
    pub(crate) fn runtime(&self) -> &Handle {
        self.life.sessions.runtime()
    }

    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> CertHash {
        self.core().peer
    }

    /// What both speak.
    #[must_use]
    pub fn protocol(&self) -> &str {
        &self.core().protocol
    }

    /// Whether it has a connection now. Frames are accepted either way.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.core().has_link()
    }

    /// Waits until it has a connection.
    ///
    /// # Errors
    ///
    /// [`PeerEnded`]: it never will.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only watches.
    pub async fn connected(&self) -> Result<(), PeerEnded> {
        self.core().up().await.map_err(PeerEnded::from)
    }

    /// Why the session is over, if it is: then every frame has its outcome, and what was not sent can be had
    /// by [`take_unsent`](Self::take_unsent). A [`Receipt`] may tell a moment before.
    #[must_use]
    pub fn ended(&self) -> Option<PeerEnded> {
        self.core().ended().cloned().map(PeerEnded::from)
    }

    /// The largest payload that both sides take, in bytes.
    #[must_use]
    pub fn frame_bytes_max(&self) -> usize {
        self.core().frame_bytes_max()
    }

    /// Ends the session once the peer's application took everything that was accepted, at the latest when
    /// the time for a close is over; returns how it ended.
    ///
    /// # Cancel safety
    ///
    /// The close goes on when it is cancelled, as long as a handle of the session is left.
    pub async fn close(&self, code: CloseCode) -> PeerEnded {
        self.begin_close(code);
        self.over().await
    }

    /// Begins the close, which goes on by itself as long as a handle is left.
    pub(crate) fn begin_close(&self, code: CloseCode) {
        self.sessions().close(self.core(), code);
    }

    /// Waits until the session is over. Cancel safe.
    pub(crate) async fn over(&self) -> PeerEnded {
        self.core().over().await;
        self.core().ended().cloned().into()
    }
}

/// The same session of the same node.
impl PartialEq for Peer {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(self.core(), other.core())
    }
}

impl Eq for Peer {}

impl std::hash::Hash for Peer {
    fn hash<S: std::hash::Hasher>(&self, state: &mut S) {
        self.core().id.hash(state);
    }
}
