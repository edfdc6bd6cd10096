//! A place for a request that is about to come: what a service is ready by.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Peer;
use super::asking::not_asked;
use crate::peers::core::PeerCore;
use crate::peers::error::RequestError;
use crate::peers::out_flow::OutFlow;
use crate::transport::{Lane, clock};

impl Peer {
    /// As [`request_on`](Self::request_on), with what was kept for it.
    pub(in crate::peers) async fn request_ready(
        &self,
        ready: Ready,
        frame: Bytes,
        time: Duration,
    ) -> Result<Bytes, RequestError> {
        let deadline = clock::after(time);
        let frame = self.check_request(frame)?;
        let (lane, core) = (ready.lane, self.core());
        let cost = OutFlow::cost(frame.len());
        let (place, kept) = ready.into_parts();
        if kept >= cost {
            core.out(lane, false).give_back(kept - cost);
        } else {
            core.out(lane, false).give_back(kept);
            self.room_by(lane, &frame, deadline).await?;
        }
        place.used();
        let asked = core.ask_begun(lane, frame, deadline).map_err(not_asked)?;
        self.answer(asked, deadline).await
    }
}

/// A place among the requests in flight, and room on a lane: kept for a request that is about to come.
pub(in crate::peers) struct Ready {
    place: Place,
    lane: Lane,
    room: usize,
}

impl Ready {
    /// Waits for a place and for room for a frame of `length` bytes; no: the session is over. Cancel safe.
    pub(in crate::peers) async fn wait(
        core: Arc<PeerCore>,
        lane: Lane,
        length: usize,
    ) -> Option<Self> {
        core.place().await?;
        let place = Place(Some(core));
        let room = OutFlow::cost(length);
        place.core()?.out(lane, false).admit(room).await.ok()?;
        Some(Self { place, lane, room })
    }

    fn into_parts(mut self) -> (Place, usize) {
        (Place(self.place.0.take()), std::mem::take(&mut self.room))
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        if let (Some(core), 1..) = (self.place.core(), self.room) {
            core.out(self.lane, false).give_back(self.room);
        }
    }
}

/// A place among the requests in flight, given back unless it is used.
struct Place(Option<Arc<PeerCore>>);

impl Place {
    fn core(&self) -> Option<&Arc<PeerCore>> {
        self.0.as_ref()
    }

    fn used(mut self) {
        self.0 = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(core) = self.0.take() {
            core.unbegin_request();
        }
    }
}
