//! Which faults come when, by a seed.
//!
//! Pure. Of each pair of members and of each member one fault is under way at a time; each is undone.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use moorline::testing::{Conditions, GilbertElliott, Loss, RateLimit, Share};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// What kind of network it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// Fast and clean; something breaks now and then
    Lan,
    /// 40 ms there and back, 1 % is lost; links degrade
    Wan,
    /// 120 ms there and back, 3 % is lost; addresses change, links are gone for seconds
    Mobile,
    /// Everything at once, all the time
    Hell,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there are some hundred in a run")]
pub(crate) enum Act {
    /// The links of a pair do this from here on: what the first one of them sends, and the other one.
    Link {
        pair: (usize, usize),
        forth: Conditions,
        back: Conditions,
        what: &'static str,
    },
    /// The links of a pair are as they usually are.
    Mend {
        pair: (usize, usize),
    },
    /// The address changes from which one of a pair reaches the other.
    ChangePort {
        pair: (usize, usize),
    },
    /// A member is heard by nobody.
    Silence {
        member: usize,
    },
    Resume {
        member: usize,
    },
    /// A member ends without a goodbye and starts again.
    Restart {
        member: usize,
    },
    /// A member's application does not read.
    StopReading {
        member: usize,
    },
    Read {
        member: usize,
    },
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link { pair: (a, b), what, .. } => write!(f, "{a} and {b}: {what}"),
            Self::Mend { pair: (a, b) } => write!(f, "{a} and {b}: as usual"),
            Self::ChangePort { pair: (a, b) } => write!(f, "{a} and {b}: another address"),
            Self::Silence { member } => write!(f, "{member} is silent"),
            Self::Resume { member } => write!(f, "{member} is heard again"),
            Self::Restart { member } => write!(f, "{member} is killed and starts again"),
            Self::StopReading { member } => write!(f, "{member} does not read"),
            Self::Read { member } => write!(f, "{member} reads again"),
        }
    }
}

/// An act and when it comes, from the beginning on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) at: Duration,
    pub(crate) act: Act,
}

/// How often, how long, how bad.
struct Measures {
    /// Between two faults, in milliseconds.
    pause_ms: (u64, u64),
    /// Of one that lasts, in milliseconds.
    lasts_ms: (u64, u64),
    usual: Conditions,
}

impl Profile {
    fn measures(self) -> Measures {
        let usual = self.usual();
        match self {
            Self::Lan => Measures { pause_ms: (2_000, 8_000), lasts_ms: (200, 2_000), usual },
            Self::Wan => Measures { pause_ms: (1_000, 4_000), lasts_ms: (500, 4_000), usual },
            Self::Mobile => Measures { pause_ms: (500, 3_000), lasts_ms: (500, 10_000), usual },
            Self::Hell => Measures { pause_ms: (100, 1_200), lasts_ms: (200, 6_000), usual },
        }
    }

    /// What the links do where no fault is under way.
    pub(crate) fn usual(self) -> Conditions {
        match self {
            Self::Lan => Conditions::default(),
            Self::Wan => Conditions::wan(),
            Self::Mobile => Conditions::mobile(),
            Self::Hell => {
                let mut usual = Conditions::default();
                usual.delay = Duration::from_millis(5);
                usual.loss = Loss::Independent(Share::millionths(5_000));
                usual
            }
        }
    }

    /// Parts of a hundred of each kind of fault, in the order of [`Schedule::draw`].
    fn weights(self) -> [u32; 11] {
        match self {
            Self::Lan => [20, 10, 5, 5, 5, 20, 5, 0, 15, 10, 5],
            Self::Wan => [25, 15, 10, 5, 5, 15, 10, 5, 5, 3, 2],
            Self::Mobile => [15, 15, 10, 5, 5, 15, 10, 15, 5, 3, 2],
            Self::Hell => [12, 10, 10, 8, 8, 12, 12, 8, 8, 6, 6],
        }
    }
}

/// See the module.
pub(crate) struct Schedule {
    random: StdRng,
    profile: Profile,
    measures: Measures,
    members: usize,
    next_fault: Duration,
    end: Duration,
    /// What is undone, and when.
    undo: Vec<Step>,
    pairs_busy: BTreeSet<(usize, usize)>,
    members_busy: BTreeSet<usize>,
}

impl Schedule {
    /// Faults begin within `lasts`, and are undone in it.
    pub(crate) fn new(seed: u64, profile: Profile, members: usize, lasts: Duration) -> Self {
        let measures = profile.measures();
        Self {
            random: StdRng::seed_from_u64(seed),
            profile,
            measures,
            members,
            next_fault: Duration::ZERO,
            end: lasts,
            undo: Vec::new(),
            pairs_busy: BTreeSet::new(),
            members_busy: BTreeSet::new(),
        }
    }

    fn ms(&mut self, (least, most): (u64, u64)) -> Duration {
        Duration::from_millis(self.random.random_range(least..=most))
    }

    fn percent(&mut self, least: u32, most: u32) -> Share {
        Share::percent(self.random.random_range(least..=most))
    }

    fn pair(&mut self) -> (usize, usize) {
        let one = self.random.random_range(0..self.members);
        let other = (one + self.random.random_range(1..self.members)) % self.members;
        (one.min(other), one.max(other))
    }

    /// A fault that is not under way, and what undoes it.
    fn draw(&mut self) -> Option<(Act, Option<Act>)> {
        let weights = self.profile.weights();
        let mut part = self.random.random_range(0..weights.iter().sum());
        let kind = weights.iter().position(|weight| {
            let hit = part < *weight;
            part = part.saturating_sub(*weight);
            hit
        })?;
        let (pair, member) = (self.pair(), self.random.random_range(0..self.members));
        let usual = self.measures.usual;
        let both = |what, conditions| {
            Some((
                Act::Link { pair, forth: conditions, back: conditions, what },
                Some(Act::Mend { pair }),
            ))
        };
        let mut changed = usual;
        match kind {
            0 => {
                changed.loss = Loss::Independent(self.percent(5, 30));
                both("loses packets", changed)
            }
            1 => {
                changed.loss = Loss::Bursts(GilbertElliott::bursts(self.percent(10, 30), 8));
                both("loses packets in bursts", changed)
            }
            2 => {
                changed.delay += self.ms((20, 200));
                changed.jitter = self.ms((0, 50));
                both("is slow", changed)
            }
            3 => {
                (changed.reorder, changed.reorder_by) = (self.percent(5, 30), self.ms((1, 30)));
                changed.duplicate = self.percent(1, 20);
                both("reorders and doubles packets", changed)
            }
            4 => {
                changed.corrupt = self.percent(1, 10);
                both("damages packets", changed)
            }
            5 => {
                changed.black_hole = true;
                both("is cut", changed)
            }
            6 => {
                changed.black_hole = true;
                let (forth, back) =
                    if self.random.random() { (changed, usual) } else { (usual, changed) };
                let act = Act::Link { pair, forth, back, what: "is cut one way" };
                Some((act, Some(Act::Mend { pair })))
            }
            7 => Some((Act::ChangePort { pair }, None)),
            8 => Some((Act::Silence { member }, Some(Act::Resume { member }))),
            9 => Some((Act::Restart { member }, None)),
            _ if self.random.random() => {
                let rate = self.random.random_range(50_000..1_000_000);
                changed.limit = Some(RateLimit { bytes_a_second: rate, queue_bytes: rate / 4 });
                both("is narrow", changed)
            }
            _ => Some((Act::StopReading { member }, Some(Act::Read { member }))),
        }
    }

    /// Takes the places of a fault; no: another one has them.
    fn begin(&mut self, act: Act) -> bool {
        match act {
            Act::Link { pair, .. } => self.pairs_busy.insert(pair),
            Act::ChangePort { pair } => !self.pairs_busy.contains(&pair),
            Act::Silence { member } | Act::StopReading { member } => {
                self.members_busy.insert(member)
            }
            Act::Restart { member } => !self.members_busy.contains(&member),
            Act::Mend { .. } | Act::Resume { .. } | Act::Read { .. } => true,
        }
    }

    fn undone(&mut self, act: Act) {
        match act {
            Act::Mend { pair } => {
                self.pairs_busy.remove(&pair);
            }
            Act::Resume { member } | Act::Read { member } => {
                self.members_busy.remove(&member);
            }
            Act::Link { .. }
            | Act::ChangePort { .. }
            | Act::Silence { .. }
            | Act::Restart { .. }
            | Act::StopReading { .. } => {}
        }
    }
}

impl Iterator for Schedule {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        loop {
            let first = self.undo.iter().enumerate().min_by_key(|(_, step)| step.at);
            let undo = first.map(|(index, step)| (index, step.at));
            let is_over = self.next_fault >= self.end;
            if let Some((index, at)) = undo
                && (is_over || at <= self.next_fault)
            {
                let step = self.undo.swap_remove(index);
                self.undone(step.act);
                return Some(step);
            }
            if is_over {
                return None;
            }
            let at = self.next_fault;
            let (pause, lasts) = (self.measures.pause_ms, self.measures.lasts_ms);
            self.next_fault = at + self.ms(pause);
            let Some((act, undo)) = self.draw() else { continue };
            if !self.begin(act) {
                continue;
            }
            if let Some(undo) = undo {
                let until = (at + self.ms(lasts)).min(self.end);
                self.undo.push(Step { at: until, act: undo });
            }
            return Some(Step { at, act });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(seed: u64, profile: Profile) -> Vec<Step> {
        Schedule::new(seed, profile, 5, Duration::from_secs(300)).collect()
    }

    #[test]
    fn a_seed_gives_the_same_faults_again_and_another_one_others() {
        for profile in Profile::value_variants() {
            assert_eq!(steps(7, *profile), steps(7, *profile));
            assert_ne!(steps(7, *profile), steps(8, *profile));
        }
    }

    #[test]
    fn steps_rise_and_each_fault_is_undone_before_the_next_one_of_its_place() {
        for seed in 0..20 {
            let steps = steps(seed, Profile::Hell);
            assert!(steps.is_sorted_by_key(|step| step.at), "{seed}");
            let (mut pairs, mut members) = (BTreeSet::new(), BTreeSet::new());
            for Step { at, act } in &steps {
                assert!(*at <= Duration::from_secs(300), "{seed}: {act} at {at:?}");
                match act {
                    Act::Link { pair, .. } => assert!(pairs.insert(*pair), "{seed}: {act}"),
                    Act::Mend { pair } => assert!(pairs.remove(pair), "{seed}: {act}"),
                    Act::Silence { member } | Act::StopReading { member } => {
                        assert!(members.insert(*member), "{seed}: {act}");
                    }
                    Act::Resume { member } | Act::Read { member } => {
                        assert!(members.remove(member), "{seed}: {act}");
                    }
                    Act::Restart { member } => assert!(!members.contains(member), "{seed}: {act}"),
                    Act::ChangePort { pair } => assert!(!pairs.contains(pair), "{seed}: {act}"),
                }
            }
            assert!(pairs.is_empty() && members.is_empty(), "{seed}: all is undone");
        }
    }

    #[test]
    fn hell_has_every_kind_of_fault_within_minutes() {
        let steps = steps(1, Profile::Hell);
        let words: BTreeSet<String> = steps
            .iter()
            .map(|step| step.act.to_string().chars().filter(|it| !it.is_ascii_digit()).collect())
            .collect();
        assert_eq!(words.len(), 15, "{words:?}");
    }
}
