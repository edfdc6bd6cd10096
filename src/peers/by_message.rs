//! What actors asked of a session by message: it outlives the actor that was asked.
//!
//! ```text
//! subscription:  idle ──something is there──> invited ──has taken──> idle
//!                  ^                             └──did not look──> passed over
//!                  └────────something more came─────────────────────────┘
//! ```
//!
//! A subscriber is not given frames: it is invited to take them, once at a time. What it does not take, as
//! it died or did not want it, has never left its place.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ractor::ActorId;
use tokio::task::AbortHandle;

use crate::lock::lock;
use crate::session::flow_out::Fate;

/// Actors that watch one peer: as many as may be subscribed to a node's events.
pub(crate) const WATCHES_MAX: usize = 64;

/// Callers by message that wait for room, and as many that wait for answers, of one session: as many as may
/// wait for anything else.
pub(crate) const CALLERS_MAX: usize = 1_024;

/// Invites a subscriber; whether it is there. With the number of its subscription, and whether nothing will
/// come behind what is there.
pub(crate) type Invite = Arc<dyn Fn(u64, bool) -> bool + Send + Sync>;

/// Tells whether a subscriber is gone.
pub(crate) type IsGone = Arc<dyn Fn() -> bool + Send + Sync>;

/// Told what became of a frame.
pub(crate) type TellFate = Box<dyn FnOnce(Fate) + Send>;

/// See the module.
#[derive(Default)]
pub(crate) struct ByMessage {
    watches: Mutex<HashMap<ActorId, AbortHandle>>,
    /// Looked at for all that comes, without the lock.
    is_subscribed: AtomicBool,
    subscription: Mutex<Subscriptions>,
    outcomes: [Mutex<Outcomes>; 3],
    /// Requests that wait for their answers.
    pub(crate) requests: Places,
    /// Reservations that wait for room.
    pub(crate) reservations: Places,
}

/// Places for callers that wait.
#[derive(Default)]
pub(crate) struct Places(Arc<AtomicUsize>);

/// One of them, until it is dropped.
pub(crate) struct Place(Arc<AtomicUsize>);

impl Places {
    /// A place, while there is one.
    pub(crate) fn take(&self) -> Option<Place> {
        let more = |taken: usize| (taken < CALLERS_MAX).then_some(taken + 1);
        let taken = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        taken.is_ok().then(|| Place(Arc::clone(&self.0)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[derive(Default)]
struct Subscriptions {
    /// How many there were: each has the next number.
    count: u64,
    present: Option<Subscription>,
}

struct Subscription {
    number: u64,
    invite: Invite,
    is_gone: IsGone,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Invited,
    /// It did not look at what it was invited to.
    PassedOver,
}

/// Why it is looked whether the subscriber is to be invited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// Something came, or the session is over.
    Came,
    /// Somebody is done with what was there.
    Done,
}

#[derive(Default)]
struct Outcomes {
    /// By number, rising.
    waiting: VecDeque<(u64, TellFate)>,
    /// A task serves them.
    served: bool,
}

impl ByMessage {
    // ---- watches

    /// Adds what tells `watcher`, in the place of what told it before; no: as many watch as may.
    pub(crate) fn watch(&self, watcher: ActorId, tells: impl FnOnce() -> AbortHandle) -> bool {
        let mut watches = lock(&self.watches);
        if !watches.contains_key(&watcher) && watches.len() >= WATCHES_MAX {
            watches.retain(|_, tells| !tells.is_finished());
            if watches.len() >= WATCHES_MAX {
                return false;
            }
        }
        if let Some(before) = watches.insert(watcher, tells()) {
            before.abort();
        }
        true
    }

    pub(crate) fn unwatch(&self, watcher: ActorId) {
        if let Some(tells) = lock(&self.watches).remove(&watcher) {
            tells.abort();
        }
    }

    // ---- the subscription

    /// From here on this subscriber is invited; no: there is one that lives.
    pub(crate) fn subscribe(&self, invite: Invite, is_gone: IsGone) -> bool {
        let present = {
            let subscriptions = lock(&self.subscription);
            subscriptions.present.as_ref().map(|of| (of.number, Arc::clone(&of.is_gone)))
        };
        if let Some((number, is_gone)) = present
            && is_gone()
        {
            self.unsubscribe(Some(number));
        }
        let mut subscriptions = lock(&self.subscription);
        if subscriptions.present.is_some() {
            return false;
        }
        subscriptions.count += 1;
        let number = subscriptions.count;
        subscriptions.present = Some(Subscription { number, invite, is_gone, state: State::Idle });
        self.is_subscribed.store(true, Ordering::SeqCst);
        true
    }

    pub(crate) fn is_subscribed(&self) -> bool {
        self.is_subscribed.load(Ordering::SeqCst)
    }

    /// Ends the subscription of this number, or whichever there is; whether it was there.
    pub(crate) fn unsubscribe(&self, number: Option<u64>) -> bool {
        let ended = {
            let mut subscriptions = lock(&self.subscription);
            let is_it = |of: &mut Subscription| number.is_none_or(|number| number == of.number);
            let ended = subscriptions.present.take_if(is_it);
            self.is_subscribed.store(subscriptions.present.is_some(), Ordering::SeqCst);
            ended
        };
        // What it refers to is dropped outside the lock.
        ended.is_some()
    }

    /// Whether the subscription of this number goes on.
    pub(crate) fn is_number(&self, number: u64) -> bool {
        let subscriptions = lock(&self.subscription);
        subscriptions.present.as_ref().is_some_and(|of| of.number == number)
    }

    /// Invites the subscriber, if it is not invited and something is there; no: it is gone, and with it the
    /// subscription.
    pub(crate) fn invite(&self, news: News, is_over: bool, is_something: bool) -> bool {
        let invited = {
            let mut subscriptions = lock(&self.subscription);
            let Some(of) = &mut subscriptions.present else { return true };
            let may = match of.state {
                State::Idle => true,
                State::PassedOver => news == News::Came,
                State::Invited => false,
            };
            if !may || !(is_something || is_over) {
                return true;
            }
            of.state = State::Invited;
            (of.number, Arc::clone(&of.invite))
        };
        let (number, invite) = invited;
        let is_last = is_over && !is_something;
        let is_there = invite(number, is_last);
        drop(invite);
        if !is_there || is_last {
            self.unsubscribe(Some(number));
        }
        is_there
    }

    /// The subscriber has done with an invitation; `looked`: it has looked at what was there.
    pub(crate) fn invitation_done(&self, number: u64, looked: bool) {
        let mut subscriptions = lock(&self.subscription);
        if let Some(of) = subscriptions.present.as_mut().filter(|of| of.number == number) {
            of.state = if looked { State::Idle } else { State::PassedOver };
        }
    }

    // ---- outcomes

    /// Somebody waits for the outcome of the frame of this number, which is higher than every one before
    /// on its lane. Whether a task must serve the lane from here on.
    pub(crate) fn wait_for_outcome(&self, lane: usize, number: u64, tell: TellFate) -> bool {
        let Some(outcomes) = self.outcomes.get(lane) else { return false };
        let mut outcomes = lock(outcomes);
        let place = outcomes.waiting.partition_point(|(before, _)| *before <= number);
        outcomes.waiting.insert(place, (number, tell));
        !std::mem::replace(&mut outcomes.served, true)
    }

    /// The lowest number of which somebody waits for the outcome; without one nobody serves the lane any
    /// more.
    pub(crate) fn first_outcome(&self, lane: usize) -> Option<u64> {
        let mut outcomes = lock(self.outcomes.get(lane)?);
        let first = outcomes.waiting.front().map(|(number, _)| *number);
        outcomes.served = first.is_some();
        first
    }

    /// Takes who waits for the outcome of this number, if nobody waits for a lower one.
    pub(crate) fn take_outcome(&self, lane: usize, number: u64) -> Option<TellFate> {
        let mut outcomes = lock(self.outcomes.get(lane)?);
        let is_due = outcomes.waiting.front().is_some_and(|(first, _)| *first == number);
        is_due.then(|| outcomes.waiting.pop_front()).flatten().map(|(_, tell)| tell)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lives() -> IsGone {
        Arc::new(|| false)
    }

    /// Invitations, and whether each is the last one.
    type Invitations = Arc<Mutex<Vec<(u64, bool)>>>;

    /// A subscriber that counts: it is there for so many invitations.
    fn counting(invitations: usize) -> (Invite, Invitations) {
        let told = Invitations::default();
        let tells = Arc::clone(&told);
        let invite: Invite = Arc::new(move |number, is_last| {
            let mut told = lock(&tells);
            told.push((number, is_last));
            told.len() <= invitations
        });
        (invite, told)
    }

    #[test]
    fn a_subscriber_has_one_invitation_at_a_time_and_the_last_one_says_so() {
        let by_message = ByMessage::default();
        let (invite, told) = counting(10);
        assert!(by_message.subscribe(Arc::clone(&invite), lives()));
        assert!(!by_message.subscribe(invite, lives()), "there is one");
        by_message.invite(News::Came, false, false);
        by_message.invite(News::Came, false, true);
        by_message.invite(News::Came, false, true);
        assert_eq!(lock(&told).len(), 1, "nothing was there, then it was invited");
        by_message.invitation_done(1, true);
        by_message.invite(News::Done, true, true);
        by_message.invitation_done(1, true);
        by_message.invite(News::Done, true, false);
        assert_eq!(*lock(&told), [(1, false), (1, false), (1, true)]);
        assert!(!by_message.is_subscribed(), "nothing comes behind the last one");
    }

    #[test]
    fn who_does_not_look_is_invited_again_when_more_comes_and_not_before() {
        let by_message = ByMessage::default();
        let (invite, told) = counting(10);
        by_message.subscribe(invite, lives());
        by_message.invite(News::Came, false, true);
        by_message.invitation_done(1, false);
        by_message.invite(News::Done, false, true);
        assert_eq!(lock(&told).len(), 1, "it would turn in a circle");
        by_message.invite(News::Came, false, true);
        assert_eq!(lock(&told).len(), 2);
    }

    #[test]
    fn a_subscriber_that_is_gone_makes_place_for_another_one() {
        let by_message = ByMessage::default();
        let (gone, _) = counting(0);
        by_message.subscribe(gone, lives());
        assert!(!by_message.invite(News::Came, false, true));
        let (invite, told) = counting(10);
        assert!(by_message.subscribe(invite, lives()));
        assert!(by_message.invite(News::Came, false, true));
        assert_eq!(*lock(&told), [(2, false)]);
        by_message.invitation_done(1, true);
        assert!(by_message.invite(News::Came, false, true), "the first one's word counts no more");
        assert_eq!(lock(&told).len(), 1);
        assert!(!by_message.unsubscribe(Some(1)));
        assert!(by_message.unsubscribe(None));
        // One that nobody has found to be gone yet.
        let (invite, _) = counting(10);
        assert!(by_message.subscribe(invite, Arc::new(|| true)));
        let (invite, _) = counting(10);
        assert!(by_message.subscribe(invite, lives()));
    }

    #[test]
    fn outcomes_are_told_in_the_order_of_their_numbers_by_one_task_a_lane() {
        let by_message = ByMessage::default();
        let told: Arc<Mutex<Vec<u64>>> = Arc::default();
        let tell = |number| -> TellFate {
            let told = Arc::clone(&told);
            Box::new(move |_| lock(&told).push(number))
        };
        assert!(by_message.wait_for_outcome(1, 7, tell(7)), "the first one");
        assert!(!by_message.wait_for_outcome(1, 9, tell(9)));
        assert!(!by_message.wait_for_outcome(1, 8, tell(8)));
        assert!(by_message.wait_for_outcome(2, 1, tell(1)), "another lane");
        while let Some(number) = by_message.first_outcome(1) {
            while let Some(tell) = by_message.take_outcome(1, number) {
                tell(Fate::Delivered);
            }
        }
        assert_eq!(*lock(&told), [7, 8, 9]);
        assert!(by_message.wait_for_outcome(1, 10, tell(10)), "nobody serves it");
    }

    #[test]
    fn places_are_bounded_and_come_back() {
        let places = Places::default();
        let mut taken: Vec<_> = (0..CALLERS_MAX).filter_map(|_| places.take()).collect();
        assert_eq!(taken.len(), CALLERS_MAX);
        assert!(places.take().is_none());
        taken.pop();
        assert!(places.take().is_some());
    }
}
