//! Room that is had in the order of asking: of a lane for its frames, of a node for its large ones.
//!
//! A request that does not fit waits, and so does everybody behind it, so that nobody is overtaken for
//! ever. Whoever waits is any handle, which comes back when its turn has come.
//!
//! Invariants: what is used and what is left add up to the size, unless the size shrank below what is
//! used; a request that fits the size is granted at last, if those before it give back.

use std::collections::VecDeque;

use crate::never::take_off;

/// See the module.
#[derive(Debug)]
pub(crate) struct FairRoom<W> {
    size: usize,
    used: usize,
    waiting: VecDeque<Request<W>>,
    next_ticket: u64,
    /// Nothing is granted from this ticket on.
    shut_from: Option<u64>,
}

#[derive(Debug)]
struct Request<W> {
    ticket: u64,
    bytes: usize,
    waiter: W,
}

/// Names a request that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

/// What has become of a request that had to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Waiting,
    /// The bytes are the asker's.
    Granted,
    /// It will never have them.
    Shut,
}

/// Who waited and whose turn has come: the bytes are its own from here on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Grant<W> {
    pub(crate) bytes: usize,
    pub(crate) waiter: W,
}

/// In the order of asking.
pub(crate) type Granted<W> = Vec<Grant<W>>;

impl<W> FairRoom<W> {
    pub(crate) fn new(size: usize) -> Self {
        Self { size, used: 0, waiting: VecDeque::new(), next_ticket: 0, shut_from: None }
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    pub(crate) fn used(&self) -> usize {
        self.used
    }

    pub(crate) fn is_waited_for(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes `bytes`, if there are so many and nobody waits.
    #[inline]
    pub(crate) fn try_take(&mut self, bytes: usize) -> bool {
        let fits = self.used.checked_add(bytes).is_some_and(|used| used <= self.size);
        let takes = fits && self.waiting.is_empty();
        if takes {
            self.used += bytes;
        }
        takes
    }

    /// As [`FairRoom::try_take`]; otherwise `waiter` waits for them.
    pub(crate) fn take(&mut self, bytes: usize, waiter: W) -> Result<(), Ticket> {
        if self.try_take(bytes) { Ok(()) } else { Err(self.wait(bytes, waiter)) }
    }

    /// `waiter` waits for `bytes`.
    pub(crate) fn wait(&mut self, bytes: usize, waiter: W) -> Ticket {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiting.push_back(Request { ticket, bytes, waiter });
        debug_assert!(self.is_in_order());
        Ticket(ticket)
    }

    /// Gives bytes back; whoever is returned has what it waited for.
    #[must_use = "they have been given what they waited for"]
    pub(crate) fn give_back(&mut self, bytes: usize) -> Granted<W> {
        self.change(bytes, self.size)
    }

    /// Gives bytes back, and there are `size` of them altogether from here on.
    #[must_use = "they have been given what they waited for"]
    pub(crate) fn change(&mut self, bytes: usize, size: usize) -> Granted<W> {
        take_off!(self.used, bytes, "bytes come back");
        self.size = size;
        self.grant()
    }

    /// What has become of the request: as long as its asker has not forgotten it.
    pub(crate) fn turn(&self, ticket: Ticket) -> Turn {
        match self.place(ticket) {
            Ok(_) => Turn::Waiting,
            Err(_) if self.shut_from.is_some_and(|from| ticket.0 >= from) => Turn::Shut,
            Err(_) => Turn::Granted,
        }
    }

    /// Another one waits in the place of the asker, if it still waits.
    pub(crate) fn renew(&mut self, ticket: Ticket, waiter: W) {
        if let Ok(place) = self.place(ticket) {
            self.waiting[place].waiter = waiter;
        }
    }

    /// Nobody waits with this ticket any more. It may have been granted meanwhile: then it is the
    /// waiter who gives back.
    #[must_use = "they have been given what they waited for"]
    pub(crate) fn forget(&mut self, ticket: Ticket) -> Granted<W> {
        if let Ok(place) = self.place(ticket) {
            self.waiting.remove(place);
        }
        self.grant()
    }

    /// Nothing is granted any more: those who wait come back.
    #[must_use = "they are to be told"]
    pub(crate) fn shut(&mut self) -> Vec<W> {
        let first = self.waiting.front().map_or(self.next_ticket, |request| request.ticket);
        self.shut_from.get_or_insert(first);
        self.waiting.drain(..).map(|request| request.waiter).collect()
    }

    fn place(&self, ticket: Ticket) -> Result<usize, usize> {
        self.waiting.binary_search_by_key(&ticket.0, |request| request.ticket)
    }

    fn grant(&mut self) -> Granted<W> {
        let mut granted = Vec::new();
        let used = self.used;
        while let Some(first) = self.waiting.front()
            && self.used.checked_add(first.bytes).is_some_and(|used| used <= self.size)
            && let Some(Request { bytes, waiter, .. }) = self.waiting.pop_front()
        {
            self.used += bytes;
            granted.push(Grant { bytes, waiter });
        }
        debug_assert!(granted.is_empty() || self.used <= self.size, "more than there is");
        debug_assert!(self.is_in_order() && self.used >= used);
        granted
    }

    /// Whoever waits asked before those behind it, and does not fit, or would not wait.
    fn is_in_order(&self) -> bool {
        let tickets = || self.waiting.iter().map(|request| request.ticket);
        tickets().zip(tickets().skip(1)).all(|(first, next)| first < next)
            && tickets().next_back().is_none_or(|last| last < self.next_ticket)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn grants(of: &[(usize, char)]) -> Granted<char> {
        of.iter().map(|&(bytes, waiter)| Grant { bytes, waiter }).collect()
    }

    #[test]
    fn who_asked_first_is_served_first_whatever_the_others_need() {
        let mut room = FairRoom::new(100);
        room.take(80, 'a').unwrap();
        let large = room.take(90, 'b').unwrap_err();
        let small = room.take(10, 'c').unwrap_err();
        assert!(!room.try_take(1), "nor does anybody else go before them");
        assert_eq!(room.give_back(50), []);
        assert_eq!((room.turn(large), room.turn(small)), (Turn::Waiting, Turn::Waiting));
        assert_eq!(room.give_back(30), grants(&[(90, 'b'), (10, 'c')]));
        assert_eq!((room.turn(large), room.turn(small)), (Turn::Granted, Turn::Granted));
        assert_eq!(room.give_back(90), []);
        assert_eq!(room.give_back(10), []);
        room.take(100, 'd').unwrap();
    }

    #[test]
    fn who_gives_up_no_longer_stands_before_the_others() {
        let mut room = FairRoom::new(100);
        room.take(50, 'a').unwrap();
        let large = room.take(90, 'b').unwrap_err();
        room.take(40, 'c').unwrap_err();
        assert_eq!(room.forget(large), grants(&[(40, 'c')]));
        assert_eq!(room.forget(large), [], "forgetting twice changes nothing");
    }

    #[test]
    fn a_room_that_grows_serves_those_who_wait_and_one_that_shrinks_serves_nobody() {
        let mut room = FairRoom::new(10);
        room.take(10, 'a').unwrap();
        room.take(10, 'b').unwrap_err();
        assert_eq!(room.change(0, 20), grants(&[(10, 'b')]));
        assert_eq!(room.change(5, 10), [], "15 are used");
        assert!(!room.try_take(1));
        assert_eq!(room.give_back(15), []);
        assert!(room.try_take(10));
    }

    #[test]
    fn who_was_granted_before_the_end_keeps_it_and_the_others_are_told() {
        let mut room = FairRoom::new(10);
        room.take(10, 'a').unwrap();
        let first = room.take(10, 'b').unwrap_err();
        let second = room.take(10, 'c').unwrap_err();
        room.renew(second, 'd');
        assert_eq!(room.give_back(10), grants(&[(10, 'b')]));
        assert_eq!(room.shut(), ['d']);
        assert_eq!((room.turn(first), room.turn(second)), (Turn::Granted, Turn::Shut));
        let late = room.take(1, 'e').unwrap_err();
        assert_eq!(room.shut(), ['e']);
        assert_eq!(room.turn(late), Turn::Shut);
    }

    #[derive(Debug, Clone)]
    enum Act {
        Take(usize),
        GiveBack,
        Forget(usize),
        Resize(usize),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            (1..50_usize).prop_map(Act::Take),
            Just(Act::GiveBack),
            (0..8_usize).prop_map(Act::Forget),
            (0..100_usize).prop_map(Act::Resize),
        ]
    }

    proptest! {
        /// Against a list of who waits and a list of what was given.
        #[test]
        fn whatever_is_asked_the_order_is_kept_and_nothing_is_given_twice(
            acts in proptest::collection::vec(act(), 0..200),
        ) {
            let (mut room, mut size) = (FairRoom::new(60), 60);
            let mut given: VecDeque<usize> = VecDeque::new();
            let mut waiting: VecDeque<(Ticket, usize, usize)> = VecDeque::new();
            for (number, act) in acts.into_iter().enumerate() {
                let granted = match act {
                    Act::Take(bytes) => {
                        match room.take(bytes, number) {
                            Ok(()) => given.push_back(bytes),
                            Err(ticket) => waiting.push_back((ticket, bytes, number)),
                        }
                        Vec::new()
                    }
                    Act::GiveBack => {
                        given.pop_front().map_or_else(Vec::new, |bytes| room.give_back(bytes))
                    }
                    Act::Forget(which) if which < waiting.len() => {
                        let (ticket, ..) = waiting.remove(which).expect("it waits");
                        room.forget(ticket)
                    }
                    Act::Forget(_) => Vec::new(),
                    Act::Resize(to) => {
                        size = to;
                        room.change(0, to)
                    }
                };
                for grant in granted {
                    let (ticket, bytes, waiter) = waiting.pop_front().expect("somebody waited");
                    prop_assert_eq!((grant.bytes, grant.waiter), (bytes, waiter));
                    prop_assert_eq!(room.turn(ticket), Turn::Granted);
                    given.push_back(bytes);
                }
                let used: usize = given.iter().sum();
                prop_assert_eq!(room.used(), used);
                if let Some(&(ticket, bytes, _)) = waiting.front() {
                    prop_assert!(used + bytes > size, "the first one has to wait");
                    prop_assert_eq!(room.turn(ticket), Turn::Waiting);
                }
            }
        }
    }
}
