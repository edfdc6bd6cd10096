//! Readers by message and subscribers: who gets frames without asking each time.

use std::collections::VecDeque;
use std::sync::Arc;

use super::ConnectionCore;
use super::receiving::{Received, State};
use crate::error::RecvError;
use crate::transport::lanes::Lane;
use crate::transport::link::inbound::{Effects, From, Inbound, Lent};
use crate::transport::lock;
use crate::transport::stream::ReadStream;

/// Readers that wait by message, per connection. One more is refused: nothing grows unbounded.
const READERS_MAX: usize = 1024;

/// What readers by message may wait for.
const KINDS: [From; 4] =
    [From::All, From::Lane(Lane::Control), From::Lane(Lane::Data), From::Lane(Lane::Bulk)];

/// Who waits for one frame by message.
pub(crate) trait Reader: Send {
    /// Whether nobody waits any more.
    fn is_gone(&self) -> bool;
    /// Passes a result on; a frame that reaches nobody comes back.
    fn give(self: Box<Self>, result: Result<Received, RecvError>) -> Result<(), Received>;
}

/// Who gets every frame.
pub(crate) trait Subscriber: Send {
    /// Passes frames on; what reaches nobody comes back, and the subscription is over.
    fn give(&mut self, frames: Lent) -> Result<(), Lent>;
}

/// Tells whether a subscriber is gone.
pub(crate) type IsGone = Arc<dyn Fn() -> bool + Send + Sync>;

/// Who gets frames without asking each time.
#[derive(Default)]
pub(super) struct Delivery {
    /// By [`KINDS`], each in the order of asking.
    readers: [VecDeque<Box<dyn Reader>>; 4],
    subscription: Option<Subscription>,
    subscriptions: u64,
    /// Somebody is at it, outside the lock.
    delivering: bool,
}

struct Subscription {
    number: u64,
    is_gone: IsGone,
    /// `None` while it is at work, outside the lock.
    subscriber: Option<Box<dyn Subscriber>>,
}

impl Delivery {
    pub(super) fn is_subscribed(&self) -> bool {
        self.subscription.is_some()
    }

    fn readers(&self) -> usize {
        self.readers.iter().map(VecDeque::len).sum()
    }

    fn end_subscription(&mut self, number: u64) -> Option<Subscription> {
        self.subscription.take_if(|subscription| subscription.number == number)
    }
}

/// What is to be done next, outside the lock.
enum Step {
    Give(Box<dyn Reader>, Result<Received, RecvError>),
    Lend { number: u64, subscriber: Box<dyn Subscriber>, lent: Lent },
    Nothing,
}

impl ConnectionCore {
    /// Does something with what came in, without the lock behind it; refused while a subscriber lives.
    pub(super) fn as_reader<R>(
        &self,
        read: impl FnOnce(&mut Inbound<Arc<ReadStream>>) -> R,
    ) -> Result<R, RecvError> {
        loop {
            let mut state = lock(&self.receiving);
            if !state.delivery.is_subscribed() {
                return Ok(read(&mut state.inbound));
            }
            drop(state);
            self.check_subscriber()?;
        }
    }

    /// Refuses readers while a subscriber lives.
    fn check_subscriber(&self) -> Result<(), RecvError> {
        let subscribed = {
            let state = lock(&self.receiving);
            let subscription = state.delivery.subscription.as_ref();
            subscription.map(|it| (it.number, Arc::clone(&it.is_gone)))
        };
        let Some((number, is_gone)) = subscribed else { return Ok(()) };
        if !is_gone() {
            return Err(RecvError::Subscribed);
        }
        let ended = lock(&self.receiving).delivery.end_subscription(number);
        drop(ended);
        Ok(())
    }

    /// Gives the next result of `from` to `reader`, now or when it comes; behind those that asked
    /// before.
    pub(crate) fn read_later(&self, from: From, reader: Box<dyn Reader>) {
        if let Err(error) = self.check_subscriber() {
            return refuse(reader, error);
        }
        if lock(&self.receiving).delivery.readers() >= READERS_MAX {
            self.forget_gone_readers();
        }
        {
            let mut state = lock(&self.receiving);
            if state.delivery.readers() >= READERS_MAX {
                drop(state);
                return refuse(reader, RecvError::TooManyReaders { limit: READERS_MAX });
            }
            let kind = KINDS.iter().position(|kind| *kind == from).unwrap_or(0);
            state.delivery.readers[kind].push_back(reader);
        }
        self.deliver();
    }

    /// Readers that gave up do not take the places of those who wait.
    fn forget_gone_readers(&self) {
        let Some(work) = Delivering::begin(self) else { return };
        let mut readers = std::mem::take(&mut lock(&self.receiving).delivery.readers);
        for kind in &mut readers {
            kind.retain(|reader| !reader.is_gone());
        }
        {
            let delivery = &mut lock(&self.receiving).delivery;
            for (kind, later) in readers.iter_mut().zip(&mut delivery.readers) {
                kind.append(later);
            }
            delivery.readers = readers;
        }
        drop(work);
        self.deliver();
    }

    /// Gives every frame to `subscriber` from here on. There is one reader: others are refused.
    pub(crate) fn subscribe(&self, subscriber: Box<dyn Subscriber>, is_gone: IsGone) -> bool {
        if self.check_subscriber().is_err() {
            return false;
        }
        let readers = {
            let delivery = &mut lock(&self.receiving).delivery;
            if delivery.is_subscribed() {
                return false;
            }
            let number = delivery.subscriptions;
            delivery.subscriptions += 1;
            delivery.subscription =
                Some(Subscription { number, is_gone, subscriber: Some(subscriber) });
            std::mem::take(&mut delivery.readers)
        };
        self.deliver();
        for reader in readers.into_iter().flatten() {
            refuse(reader, RecvError::Subscribed);
        }
        // Whoever waits in `recv` learns that it is refused.
        self.waiting.wake_everybody();
        true
    }

    /// Serves the subscriber or the readers by message, one at a time and outside the lock.
    pub(super) fn deliver(&self) {
        let Some(work) = Delivering::begin(self) else { return };
        loop {
            let (step, effects) = {
                let mut state = lock(&self.receiving);
                let (step, effects) = state.next_step();
                // Under the same lock as the look: who stores something later comes here itself.
                state.delivery.delivering = !matches!(step, Step::Nothing);
                (step, effects)
            };
            self.perform(effects);
            match step {
                Step::Nothing => return std::mem::forget(work),
                Step::Give(reader, result) => {
                    if let Err(back) = reader.give(result) {
                        self.take_back(back.into_lent());
                    }
                }
                Step::Lend { number, subscriber, lent } => self.lend(number, subscriber, lent),
            }
        }
    }

    fn lend(&self, number: u64, mut subscriber: Box<dyn Subscriber>, lent: Lent) {
        let refused = subscriber.give(lent).err();
        let left = {
            let mut state = lock(&self.receiving);
            let subscription = state.delivery.subscription.as_mut();
            match subscription.filter(|subscription| subscription.number == number) {
                Some(subscription) if refused.is_none() => {
                    subscription.subscriber = Some(subscriber);
                    None
                }
                _ => Some((state.delivery.end_subscription(number), subscriber)),
            }
        };
        drop(left);
        if let Some(lent) = refused {
            self.take_back(lent);
        }
    }

    fn take_back(&self, lent: Lent) {
        let effects = lock(&self.receiving).inbound.put_back(lent);
        self.perform(effects);
    }
}

impl State {
    /// Takes what the next one is to get.
    fn next_step(&mut self) -> (Step, Effects<Arc<ReadStream>>) {
        let Self { inbound, delivery, .. } = self;
        if let Some(subscription) = &mut delivery.subscription {
            let Some(subscriber) = subscription.subscriber.take() else {
                return (Step::Nothing, Effects::default());
            };
            let (lent, effects) = inbound.lend();
            return match lent {
                Some(lent) => {
                    (Step::Lend { number: subscription.number, subscriber, lent }, effects)
                }
                None => {
                    subscription.subscriber = Some(subscriber);
                    (Step::Nothing, effects)
                }
            };
        }
        let mut all = Effects::default();
        for (readers, from) in delivery.readers.iter_mut().zip(KINDS) {
            if readers.is_empty() {
                continue;
            }
            let (taken, effects) = inbound.take(from);
            all.add(effects);
            if let Some(result) = taken
                && let Some(reader) = readers.pop_front()
            {
                return (Step::Give(reader, result), all);
            }
        }
        (Step::Nothing, all)
    }
}

/// One delivers at a time; also if what it calls panics, the next one can.
struct Delivering<'a>(&'a ConnectionCore);

impl<'a> Delivering<'a> {
    fn begin(core: &'a ConnectionCore) -> Option<Self> {
        let delivery = &mut lock(&core.receiving).delivery;
        let idle = delivery.subscription.is_none() && delivery.readers() == 0;
        if idle || std::mem::replace(&mut delivery.delivering, true) {
            return None;
        }
        Some(Self(core))
    }
}

impl Drop for Delivering<'_> {
    fn drop(&mut self) {
        lock(&self.0.receiving).delivery.delivering = false;
    }
}

fn refuse(reader: Box<dyn Reader>, error: RecvError) {
    // An error is nothing that could be lost.
    drop(reader.give(Err(error)));
}
