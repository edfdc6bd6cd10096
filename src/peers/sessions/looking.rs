//! Sessions of which something gathers for their peers to be told: each is looked at in a while.

use std::sync::{Mutex, Weak};

use tokio::runtime::Handle;

use super::Sessions;
use crate::lock::lock;
use crate::peers::core::PeerCore;
use crate::session::telling::LOOK;

/// Those that are looked at next, by one task for all, as long as there are any.
#[derive(Default)]
pub(super) struct Looks(Mutex<State>);

#[derive(Default)]
struct State {
    due: Vec<Weak<PeerCore>>,
    /// A task looks.
    running: bool,
}

impl Looks {
    /// The session is looked at next time.
    pub(super) fn add(&self, session: Weak<PeerCore>, runtime: &Handle, sessions: &Weak<Sessions>) {
        let starts = {
            let mut state = lock(&self.0);
            state.due.push(session);
            !std::mem::replace(&mut state.running, true)
        };
        if starts {
            drop(runtime.spawn(look(Weak::clone(sessions))));
        }
    }

    /// Those that are due; none: nobody looks any more.
    fn take(&self) -> Option<Vec<Weak<PeerCore>>> {
        let mut state = lock(&self.0);
        state.running = !state.due.is_empty();
        state.running.then(|| std::mem::take(&mut state.due))
    }
}

async fn look(sessions: Weak<Sessions>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(sessions) = sessions.upgrade() else { return };
        let Some(due) = sessions.looks.take() else { return };
        for core in due.iter().filter_map(Weak::upgrade) {
            core.look_at_telling();
        }
    }
}
