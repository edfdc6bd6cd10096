//! Sessions of which something gathers for their peers to be told: each is looked at in a while.

use std::sync::{Arc, Mutex, Weak};

use tokio::runtime::Handle;

use crate::lock::lock;
use crate::peers::link::Frames;
use crate::session::telling::LOOK;

/// Those that are looked at next, by one task for all, as long as there are any.
#[derive(Default)]
pub(super) struct Looks(Mutex<State>);

#[derive(Default)]
struct State {
    due: Vec<Weak<dyn Frames>>,
    /// A task looks.
    running: bool,
}

impl Looks {
    /// The session is looked at next time.
    pub(super) fn add(self: &Arc<Self>, session: Weak<dyn Frames>, runtime: &Handle) {
        let starts = {
            let mut state = lock(&self.0);
            state.due.push(session);
            !std::mem::replace(&mut state.running, true)
        };
        if starts {
            drop(runtime.spawn(look(Arc::downgrade(self))));
        }
    }

    /// Those that are due; none: nobody looks any more.
    fn take(&self) -> Option<Vec<Weak<dyn Frames>>> {
        let mut state = lock(&self.0);
        state.running = !state.due.is_empty();
        state.running.then(|| std::mem::take(&mut state.due))
    }
}

async fn look(looks: Weak<Looks>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(due) = looks.upgrade().and_then(|looks| looks.take()) else { return };
        for session in due.iter().filter_map(Weak::upgrade) {
            session.look_at_telling();
        }
    }
}
