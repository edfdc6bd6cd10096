//! A node that stops: its peers are told, what is in flight is finished, and what is left is given up.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::task::JoinSet;

use super::Sessions;
use crate::error::CloseCode;
use crate::lock::lock;
use crate::peers::core::PeerCore;

impl Sessions {
    /// The node stops: its peers are told, and nothing more is taken over but replies. Sessions without a
    /// connection end.
    pub(crate) fn go_away(&self) {
        self.leaving.store(true, Ordering::Release);
        let cores = self.cores();
        cores.iter().for_each(|core| core.freeze());
        let delay = self.limits.sessions.away_time;
        let mut alone = cores;
        self.decide(|table, at| {
            alone.retain(|core| !table.has_link_in_sight(core.id));
            table.go_away(at, delay)
        });
        alone.iter().for_each(|core| self.give_up(core));
    }

    /// Waits, behind [`go_away`](Self::go_away), until nothing is in flight, and closes each session then.
    pub(crate) async fn drain(self: Arc<Self>) {
        let mut waiting = JoinSet::new();
        for core in self.cores() {
            let sessions = Arc::clone(&self);
            waiting.spawn(async move {
                core.rest().await;
                sessions.close(&core, CloseCode::GOING_AWAY);
                core.over().await;
            });
        }
        // One that panics waits for nothing more.
        while waiting.join_next().await.is_some() {}
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        lock(&self.peers).len()
    }

    /// The node has ended.
    pub(crate) fn end_all(&self) {
        self.cores().iter().for_each(|core| self.give_up(core));
        // Whoever takes peers is told that none will come.
        let accepts = std::mem::take(&mut *lock(&self.accepts));
        drop(accepts);
        // Behind what is still to be said on them.
        self.decide(|table, at| table.close_links(at, CloseCode::GOING_AWAY));
    }

    fn cores(&self) -> Vec<Arc<PeerCore>> {
        lock(&self.peers).values().map(|entry| Arc::clone(&entry.core)).collect()
    }
}
