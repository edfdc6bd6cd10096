//! Many frames in one message: their credit, their way into the lane, and one answer for all.
//!
//! Invariant: the answer comes once, when each frame has its outcome: from the lane, which took it
//! over, or from here.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use ractor::RpcReplyPort;

use super::credit::Credit;
use crate::actors::tasks::answer;
use crate::error::{Outcome, SendError, SendManyError};
use crate::lock::lock;
use crate::transport::core::ConnectionCore;

type Reply = RpcReplyPort<Result<(), SendManyError>>;

/// Hands all of `frames` to the lane if `credit` covers them; otherwise none.
pub(in crate::actors) fn send_many(
    core: &Arc<ConnectionCore>,
    frames: Vec<Bytes>,
    credit: Credit,
    reply: Option<Reply>,
) {
    let mut frames = VecDeque::from(frames);
    let lane = credit.lane();
    let cost = match credit.spend_many(core, &frames) {
        Ok(cost) => cost,
        Err(source) => return refuse(frames, source, reply),
    };
    let Some(reply) = reply else {
        // Nobody asked what becomes of them.
        drop(core.send_many_admitted(lane, &mut frames, cost, || None));
        return;
    };
    let count = frames.len();
    let tally = Arc::new(Tally::new(core, count, reply));
    let mut place = 0;
    let sink = || {
        let (tally, at) = (Arc::clone(&tally), place);
        place += 1;
        let sink = move |outcome| tally.tell(at, std::iter::once(outcome));
        Some(Box::new(sink) as _)
    };
    // Why frames stay is asked for with the answer.
    drop(core.send_many_admitted(lane, &mut frames, cost, sink));
    tally.tell(count - frames.len(), frames.into_iter().map(Outcome::NotSent));
}

fn refuse(frames: VecDeque<Bytes>, source: SendError, reply: Option<Reply>) {
    let outcomes = frames.into_iter().map(Outcome::NotSent).collect();
    if let Some(reply) = reply {
        answer(reply, Err(SendManyError { outcomes, source }));
    }
}

/// What became of the frames of one message, as it becomes known.
struct Tally {
    core: Weak<ConnectionCore>,
    told: Mutex<Told>,
}

struct Told {
    outcomes: Vec<Outcome>,
    missing: usize,
    /// `None` once it was answered.
    reply: Option<Reply>,
}

impl Tally {
    fn new(core: &Arc<ConnectionCore>, count: usize, reply: Reply) -> Self {
        // Told as this only if it is true: the answer waits for every frame.
        let outcomes = vec![Outcome::MaybeSent; count];
        let told = Told { outcomes, missing: count, reply: Some(reply) };
        Self { core: Arc::downgrade(core), told: Mutex::new(told) }
    }

    /// The outcomes of the frames from `first` on; answers if nothing is missing any more.
    fn tell(&self, first: usize, outcomes: impl ExactSizeIterator<Item = Outcome>) {
        let mut told = lock(&self.told);
        told.missing -= outcomes.len();
        for (place, outcome) in told.outcomes.iter_mut().skip(first).zip(outcomes) {
            *place = outcome;
        }
        if told.missing > 0 {
            return;
        }
        let Some(reply) = told.reply.take() else { return };
        let outcomes = std::mem::take(&mut told.outcomes);
        drop(told);
        answer(reply, self.judge(outcomes));
    }

    fn judge(&self, outcomes: Vec<Outcome>) -> Result<(), SendManyError> {
        let Some(first) = outcomes.iter().find(|outcome| **outcome != Outcome::Completed) else {
            return Ok(());
        };
        let outcome = first.clone();
        let source = match self.core.upgrade() {
            Some(core) => core.not_completed(outcome),
            None => SendError::StreamLost { outcome },
        };
        Err(SendManyError { outcomes, source })
    }
}
