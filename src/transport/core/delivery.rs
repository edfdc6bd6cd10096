//! Readers by message and subscribers: who gets frames without asking each time.

use std::sync::Arc;

use super::intake::{Intake, Perform};
use super::readers::{IsGone, KINDS, Next, READERS_MAX, Reader, Step, Subscriber, Subscription};
use crate::error::RecvError;
use crate::never::never;
use crate::transport::fault::{Fault, planted};
use crate::transport::link::inbound::{From, Inbound, Lent};

impl<S: Clone> Intake<S> {
    /// Does something with what came in, without the lock behind it; refused while a subscriber lives.
    pub(super) fn as_reader<R>(
        &self,
        read: impl FnOnce(&mut Inbound<S>) -> R,
    ) -> Result<R, RecvError> {
        loop {
            let mut state = self.frames.lock();
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
            let state = self.frames.lock();
            let subscription = state.delivery.subscription.as_ref();
            subscription.map(|it| (it.number, Arc::clone(&it.is_gone)))
        };
        let Some((number, is_gone)) = subscribed else { return Ok(()) };
        if !is_gone() {
            return Err(RecvError::Subscribed);
        }
        let ended = self.frames.lock().delivery.end_subscription(number);
        drop(ended);
        Ok(())
    }

    /// Gives the next result of `from` to `reader`, now or when it comes; behind those that asked
    /// before.
    pub(super) fn read_later(
        &self,
        from: From,
        reader: Box<dyn Reader>,
        outside: &impl Perform<S>,
    ) {
        if let Err(error) = self.check_subscriber() {
            return refuse(reader, error);
        }
        let mut gone = Vec::new();
        let refused = {
            let delivery = &mut self.frames.lock().delivery;
            if delivery.readers() >= READERS_MAX {
                gone = delivery.take_gone_readers();
            }
            if delivery.readers() >= READERS_MAX {
                Some(reader)
            } else {
                match KINDS.iter().position(|kind| *kind == from) {
                    Some(kind) => delivery.readers[kind].push_back(reader),
                    None => never!("a reader by message waits for {:?}", from),
                }
                None
            }
        };
        drop(gone);
        match refused {
            Some(reader) => refuse(reader, RecvError::TooManyReaders { limit: READERS_MAX }),
            None => self.deliver(outside),
        }
    }

    /// Gives every frame to `subscriber` from here on. There is one reader: others are refused.
    pub(super) fn subscribe(
        &self,
        subscriber: Box<dyn Subscriber>,
        is_gone: IsGone,
        outside: &impl Perform<S>,
    ) -> bool {
        if self.check_subscriber().is_err() {
            return false;
        }
        let readers = {
            let delivery = &mut self.frames.lock().delivery;
            if delivery.is_subscribed() {
                return false;
            }
            let number = delivery.subscriptions;
            delivery.subscriptions += 1;
            delivery.subscription =
                Some(Subscription { number, is_gone, subscriber: Some(subscriber) });
            std::mem::take(&mut delivery.readers)
        };
        self.deliver(outside);
        for reader in readers.into_iter().flatten() {
            refuse(reader, RecvError::Subscribed);
        }
        // Whoever waits in `recv` learns that it is refused.
        self.waiting.wake_everybody();
        true
    }

    /// Serves the subscriber or the readers by message, one at a time and outside the lock.
    pub(super) fn deliver(&self, outside: &impl Perform<S>) {
        let Some(work) = Delivering::begin(self) else { return };
        loop {
            let Next { step, effects } = {
                let mut state = self.frames.lock();
                let next = state.next_step();
                // Under the same lock as the look: who stores something later comes here itself.
                if !planted(Fault::DeliveryEndsBehindItsLook) {
                    state.delivery.delivering = !matches!(next.step, Step::Nothing);
                }
                next
            };
            outside.perform(effects);
            match step {
                Step::Nothing if planted(Fault::DeliveryEndsBehindItsLook) => return drop(work),
                Step::Nothing => return std::mem::forget(work),
                Step::Give(reader, result) => {
                    if let Err(back) = reader.give(result) {
                        self.take_back(back.into_lent(), outside);
                    }
                }
                Step::Lend { number, subscriber, lent } => {
                    self.lend(number, subscriber, lent, outside);
                }
            }
        }
    }

    fn lend(
        &self,
        number: u64,
        mut subscriber: Box<dyn Subscriber>,
        lent: Lent,
        outside: &impl Perform<S>,
    ) {
        let refused = subscriber.give(lent).err();
        let left = {
            let mut state = self.frames.lock();
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
            self.take_back(lent, outside);
        }
    }

    fn take_back(&self, lent: Lent, outside: &impl Perform<S>) {
        let effects = self.frames.lock().inbound.put_back(lent);
        outside.perform(effects);
    }
}

/// One delivers at a time; also if what it calls panics, the next one can.
struct Delivering<'a, S: Clone>(&'a Intake<S>);

impl<'a, S: Clone> Delivering<'a, S> {
    fn begin(intake: &'a Intake<S>) -> Option<Self> {
        let delivery = &mut intake.frames.lock().delivery;
        let idle = delivery.subscription.is_none() && delivery.readers() == 0;
        if idle || std::mem::replace(&mut delivery.delivering, true) {
            return None;
        }
        Some(Self(intake))
    }
}

impl<S: Clone> Drop for Delivering<'_, S> {
    fn drop(&mut self) {
        self.0.frames.lock().delivery.delivering = false;
    }
}

fn refuse(reader: Box<dyn Reader>, error: RecvError) {
    // An error is nothing that could be lost.
    drop(reader.give(Err(error)));
}
