//! What happened lately, and the first thing that must not.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

use super::book::Violation;

/// So many events are told with what broke.
const EVENTS: usize = 50;

/// Shared by all who have something to tell.
#[derive(Clone)]
pub(crate) struct Story {
    started: Instant,
    lately: Arc<Mutex<VecDeque<String>>>,
    broken: watch::Sender<Option<Violation>>,
}

impl Story {
    pub(crate) fn new() -> Self {
        let lately = Arc::default();
        Self { started: Instant::now(), lately, broken: watch::Sender::new(None) }
    }

    fn lately(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.lately.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tell(&self, event: impl fmt::Display) {
        let event = format!("{:>9.3} s  {event}", self.started.elapsed().as_secs_f64());
        tracing::debug!(%event);
        let mut lately = self.lately();
        if self.broken.borrow().is_some() {
            return;
        }
        if lately.len() == EVENTS {
            lately.pop_front();
        }
        lately.push_back(event);
    }

    /// A promise is broken: the first one counts.
    pub(crate) fn broken(&self, violation: Violation) {
        self.broken.send_if_modified(|first| {
            let is_first = first.is_none();
            if is_first {
                *first = Some(violation);
            }
            is_first
        });
    }

    /// What broke first, once something has.
    pub(crate) async fn breaks(&self) -> Violation {
        let mut broken = self.broken.subscribe();
        loop {
            if let Some(violation) = broken.borrow_and_update().clone() {
                return violation;
            }
            // Its sender lives as long as this.
            let _ = broken.changed().await;
        }
    }

    /// The last events before that.
    pub(crate) fn last_events(&self) -> Vec<String> {
        self.lately().iter().cloned().collect()
    }
}
