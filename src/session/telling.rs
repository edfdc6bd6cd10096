//! When the peer is told what was taken, where nothing presses.
//!
//! ```text
//! something was taken ──nothing gathers as a rule──> told at once
//!           └──frames follow each other, or this side speaks as well──> gathered ──told──> on its way
//!                          until they pause, 5 ms at most ──────────────────┘
//! ```
//!
//! A word is a packet, and the peer seldom waits for it: it does so where it sends one frame, and the next
//! when it knows what became of that. Hence one word at a time, and where frames follow each other one for
//! many of them. What presses, since it is much of what is granted, is told beside that
//! ([`FlowIn::presses`](super::flow_in::FlowIn::presses)).

use std::time::{Duration, Instant};

/// Between two looks at what gathers.
pub(crate) const LOOK: Duration = Duration::from_millis(1);

/// How long something may gather.
const GATHER_MAX: Duration = Duration::from_millis(5);

/// Frames that one word tells of where each is waited for by itself: one, and one that a reader beside took.
const FEW: u64 = 2;

/// What is to be done about what gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Say {
    /// The peer is told.
    Now,
    /// It is looked again, after [`LOOK`].
    Later,
    /// Nothing, until more is taken or the word on its way has come.
    Nothing,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Telling {
    on_its_way: bool,
    /// The last word told of more than a few frames, or this side spoke since the one before.
    gathers: bool,
    gathering: Option<Gathering>,
    /// When the last word was told.
    told_at: Option<Instant>,
}

#[derive(Debug)]
struct Gathering {
    since: Instant,
    looked: Instant,
    /// Frames at that look.
    frames: u64,
}

impl Telling {
    /// So many frames were taken of which the peer does not know; `spoke`: this side sent something since the
    /// last word.
    pub(crate) fn look(&mut self, now: Instant, frames: u64, spoke: bool) -> Say {
        if frames == 0 {
            self.gathering = None;
            return Say::Nothing;
        }
        if self.on_its_way {
            return Say::Nothing;
        }
        if !self.gathers && !spoke {
            return Say::Now;
        }
        let Some(gathering) = &mut self.gathering else {
            self.gathering = Some(Gathering { since: now, looked: now, frames });
            return Say::Later;
        };
        if now.saturating_duration_since(gathering.looked) < LOOK / 2 {
            return Say::Later;
        }
        let pauses = frames == gathering.frames;
        if pauses || now.saturating_duration_since(gathering.since) >= GATHER_MAX {
            return Say::Now;
        }
        (gathering.looked, gathering.frames) = (now, frames);
        Say::Later
    }

    /// Whether words follow each other faster than what gathers is told: a flow that presses now is granted
    /// too little for what its reader takes.
    pub(crate) fn is_often(&self, now: Instant) -> bool {
        self.told_at.is_some_and(|told| now.saturating_duration_since(told) < GATHER_MAX)
    }

    /// The peer was told of so many frames.
    pub(crate) fn told(&mut self, now: Instant, frames: u64, spoke: bool) {
        self.told_at = Some(now);
        self.on_its_way = true;
        self.gathers = frames > FEW || spoke;
        self.gathering = None;
    }

    /// The word is there.
    pub(crate) fn came(&mut self) {
        self.on_its_way = false;
    }

    /// Whether a word is on its way.
    pub(crate) fn is_on_its_way(&self) -> bool {
        self.on_its_way
    }

    /// The session has another connection: no word is on its way there, and the peer waits for the first.
    pub(crate) fn attached(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Instant {
        // One beginning for all.
        static BEGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        *BEGIN.get_or_init(Instant::now) + Duration::from_millis(ms)
    }

    #[test]
    fn one_frame_at_a_time_is_told_at_once_each_time() {
        let mut telling = Telling::default();
        for round in 0..10 {
            assert_eq!(telling.look(at(round), 1, false), Say::Now);
            telling.told(at(round), 1, false);
            assert_eq!(telling.look(at(round), 1, false), Say::Nothing, "one word at a time");
            telling.came();
        }
    }

    #[test]
    fn frames_that_follow_each_other_are_told_when_they_pause_and_in_5_ms_at_the_latest() {
        let mut telling = Telling::default();
        telling.told(at(0), 20, false);
        telling.came();
        assert_eq!(telling.look(at(0), 1, false), Say::Later);
        assert_eq!(telling.look(at(0), 9, false), Say::Later, "that was no pause");
        assert_eq!(telling.look(at(1), 10, false), Say::Later);
        assert_eq!(telling.look(at(2), 10, false), Say::Now, "they pause");
        telling.told(at(2), 10, false);
        telling.came();
        let said = (10..16).map(|ms| telling.look(at(ms), ms, false));
        assert_eq!(said.filter(|said| *said == Say::Now).count(), 1);
    }

    #[test]
    fn who_answers_what_it_takes_gathers_and_who_falls_silent_does_not_any_more() {
        let mut telling = Telling::default();
        assert_eq!(telling.look(at(0), 1, true), Say::Later);
        assert_eq!(telling.look(at(1), 1, true), Say::Now, "they pause");
        telling.told(at(1), 1, true);
        telling.came();
        assert_eq!(telling.look(at(2), 1, false), Say::Later);
        assert_eq!(telling.look(at(3), 1, false), Say::Now);
        telling.told(at(3), 1, false);
        telling.came();
        assert_eq!(telling.look(at(4), 1, false), Say::Now, "at once");
    }

    #[test]
    fn words_are_often_that_follow_each_other_faster_than_what_gathers_is_told() {
        let mut telling = Telling::default();
        assert!(!telling.is_often(at(0)), "there was none");
        telling.told(at(0), 20, false);
        assert!(telling.is_often(at(4)));
        assert!(!telling.is_often(at(5)));
    }

    #[test]
    fn a_word_that_a_connection_took_with_it_is_not_waited_for() {
        let mut telling = Telling::default();
        telling.told(at(0), 20, false);
        telling.attached();
        assert_eq!(telling.look(at(0), 1, false), Say::Now);
    }

    proptest! {
        /// Whatever is taken, sent and told when: what gathers is looked at again, or a word is on its way; and
        /// nothing gathers for longer than it may.
        #[test]
        fn nothing_gathers_for_ever(steps in proptest::collection::vec((0_u8..5, 0_u64..3), 1..200)) {
            let mut telling = Telling::default();
            let (mut ms, mut gathered, mut spoke) = (0, 0, false);
            let (mut is_listed, mut since) = (false, None);
            for (step, amount) in steps {
                match step {
                    0 => gathered += amount,
                    1 => spoke = true,
                    2 => telling.came(),
                    3 => ms += amount,
                    _ => is_listed = false,
                }
                let say = telling.look(at(ms), gathered, spoke);
                is_listed |= say == Say::Later;
                if say == Say::Now {
                    telling.told(at(ms), gathered, spoke);
                    (gathered, spoke, since) = (0, false, None);
                } else if gathered > 0 && !telling.is_on_its_way() {
                    since.get_or_insert(ms);
                }
                prop_assert!(gathered == 0 || is_listed || telling.is_on_its_way());
                prop_assert!(since.is_none_or(|since| ms < since + 5), "{since:?} at {ms}");
            }
        }
    }
}
