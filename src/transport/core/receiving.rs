//! Frames in: readers, and the deadline of frames that are not whole.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::ConnectionCore;
use crate::error::{CloseCode, RecvError};

impl ConnectionCore {
    pub(crate) async fn recv_from(
        &self,
        stream: Option<u64>,
    ) -> Result<(Bytes, Duration), RecvError> {
        loop {
            let taken = match stream {
                None => self.inbound.take_one(),
                Some(id) => self.inbound.take_from(id),
            };
            if let Some(taken) = taken {
                return taken;
            }
            self.wait_for_frame().await?;
        }
    }

    pub(crate) async fn recv_many(
        &self,
        into: &mut Vec<Bytes>,
        max: usize,
    ) -> Result<usize, RecvError> {
        loop {
            if let Some(taken) = self.inbound.take_many(into, max) {
                return taken;
            }
            self.wait_for_frame().await?;
        }
    }

    /// Waits for a change; where no owner watches deadlines, the reader does.
    async fn wait_for_frame(&self) -> Result<(), RecvError> {
        let changed = self.inbound.changed();
        if self.hook.get().is_some() {
            changed.await;
            return Ok(());
        }
        match self.inbound.oldest_partial() {
            None => changed.await,
            Some(partial) => {
                let deadline = partial.since + self.limits.frame_time_max;
                if tokio::time::timeout_at(deadline.into(), changed).await.is_err() {
                    self.check_partial();
                }
            }
        }
        Ok(())
    }

    /// Ends the connection if a frame is not whole for too long; otherwise tells when to look
    /// again, if there is anything to look at.
    pub(crate) fn check_partial(&self) -> Option<Instant> {
        let partial = self.inbound.oldest_partial().or_else(|| {
            // From here on the next unfinished frame is told again; one may have begun just now.
            self.frames_watched.store(false, Ordering::Release);
            self.inbound.oldest_partial()
        })?;
        let after = self.limits.frame_time_max;
        let deadline = partial.since + after;
        if Instant::now() < deadline {
            return Some(deadline);
        }
        let position = partial.position;
        self.inbound.end_partial(&RecvError::FrameTimedOut { after, position });
        self.cut(CloseCode::FRAME_TIMEOUT);
        None
    }
}
