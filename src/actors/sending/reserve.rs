//! Room in a lane, asked for by message.
//!
//! An actor must not wait, so a task waits for the room of each lane that somebody waits for: for
//! one caller after the other, as the lane itself would give it.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use ractor::RpcReplyPort;
use tokio::time::{Instant, sleep, timeout_at};

use super::credit::Credit;
use crate::actors::tasks::{Unfinished, answer};
use crate::actors::waiting::{Waiter, Waiting};
use crate::error::{Outcome, SendError};
use crate::lock::lock;
use crate::transport::core::ConnectionCore;
use crate::transport::{Lane, Limit};

pub(in crate::actors) type Reply = RpcReplyPort<Result<Credit, SendError>>;

/// How often it is looked whether the caller at the head still waits: one that has gone must not
/// keep the others from the room.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Who waits for the room of each of [`Lane::ALL`].
#[derive(Debug, Default)]
pub(in crate::actors) struct Reservations([Arc<Queue>; 3]);

#[derive(Debug, Default)]
struct Queue(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiting: Waiting<Request>,
    /// A task serves them.
    served: bool,
}

#[derive(Debug)]
struct Request {
    frames: usize,
    length: usize,
    reply: Reply,
    deadline: Instant,
}

impl Waiter for Request {
    fn is_gone(&self) -> bool {
        self.reply.is_closed()
    }
}

impl Reservations {
    /// Answers with room for so many frames of so many bytes together: at once if it is there,
    /// otherwise when there is, at most after `Limits::stream_op_timeout`. Where as many callers wait
    /// as may the answer is [`SendError::Full`].
    ///
    /// Whoever has gone meanwhile gives the room back.
    pub(in crate::actors) fn reserve(
        &self,
        core: &Arc<ConnectionCore>,
        (lane, frames, length): (Lane, usize, usize),
        reply: Reply,
    ) {
        let queue = &self.0[lane as usize];
        // Behind those who wait already.
        if !queue.is_served() {
            let at_once = Credit::try_reserve(core, lane, frames, length);
            let Err(SendError::Full { .. }) = at_once else { return answer(reply, at_once) };
        }
        let deadline = Instant::now() + core.limits().stream_op_timeout;
        match queue.add(Request { frames, length, reply, deadline }) {
            Ok(true) => drop(tokio::spawn(serve(Arc::clone(queue), Arc::clone(core), lane))),
            Ok(false) => {}
            Err(Request { reply, .. }) => {
                answer(reply, Err(SendError::Full { frame: Bytes::new() }));
            }
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    fn is_served(&self) -> bool {
        self.lock().served
    }

    /// Whether a task must be started; the request back if there is no place.
    fn add(&self, request: Request) -> Result<bool, Request> {
        let mut state = self.lock();
        state.waiting.add(request)?;
        Ok(!std::mem::replace(&mut state.served, true))
    }

    /// Without a next one nobody is served any more.
    fn next(&self) -> Option<Request> {
        let mut state = self.lock();
        let next = state.waiting.take_first();
        state.served = next.is_some();
        next
    }
}

async fn serve(queue: Arc<Queue>, core: Arc<ConnectionCore>, lane: Lane) {
    let left = Arc::clone(&queue);
    // Their ports are dropped, which tells them, and the next one is served.
    let unfinished = Unfinished::then(move || {
        let waiting = std::mem::take(&mut *left.lock());
        drop(waiting);
    });
    let limit = core.limits().stream_op_timeout;
    while let Some(Request { frames, length, reply, deadline }) = queue.next() {
        let reserved = timeout_at(deadline, Credit::reserve(&core, lane, frames, length));
        tokio::select! {
            reserved = reserved => {
                answer(reply, reserved.unwrap_or_else(|_| {
                    core.reached(Limit::StreamOperation);
                    let outcome = Outcome::NotSent(Bytes::new());
                    Err(SendError::TimedOut { after: limit, outcome })
                }));
            }
            () = is_gone(&reply) => {}
        }
    }
    unfinished.done();
}

async fn is_gone(reply: &Reply) {
    while !reply.is_closed() {
        sleep(LOOK_INTERVAL).await;
    }
}
