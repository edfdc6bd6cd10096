//! Room for large frames: what a frame takes beyond the share of its queue.
//!
//! All connections of a node have it together. A request that does not fit waits in the order of
//! asking, so that nobody is overtaken for ever; the waiter is any handle, which comes back when its
//! turn has come.
//!
//! Invariants: what is left and what was granted add up to the whole; a request that fits the whole is
//! granted at last, if those before it give back.

use std::collections::VecDeque;

/// See the module.
#[derive(Debug)]
pub(in crate::transport) struct LargeRoom<W> {
    left: usize,
    waiting: VecDeque<Request<W>>,
    next_ticket: u64,
}

#[derive(Debug)]
struct Request<W> {
    ticket: Ticket,
    bytes: usize,
    waiter: W,
}

/// Names a request that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::transport) struct Ticket(u64);

/// Who waited and whose turn has come, and the bytes that are theirs from here on.
pub(in crate::transport) type Granted<W> = Vec<(Ticket, usize, W)>;

impl<W> LargeRoom<W> {
    pub(in crate::transport) fn new(bytes: usize) -> Self {
        Self { left: bytes, waiting: VecDeque::new(), next_ticket: 0 }
    }

    #[cfg(test)]
    pub(in crate::transport) fn left(&self) -> usize {
        self.left
    }

    /// Takes `bytes`, if nobody waits for some; otherwise `waiter` waits for them.
    pub(in crate::transport) fn take(&mut self, bytes: usize, waiter: W) -> Result<(), Ticket> {
        if self.waiting.is_empty() && bytes <= self.left {
            self.left -= bytes;
            return Ok(());
        }
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.waiting.push_back(Request { ticket, bytes, waiter });
        Err(ticket)
    }

    /// Gives bytes back; whoever is returned has what it waited for.
    #[must_use = "they have been given what they waited for"]
    pub(in crate::transport) fn give_back(&mut self, bytes: usize) -> Granted<W> {
        self.left += bytes;
        self.grant()
    }

    /// Nobody waits with this ticket any more. It may have been granted meanwhile: then it is the
    /// waiter who gives back.
    #[must_use = "they have been given what they waited for"]
    pub(in crate::transport) fn forget(&mut self, ticket: Ticket) -> Granted<W> {
        self.waiting.retain(|request| request.ticket != ticket);
        self.grant()
    }

    fn grant(&mut self) -> Granted<W> {
        let mut granted = Vec::new();
        while let Some(first) = self.waiting.front()
            && first.bytes <= self.left
        {
            self.left -= first.bytes;
            granted.extend(
                self.waiting.pop_front().map(|first| (first.ticket, first.bytes, first.waiter)),
            );
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asked_first_is_served_first_whatever_the_others_need() {
        let mut room = LargeRoom::new(100);
        room.take(80, 'a').unwrap();
        let large = room.take(90, 'b').unwrap_err();
        let small = room.take(10, 'c').unwrap_err();
        assert_eq!(room.give_back(50), []);
        assert_eq!(room.give_back(30), [(large, 90, 'b'), (small, 10, 'c')]);
        assert_eq!(room.give_back(90), []);
        assert_eq!(room.give_back(10), []);
        room.take(100, 'd').unwrap();
    }

    #[test]
    fn who_gives_up_no_longer_stands_before_the_others() {
        let mut room = LargeRoom::new(100);
        room.take(50, 'a').unwrap();
        let large = room.take(90, 'b').unwrap_err();
        let small = room.take(40, 'c').unwrap_err();
        assert_eq!(room.forget(large), [(small, 40, 'c')]);
        assert_eq!(room.forget(large), [], "forgetting twice changes nothing");
    }
}
