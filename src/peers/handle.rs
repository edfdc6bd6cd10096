//! A peer as applications hold it: a handle that outlives connections.

mod request;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use self::request::Request;
use super::core::{NotAsked, PeerCore, Received, flow_of};
use super::delivery::{Delivery, DeliveryCounts};
use super::error::{PeerEnded, PeerSendError, RequestError};
use super::out_flow::{NotAccepted, OutFlow};
use super::sessions::Sessions;
use crate::error::CloseCode;
use crate::identity::CertHash;
use crate::session::flow_out::{Fate, Outcomes};
use crate::session::frame_head::FrameHead;
use crate::session::requests::{RequestEnd, RequestId};
use crate::transport::{Lane, clock};

/// What a peer sent.
#[derive(Debug)]
pub enum Incoming {
    /// Wants nothing back.
    Message(Bytes),
    /// Wants an answer.
    Request(Request),
}

/// Ends the session when the last handle goes, however many asked for it.
#[derive(Debug)]
struct Life {
    core: Arc<PeerCore>,
    sessions: Arc<Sessions>,
}

impl Drop for Life {
    fn drop(&mut self) {
        if self.core.leave() && self.core.ended().is_none() {
            self.sessions.give_up(&self.core);
        }
    }
}

/// A session with a peer under one protocol: what was accepted goes over as many connections as it takes,
/// in order within its lane, once.
///
/// Cheap to clone. When the last clone and the last [`Request`] are gone the session ends at once;
/// [`close`](Self::close) ends it in order.
#[derive(Debug, Clone)]
pub struct Peer {
    life: Arc<Life>,
}

impl Peer {
    pub(crate) fn new(core: Arc<PeerCore>, sessions: Arc<Sessions>) -> Self {
        core.hold();
        Self { life: Arc::new(Life { core, sessions }) }
    }

    fn core(&self) -> &Arc<PeerCore> {
        &self.life.core
    }

    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> CertHash {
        self.core().peer
    }

    /// What both speak.
    #[must_use]
    pub fn protocol(&self) -> &str {
        &self.core().protocol
    }

    /// Whether it has a connection now. Frames are accepted either way.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.core().has_link()
    }

    /// Waits until it has a connection.
    ///
    /// # Errors
    ///
    /// [`PeerEnded`]: it never will.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only watches.
    pub async fn connected(&self) -> Result<(), PeerEnded> {
        self.core().up().await.map_err(PeerEnded::from)
    }

    /// The largest payload that both sides take, in bytes.
    #[must_use]
    pub fn frame_bytes_max(&self) -> usize {
        self.core().frame_bytes_max()
    }

    // ---- messages

    /// Accepts a frame on the data lane, and waits for room as long as that takes.
    ///
    /// # Errors
    ///
    /// [`PeerSendError`], with the frame.
    ///
    /// # Cancel safety
    ///
    /// Cancelled, the frame was not accepted: nothing is awaited behind that.
    pub async fn send(&self, frame: impl Into<Bytes>) -> Result<(), PeerSendError> {
        self.send_on(Lane::Data, frame).await
    }

    /// As [`send`](Self::send), on a lane of choice.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    ///
    /// # Cancel safety
    ///
    /// As for [`send`](Self::send).
    pub async fn send_on(&self, lane: Lane, frame: impl Into<Bytes>) -> Result<(), PeerSendError> {
        self.accept(lane, frame.into()).await.map(drop)
    }

    /// As [`send_on`](Self::send_on), for who does not wait.
    ///
    /// # Errors
    ///
    /// [`PeerSendError::Full`] where [`send_on`](Self::send_on) would wait, and as that.
    pub fn try_send(&self, lane: Lane, frame: impl Into<Bytes>) -> Result<(), PeerSendError> {
        let frame = self.check(frame.into())?;
        match self.core().out(lane, false).try_admit(OutFlow::cost(frame.len())) {
            Ok(()) => self.push(lane, frame).map(drop),
            Err(NotAccepted::Full) => Err(PeerSendError::Full { frame }),
            Err(NotAccepted::Shut) => Err(self.ended(frame)),
        }
    }

    /// Accepts a frame, and tells later what became of it.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    ///
    /// # Cancel safety
    ///
    /// As for [`send`](Self::send).
    pub async fn send_tracked(
        &self,
        lane: Lane,
        frame: impl Into<Bytes>,
    ) -> Result<Receipt, PeerSendError> {
        let number = self.accept(lane, frame.into()).await?;
        Ok(Receipt { core: Arc::clone(self.core()), lane, number })
    }

    /// Accepts a frame on the data lane, and waits until the peer's application took it.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send); [`PeerSendError::NotDelivered`] if the session ends before.
    ///
    /// # Cancel safety
    ///
    /// Cancelled, it may have been accepted.
    pub async fn send_acked(&self, frame: impl Into<Bytes>) -> Result<(), PeerSendError> {
        match self.send_tracked(Lane::Data, frame).await?.delivery().await {
            Delivery::Delivered => Ok(()),
            delivery @ (Delivery::NotSent | Delivery::MaybeSent) => {
                Err(PeerSendError::NotDelivered { delivery })
            }
        }
    }

    /// Frames that were accepted and not sent, once the session is over: each once, to be sent elsewhere.
    #[must_use]
    pub fn take_unsent(&self) -> Vec<(Lane, Bytes)> {
        let of = |lane| {
            let unsent = self.core().out(lane, false).take_unsent();
            unsent.into_iter().map(move |frame| (lane, frame))
        };
        Lane::ALL.into_iter().flat_map(of).collect()
    }

    /// What became of the frames and requests of each of [`Lane::ALL`].
    #[must_use]
    pub fn deliveries(&self) -> [DeliveryCounts; 3] {
        Lane::ALL.map(|lane| {
            let Outcomes { accepted, delivered, not_sent, maybe_sent } =
                self.core().out(lane, false).outcomes();
            DeliveryCounts { accepted, delivered, not_sent, maybe_sent }
        })
    }

    async fn accept(&self, lane: Lane, frame: Bytes) -> Result<u64, PeerSendError> {
        let frame = self.check(frame)?;
        // Who never has to wait would keep its runtime's thread for itself.
        tokio::task::consume_budget().await;
        let cost = OutFlow::cost(frame.len());
        let out = self.core().out(lane, false);
        let admitted = match out.try_admit(cost) {
            Err(NotAccepted::Full) => out.admit(cost).await,
            admitted => admitted,
        };
        match admitted {
            Ok(()) => self.push(lane, frame),
            Err(NotAccepted::Full | NotAccepted::Shut) => Err(self.ended(frame)),
        }
    }

    fn push(&self, lane: Lane, frame: Bytes) -> Result<u64, PeerSendError> {
        let pushed = self.core().push(flow_of(lane, false), FrameHead::Message, frame, |_| {});
        pushed.map_err(|frame| self.ended(frame))
    }

    fn check(&self, frame: Bytes) -> Result<Bytes, PeerSendError> {
        let (length, limit) = (frame.len(), self.frame_bytes_max());
        if length > limit {
            Err(PeerSendError::TooLarge { length, limit, frame })
        } else {
            Ok(frame)
        }
    }

    fn ended(&self, frame: Bytes) -> PeerSendError {
        PeerSendError::Ended { ended: self.core().ended().cloned().into(), frame }
    }

    // ---- requests

    /// Asks the peer on the data lane, and waits for its answer for `time`.
    ///
    /// # Errors
    ///
    /// [`RequestError`]; each says whether the peer's handler may have run.
    ///
    /// # Cancel safety
    ///
    /// Cancelled, the peer's handler is told that nobody waits ([`Request::cancelled`]).
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
        let deadline = clock::now() + time;
        let late = RequestError::DeadlineExceeded { may_have_run: false };
        let frame = match self.check(frame.into()) {
            Ok(frame) => frame,
            Err(PeerSendError::TooLarge { length, limit, .. }) => {
                return Err(RequestError::TooLarge { length, limit });
            }
            Err(_) => return Err(RequestError::NotSent),
        };
        let admit = self.core().out(lane, false).admit(OutFlow::cost(frame.len()));
        match tokio::time::timeout_at(deadline.into(), admit).await {
            Err(_) => return Err(late),
            Ok(Err(_)) => return Err(RequestError::NotSent),
            Ok(Ok(())) => {}
        }
        let (id, answer) = match self.core().ask(lane, frame, deadline) {
            Ok(asked) => asked,
            Err(NotAsked::TooMany(in_flight, _)) => {
                return Err(RequestError::TooMany { in_flight });
            }
            Err(NotAsked::Ended(_)) => return Err(RequestError::NotSent),
        };
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

    // ---- what comes

    /// The next frame of any lane, the most urgent first.
    ///
    /// # Errors
    ///
    /// [`PeerEnded`] behind the last one.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is awaited behind the taking.
    pub async fn recv(&self) -> Result<Incoming, PeerEnded> {
        self.recv_of(&Lane::ALL).await
    }

    /// The next frame of one lane.
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv).
    ///
    /// # Cancel safety
    ///
    /// As for [`recv`](Self::recv).
    pub async fn recv_on(&self, lane: Lane) -> Result<Incoming, PeerEnded> {
        self.recv_of(&[lane]).await
    }

    async fn recv_of(&self, lanes: &[Lane]) -> Result<Incoming, PeerEnded> {
        // Before anything is taken: behind that nothing is awaited.
        tokio::task::consume_budget().await;
        let received = self.core().receive(lanes).await;
        if self.core().ended().is_some() {
            self.life.sessions.taken_late(self.core());
        } else if self.core().is_drained() {
            self.life.sessions.drained(self.core());
        }
        match received {
            Some(Received::Message(frame)) => Ok(Incoming::Message(frame)),
            Some(Received::Request { id, deadline, cancelled, frame }) => {
                let request = Request::new(self.clone(), id, deadline, cancelled, frame);
                Ok(Incoming::Request(request))
            }
            None => Err(self.core().ended().cloned().into()),
        }
    }

    /// Ends the session once the peer's application took everything that was accepted, at the latest when
    /// the time for a close is over; returns how it ended.
    ///
    /// # Cancel safety
    ///
    /// The close goes on when it is cancelled, as long as a handle of the session is left.
    pub async fn close(&self, code: CloseCode) -> PeerEnded {
        self.life.sessions.close(self.core(), code);
        self.core().over().await;
        self.core().ended().cloned().into()
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

/// Tells what becomes of one frame.
#[derive(Debug)]
pub struct Receipt {
    core: Arc<PeerCore>,
    lane: Lane,
    number: u64,
}

impl Receipt {
    /// Waits until that is known: at the latest when the session is over.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only watches.
    pub async fn delivery(&self) -> Delivery {
        match self.core.out(self.lane, false).fate(self.number).await {
            Fate::Delivered => Delivery::Delivered,
            Fate::NotSent => Delivery::NotSent,
            Fate::MaybeSent => Delivery::MaybeSent,
        }
    }
}
