//! The receiving half of a connection: frames of the peer's streams, waiting for a reader.
//!
//! Invariants: what waits is bounded in bytes (one larger frame may pass the bound while nothing
//! else waits); a stream that may not deliver is paused, which closes the peer's window; a paused
//! stream is resumed when half of the bound is free; the end of a stream stays behind its frames;
//! nobody is called under the lock.

mod delivery;
mod state;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;

pub(crate) use self::delivery::Subscriber;
use self::state::{Item, Queue, State};
use super::bounds::Share;
use super::lock;
use super::stream::ReadStream;
use crate::error::{CloseReason, RecvError};
use crate::frame::{HEADER_BYTES, Piece, Position};

/// See the module.
pub(crate) struct Inbound {
    state: Mutex<State>,
    ready: Notify,
    waiting: AtomicUsize,
    on_end_taken: Box<dyn Fn() + Send + Sync>,
}

/// A frame that is not whole for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Partial {
    pub(crate) since: Instant,
    pub(crate) position: Position,
}

impl Inbound {
    /// `on_end_taken` is called once a reader has seen the end of a stream.
    pub(super) fn new(share: Share, on_end_taken: Box<dyn Fn() + Send + Sync>) -> Self {
        Self {
            state: Mutex::new(State {
                streams: VecDeque::new(),
                next_id: 0,
                taken_from: 0,
                turn: 0,
                queued: 0,
                held: 0,
                beyond: None,
                readers: VecDeque::new(),
                deliver: None,
                is_gone: None,
                subscription: 0,
                delivering: false,
                end_taken: false,
                closed: None,
                frames: 0,
                bytes: 0,
                share,
            }),
            ready: Notify::new(),
            waiting: AtomicUsize::new(0),
            on_end_taken,
        }
    }

    // ---- what the streams' callbacks call

    /// A queue for one more stream; its number.
    pub(super) fn add_stream(&self) -> u64 {
        let mut state = lock(&self.state);
        let id = state.next_id;
        state.next_id += 1;
        state.streams.push_back(Queue::new(id));
        id
    }

    /// Ties the queue to the stream it can resume.
    pub(super) fn attach(&self, id: u64, stream: &Arc<ReadStream>) {
        if let Some(queue) = lock(&self.state).queue(id) {
            queue.stream = Some(Arc::clone(stream));
        }
    }

    /// How many of `total` bytes the stream may take over.
    pub(super) fn budget(&self, id: u64, total: usize) -> usize {
        let mut state = lock(&self.state);
        let room = state.room(id);
        let full = state.queued + state.held >= state.share.bytes();
        if full && room > 0 && state.queue(id).is_some_and(|queue| queue.is_in_body()) {
            state.beyond = Some(id);
        }
        total.min(room)
    }

    /// Stores what the stream's decoder cut; `paused` if it left bytes behind. Returns whether
    /// the stream may go on at once.
    pub(super) fn store(
        &self,
        id: u64,
        pieces: &mut Vec<Piece>,
        held: usize,
        position: Position,
        paused: bool,
    ) -> Stored {
        let mut state = lock(&self.state);
        let whole = !pieces.is_empty();
        let now = Instant::now();
        let mut added = 0;
        let Some(queue) = state.queue(id) else {
            pieces.clear();
            return Stored { resume: paused, partial_began: false };
        };
        let resumed = std::mem::replace(&mut queue.paused, paused);
        for piece in pieces.drain(..) {
            queue.items.push_back(match piece {
                Piece::Run(run) => {
                    added += run.encoded_bytes();
                    Item::Run(run)
                }
                Piece::Frame(frame) => {
                    added += HEADER_BYTES + frame.len();
                    let took = queue.partial_since.map_or(Duration::ZERO, |since| now - since);
                    Item::Frame(frame, took)
                }
            });
        }
        queue.queued += added;
        let freed = std::mem::replace(&mut queue.held, held);
        queue.position = position;
        let began =
            position != Position::Boundary && (whole || resumed || queue.partial_since.is_none());
        if position == Position::Boundary {
            queue.partial_since = None;
        } else if began {
            queue.partial_since = Some(now);
        }
        state.queued += added;
        state.held = state.held - freed + held;
        if whole && state.beyond == Some(id) {
            state.beyond = None;
        }
        state.settle();
        let mut resume = false;
        if paused && state.room(id) > 0 {
            // A reader made room between `budget` and here: nobody else would resume.
            if let Some(queue) = state.queue(id) {
                queue.paused = false;
            }
            resume = true;
        }
        self.deliver(state);
        if whole {
            self.wake();
        }
        Stored { resume, partial_began: began }
    }

    /// The stream ended with `error`; it stays behind what was stored. Returns whether it was the
    /// last one that could deliver.
    pub(super) fn end(&self, id: u64, error: RecvError) -> bool {
        let mut state = lock(&self.state);
        let held = match state.queue(id) {
            Some(queue) if !queue.ended => {
                queue.ended = true;
                queue.partial_since = None;
                queue.items.push_back(Item::End(error));
                std::mem::take(&mut queue.held)
            }
            _ => return false,
        };
        state.held -= held;
        if state.beyond == Some(id) {
            state.beyond = None;
        }
        state.settle();
        let last = state.streams.iter().all(|queue| queue.ended);
        self.deliver(state);
        self.wake();
        last
    }

    /// The stream's handle is gone.
    pub(super) fn remove_stream(&self, id: u64) {
        let mut state = lock(&self.state);
        let held = match state.queue(id) {
            Some(queue) => {
                queue.ended = true;
                queue.partial_since = None;
                queue.stream = None;
                std::mem::take(&mut queue.held)
            }
            None => return,
        };
        state.held -= held;
        if state.beyond == Some(id) {
            state.beyond = None;
        }
        state.settle();
        state.drop_empty();
    }

    /// The connection is over: readers get what is left, then `reason`.
    pub(super) fn close(&self, reason: &CloseReason) {
        let mut state = lock(&self.state);
        state.closed.get_or_insert_with(|| reason.clone());
        self.deliver(state);
        self.wake();
        self.ready.notify_waiters();
    }

    // ---- what readers call

    /// Waits until something may be there to take.
    pub(super) async fn changed(&self) {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let _counted = Counted(&self.waiting);
        let notified = self.ready.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        // Between the last look and `enable` something may have come.
        if self.has_something() {
            return;
        }
        notified.await;
    }

    /// The next frame, the end, or nothing yet.
    pub(super) fn take_one(&self) -> Option<Result<(Bytes, Duration), RecvError>> {
        let mut state = lock(&self.state);
        state.skip_ends();
        let taken = match state.refusal() {
            Some(error) => Some(Err(error)),
            None => state.take().or_else(|| state.over().map(Err)),
        };
        self.after_take(state);
        taken
    }

    /// As [`Inbound::take_one`], for many frames at once.
    pub(super) fn take_many(
        &self,
        into: &mut Vec<Bytes>,
        max: usize,
    ) -> Option<Result<usize, RecvError>> {
        let mut state = lock(&self.state);
        if let Some(error) = state.refusal() {
            return Some(Err(error));
        }
        state.skip_ends();
        let taken = match state.take_frames(into, max) {
            0 => state.take().or_else(|| state.over().map(Err)).map(|end| end.map(|_| 0)),
            count => Some(Ok(count)),
        };
        self.after_take(state);
        taken
    }

    /// As [`Inbound::take_one`], for one stream alone.
    pub(super) fn take_from(&self, id: u64) -> Option<Result<(Bytes, Duration), RecvError>> {
        let mut state = lock(&self.state);
        let Some(at) = state.streams.iter().position(|queue| queue.id == id) else {
            return Some(Err(state
                .over()
                .unwrap_or(RecvError::EndOfStream { position: Position::Boundary })));
        };
        state.streams.rotate_left(at);
        state.turn = 0;
        let ready = state.streams.front().is_some_and(|queue| !queue.items.is_empty());
        let taken = match state.refusal() {
            Some(error) => Some(Err(error)),
            None if ready => state.take(),
            None => state.over().map(Err),
        };
        self.after_take(state);
        taken
    }

    /// The oldest stream that can still deliver.
    pub(super) fn first_stream(&self) -> Option<Arc<ReadStream>> {
        let state = lock(&self.state);
        state.streams.iter().filter(|queue| !queue.ended).find_map(|queue| queue.stream.clone())
    }

    /// The frames that are not whole will never be: their streams end with `error`.
    pub(super) fn end_partial(&self, error: &RecvError) {
        let stuck: Vec<u64> = {
            let state = lock(&self.state);
            let stuck = |queue: &&Queue| queue.partial_since.is_some();
            state.streams.iter().filter(stuck).map(|queue| queue.id).collect()
        };
        for id in stuck {
            self.end(id, error.clone());
        }
    }

    /// The unfinished frame that has waited longest.
    pub(super) fn oldest_partial(&self) -> Option<Partial> {
        let state = lock(&self.state);
        let partial = |queue: &Queue| {
            let since = queue.partial_since.filter(|_| !queue.paused)?;
            Some(Partial { since, position: queue.position })
        };
        state.streams.iter().filter_map(partial).min_by_key(|partial| partial.since)
    }

    /// Frames and bytes that readers took.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let state = lock(&self.state);
        (state.frames, state.bytes)
    }

    // ---- within

    fn has_something(&self) -> bool {
        let state = lock(&self.state);
        state.is_gone.is_some()
            || state.closed.is_some()
            || state.streams.iter().any(|queue| !queue.items.is_empty())
    }

    /// Wakes one reader, if any waits.
    fn wake(&self) {
        if self.waiting.load(Ordering::Acquire) > 0 {
            self.ready.notify_one();
        }
    }

    /// Wakes whoever waits in [`Inbound::changed`], to look at a deadline again.
    pub(super) fn nudge(&self) {
        self.wake();
    }

    /// Resumes paused streams if there is room, and passes the wake-up on if more is there.
    fn after_take(&self, mut state: MutexGuard<'_, State>) {
        state.settle();
        let resume = state.resumable();
        let more = state.streams.iter().any(|queue| !queue.items.is_empty());
        let end_taken = std::mem::take(&mut state.end_taken);
        drop(state);
        for stream in resume {
            stream.resume();
        }
        if end_taken {
            (self.on_end_taken)();
        }
        if more {
            self.wake();
        }
    }
}

/// What [`Inbound::store`] found.
pub(super) struct Stored {
    /// The stream was left paused by mistake: resume it.
    pub(super) resume: bool,
    /// A frame began that is not whole.
    pub(super) partial_began: bool,
}

struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl std::fmt::Debug for Inbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = lock(&self.state);
        f.debug_struct("Inbound")
            .field("streams", &state.streams.len())
            .field("queued", &state.queued)
            .field("held", &state.held)
            .finish_non_exhaustive()
    }
}
