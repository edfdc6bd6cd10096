//! What is looked at in a while: sessions of which something gathers for their peers to be told, deadlines,
//! and whether peers stop inside frames.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::runtime::Handle;

use super::Sessions;
use crate::lock::lock;
use crate::peers::link::Frames;
use crate::session::telling::LOOK;
use crate::transport::clock;

/// Between two looks whether peers stop inside frames.
const LONGEST: Duration = Duration::from_secs(1);

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

/// Does what is due, as long as there is anybody.
pub(super) async fn watch_time(sessions: Weak<Sessions>) {
    let Some(strong) = sessions.upgrade() else { return };
    // Looked at now and then, so that this ends with the node as well.
    let often = LONGEST.min(strong.limits.frame_time_max / 4).max(LOOK);
    drop(strong);
    let mut frames_due = clock::now() + often;
    loop {
        let Some(strong) = sessions.upgrade() else { return };
        let next = lock(&strong.inner).table.next_deadline();
        let until = next.map_or(frames_due, |next| next.min(frames_due));
        let changed = strong.changed.notified();
        tokio::pin!(changed);
        tokio::select! {
            () = &mut changed => {}
            () = tokio::time::sleep_until(until.into()) => {}
        }
        let now = clock::now();
        if next.is_some_and(|next| next <= now) {
            strong.decide(|table, at| table.time(at));
        }
        if frames_due <= now {
            // Where this side itself stood still, what came meanwhile is read first.
            let stood_still = now >= frames_due + often;
            frames_due = now + often;
            if stood_still {
                continue;
            }
            let links: Vec<_> = lock(&strong.links).values().cloned().collect();
            links.iter().for_each(|link| link.look_at_frames(now));
        }
    }
}
