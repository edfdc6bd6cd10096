//! Requests by message: each a task, bounded, which goes on across connections and where the actor fails.

use std::time::Duration;

use bytes::Bytes;
use ractor::RpcReplyPort;

use super::gone::is_gone;
use crate::actors::tasks::answer;
use crate::peers::by_message::CALLERS_MAX;
use crate::peers::error::RequestError;
use crate::peers::handle::Peer;
use crate::transport::Lane;

/// Asks the peer, and tells `reply` what came of it.
pub(super) fn ask(
    peer: &Peer,
    lane: Lane,
    frame: Bytes,
    time: Duration,
    reply: RpcReplyPort<Result<Bytes, RequestError>>,
) {
    let Some(place) = peer.core().by_message.requests.take() else {
        return answer(reply, Err(RequestError::TooMany { in_flight: CALLERS_MAX }));
    };
    let peer = peer.clone();
    tokio::spawn(async move {
        tokio::select! {
            answered = peer.request_on(lane, frame, time) => answer(reply, answered),
            // The request is cancelled with its future.
            () = is_gone(&reply) => {}
        }
        drop(place);
    });
}
