//! Whatever happens between nodes, in any order: frames are taken once and in order, and in the end each
//! session is up over one link, or over with outcomes that are true.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{TestError, TestRunner};

use super::world::World;
use crate::session::flow_fault::{FlowFault, Planted};

/// Cases of each kind that are played with the other tests; `PROPTEST_CASES` says otherwise.
const CASES: u32 = 1_500;

/// What happens next, and to whom.
type Step = (u16, u16);

fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig {
        cases: cases.unwrap_or(CASES),
        failure_persistence: None,
        ..Default::default()
    }
}

fn play(world: &mut World, (what, choice): Step) {
    let nodes = world.nodes.len();
    let (node, peer) = (usize::from(choice) % nodes, usize::from(choice / 8) % nodes);
    match what {
        0..20 => world.send_one(choice),
        20..35 => {
            world.submit_one(choice);
        }
        35..60 => {
            world.deliver_one(choice);
        }
        60..70 => {
            world.take_one(choice);
        }
        70..75 => {
            let acts = [World::tell_one, World::word_came_one, World::look_one];
            acts[usize::from(choice % 3)](world, choice / 3);
        }
        75..80 => {
            world.dial_one(choice);
        }
        80..85 => {
            world.notice_one(choice);
        }
        85..88 => {
            world.admit_one(choice);
        }
        88..92 => world.cut_one(choice),
        92..94 if node != peer => world.open(node, peer),
        94..96 => world.pass(Duration::from_millis(u64::from(choice % 64) * 50)),
        96 => world.restart(node),
        97 => world.close_one(choice),
        98 => match choice % 3 {
            0 => world.give_up_one(choice / 4),
            1 => world.pass(Duration::from_secs(u64::from(choice % 50) + 40)),
            _ => world.go_away(node),
        },
        // Much at once, so that most of what is under way has arrived.
        _ => {
            for turn in 0..choice % 32 {
                act(world, turn.wrapping_mul(choice));
            }
        }
    }
}

/// Does one thing that is left to do.
fn act(world: &mut World, turn: u16) -> bool {
    let acts = [
        World::notice_one,
        World::admit_one,
        World::dial_one,
        World::deliver_one,
        World::submit_one,
        World::take_one,
        World::tell_one,
        World::word_came_one,
        World::look_one,
    ];
    (0..acts.len()).any(|index| acts[(index + usize::from(turn)) % acts.len()](world, turn))
}

/// Nothing breaks any more: everything goes on until nothing is left to do.
fn run_to_the_end(world: &mut World) -> Result<(), String> {
    // At first nobody notices a dead link that its other end has given up.
    world.corpses = true;
    for turn in 0..500 {
        act(world, turn);
    }
    world.come_back();
    let dialled = world.dialled;
    for second in 0..200 {
        for turn in 0.. {
            if !act(world, turn % 7_919) {
                break;
            }
            if turn > 20_000 || world.dialled > dialled + 200 {
                return Err(format!(
                    "no rest in second {second}: {} dials",
                    world.dialled - dialled
                ));
            }
        }
        world.check_taken()?;
        if world.corpses && second >= 12 {
            world.check_corpses()?;
            world.corpses = false;
        } else if !world.is_waiting() {
            return Ok(());
        }
        world.pass(Duration::from_secs(1));
    }
    Err("still waiting after 200 seconds".into())
}

fn check(nodes: usize, openers: u16, steps: &[Step], fault: Planted) -> Result<(), String> {
    let mut world = World::new(nodes, fault);
    for (index, bit) in (0..nodes * nodes).zip(0..16) {
        let (node, peer) = (index / nodes, index % nodes);
        if node != peer && openers >> bit & 1 == 1 {
            world.open(node, peer);
        }
    }
    for step in steps {
        if world.traced {
            println!("{step:?}");
        }
        play(&mut world, *step);
        world.check_taken()?;
        world.check_told()?;
    }
    run_to_the_end(&mut world)?;
    world.check_quiet()
}

/// Fails with what plays the case again.
fn named(nodes: usize, openers: u16, steps: &[Step]) -> Result<(), TestCaseError> {
    check(nodes, openers, steps, Planted::default()).map_err(|problem| {
        let words = steps.iter().map(|(what, choice)| format!(" {what} {choice}"));
        let words: String = words.collect();
        TestCaseError::fail(format!("{problem}\n  SESSION_CASE=\"{nodes} {openers}{words}\"\n"))
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec((0_u16..100, any::<u16>()), 0..150)
}

/// `SESSION_CASE` is what a failed case printed: nodes, openers, and all numbers of its steps. With
/// `SESSION_TRACE` set it tells what happens.
#[test]
fn a_case_can_be_played_again() {
    let case = std::env::var("SESSION_CASE").unwrap_or_else(|_| "2 3 0 0 99 31".into());
    let numbers: Vec<u16> = case.split(' ').map(|word| word.parse().expect("numbers")).collect();
    let [nodes, openers, steps @ ..] = &numbers[..] else { panic!("too few numbers") };
    let steps: Vec<Step> = steps.chunks_exact(2).map(|step| (step[0], step[1])).collect();
    assert_eq!(check(usize::from(*nodes), *openers, &steps, Planted::default()), Ok(()));
}

/// A check that finds nothing where there is something says nothing where it finds nothing.
#[test]
fn each_fault_that_is_planted_in_the_flows_is_found() {
    for fault in [FlowFault::FrameDropped, FlowFault::NumberMissing, FlowFault::CreditKept] {
        let mut runner = TestRunner::new(ProptestConfig { max_shrink_iters: 0, ..config() });
        let found = runner.run(&(any::<u16>(), steps()), |(openers, steps)| {
            let checked = check(2, openers, &steps, Planted::new(Some(fault)));
            checked.map_err(TestCaseError::fail)
        });
        assert!(matches!(found, Err(TestError::Fail(..))), "{fault:?}: {found:?}");
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn two_nodes_lose_no_frame_and_take_none_twice(openers in any::<u16>(), steps in steps()) {
        named(2, openers, &steps)?;
    }

    #[test]
    fn three_nodes_lose_no_frame_and_take_none_twice(openers in any::<u16>(), steps in steps()) {
        named(3, openers, &steps)?;
    }
}
