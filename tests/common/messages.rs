//! Requests to actors, frames that say which one they are, and a lane that is soon full.

use bytes::Bytes;
use moorline::{ConnectionMessage, NodeConfig, ReceivedFrame, RecvError};
use ractor::{ActorRef, Message, RpcReplyPort};
use tokio::sync::oneshot;

use super::within;

/// Sends a request that is answered later.
pub(crate) fn ask<M: Message, R>(
    actor: &ActorRef<M>,
    message: impl FnOnce(RpcReplyPort<R>) -> M,
) -> oneshot::Receiver<R> {
    let (reply, answer) = oneshot::channel();
    assert!(actor.cast(message(reply.into())).is_ok(), "the actor lives");
    answer
}

/// Sends a request and waits for its answer.
pub(crate) async fn call<M: Message, R>(
    what: &str,
    actor: &ActorRef<M>,
    message: impl FnOnce(RpcReplyPort<R>) -> M,
) -> R {
    let answer = ask(actor, message);
    within(what, answer).await.unwrap_or_else(|_| panic!("{what}: the port was dropped"))
}

/// Asks for a frame by message.
pub(crate) fn recv(
    actor: &ActorRef<ConnectionMessage>,
) -> oneshot::Receiver<Result<ReceivedFrame, RecvError>> {
    ask(actor, |reply| ConnectionMessage::Recv { lane: None, reply })
}

/// As [`recv`], and waits for it.
pub(crate) async fn received(actor: &ActorRef<ConnectionMessage>) -> Result<Bytes, RecvError> {
    let received = call("a frame", actor, |reply| ConnectionMessage::Recv { lane: None, reply });
    received.await.map(ReceivedFrame::into_bytes)
}

/// Bytes of a small lane.
pub(crate) const LANE: usize = 64 << 10;

/// A lane for one frame of so many bytes.
pub(crate) fn small_lane(config: &mut NodeConfig) {
    config.limits.lane_bytes_max = LANE;
}

/// A frame that says which one it is.
pub(crate) fn numbered(number: u32) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

/// Which one a frame says it is.
pub(crate) fn number(frame: &Bytes) -> u32 {
    u32::from_be_bytes(frame[..4].try_into().expect("four bytes"))
}
