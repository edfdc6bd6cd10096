//! Room in a lane, asked for by message.

use std::sync::Arc;

use ractor::RpcReplyPort;
use tokio::sync::Semaphore;

use super::answer;
use super::handle::Credit;
use super::waiting::CALLERS_MAX;
use crate::error::SendError;
use crate::transport::Lane;
use crate::transport::core::ConnectionCore;

pub(super) type Reply = RpcReplyPort<Result<Credit, SendError>>;

/// The callers that wait for room in a connection's lanes.
#[derive(Debug)]
pub(super) struct Reservations(Arc<Semaphore>);

impl Default for Reservations {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(CALLERS_MAX)))
    }
}

impl Reservations {
    /// Answers with room for so many frames of so many bytes together: at once if it is there,
    /// otherwise beside the actor, which must not wait. Where the most callers wait already the
    /// answer is [`SendError::Full`].
    ///
    /// Whoever has gone meanwhile gives the room back.
    pub(super) fn reserve(
        &self,
        core: &Arc<ConnectionCore>,
        (lane, frames, length): (Lane, usize, usize),
        reply: Reply,
    ) {
        let at_once = Credit::try_reserve(core, lane, frames, length);
        let Err(SendError::Full { .. }) = at_once else { return answer(reply, at_once) };
        let Ok(place) = Arc::clone(&self.0).try_acquire_owned() else {
            return answer(reply, at_once);
        };
        let core = Arc::clone(core);
        tokio::spawn(async move {
            answer(reply, Credit::reserve(&core, lane, frames, length).await);
            drop(place);
        });
    }
}
