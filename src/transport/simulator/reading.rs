//! Who reads, in each of the ways there are; gives up and rests now and then.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::World;
use super::case::Reading;
use super::sending::polled;
use crate::error::RecvError;
use crate::lock::lock;
use crate::transport::core::{From, Lent, Reader, Received, Subscriber};
use crate::transport::link::lanes::Lane;

/// Begins to read at the end `at`.
pub(super) fn begin(world: &Rc<World>, at: usize, how: Reading, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let readers: Vec<From> = match how {
        Reading::Lanes => Lane::ALL.map(From::Lane).to_vec(),
        Reading::All | Reading::Many | Reading::Messages | Reading::Subscriber => vec![From::All],
    };
    for from in readers {
        *world.ends[at].readers.borrow_mut() += 1;
        let (world, random) = (Rc::clone(world), StdRng::seed_from_u64(random.random()));
        tokio::task::spawn_local(async move {
            match how {
                Reading::All | Reading::Lanes => one_by_one(&world, at, from, random).await,
                Reading::Many => many(&world, at, random).await,
                Reading::Messages => by_message(&world, at, random).await,
                Reading::Subscriber => subscribed(&world, at, random).await,
            }
            *world.ends[at].readers.borrow_mut() -= 1;
        });
    }
}

async fn rest(random: &mut StdRng) {
    if random.random_bool(0.1) {
        // Seldom longer than a frame may take, and never as long as a lane may stand still.
        let most = if random.random_bool(0.05) { 20_000 } else { 3_000 };
        tokio::time::sleep(Duration::from_millis(random.random_range(1..most))).await;
    }
}

fn patience(random: &mut StdRng) -> usize {
    if random.random_bool(0.3) { random.random_range(1..4) } else { usize::MAX }
}

async fn one_by_one(world: &World, at: usize, from: From, mut random: StdRng) {
    let core = Arc::clone(&world.ends[at].core);
    loop {
        rest(&mut random).await;
        match polled(core.recv(from), patience(&mut random)).await {
            None => {}
            Some(Ok(taken)) => world.arrived(at, Some(taken.lane), &taken.frame),
            Some(Err(RecvError::EndOfStream { .. })) => {}
            Some(Err(error)) => return ended(world, at, &error),
        }
    }
}

async fn many(world: &World, at: usize, mut random: StdRng) {
    let core = Arc::clone(&world.ends[at].core);
    let mut into = Vec::new();
    loop {
        rest(&mut random).await;
        let max = random.random_range(1..20);
        let result = polled(core.recv_many(From::All, &mut into, max), patience(&mut random)).await;
        into.drain(..).for_each(|frame| world.arrived(at, None, &frame));
        match result {
            None | Some(Ok(_)) => {}
            Some(Err(error)) => return ended(world, at, &error),
        }
    }
}

fn ended(world: &World, at: usize, error: &RecvError) {
    if *world.standing.borrow() {
        world.fail(format!("end {at}: {error}"));
    }
}

/// What a reader by message was given.
type Given = Arc<Mutex<VecDeque<Result<Received, RecvError>>>>;

struct Port {
    given: Given,
    gone: bool,
}

impl Reader for Port {
    fn is_gone(&self) -> bool {
        self.gone
    }

    fn give(self: Box<Self>, result: Result<Received, RecvError>) -> Result<(), Received> {
        match result {
            Ok(received) if self.gone => Err(received),
            result => {
                lock(&self.given).push_back(result);
                Ok(())
            }
        }
    }
}

async fn by_message(world: &World, at: usize, mut random: StdRng) {
    let core = Arc::clone(&world.ends[at].core);
    let given = Given::default();
    let asked = RefCell::new(0_usize);
    loop {
        while *asked.borrow() < 3 {
            let gone = random.random_bool(0.2);
            *asked.borrow_mut() += usize::from(!gone);
            core.read_later(From::All, Box::new(Port { given: Arc::clone(&given), gone }));
        }
        rest(&mut random).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        while let Some(result) = { lock(&given).pop_front() } {
            *asked.borrow_mut() -= 1;
            match result {
                Ok(taken) => world.arrived(at, Some(taken.lane), &taken.frame),
                Err(error) => return ended(world, at, &error),
            }
        }
    }
}

/// What a subscriber has borrowed.
type Borrowed = Arc<Mutex<VecDeque<Lent>>>;

struct Holder(Borrowed);

impl Subscriber for Holder {
    fn give(&mut self, frames: Lent) -> Result<(), Lent> {
        lock(&self.0).push_back(frames);
        Ok(())
    }
}

async fn subscribed(world: &World, at: usize, mut random: StdRng) {
    let core = Arc::clone(&world.ends[at].core);
    let borrowed = Borrowed::default();
    if !core.subscribe(Box::new(Holder(Arc::clone(&borrowed))), Arc::new(|| false)) {
        return world.fail("nobody else subscribed");
    }
    loop {
        rest(&mut random).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        while let Some(mut lent) = { lock(&borrowed).pop_front() } {
            // The first ones only, now and then: the others come again.
            let count = lent.frames.len();
            let taken =
                if random.random_bool(0.2) { random.random_range(0..=count) } else { count };
            for frame in lent.frames.drain(..taken) {
                world.arrived(at, Some(lent.lane), &frame);
            }
            lent.first += taken as u64;
            if lent.frames.is_empty() {
                core.return_lent(lent.cost);
            } else {
                // With those behind them: whoever gives back wants them in order again.
                let behind = std::mem::take(&mut *lock(&borrowed));
                core.put_back(lent);
                behind.into_iter().for_each(|lent| core.put_back(lent));
            }
        }
        if core.is_complete() && lock(&borrowed).is_empty() {
            return;
        }
    }
}
