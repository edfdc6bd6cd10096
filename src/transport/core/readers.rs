//! Who gets frames without asking each time, and what the lock of a connection's frames is around.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::error::RecvError;
use crate::never::never;
use crate::transport::link::fair::Ticket;
use crate::transport::link::inbound::{Effects, From, Inbound, Lent, Reading, Taken};
use crate::transport::link::lanes::Lane;

/// Whose frame it was, for a reader that may have to put it back.
pub(crate) type Received = Taken;

/// Readers that wait by message, per connection. One more is refused: nothing grows unbounded.
pub(super) const READERS_MAX: usize = 1024;

/// What readers by message may wait for.
pub(super) const KINDS: [From; 4] =
    [From::All, From::Lane(Lane::Control), From::Lane(Lane::Data), From::Lane(Lane::Bulk)];

/// Who waits for one frame by message.
pub(crate) trait Reader: Send {
    /// Whether nobody waits any more. Asked under the lock: a look at what is its own, and nothing else.
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
    pub(super) readers: [VecDeque<Box<dyn Reader>>; 4],
    pub(super) subscription: Option<Subscription>,
    pub(super) subscriptions: u64,
    /// Somebody is at it, outside the lock.
    pub(super) delivering: bool,
}

pub(super) struct Subscription {
    pub(super) number: u64,
    pub(super) is_gone: IsGone,
    /// `None` while it is at work, outside the lock.
    pub(super) subscriber: Option<Box<dyn Subscriber>>,
}

impl Delivery {
    pub(super) fn is_subscribed(&self) -> bool {
        self.subscription.is_some()
    }

    pub(super) fn readers(&self) -> usize {
        self.readers.iter().map(VecDeque::len).sum()
    }

    /// Readers that gave up do not take the places of those who wait. To be dropped outside the lock.
    pub(super) fn take_gone_readers(&mut self) -> Vec<Box<dyn Reader>> {
        let mut gone = Vec::new();
        for readers in &mut self.readers {
            let (given_up, waiting) =
                std::mem::take(readers).into_iter().partition(|reader| reader.is_gone());
            *readers = waiting;
            gone.extend::<VecDeque<_>>(given_up);
        }
        gone
    }

    pub(super) fn end_subscription(&mut self, number: u64) -> Option<Subscription> {
        self.subscription.take_if(|subscription| subscription.number == number)
    }
}

/// What is to be done next, outside the lock.
pub(super) enum Step {
    Give(Box<dyn Reader>, Result<Received, RecvError>),
    Lend { number: u64, subscriber: Box<dyn Subscriber>, lent: Lent },
    Nothing,
}

/// As it is known behind a look.
pub(super) struct Next<S> {
    pub(super) step: Step,
    pub(super) effects: Effects<S>,
}

/// What is behind the lock.
pub(super) struct Frames<S> {
    pub(super) inbound: Inbound<S>,
    pub(super) delivery: Delivery,
    /// While room for a large frame is waited for.
    pub(super) ticket: Option<Ticket>,
}

impl<S: Clone> Frames<S> {
    pub(super) fn new(inbound: Inbound<S>) -> Self {
        Self { inbound, delivery: Delivery::default(), ticket: None }
    }
}

impl<S: Clone> Frames<S> {
    /// Whether a reader of `from` has something to look at, or is refused.
    pub(super) fn is_ready(&self, from: From) -> bool {
        let ended = matches!(from, From::Stream(id) if !self.inbound.is_open(id));
        ended || self.inbound.has_something(from) || self.delivery.is_subscribed()
    }

    /// Takes what the next one is to get.
    pub(super) fn next_step(&mut self) -> Next<S> {
        let Self { inbound, delivery, .. } = self;
        if let Some(subscription) = &mut delivery.subscription {
            let Some(subscriber) = subscription.subscriber.take() else {
                return Next { step: Step::Nothing, effects: Effects::default() };
            };
            let Reading { found: lent, effects } = inbound.lend();
            let step = match lent {
                Some(lent) => Step::Lend { number: subscription.number, subscriber, lent },
                None => {
                    subscription.subscriber = Some(subscriber);
                    Step::Nothing
                }
            };
            return Next { step, effects };
        }
        let mut all = Effects::default();
        for (readers, from) in delivery.readers.iter_mut().zip(KINDS) {
            if readers.is_empty() {
                continue;
            }
            let Reading { found: taken, effects } = inbound.take(from);
            all.add(effects);
            let Some(result) = taken else { continue };
            match readers.pop_front() {
                Some(reader) => {
                    return Next { step: Step::Give(reader, result), effects: all };
                }
                None => never!("a frame was taken for nobody"),
            }
        }
        Next { step: Step::Nothing, effects: all }
    }
}
