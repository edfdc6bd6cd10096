//! `examples/work_queue`, with many workers that are killed at random.

mod common;
#[path = "../examples/work_queue/coordinator.rs"]
mod coordinator;
#[path = "../examples/work_queue/fleet.rs"]
mod fleet;
#[path = "../examples/work_queue/worker.rs"]
mod worker;

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::sessions::seed;
use common::{LIMIT, within, within_limit};
use coordinator::{Coordinator, News};
use fleet::{Fleet, Take, now};
use moorline::CertHash;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const WORKERS: usize = 20;

/// For so long they are killed.
const TIME: Duration = Duration::from_secs(60);

/// Between two kills at most, and until the killed one is started again.
const BETWEEN_MS: u64 = 400;
const AWAY_MS: u64 = 3_000;

/// Jobs that are there at most and are not done.
const OPEN_MAX: usize = 200;

/// In the environment of a process that is a worker.
const WORKER: &str = "MOORLINE_TEST_WORKER";

/// What the coordinator was told of each worker, and when.
type Told = Arc<Mutex<Vec<(News, Duration)>>>;

/// What happened to a worker, and when.
#[derive(Debug, Clone, Copy)]
enum Done {
    Killed(usize, Duration),
    Started(usize, Duration),
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_job_is_done_and_none_is_given_away_while_its_worker_lives() {
    if std::env::var_os(WORKER).is_some() {
        return worker::run().await.expect("a worker");
    }
    let mut rng = StdRng::seed_from_u64(seed());
    let program = std::env::current_exe().expect("this file");
    let command = move |_| {
        let mut command = Command::new(&program);
        let test = "each_job_is_done_and_none_is_given_away_while_its_worker_lives";
        command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(WORKER, "1");
        command
    };
    let prepared = within("a node", Fleet::prepare(WORKERS, command)).await;
    let (mut fleet, node, address) = prepared.expect("a fleet");
    let told = Told::default();
    let coordinator = {
        let told = Arc::clone(&told);
        Coordinator::start(&node, move |news| told.lock().expect("no panic").push((news, now())))
    };
    let (mut done, mut jobs) = (Vec::new(), 0);
    for worker in 0..WORKERS {
        fleet.start(worker, address, node.identity()).expect("a process");
    }
    common::until("all workers", || came(&told) >= WORKERS).await;

    let began = now();
    let mut back: BTreeMap<Duration, usize> = BTreeMap::new();
    let mut next_kill = began;
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    while now() - began < TIME || !back.is_empty() {
        ticks.tick().await;
        while coordinator.queue().open() < OPEN_MAX {
            coordinator.queue().put(jobs);
            jobs += 1;
        }
        if now() >= next_kill && now() - began < TIME {
            let worker = rng.random_range(0..WORKERS);
            // Nobody can be lost who has not come.
            if fleet.runs(worker) && has_come(&told, fleet.identity(worker), &done, worker) {
                done.push(Done::Killed(worker, now()));
                fleet.kill(worker).expect("killed");
                let away = Duration::from_millis(rng.random_range(0..AWAY_MS));
                back.insert(now() + away, worker);
            }
            next_kill = now() + Duration::from_millis(rng.random_range(0..BETWEEN_MS));
        }
        while let Some(entry) = back.first_entry().filter(|entry| *entry.key() <= now()) {
            let worker = entry.remove();
            done.push(Done::Started(worker, now()));
            fleet.start(worker, address, node.identity()).expect("a process");
        }
    }
    within_limit(3 * LIMIT, "the last jobs", coordinator.queue().all_done()).await;

    let (deaths, returns) =
        (Times::of_deaths(&fleet, &done, &told), Times::of_returns(&fleet, &done, &told));
    check_takes(&fleet, jobs);
    eprintln!(
        "{jobs} jobs; told of {} deaths after {deaths:?}, of returns after {returns:?}",
        deaths.count
    );
    let (most_deaths, most_returns) = (Duration::from_millis(2_500), Duration::from_secs(1));
    assert!(deaths.median <= Duration::from_millis(1_500), "{deaths:?}");
    assert!(deaths.most <= most_deaths, "{deaths:?}");
    assert!(returns.nearly_all <= most_returns, "{returns:?}");
    assert!(returns.most <= most_deaths, "{returns:?}");
    drop((coordinator, fleet));
    within("the end", node.close(LIMIT)).await.expect("an orderly end");
}

/// Whether the coordinator knows of the worker's present process.
fn has_come(told: &Told, identity: CertHash, done: &[Done], worker: usize) -> bool {
    let started = done.iter().rev().find_map(|it| match it {
        Done::Started(of, at) if *of == worker => Some(*at),
        Done::Started(..) | Done::Killed(..) => None,
    });
    let started = started.unwrap_or_default();
    let told = told.lock().expect("no panic");
    told.iter().rev().any(|(news, at)| *news == News::Came(identity) && *at >= started)
}

fn came(told: &Told) -> usize {
    let told = told.lock().expect("no panic");
    told.iter().filter(|(news, _)| matches!(news, News::Came(_))).count()
}

/// Each job was taken, and again only when the process was dead that had it.
fn check_takes(fleet: &Fleet, jobs: u64) {
    let mut takes: BTreeMap<u64, Vec<Take>> = BTreeMap::new();
    for take in fleet.takes() {
        takes.entry(take.job).or_default().push(take);
    }
    let missing = (0..jobs).filter(|job| !takes.contains_key(job)).count();
    assert_eq!(missing, 0, "jobs that nobody took");
    let mut again = 0;
    for takes in takes.values_mut() {
        takes.sort_by_key(|take| take.at);
        for pair in takes.windows(2) {
            let killed = fleet.killed(pair[0].worker, pair[0].start);
            assert!(killed.is_some_and(|killed| killed <= pair[1].at), "{pair:?}: {killed:?}");
            again += 1;
        }
    }
    eprintln!("{again} jobs were taken again");
    assert!(again > 0, "somebody dies with a job in his hands");
}

/// How long the coordinator did not know of something.
#[derive(Debug)]
struct Times {
    count: usize,
    median: Duration,
    /// Of 19 in 20: a process that is started on a busy machine may have to wait for that.
    nearly_all: Duration,
    most: Duration,
}

impl Times {
    fn of_deaths(fleet: &Fleet, done: &[Done], told: &Told) -> Self {
        let killed = done.iter().filter_map(|it| match it {
            Done::Killed(worker, at) => Some((News::Lost(fleet.identity(*worker)), *at)),
            Done::Started(..) => None,
        });
        Self::until_told(killed, told)
    }

    fn of_returns(fleet: &Fleet, done: &[Done], told: &Told) -> Self {
        let started = done.iter().filter_map(|it| match it {
            Done::Started(worker, at) => Some((News::Came(fleet.identity(*worker)), *at)),
            Done::Killed(..) => None,
        });
        Self::until_told(started, told)
    }

    /// From each of these to the first such news behind it.
    fn until_told(happened: impl Iterator<Item = (News, Duration)>, told: &Told) -> Self {
        let told = told.lock().expect("no panic");
        let mut times: Vec<Duration> = happened
            .map(|(news, at)| {
                let first = told.iter().find(|(of, when)| *of == news && *when >= at);
                first.unwrap_or_else(|| panic!("nobody was told: {news:?}")).1 - at
            })
            .collect();
        times.sort_unstable();
        let most = *times.last().expect("something happened");
        Self {
            count: times.len(),
            median: times[times.len() / 2],
            nearly_all: times[times.len() * 19 / 20],
            most,
        }
    }
}
