//! Jobs for processes that die: `cargo run --example work_queue`.
//!
//! A coordinator gives jobs to worker processes, which are killed at random and started again. Each job is
//! done; one that a worker had when it died is done by another one, and none is given away while its
//! worker lives, whatever becomes of connections meanwhile.
//!
//! `coordinator.rs` has the queue, `worker.rs` the other side, `fleet.rs` the processes.

mod coordinator;
mod fleet;
mod worker;

use std::process::Command;
use std::time::Duration;

use coordinator::{Coordinator, News};
use fleet::Fleet;
use moorline::Node;
use rand::Rng;

const WORKERS: usize = 4;
const JOBS: u64 = 1_000;

/// Between two kills, and until the killed one is started again.
const PAUSE: Duration = Duration::from_millis(400);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let program = std::env::current_exe()?;
    if std::env::args().nth(1).as_deref() == Some("worker") {
        return worker::run().await;
    }
    let command = move |_| {
        let mut command = Command::new(&program);
        command.arg("worker");
        command
    };
    let (mut fleet, node, address) = Fleet::prepare(WORKERS, command).await?;
    let coordinator = Coordinator::start(&node, |news| match news {
        News::Came(who) => println!("{} is there", who.short()),
        News::Lost(who) => println!("{} is lost", who.short()),
    });
    (0..JOBS).for_each(|job| coordinator.queue().put(job));
    (0..WORKERS).try_for_each(|worker| fleet.start(worker, address, node.identity()))?;

    let mut pauses = tokio::time::interval(PAUSE);
    let mut killed = None;
    loop {
        tokio::select! {
            () = coordinator.queue().all_done() => break,
            _ = pauses.tick() => {}
        }
        match killed.take() {
            Some(worker) => fleet.start(worker, address, node.identity())?,
            None => {
                let worker = rand::rng().random_range(0..WORKERS);
                fleet.kill(worker)?;
                killed = Some(worker);
            }
        }
    }
    let takes = fleet.takes();
    println!("{JOBS} jobs are done; {} were taken", takes.len());
    drop((coordinator, fleet));
    Ok(Node::close(node, Duration::from_secs(5)).await?)
}
