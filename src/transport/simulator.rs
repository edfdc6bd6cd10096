//! Two connections over a scripted MsQuic: everything that may happen between them, in any order, on
//! one thread with a clock that stands still between two steps.
//!
//! A case is a number: the limits, what is sent and read, how far each byte comes at a time, who gives
//! up where, and what fails all follow from it. `SIMULATE_SEED` and `SIMULATE_CASES` say which cases are
//! played (`make simulate`).

mod case;
pub(crate) mod joined;
mod reading;
mod sending;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::LocalSet;
use tokio::time::Instant;

use self::case::{Case, Trouble};
use super::bounds::{Bounds, Windows};
use super::core::{ConnectionCore, Deadline, Direction};
use super::fault::{Fault, plant};
use super::ffi::scripted::{Action, Script};
use super::link::closing::{Act, Closing, Directions};
use super::link::lanes::Lane;
use super::link::outcome::OutcomeCounts;
use super::registration::{LiveHandle, RegistrationWrapper};
use crate::error::CloseCode;
use crate::identity::NetCredential;

/// Cases that are played with the other tests.
const CASES: u64 = 2_000;

/// Cases that found something once: room of the node's that was kept for what every stream may hold, while
/// just that was asked for; whole frames of three lanes beyond the share, which the node's room is for;
/// a frame that arrives when readers were told of the end.
const FOUND: [u64; 3] = [1_014_988, 1_049_946, 771_251];

/// Without a frame that arrives for so long, nothing moves.
const STILL_MAX: Duration = Duration::from_secs(300);

/// How long the end of the peer's frames waits for a reader, as at the actor of a connection.
const PATIENCE: Duration = Duration::from_millis(500);

/// Steps of one case: far more than any needs.
const STEPS_MAX: usize = 3_000_000;

#[test]
fn whatever_happens_between_two_connections_every_frame_has_one_end_and_readers_go_on() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let first = number("SIMULATE_SEED").unwrap_or(1);
    let cases = number("SIMULATE_CASES").unwrap_or(CASES);
    let credential = NetCredential::generate_self_signed(&["test"], &[]).expect("a credential");
    for seed in FOUND.into_iter().chain(first..first + cases) {
        let _named = Named(seed);
        if let Err(problem) = play(seed, &credential) {
            panic!(
                "{problem}\n  play it again: make simulate SEED={seed} CASES=1\n  {:#?}",
                Case::of(&mut StdRng::seed_from_u64(seed))
            );
        }
        if cases > 10 * CASES && seed % 10_000 == 0 {
            println!("{} cases", seed - first);
        }
    }
}

/// Says which case it was, if it panics.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in case {}", self.0);
        }
    }
}

/// Cases within which a planted fault is found.
const FOUND_WITHIN: u64 = 600;

#[test]
fn each_fault_that_is_planted_is_found() {
    let credential = NetCredential::generate_self_signed(&["test"], &[]).expect("a credential");
    for fault in [
        Fault::AwaitBehindTaking,
        Fault::OneQueueForAll,
        Fault::DeadlineBehindOthers,
        Fault::DeadlineOutlivesPause,
        Fault::RoomIsKept,
        Fault::EndedStreamsStay,
        Fault::EndIsLost,
        Fault::RoomDoesNotComeBack,
        Fault::BackInAnotherOrder,
    ] {
        plant(Some(fault));
        let found =
            (1..=FOUND_WITHIN).find_map(|seed| Some((seed, play(seed, &credential).err()?)));
        plant(None);
        let (seed, problem) = found.unwrap_or_else(|| panic!("{fault:?} is not found"));
        println!("{fault:?} by case {seed}: {problem}");
    }
}

/// Plays one case.
fn play(seed: u64, credential: &NetCredential) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(|error| error.to_string())?;
    let mut random = StdRng::seed_from_u64(seed);
    let case = Case::of(&mut random);
    let script = Script::begin();
    let world = Rc::new(World::new(&case, credential, &script));
    let local = LocalSet::new();
    let result = runtime.block_on(local.run_until(async {
        world.begin(&case, &mut random);
        Player {
            script: &script,
            world: &world,
            case: &case,
            random,
            moved: Instant::now(),
            delivered: BTreeMap::new(),
        }
        .play()
        .await
    }));
    drop((local, runtime));
    let result = result.and_then(|()| world.has_ended(&script));
    // A connection that is left would go on behind the script.
    end_all(&script, &world);
    result
}

/// One end.
struct End {
    core: Arc<ConnectionCore>,
    bounds: Arc<Bounds>,
    /// What the other end is to get, by lane.
    expected: RefCell<[VecDeque<Bytes>; 3]>,
    /// Senders and readers that are at work.
    senders: RefCell<usize>,
    readers: RefCell<usize>,
}

/// Both ends, and what went wrong.
struct World {
    ends: [End; 2],
    received: RefCell<u64>,
    /// No end was asked for yet.
    standing: RefCell<bool>,
    trouble: Trouble,
    problem: RefCell<Option<String>>,
}

impl World {
    fn new(case: &Case, credential: &NetCredential, script: &Script) -> Self {
        let registration = RegistrationWrapper::scripted();
        let trusting = credential.clone().trust_hash(credential.identity());
        let ends = [Direction::Outbound, Direction::Inbound].map(|direction| {
            let bounds = Arc::new(Bounds::new(case.limits.clone()));
            let live = LiveHandle::new(&registration);
            let core = ConnectionCore::new(live, direction, trusting.clone(), None, &bounds);
            let (senders, readers) = (RefCell::new(0), RefCell::new(0));
            End { core, bounds, expected: RefCell::default(), senders, readers }
        });
        let windows = Windows::largest(&case.limits);
        script.join([&ends[0].core, &ends[1].core], &credential.chain_der()[0], windows);
        Self {
            ends,
            received: RefCell::new(0),
            standing: RefCell::new(true),
            trouble: case.trouble,
            problem: RefCell::new(None),
        }
    }

    fn begin(self: &Rc<Self>, case: &Case, random: &mut StdRng) {
        for from in 0..2 {
            for lane in Lane::ALL {
                let frames = &case.frames[from][lane as usize];
                if !frames.is_empty() {
                    sending::begin(self, from, lane, frames.clone(), random.random());
                }
            }
            reading::begin(self, from, case.reading[from], random.random());
            let core = Arc::clone(&self.ends[from].core);
            // As the actor of a connection does.
            tokio::task::spawn_local(async move {
                while !core.is_over() {
                    tokio::time::sleep(Duration::from_millis(700)).await;
                    for deadline in Deadline::ALL {
                        core.look_at(deadline);
                    }
                }
            });
        }
    }

    fn fail(&self, problem: impl Into<String>) {
        self.problem.borrow_mut().get_or_insert(problem.into());
    }

    /// A frame came out at the end `at`.
    fn arrived(&self, at: usize, lane: Option<Lane>, frame: &Bytes) {
        *self.received.borrow_mut() += 1;
        let lane = lane.or_else(|| case::lane_of(frame));
        let Some(lane) = lane else { return self.fail("a frame of no lane") };
        let expected = &mut self.ends[1 - at].expected.borrow_mut()[lane as usize];
        let place = match self.trouble {
            // In its lane's order, and none left out.
            Trouble::None => (expected.front() == Some(frame)).then_some(0),
            // A stream was lost: what goes out on the next one may come first.
            Trouble::Resets | Trouble::Refusals => expected.iter().position(|one| one == frame),
        };
        match place {
            Some(place) => drop(expected.remove(place)),
            None => self.fail(format!(
                "end {at}, {lane:?}: {} bytes came, and {:?} were next",
                frame.len(),
                expected.front().map(Bytes::len)
            )),
        }
    }

    fn is_all_sent(&self) -> bool {
        self.ends.iter().all(|end| *end.senders.borrow() == 0)
    }

    fn is_all_received(&self) -> bool {
        self.ends.iter().all(|end| end.expected.borrow().iter().all(VecDeque::is_empty))
    }

    /// What always holds.
    fn check(&self) {
        for (number, end) in self.ends.iter().enumerate() {
            if let Some(reason) = end.core.close_reason().filter(|_| *self.standing.borrow()) {
                self.fail(format!("end {number} ended: {reason}"));
            }
            let (waiting, limits) = (end.core.inbound_counts().waiting, end.core.limits());
            let streams = usize::from(limits.peer_streams_max) + 3;
            let most = limits.inbound_bytes_max
                + streams * (limits.inbound_bytes_max / 32).max(64)
                // What is beyond that is of the node's room.
                + (2 * limits.frame_bytes_max).max(limits.node_large_bytes_max)
                + 1_024;
            if waiting > most {
                self.fail(format!("end {number} holds {waiting} bytes of at most {most}"));
            }
        }
    }

    /// What holds when both connections are over.
    fn has_ended(&self, script: &Script) -> Result<(), String> {
        if let Some(problem) = self.problem.borrow_mut().take() {
            return Err(problem);
        }
        let mut accepted = 0;
        for (number, end) in self.ends.iter().enumerate() {
            let mut all = OutcomeCounts::default();
            end.core.counts_by_lane().iter().for_each(|lane| all += lane.frames);
            if all.accepted != all.completed + all.not_sent + all.maybe_sent {
                return Err(format!("end {number}: outcomes do not add up: {all:?}"));
            }
            if self.trouble == Trouble::None && all.completed != all.accepted {
                return Err(format!("end {number}: not all was acknowledged: {all:?}"));
            }
            let pending = end.core.pending_by_lane();
            if pending != [0; 3] {
                return Err(format!("end {number}: {pending:?} bytes are pending"));
            }
            if !end.bounds.large_is_free() {
                return Err(format!("end {number}: room for large frames did not come back"));
            }
            match end.core.streams_remembered() {
                0 => {}
                left => return Err(format!("end {number}: {left} streams are remembered")),
            }
            accepted += all.accepted;
        }
        let received = *self.received.borrow();
        if self.trouble == Trouble::None && received != accepted {
            return Err(format!("{accepted} were accepted and {received} received"));
        }
        match script.handles() {
            0 => Ok(()),
            left => Err(format!("{left} handles are open")),
        }
    }
}

struct Player<'a> {
    script: &'a Script,
    world: &'a Rc<World>,
    case: &'a Case,
    random: StdRng,
    moved: Instant,
    /// When each stream brought something last, where what comes takes time.
    delivered: BTreeMap<usize, u64>,
}

impl Player<'_> {
    async fn play(mut self) -> Result<(), String> {
        let mut received = 0;
        for step in 0..STEPS_MAX {
            if let Some(problem) = self.world.problem.borrow_mut().take() {
                return Err(format!("step {step}: {problem}"));
            }
            if *self.world.received.borrow() != received {
                (received, self.moved) = (*self.world.received.borrow(), Instant::now());
            }
            if self.moved.elapsed() > STILL_MAX {
                return Err(format!("step {step}: nothing moves: {:?}", self.script.actions()));
            }
            self.step().await;
            self.world.check();
            if self.world.is_all_sent() && self.may_end() {
                return self.end().await;
            }
        }
        Err("too many steps".to_owned())
    }

    fn may_end(&self) -> bool {
        self.world.trouble != Trouble::None || self.world.is_all_received()
    }

    async fn step(&mut self) {
        let actions = self.script.actions();
        if actions.is_empty() || self.random.random_bool(self.case.tasks_first) {
            // Time goes on only where nobody has anything to do.
            let wait = if actions.is_empty() { self.random.random_range(1..200) } else { 0 };
            return match wait {
                0 => tokio::task::yield_now().await,
                wait => tokio::time::sleep(Duration::from_millis(wait)).await,
            };
        }
        let mut action = actions[self.random.random_range(0..actions.len())];
        if self.case.bytes_a_second.is_some() {
            // What takes time is the link: what has come over it is given on at once.
            let arrived = actions.iter().find(|action| matches!(action, Action::Indicate(_)));
            action = arrived.copied().unwrap_or(action);
            if let Action::Deliver(_) = action {
                // And it is shared: nobody waits for a part of a deadline while others have all of it.
                let waits = |id: &usize| self.delivered.get(id).copied().unwrap_or(0);
                let ids = actions.iter().filter_map(|action| match action {
                    Action::Deliver(id) => Some(*id),
                    _ => None,
                });
                let longest = ids.min_by_key(waits).unwrap_or(0);
                let last = self.delivered.values().max().copied().unwrap_or(0);
                self.delivered.insert(longest, last + 1);
                action = Action::Deliver(longest);
            }
        }
        self.perform(action).await;
        self.make_trouble();
    }

    async fn perform(&mut self, action: Action) {
        // No step takes longer than a small part of any deadline.
        let most = self.case.bytes_a_second.map_or(usize::MAX, |rate| rate as usize / 10);
        let size = self.case.size(&mut self.random).min(most);
        let parts = self.random.random_range(1..4);
        let bytes = self.script.perform(action, size, parts);
        if let Some(rate) = self.case.bytes_a_second.filter(|_| bytes > 0) {
            let time = bytes as f64 / f64::from(rate);
            tokio::time::advance(Duration::from_secs_f64(time)).await;
        }
    }

    fn make_trouble(&mut self) {
        if !self.random.random_bool(0.002) {
            return;
        }
        let end = &self.world.ends[self.random.random_range(0..2)].core;
        let lane = Lane::ALL[self.random.random_range(0..3)];
        match self.world.trouble {
            Trouble::None => {}
            Trouble::Resets => end.give_up_stream(lane),
            Trouble::Refusals => self.script.refuse_sends(1),
        }
    }

    /// The orderly end, as the actors of both ends make it.
    async fn end(mut self) -> Result<(), String> {
        *self.world.standing.borrow_mut() = false;
        let first = self.random.random_range(0..2);
        let (begins, answers) = (&self.world.ends[first].core, &self.world.ends[1 - first].core);
        let mut closings = [Closing::default(), Closing::default()];
        let began = closings[0].close(CloseCode::NORMAL, directions(begins));
        perform(&mut closings[0], begins, began);
        let limit = Instant::now() + STILL_MAX;
        let mut patience = [None; 2];
        while !(begins.is_complete() && answers.is_complete()) {
            if Instant::now() > limit {
                let left = self.script.actions();
                return Err(format!("the end does not come: {left:?}, {closings:?}"));
            }
            for ((closing, core), patience) in
                closings.iter_mut().zip([begins, answers]).zip(&mut patience)
            {
                let of = directions(core);
                let act = match *patience {
                    None if of.peer_finished => {
                        *patience = Some(Instant::now() + PATIENCE);
                        closing.peer_finished(of)
                    }
                    Some(until) if Instant::now() >= until => {
                        *patience = Some(Instant::now() + PATIENCE);
                        closing.readers_gone(of)
                    }
                    None | Some(_) => closing.end_taken(of),
                };
                perform(closing, core, act);
                let act = closing.look(directions(core));
                perform(closing, core, act);
            }
            self.step().await;
        }
        // Readers and senders are told, and end.
        while self.world.ends.iter().any(|end| *end.readers.borrow() > 0) {
            if Instant::now() > limit {
                return Err("a reader is not told of the end".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

/// As the actor of a connection does.
fn directions(core: &ConnectionCore) -> Directions {
    Directions {
        peer_finished: core.has_peer_finished(),
        end_taken: core.is_end_taken(),
        finished: core.is_finished(),
        taken: core.inbound_counts().frames,
    }
}

fn perform(closing: &mut Closing, core: &Arc<ConnectionCore>, act: Act) {
    match act {
        Act::Nothing | Act::WaitForReaders | Act::StopWaiting => {}
        Act::Drain(reason) => {
            core.begin_close(&reason);
            let act = closing.look(directions(core));
            perform(closing, core, act);
        }
        Act::Cut(code) => core.cut(code),
    }
}

fn end_all(script: &Script, world: &World) {
    world.ends.iter().for_each(|end| end.core.cut(CloseCode::DROPPED));
    while let Some(&action) = script.actions().first() {
        script.perform(action, usize::MAX, 1);
    }
}
