//! One frame in a message: its credit, its way into the lane, and its outcome.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use ractor::RpcReplyPort;

use super::credit::{Covered, Credit};
use crate::actors::tasks::{answer, answer_once};
use crate::error::{Outcome, SendError};
use crate::transport::core::ConnectionCore;
use crate::transport::link::outcome::OutcomeSink;

/// Hands `frame` to the lane if `credit` covers it.
pub(in crate::actors) fn send_one(
    core: &Arc<ConnectionCore>,
    frame: Bytes,
    credit: Credit,
    reply: Option<RpcReplyPort<Result<(), SendError>>>,
) {
    let lane = credit.lane();
    let Covered { frame, cost } = match credit.spend(core, frame) {
        Ok(spent) => spent,
        Err(error) => {
            return reply.into_iter().for_each(|reply| answer(reply, Err(error.clone())));
        }
    };
    let Some(reply) = reply else {
        // Nobody asked what becomes of it.
        drop(core.send_admitted(lane, frame, cost, None));
        return;
    };
    // The lane answers by the sink or, if it does not take the frame over, by the result.
    let reply = Arc::new(Mutex::new(Some(reply)));
    let (by_sink, weak) = (Arc::clone(&reply), Arc::downgrade(core));
    let sink: OutcomeSink = Box::new(move |outcome| {
        let result = match (outcome, weak.upgrade()) {
            (Outcome::Completed, _) => Ok(()),
            (outcome, Some(core)) => Err(core.not_completed(outcome)),
            (outcome, None) => Err(SendError::StreamLost { outcome }),
        };
        answer_once(&by_sink, result);
    });
    if let Err(error) = core.send_admitted(lane, frame, cost, Some(sink)) {
        answer_once(&reply, Err(error));
    }
}
