//! What a peer sent, for who asks.

use bytes::Bytes;

use super::Peer;
use super::request::Request;
use crate::peers::core::Received;
use crate::peers::error::PeerEnded;
use crate::transport::Lane;

/// What a peer sent.
#[derive(Debug)]
pub enum Incoming {
    /// Wants nothing back.
    Message(Bytes),
    /// Wants an answer.
    Request(Request),
}

impl Peer {
    /// The next frame of any lane, the most urgent first.
    ///
    /// Where an actor is subscribed ([`PeerMessage::Subscribe`](crate::PeerMessage::Subscribe)) each frame
    /// goes to whoever takes it first.
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

    /// Appends up to `max` frames to `into`, at least one; returns how many.
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv); then nothing was appended.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: frames are taken only when they are appended, and then it returns.
    pub async fn recv_many(
        &self,
        into: &mut Vec<Incoming>,
        max: usize,
    ) -> Result<usize, PeerEnded> {
        into.push(self.recv().await?);
        let more = self.core().take_many(&Lane::ALL, max.saturating_sub(1), |received| {
            into.push(self.incoming(received));
        });
        self.taken();
        Ok(1 + more)
    }

    /// The next frame of any lane, if one is there.
    ///
    /// # Errors
    ///
    /// As for [`recv`](Self::recv).
    pub fn try_recv(&self) -> Result<Option<Incoming>, PeerEnded> {
        // Looked at first: what comes between both is no end.
        let ended = self.ended();
        match (self.take_now(&Lane::ALL), ended) {
            (None, Some(ended)) => Err(ended),
            (incoming, _) => Ok(incoming),
        }
    }

    /// Takes the next frame of these lanes, if one is there.
    pub(crate) fn take_now(&self, lanes: &[Lane]) -> Option<Incoming> {
        let received = self.core().take(lanes);
        self.taken();
        received.map(|received| self.incoming(received))
    }

    async fn recv_of(&self, lanes: &[Lane]) -> Result<Incoming, PeerEnded> {
        // Before anything is taken: behind that nothing is awaited.
        tokio::task::consume_budget().await;
        let received = self.core().receive(lanes).await;
        self.taken();
        received.map(|it| self.incoming(it)).ok_or_else(|| self.core().ended().cloned().into())
    }

    fn incoming(&self, received: Received) -> Incoming {
        match received {
            Received::Message(frame) => Incoming::Message(frame),
            Received::Request { id, deadline, cancelled, frame } => {
                Incoming::Request(Request::new(self.clone(), id, deadline, cancelled, frame))
            }
        }
    }

    /// Something was taken: who waits for the last of it is told.
    fn taken(&self) {
        if self.core().ended().is_some() {
            self.sessions().taken_late(self.core());
        } else if self.core().is_drained() {
            self.sessions().drained(self.core());
        }
    }
}
