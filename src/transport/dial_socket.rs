//! The socket of a dialled connection, and what it lets in while the connection comes to stand.
//!
//! ```text
//! started ──5 ms ───> Handshake ──the peer has shown that its handshake is done──> Established
//!                    version 1 and short headers                          short headers alone
//! ```
//!
//! The library has faults that version packets from the peer's address reach (SECURITY.md). It opens
//! the socket on a thread of its own, which tells nobody: so it is looked for soon after the start,
//! and in the connection's callbacks, while it cannot be closed.
//!
//! Invariants: a socket that connections share never goes beyond `Handshake`, which the next of them
//! needs; nothing here waits for the library.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use super::ffi::{self, Dialled, Stage};
use crate::lock::lock;

/// How long after the start its socket is looked for, and then again; after that its callbacks see to
/// it. A peer nearby has answered before.
const LOOKS: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(15)];

/// See the module.
#[derive(Debug)]
pub(super) struct DialSocket {
    remote: SocketAddr,
    shared: Option<SocketAddr>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Its descriptor, or one near it.
    near: i32,
    /// What its filter is for, if it has one.
    stage: Option<Stage>,
}

impl DialSocket {
    /// Before it is opened.
    pub(super) fn new(remote: SocketAddr, shared: Option<SocketAddr>) -> Self {
        let near = if shared.is_some() { 0 } else { ffi::next_descriptor() };
        Self { remote, shared, state: Mutex::new(State { near, stage: None }) }
    }

    /// Looks for it a few times; ends when it has its filter, or others are to see to that.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only looks.
    pub(super) async fn look(&self) {
        for wait in LOOKS {
            tokio::time::sleep(wait).await;
            if self.guard(self.shared, Stage::Handshake) {
                return;
            }
        }
    }

    /// In a callback of its connection, which is bound to `local`: sees to its filter for `stage`.
    pub(super) fn reached(&self, local: Option<SocketAddr>, stage: Stage) {
        let stage = if self.shared.is_some() { Stage::Handshake } else { stage };
        if let Some(local) = self.shared.or(local)
            && !self.guard(Some(local), stage)
        {
            tracing::debug!(%local, remote = %self.remote, ?stage, "a socket has no filter");
        }
    }

    /// Tells whether it has its filter.
    fn guard(&self, local: Option<SocketAddr>, stage: Stage) -> bool {
        let mut state = lock(&self.state);
        if state.stage >= Some(stage) {
            return true;
        }
        let dialled = Dialled { near: state.near, local, remote: self.remote };
        let Some(found) = ffi::guard_dialled(&dialled, stage) else { return false };
        // While it is not known where it is bound, it may have been another one's.
        if local.is_some() {
            *state = State { near: found, stage: Some(stage) };
        }
        true
    }
}
