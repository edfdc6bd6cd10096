//! Who sends: one task for each lane, which gives up now and then.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::World;
use super::case::frame;
use crate::error::SendError;
use crate::transport::link::lanes::Lane;

/// Sends frames of `lengths` from the end `from`.
pub(super) fn begin(world: &Rc<World>, from: usize, lane: Lane, lengths: Vec<usize>, seed: u64) {
    *world.ends[from].senders.borrow_mut() += 1;
    let world = Rc::clone(world);
    tokio::task::spawn_local(async move {
        let mut random = StdRng::seed_from_u64(seed);
        for (number, length) in lengths.into_iter().enumerate() {
            send(&world, from, lane, number as u64, length, &mut random).await;
        }
        *world.ends[from].senders.borrow_mut() -= 1;
    });
}

async fn send(
    world: &World,
    from: usize,
    lane: Lane,
    number: u64,
    length: usize,
    random: &mut StdRng,
) {
    let end = &world.ends[from];
    let core = Arc::clone(&end.core);
    loop {
        let frame = frame(lane, number, length);
        let sent = if random.random_bool(0.2) {
            core.try_send(lane, frame.clone())
        } else {
            let polls =
                if random.random_bool(0.3) { random.random_range(1..4) } else { usize::MAX };
            match polled(core.send(lane, frame.clone()), polls).await {
                Some(sent) => sent,
                // Given up: it was not taken over.
                None => continue,
            }
        };
        match sent {
            Ok(()) => {
                end.expected.borrow_mut()[lane as usize].push_back(frame);
                return;
            }
            // Nobody reads fast enough for now.
            Err(
                SendError::Full { .. } | SendError::TimedOut { .. } | SendError::NodeFull { .. },
            ) => {
                tokio::time::sleep(std::time::Duration::from_millis(random.random_range(1..50)))
                    .await;
            }
            Err(error) => return world.fail(format!("end {from}, {lane:?}: {error}")),
        }
    }
}

/// What `future` gives, unless it is dropped behind so many polls.
pub(super) async fn polled<F: Future>(future: F, polls: usize) -> Option<F::Output> {
    let mut future: Pin<Box<F>> = Box::pin(future);
    let mut left = polls;
    std::future::poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}
