//! Sending to a peer: one frame, many, with room that was reserved, and what became of them.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::Peer;
use crate::peers::by_message::TellFate;
use crate::peers::core::{PeerCore, flow_of};
use crate::peers::credit::PeerCredit;
use crate::peers::delivery::{Delivery, DeliveryCounts};
use crate::peers::error::{PeerSendError, PeerSendManyError};
use crate::peers::out_flow::{NotAccepted, OutFlow};
use crate::session::flow_out::{Fate, Outcomes};
use crate::session::frame_head::FrameHead;
use crate::transport::{Lane, Limit};

impl Peer {
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

    /// As [`send`](Self::send) for each of `frames`, from the front, with one call.
    ///
    /// A frame leaves `frames` when it is accepted, or in the error.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send), for the frame at the front; those behind it are left in `frames`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what is still in `frames` was not accepted.
    pub async fn send_many(&self, frames: &mut VecDeque<Bytes>) -> Result<(), PeerSendError> {
        self.send_many_on(Lane::Data, frames).await
    }

    /// As [`send_many`](Self::send_many), on a lane of choice.
    ///
    /// # Errors
    ///
    /// As for [`send_many`](Self::send_many).
    ///
    /// # Cancel safety
    ///
    /// As for [`send_many`](Self::send_many).
    pub async fn send_many_on(
        &self,
        lane: Lane,
        frames: &mut VecDeque<Bytes>,
    ) -> Result<(), PeerSendError> {
        loop {
            // Who never has to wait would keep its runtime's thread for itself.
            tokio::task::consume_budget().await;
            let Some(frame) = frames.pop_front() else { return Ok(()) };
            match self.try_accept(lane, frame) {
                Ok(_) => {}
                Err(PeerSendError::Full { frame }) => {
                    let cost = OutFlow::cost(frame.len());
                    // It is where it was while there is no room: a cancelled call loses none.
                    frames.push_front(frame);
                    let admitted = self.core().out(lane, false).admit(cost).await;
                    let Some(frame) = frames.pop_front() else { return Ok(()) };
                    self.push_admitted(lane, frame, admitted)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// As [`send`](Self::send), for who does not wait.
    ///
    /// # Errors
    ///
    /// [`PeerSendError::Full`] where [`send`](Self::send) would wait, and as that.
    pub fn try_send(&self, frame: impl Into<Bytes>) -> Result<(), PeerSendError> {
        self.try_send_on(Lane::Data, frame)
    }

    /// As [`try_send`](Self::try_send), on a lane of choice.
    ///
    /// # Errors
    ///
    /// As for [`try_send`](Self::try_send).
    pub fn try_send_on(&self, lane: Lane, frame: impl Into<Bytes>) -> Result<(), PeerSendError> {
        self.try_accept(lane, frame.into()).map(drop)
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
        self.send_acked_on(Lane::Data, frame).await
    }

    /// As [`send_acked`](Self::send_acked), on a lane of choice.
    ///
    /// # Errors
    ///
    /// As for [`send_acked`](Self::send_acked).
    ///
    /// # Cancel safety
    ///
    /// Cancelled, it may have been accepted.
    pub async fn send_acked_on(
        &self,
        lane: Lane,
        frame: impl Into<Bytes>,
    ) -> Result<(), PeerSendError> {
        delivered(self.send_tracked(lane, frame).await?.delivery().await)
    }

    // ---- room that is reserved

    /// Room for one frame of up to `length` bytes on the data lane, for a
    /// [`PeerMessage::Send`](crate::PeerMessage::Send). Waits for it as long as that takes.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send), with an empty frame.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn reserve(&self, length: usize) -> Result<PeerCredit, PeerSendError> {
        self.reserve_many(1, length).await
    }

    /// Room for up to `frames` frames of up to `length` bytes together, for a
    /// [`PeerMessage::SendMany`](crate::PeerMessage::SendMany). Waits until all of it is free.
    ///
    /// Beside its own bytes each frame takes those of its head, and 128 for what is remembered until its
    /// outcome. What is not needed comes back as soon as the message is handled.
    ///
    /// # Errors
    ///
    /// As for [`reserve`](Self::reserve); [`PeerSendError::TooLarge`] also where more than one frame could
    /// never be kept together.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn reserve_many(
        &self,
        frames: usize,
        length: usize,
    ) -> Result<PeerCredit, PeerSendError> {
        self.reserve_on(Lane::Data, frames, length).await
    }

    /// As [`reserve_many`](Self::reserve_many), on a lane of choice.
    ///
    /// # Errors
    ///
    /// As for [`reserve_many`](Self::reserve_many).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn reserve_on(
        &self,
        lane: Lane,
        frames: usize,
        length: usize,
    ) -> Result<PeerCredit, PeerSendError> {
        PeerCredit::reserve(self.core(), lane, frames, length).await
    }

    /// As [`reserve_many`](Self::reserve_many), without waiting: for the handler of an actor.
    ///
    /// # Errors
    ///
    /// [`PeerSendError::Full`] if there is no room for all of it, and as that.
    pub fn try_reserve_many(
        &self,
        frames: usize,
        length: usize,
    ) -> Result<PeerCredit, PeerSendError> {
        self.try_reserve_on(Lane::Data, frames, length)
    }

    /// As [`try_reserve_many`](Self::try_reserve_many), on a lane of choice.
    ///
    /// # Errors
    ///
    /// As for [`try_reserve_many`](Self::try_reserve_many).
    pub fn try_reserve_on(
        &self,
        lane: Lane,
        frames: usize,
        length: usize,
    ) -> Result<PeerCredit, PeerSendError> {
        PeerCredit::try_reserve(self.core(), lane, frames, length)
    }

    /// Accepts a frame for which `credit` is.
    pub(crate) fn send_with_credit(
        &self,
        frame: Bytes,
        credit: PeerCredit,
    ) -> Result<Receipt, PeerSendError> {
        self.send_many_with_credit(vec![frame], credit)
    }

    /// Accepts all of `frames`, or none; tells later what became of the last one.
    pub(crate) fn send_many_with_credit(
        &self,
        frames: Vec<Bytes>,
        credit: PeerCredit,
    ) -> Result<Receipt, PeerSendError> {
        let lane = credit.lane();
        let number = credit.spend(self.core(), frames, false).map_err(|(_, error)| error)?;
        Ok(Receipt { core: Arc::clone(self.core()), lane, number })
    }

    /// Accepts all of `frames`, or none; `told` is told once what became of each is known, and otherwise
    /// comes back.
    pub(crate) fn send_and_tell<T>(
        &self,
        frames: Vec<Bytes>,
        credit: PeerCredit,
        told: T,
        tell: impl FnOnce(T, Result<(), PeerSendManyError>) + Send + 'static,
    ) -> Result<(), (T, PeerSendManyError)>
    where
        T: Send + 'static,
    {
        let (lane, count) = (credit.lane(), frames.len() as u64);
        let last = match credit.spend(self.core(), frames, true) {
            Ok(last) => last,
            Err((frames, source)) => {
                return Err((told, PeerSendManyError { deliveries: Vec::new(), frames, source }));
            }
        };
        let core = Arc::clone(self.core());
        let tells: TellFate = Box::new(move |last_fate| {
            let fate = |number| core.fate_now(lane, number).unwrap_or(last_fate);
            let deliveries: Vec<Delivery> =
                (last + 1 - count..=last).map(|number| fate(number).into()).collect();
            let lost = deliveries.iter().find(|delivery| **delivery != Delivery::Delivered);
            let result = match lost.copied() {
                None => Ok(()),
                Some(delivery) => {
                    let source = PeerSendError::NotDelivered { delivery };
                    Err(PeerSendManyError { deliveries, frames: Vec::new(), source })
                }
            };
            tell(told, result);
        });
        self.core().outcome_later((lane, last), tells, self.runtime());
        Ok(())
    }

    // ---- what became of them

    /// Frames that were accepted and not sent, once the session is over: each once, to be sent elsewhere.
    #[must_use]
    pub fn take_unsent(&self) -> Vec<(Lane, Bytes)> {
        let of = |lane| {
            let used = self.core().used_out(lane, false);
            let unsent = used.map_or_else(Vec::new, OutFlow::take_unsent);
            unsent.into_iter().map(move |frame| (lane, frame))
        };
        Lane::ALL.into_iter().flat_map(of).collect()
    }

    /// Nobody took them after all.
    pub(crate) fn put_back_unsent(&self, unsent: Vec<(Lane, Bytes)>) {
        for lane in Lane::ALL {
            let of = unsent.iter().filter(|(of, _)| *of == lane).map(|(_, frame)| frame.clone());
            if let Some(out) = self.core().used_out(lane, false) {
                out.put_back_unsent(of.collect());
            }
        }
    }

    /// What became of the frames and requests of each of [`Lane::ALL`].
    #[must_use]
    pub fn deliveries(&self) -> [DeliveryCounts; 3] {
        Lane::ALL.map(|lane| {
            let Outcomes { accepted, delivered, not_sent, maybe_sent } =
                self.core().used_out(lane, false).map(OutFlow::outcomes).unwrap_or_default();
            DeliveryCounts { accepted, delivered, not_sent, maybe_sent }
        })
    }

    async fn accept(&self, lane: Lane, frame: Bytes) -> Result<u64, PeerSendError> {
        // Who never has to wait would keep its runtime's thread for itself.
        tokio::task::consume_budget().await;
        match self.try_accept(lane, frame) {
            Err(PeerSendError::Full { frame }) => {
                let out = self.core().out(lane, false);
                let admitted = out.admit(OutFlow::cost(frame.len())).await;
                self.push_admitted(lane, frame, admitted)
            }
            accepted => accepted,
        }
    }

    fn try_accept(&self, lane: Lane, frame: Bytes) -> Result<u64, PeerSendError> {
        let frame = self.check(frame)?;
        match self.core().offer(flow_of(lane, false), FrameHead::Message, frame) {
            Ok(number) => Ok(number),
            Err((NotAccepted::Full(limit), frame)) => {
                self.core().reached(limit);
                Err(PeerSendError::Full { frame })
            }
            Err((NotAccepted::Shut, frame)) => Err(self.core().not_accepted(frame)),
        }
    }

    /// A frame for which room was taken, if it was.
    fn push_admitted(
        &self,
        lane: Lane,
        frame: Bytes,
        admitted: Result<(), NotAccepted>,
    ) -> Result<u64, PeerSendError> {
        if admitted.is_err() {
            return Err(self.core().not_accepted(frame));
        }
        let pushed = self.core().push(flow_of(lane, false), FrameHead::Message, frame, |_| {});
        pushed.map_err(|frame| self.core().not_accepted(frame))
    }

    pub(in crate::peers) fn check(&self, frame: Bytes) -> Result<Bytes, PeerSendError> {
        let (length, limit) = (frame.len(), self.frame_bytes_max());
        if length <= limit {
            return Ok(frame);
        }
        self.core().reached(Limit::FrameBytes);
        Err(PeerSendError::TooLarge { length, limit, frame })
    }
}

impl From<Fate> for Delivery {
    fn from(fate: Fate) -> Self {
        match fate {
            Fate::Delivered => Self::Delivered,
            Fate::NotSent => Self::NotSent,
            Fate::MaybeSent => Self::MaybeSent,
        }
    }
}

fn delivered(delivery: Delivery) -> Result<(), PeerSendError> {
    match delivery {
        Delivery::Delivered => Ok(()),
        Delivery::NotSent | Delivery::MaybeSent => Err(PeerSendError::NotDelivered { delivery }),
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
        self.core.out(self.lane, false).fate(self.number).await.into()
    }
}
