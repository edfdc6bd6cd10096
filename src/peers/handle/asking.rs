//! Requests to a peer.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::Peer;
use crate::peers::core::{Answer, NotAsked, PeerCore};
use crate::peers::error::{PeerSendError, RequestError};
use crate::peers::out_flow::OutFlow;
use crate::session::requests::{RequestEnd, RequestId};
use crate::transport::{Lane, clock};

type Asked = (RequestId, oneshot::Receiver<Answer>);

impl Peer {
    /// Asks the peer on the data lane, and waits for its answer for `time`.
    ///
    /// # Errors
    ///
    /// [`RequestError`]; each says whether the peer's handler may have run.
    ///
    /// # Cancel safety
    ///
    /// Cancelled, the peer's handler is told that nobody waits
    /// ([`Request::cancelled`](crate::Request::cancelled)).
    pub async fn request(
        &self,
        frame: impl Into<Bytes>,
        time: Duration,
    ) -> Result<Bytes, RequestError> {
        self.request_on(Lane::Data, frame, time).await
    }

    /// As [`request`](Self::request), on a lane of choice. The answer does not wait for messages.
    ///
    /// # Errors
    ///
    /// As for [`request`](Self::request).
    ///
    /// # Cancel safety
    ///
    /// As for [`request`](Self::request).
    pub async fn request_on(
        &self,
        lane: Lane,
        frame: impl Into<Bytes>,
        time: Duration,
    ) -> Result<Bytes, RequestError> {
        let deadline = clock::after(time);
        let frame = self.check_request(frame.into())?;
        self.room_by(lane, &frame, deadline).await?;
        let asked = self.core().ask(lane, frame, deadline).map_err(not_asked)?;
        self.answer(asked, deadline).await
    }

    pub(super) fn check_request(&self, frame: Bytes) -> Result<Bytes, RequestError> {
        self.check(frame).map_err(|error| match error {
            PeerSendError::TooLarge { length, limit, .. } => {
                RequestError::TooLarge { length, limit }
            }
            PeerSendError::Full { .. }
            | PeerSendError::Ended { .. }
            | PeerSendError::Credit { .. }
            | PeerSendError::NotDelivered { .. } => RequestError::NotSent,
        })
    }

    pub(super) async fn room_by(
        &self,
        lane: Lane,
        frame: &Bytes,
        deadline: Instant,
    ) -> Result<(), RequestError> {
        let admit = self.core().out(lane, false).admit(OutFlow::cost(frame.len()));
        match tokio::time::timeout_at(deadline.into(), admit).await {
            Err(_) => Err(RequestError::DeadlineExceeded { may_have_run: false }),
            Ok(admitted) => admitted.map_err(|_| RequestError::NotSent),
        }
    }

    pub(super) async fn answer(
        &self,
        (id, answer): Asked,
        deadline: Instant,
    ) -> Result<Bytes, RequestError> {
        let mut waits = Waits { core: self.core(), id: Some(id) };
        let (end, payload) = match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(answer) => {
                waits.id = None;
                answer.map_err(|_| RequestError::SessionLost)?
            }
            Err(_) => {
                waits.id = None;
                let end = self.core().give_up(id);
                let may_have_run = end.is_none_or(RequestEnd::may_have_run);
                return Err(RequestError::DeadlineExceeded { may_have_run });
            }
        };
        match end {
            RequestEnd::Reply => Ok(payload),
            RequestEnd::Refused => Err(RequestError::Refused),
            RequestEnd::NoReply => Err(RequestError::NoReply),
            RequestEnd::DeadlineExceeded { may_have_run }
            | RequestEnd::Cancelled { may_have_run } => {
                Err(RequestError::DeadlineExceeded { may_have_run })
            }
            RequestEnd::NotSent => Err(RequestError::NotSent),
            RequestEnd::SessionLost => Err(RequestError::SessionLost),
        }
    }
}

pub(super) fn not_asked(why: NotAsked) -> RequestError {
    match why {
        NotAsked::TooMany(in_flight, _) => RequestError::TooMany { in_flight },
        NotAsked::Ended(_) => RequestError::NotSent,
    }
}

/// Gives a request up whose caller goes.
struct Waits<'a> {
    core: &'a PeerCore,
    id: Option<RequestId>,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.core.give_up(id);
        }
    }
}
