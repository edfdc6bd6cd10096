//! Readers by message and subscribers: who gets frames without asking each time.

use std::sync::MutexGuard;
use std::time::Duration;

use bytes::Bytes;

use super::Inbound;
use super::state::{Item, Queue, State};
use crate::error::RecvError;
use crate::frame::HEADER_BYTES;
use crate::transport::lock;

/// Readers that wait by message, per connection. One more is refused: nothing grows unbounded.
const READERS_MAX: usize = 1024;

/// Gets one result; gives a frame back if it can no longer pass it on.
pub(crate) type Reader = Box<dyn FnOnce(Result<Bytes, RecvError>) -> Result<(), Bytes> + Send>;

/// Gets every frame. A batch that it cannot pass on comes back, and the subscription is over.
pub(crate) struct Subscriber {
    pub(crate) deliver: Deliver,
    /// Whether nobody is there any more to get anything.
    pub(crate) is_gone: Box<dyn Fn() -> bool + Send>,
}

pub(super) type Deliver = Box<dyn FnMut(Vec<Bytes>, usize) -> Result<(), Vec<Bytes>> + Send>;

impl Inbound {
    /// Gives the next result to `reader`, now or when it comes; behind those that asked before.
    pub(crate) fn read_later(&self, reader: Reader) -> Result<(), Reader> {
        let mut state = lock(&self.state);
        if let Some(error) = state.refusal() {
            drop(state);
            // An error is nothing that could be lost.
            drop(reader(Err(error)));
            return Ok(());
        }
        if state.readers.len() >= READERS_MAX {
            return Err(reader);
        }
        state.readers.push_back(reader);
        self.deliver(state);
        Ok(())
    }

    /// Gives every frame to `subscriber` from here on. There is one reader: others are refused.
    pub(crate) fn subscribe(&self, subscriber: Subscriber) -> bool {
        let mut state = lock(&self.state);
        if state.refusal().is_some() {
            return false;
        }
        state.end_subscription();
        state.deliver = Some(subscriber.deliver);
        state.is_gone = Some(subscriber.is_gone);
        let readers = std::mem::take(&mut state.readers);
        self.deliver(state);
        for reader in readers {
            // An error is nothing that could be lost.
            drop(reader(Err(RecvError::Subscribed)));
        }
        // Whoever waits in `recv` learns that it is refused.
        self.ready.notify_waiters();
        true
    }

    /// A subscriber is done with `bytes`.
    pub(crate) fn return_credit(&self, bytes: usize) {
        let mut state = lock(&self.state);
        state.queued -= bytes;
        self.after_take(state);
    }

    /// Puts a frame back that was taken from stream `id` and could not be passed on: it comes first
    /// again.
    fn put_back(&self, id: u64, frame: Bytes) {
        let mut state = lock(&self.state);
        let cost = HEADER_BYTES + frame.len();
        state.queued += cost;
        state.frames -= 1;
        state.bytes -= frame.len() as u64;
        if state.queue(id).is_none() {
            state.streams.push_front(Queue { ended: true, ..Queue::new(id) });
        }
        if let Some(queue) = state.queue(id) {
            queue.queued += cost;
            queue.items.push_front(Item::Frame(frame, Duration::ZERO));
        }
        drop(state);
        self.wake();
    }

    /// Serves the subscriber or the readers by message, one at a time and outside the lock.
    pub(super) fn deliver<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        if state.delivering || (state.deliver.is_none() && state.readers.is_empty()) {
            return;
        }
        state.delivering = true;
        loop {
            if let Some(mut deliver) = state.deliver.take() {
                let subscription = state.subscription;
                let (frames, bytes) = state.take_batch();
                if frames.is_empty() {
                    state.deliver = (state.closed.is_none()).then_some(deliver);
                    break;
                }
                drop(state);
                let refused = deliver(frames, bytes);
                state = lock(&self.state);
                match refused {
                    Ok(()) if state.subscription == subscription => state.deliver = Some(deliver),
                    Ok(()) => {}
                    Err(frames) => {
                        if state.subscription == subscription {
                            state.end_subscription();
                        }
                        state.put_batch_back(frames, bytes);
                    }
                }
            } else if !state.readers.is_empty() {
                state.skip_ends();
                let taken = state.take().or_else(|| state.over().map(Err));
                let Some(taken) = taken else { break };
                let Some(reader) = state.readers.pop_front() else { break };
                let from = state.taken_from;
                drop(state);
                if let Err(frame) = reader(taken.map(|(frame, _)| frame)) {
                    self.put_back(from, frame);
                }
                state = lock(&self.state);
            } else {
                break;
            }
        }
        state.delivering = false;
        self.after_take(state);
    }
}
