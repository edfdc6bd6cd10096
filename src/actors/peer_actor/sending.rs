//! Sending by message: room first, then the frames, then one answer.

use std::time::Duration;

use bytes::Bytes;
use ractor::RpcReplyPort;
use tokio::time::timeout;

use super::gone::is_gone;
use crate::actors::tasks::answer;
use crate::peers::credit::PeerCredit;
use crate::peers::error::{PeerSendError, PeerSendManyError};
use crate::peers::handle::{Peer, Receipt};
use crate::transport::Lane;

/// Answers with room for so many frames of so many bytes together: at once if it is there, otherwise when
/// there is, at most after `time`. Whoever has gone meanwhile gives the room back.
pub(super) fn reserve(
    peer: &Peer,
    (lane, frames, length): (Lane, usize, usize),
    time: Duration,
    reply: RpcReplyPort<Result<PeerCredit, PeerSendError>>,
) {
    let full = || PeerSendError::Full { frame: Bytes::new() };
    // Behind those who wait already: it fails where somebody does.
    let at_once = peer.try_reserve_on(lane, frames, length);
    let Err(PeerSendError::Full { .. }) = at_once else { return answer(reply, at_once) };
    let Some(place) = peer.core().by_message.reservations.take() else {
        return answer(reply, Err(full()));
    };
    let peer = peer.clone();
    tokio::spawn(async move {
        let reserved = timeout(time, peer.reserve_on(lane, frames, length));
        tokio::select! {
            reserved = reserved => answer(reply, reserved.unwrap_or_else(|_| Err(full()))),
            () = is_gone(&reply) => {}
        }
        drop(place);
    });
}

pub(super) fn send_one(
    peer: &Peer,
    frame: Bytes,
    credit: PeerCredit,
    reply: Option<RpcReplyPort<Result<(), PeerSendError>>>,
) {
    let Some(reply) = reply else {
        // Nobody asked what becomes of it.
        drop(peer.send_with_credit(frame, credit));
        return;
    };
    let tell = |reply, result: Result<(), PeerSendManyError>| {
        answer(reply, result.map_err(|error| error.source));
    };
    if let Err((reply, error)) = peer.send_and_tell(vec![frame], credit, reply, tell) {
        answer(reply, Err(error.source));
    }
}

/// Hands all of `frames` over if `credit` covers them; otherwise none.
pub(super) fn send_many(
    peer: &Peer,
    frames: Vec<Bytes>,
    credit: PeerCredit,
    reply: Option<RpcReplyPort<Result<(), PeerSendManyError>>>,
) {
    let Some(reply) = reply else {
        drop(peer.send_many_with_credit(frames, credit));
        return;
    };
    if let Err((reply, error)) = peer.send_and_tell(frames, credit, reply, answer) {
        answer(reply, Err(error));
    }
}

pub(super) fn send_tracked(
    peer: &Peer,
    frame: Bytes,
    credit: PeerCredit,
    reply: RpcReplyPort<Result<Receipt, PeerSendError>>,
) {
    answer(reply, peer.send_with_credit(frame, credit));
}
