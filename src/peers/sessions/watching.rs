//! What is due: deadlines of sessions, and whether peers stop inside frames.

use std::sync::Weak;
use std::time::Duration;

use super::Sessions;
use crate::lock::lock;
use crate::session::telling::LOOK;
use crate::transport::clock;

/// Between two looks whether peers stop inside frames.
const LOOK_MAX: Duration = Duration::from_secs(1);

impl Sessions {
    /// Does what is due, as long as there is anybody.
    pub(super) async fn watch_time(sessions: Weak<Self>) {
        let Some(strong) = sessions.upgrade() else { return };
        // Looked at now and then, so that this ends with the node as well.
        let often = LOOK_MAX.min(strong.limits.frame_time_max / 4).max(LOOK);
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
}
