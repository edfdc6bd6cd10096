//! A peer as a service of `tower`: a request in, its answer out.
//!
//! Ready means that there is a place among the requests in flight and room on the lane for a usual frame, and
//! both are kept: what limits, balances and sheds load above this sees how busy the peer is.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tower_service::Service;

use super::error::RequestError;
use super::handle::{Peer, Ready};
use crate::transport::Lane;

/// Bytes of room that are kept before the frame is known. A larger frame waits for its room when it comes,
/// within its time.
const ROOM: usize = 4 * 1024;

/// Requests to one peer, on one lane, each with the same time: made by [`Peer::service`].
///
/// It is a `tower_service::Service` of [`Bytes`]. `poll_ready` waits for a place among the requests that
/// may be in flight, and for room; an error of it ([`RequestError::NotSent`]) says that the session is over, and
/// is final. A future that is dropped cancels its request. Clones share the bounds of the session, and
/// each is ready by itself.
pub struct PeerService {
    peer: Peer,
    lane: Lane,
    time: Duration,
    ready: Option<Ready>,
    waiting: Option<Waiting>,
}

type Waiting = Pin<Box<dyn Future<Output = Option<Ready>> + Send>>;

/// The answer to a request, when it comes.
pub struct AnswerFuture(Pin<Box<dyn Future<Output = Result<Bytes, RequestError>> + Send>>);

impl Peer {
    /// This peer as a service for `tower`: requests on `lane`, each with `time` for its answer.
    #[must_use]
    pub fn service(&self, lane: Lane, time: Duration) -> PeerService {
        PeerService { peer: self.clone(), lane, time, ready: None, waiting: None }
    }
}

impl PeerService {
    /// Whom it asks.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

/// Is ready by itself.
impl Clone for PeerService {
    fn clone(&self) -> Self {
        self.peer.service(self.lane, self.time)
    }
}

impl Service<Bytes> for PeerService {
    type Response = Bytes;
    type Error = RequestError;
    type Future = AnswerFuture;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), RequestError>> {
        if self.ready.is_some() {
            return Poll::Ready(Ok(()));
        }
        let waiting = match &mut self.waiting {
            Some(waiting) => waiting,
            None => {
                let length = ROOM.min(self.peer.frame_bytes_max());
                let waits = Ready::wait(Arc::clone(self.peer.core()), self.lane, length);
                self.waiting.insert(Box::pin(waits))
            }
        };
        self.ready = ready!(waiting.as_mut().poll(context));
        self.waiting = None;
        Poll::Ready(self.ready.as_ref().map(|_| ()).ok_or(RequestError::NotSent))
    }

    /// Called without having been ready it asks as [`Peer::request_on`] does.
    fn call(&mut self, frame: Bytes) -> AnswerFuture {
        let (peer, lane, time) = (self.peer.clone(), self.lane, self.time);
        match self.ready.take() {
            Some(ready) => {
                AnswerFuture(Box::pin(async move { peer.request_ready(ready, frame, time).await }))
            }
            None => AnswerFuture(Box::pin(async move { peer.request_on(lane, frame, time).await })),
        }
    }
}

impl Future for AnswerFuture {
    type Output = Result<Bytes, RequestError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(context)
    }
}

impl std::fmt::Debug for PeerService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerService")
            .field("peer", &self.peer)
            .field("lane", &self.lane)
            .field("time", &self.time)
            .field("is_ready", &self.ready.is_some())
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for AnswerFuture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnswerFuture").finish_non_exhaustive()
    }
}
