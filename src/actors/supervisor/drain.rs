//! The last steps of an orderly end: connections close, and MsQuic lets go of every handle.

use std::sync::Arc;
use std::time::Duration;

use ractor::ActorRef;
use tokio::time::Instant;
use tracing::warn;

use crate::actors::message::supervisor::{Event, Internal, SupervisorMessage};
use crate::actors::shared::NodeShared;
use crate::actors::tasks::{OwnedTask, Unfinished};
use crate::error::CloseCode;
use crate::peers::sessions::LAST_WORD_MAX;
use crate::transport::clock;

/// How long peers may take to acknowledge the close of their connections.
const PEERS_TOLD_MAX: Duration = Duration::from_millis(500);

/// How long the transport may take to end what is cut without telling anybody.
const CUT_TIME_MAX: Duration = Duration::from_secs(2);

/// Waits for the orderly end of all connections, and tells the supervisor.
pub(super) fn drain(
    shared: Arc<NodeShared>,
    grace: Duration,
    supervisor: ActorRef<SupervisorMessage>,
) -> OwnedTask {
    OwnedTask::spawn(async move {
        let (left, owner) = (Arc::clone(&shared), supervisor.clone());
        let unfinished = Unfinished::then(move || tell(&owner, left.registry.len()));
        let cut = end_all(&shared, grace).await;
        // Those who asked the connections something are answered before the end kills them.
        supervisor.drain_children_and_wait(Some(CUT_TIME_MAX)).await;
        tell(&supervisor, cut);
        unfinished.done();
    })
}

fn tell(supervisor: &ActorRef<SupervisorMessage>, cut: usize) {
    drop(supervisor.cast(SupervisorMessage::Internal(Internal(Event::Drained { cut }))));
}

/// Waits until what is in flight of sessions is finished and the connections have ended, cutting what is
/// left after `grace`, and then until MsQuic has no handle left; returns how many connections were cut.
async fn end_all(shared: &NodeShared, grace: Duration) -> usize {
    let Ok(registration) = shared.transport.registration() else { return 0 };
    let mut until = Instant::from_std(clock::after(grace));
    let mut given_up = 0;
    if let Some(sessions) = shared.sessions.get() {
        if tokio::time::timeout_at(until, Arc::clone(sessions).drain()).await.is_err() {
            given_up = sessions.len();
            // Their last word: what was taken.
            until += LAST_WORD_MAX;
        }
        sessions.end_all();
    }
    let ended = async {
        loop {
            let left = shared.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if shared.registry.is_empty() {
                return;
            }
            left.await;
        }
    };
    let ended = tokio::time::timeout_at(until, ended).await.is_ok();
    let left = if ended { Vec::new() } else { shared.registry.connections() };
    for handle in &left {
        handle.core().cut(CloseCode::GOING_AWAY);
    }
    if !registration.wait_idle(PEERS_TOLD_MAX).await {
        // Handshakes on their way, and peers that do not answer.
        registration.cut_silently();
        if !registration.wait_idle(CUT_TIME_MAX).await {
            warn!(handles = registration.live_handles(), "handles are left after the shutdown");
        }
    }
    left.len().max(given_up)
}
