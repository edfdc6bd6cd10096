//! Callers that wait for an answer: bounded, and who is gone gives the place back.

use std::collections::VecDeque;

use ractor::RpcReplyPort;

/// Callers that may wait for one thing. More are told so: nothing grows unbounded.
pub(super) const CALLERS_MAX: usize = 1024;

/// Somebody who waits for an answer and may give up.
pub(crate) trait Waiter {
    /// Nobody takes the answer any more.
    fn is_gone(&self) -> bool;
}

impl<T> Waiter for RpcReplyPort<T> {
    fn is_gone(&self) -> bool {
        self.is_closed()
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Waiting<W> {
    waiters: VecDeque<W>,
}

impl<W> Default for Waiting<W> {
    fn default() -> Self {
        Self { waiters: VecDeque::new() }
    }
}

impl<W: Waiter> Waiting<W> {
    /// Adds a caller; back if [`CALLERS_MAX`] wait that are not gone.
    pub(super) fn add(&mut self, waiter: W) -> Result<(), W> {
        if self.waiters.len() >= CALLERS_MAX {
            self.forget_the_gone();
        }
        if self.waiters.len() >= CALLERS_MAX {
            return Err(waiter);
        }
        self.waiters.push_back(waiter);
        Ok(())
    }

    /// Everybody who waits, in the order in which they came.
    pub(super) fn take(&mut self) -> Vec<W> {
        std::mem::take(&mut self.waiters).into()
    }

    /// The first that is not gone.
    pub(super) fn take_first(&mut self) -> Option<W> {
        while let Some(first) = self.waiters.pop_front() {
            if !first.is_gone() {
                return Some(first);
            }
        }
        None
    }

    /// Those of whom it is true.
    pub(super) fn take_if(&mut self, is_one: impl FnMut(&W) -> bool) -> Vec<W> {
        let (taken, left): (VecDeque<W>, VecDeque<W>) = self.waiters.drain(..).partition(is_one);
        self.waiters = left;
        taken.into()
    }

    /// Whether nobody waits who would take an answer.
    pub(super) fn is_deserted(&mut self) -> bool {
        self.forget_the_gone();
        self.waiters.is_empty()
    }

    fn forget_the_gone(&mut self) {
        self.waiters.retain(|waiter| !waiter.is_gone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Caller(bool);

    impl Waiter for Caller {
        fn is_gone(&self) -> bool {
            self.0
        }
    }

    #[test]
    fn who_is_gone_gives_the_place_back_and_only_the_living_fill_the_list() {
        let mut waiting = Waiting::default();
        for _ in 0..CALLERS_MAX {
            assert!(waiting.add(Caller(true)).is_ok());
        }
        for _ in 0..CALLERS_MAX {
            assert!(waiting.add(Caller(false)).is_ok());
        }
        assert!(waiting.add(Caller(false)).is_err());
        assert!(!waiting.is_deserted());
        assert_eq!(waiting.take().len(), CALLERS_MAX);
        assert!(waiting.add(Caller(true)).is_ok());
        assert!(waiting.is_deserted());
    }

    #[test]
    fn some_are_taken_and_the_others_wait_on() {
        let mut waiting = Waiting::default();
        for gone in [true, false, true] {
            assert!(waiting.add(Caller(gone)).is_ok());
        }
        assert_eq!(waiting.take_first().map(|first| first.0), Some(false));
        assert!(waiting.add(Caller(false)).is_ok());
        assert_eq!(waiting.take_if(|caller| caller.0).len(), 1);
        assert_eq!(waiting.take().len(), 1);
    }
}
