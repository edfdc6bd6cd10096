//! `soak`: members that talk to each other in sessions while everything breaks, at random by a seed.
//!
//! ```text
//! schedule.rs ... which faults come when (pure)
//! plant.rs ...... faults of the library itself, to see that they are found
//! traffic.rs .... what members send, ask and take
//! book.rs ....... what was accepted and taken, and what breaks a promise (pure)
//! story.rs ...... what happened lately, and what broke first
//! ```
//!
//! The schedule of a seed is the same each time. What it meets is not: threads, timers and the drawing of
//! identifiers are the machine's.

mod book;
mod plant;
mod schedule;
mod story;
mod traffic;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use moorline::testing::{Cluster, Conditions, Towards};
use rand::Rng;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use self::book::{Totals, Violation};
pub(crate) use self::plant::PlantedFault;
pub(crate) use self::schedule::Profile;
use self::schedule::{Act, Schedule};
use self::story::Story;
use self::traffic::{Phase, World};
use crate::app::App;
use crate::app::arguments::SoakArgs;
use crate::app::bench::measure::rss_kib;
use crate::app::exit::CheckFailed;
use crate::app::output::remark;
use crate::app::wait::within;

/// Between two lines for who watches.
const VIEW: Duration = Duration::from_secs(5);

/// How long the nodes may take to end.
const GRACE: Duration = Duration::from_secs(10);

/// Memory is compared with what it was then, in long runs.
const SETTLED: Duration = Duration::from_secs(300);

/// How much more it may be at the end than then.
const MEMORY_PERCENT_MAX: f64 = 110.0;

pub(crate) async fn soak(app: App, args: SoakArgs) -> Result<()> {
    let seed = args.seed.unwrap_or_else(|| rand::rng().random());
    let lasts = Duration::from_secs_f64(args.minutes * 60.0);
    if !app.out.json {
        remark(format_args!(
            "seed {seed}, {:?}, {} members, {:.1} min; again with --seed {seed}",
            args.profile, args.peers, args.minutes
        ));
    }
    let story = Story::new();
    let world = World::new(args.peers, story.clone());
    let _planted = args.plant.map(PlantedFault::plant);
    let mut soak = Soak::start(&args, seed, &world).await?;
    let ran = tokio::select! {
        ran = soak.run(&app, seed, &args, lasts) => ran?,
        violation = story.breaks() => Some(violation),
        () = app.stop.requested() => anyhow::bail!("stopped before it was over; the seed is {seed}"),
    };
    let verdict = Verdict {
        seed,
        profile: format!("{:?}", args.profile).to_lowercase(),
        members: args.peers,
        seconds: soak.started.elapsed().as_secs_f64(),
        faults: soak.faults,
        restarts: soak.restarts,
        totals: world.book().totals,
        first: soak.first,
        last: Footprint::now()?,
        broken: ran.as_ref().map(ToString::to_string),
        last_events: if ran.is_some() { story.last_events() } else { Vec::new() },
    };
    app.out.line(&verdict)?;
    match ran {
        Some(violation) => Err(CheckFailed(format!("{violation}; the seed is {seed}")).into()),
        None => {
            // The verdict is about frames; what the library holds on to is told.
            if let Err(error) = soak.cluster.close(GRACE).await {
                remark(format_args!("not an orderly end: {:#}", anyhow::Error::from(error)));
            }
            Ok(())
        }
    }
}

/// The members, and what was done to them.
struct Soak {
    world: Arc<World>,
    cluster: Cluster,
    usual: Conditions,
    tasks: Vec<JoinSet<()>>,
    started: Instant,
    faults: u64,
    restarts: u64,
    first: Option<Footprint>,
}

impl Soak {
    async fn start(args: &SoakArgs, seed: u64, world: &Arc<World>) -> Result<Self> {
        let cluster = Cluster::start(args.peers, seed).await.context("no cluster")?;
        let usual = args.profile.usual();
        cluster.set_all(usual);
        let mut soak = Self {
            world: Arc::clone(world),
            cluster,
            usual,
            tasks: Vec::new(),
            started: Instant::now(),
            faults: 0,
            restarts: 0,
            first: None,
        };
        soak.tasks = (0..args.peers).map(|member| soak.member(member)).collect();
        Ok(soak)
    }

    fn member(&self, member: usize) -> JoinSet<()> {
        let others = member + 1..self.cluster.size();
        let targets = others.map(|other| (other, self.cluster.target(member, other))).collect();
        traffic::member(&self.world, member, self.cluster.node(member), targets)
    }

    /// Until the schedule is over and everything was delivered; what broke by then.
    async fn run(
        &mut self,
        app: &App,
        seed: u64,
        args: &SoakArgs,
        lasts: Duration,
    ) -> Result<Option<Violation>> {
        let mut view = self.started + VIEW;
        for step in Schedule::new(seed, args.profile, args.peers, lasts) {
            let at = self.started + step.at;
            while view < at {
                sleep_until(view).await;
                self.view(app, lasts)?;
                view += VIEW;
            }
            sleep_until(at).await;
            self.world.story().tell(step.act);
            self.perform(step.act).await?;
        }
        sleep_until(self.started + lasts).await;
        self.world.story().tell("nothing is broken any more");
        self.cluster.heal();
        self.cluster.set_all(Conditions::default());
        self.world.enter(Phase::Drain);
        let world = Arc::clone(&self.world);
        let drained = async {
            loop {
                let (ends, quiet) = world.quiet();
                if ends == quiet {
                    return;
                }
                // not synchronisation: looked at again, within a limit
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        // What was begun in the worst moment waits for a dial's deadline and a session's.
        if within(args.patience, "everything to be delivered", drained).await.is_err() {
            let (ends, quiet) = self.world.quiet();
            let left: Vec<_> = self.world.book().left().collect();
            let what =
                format!("{quiet} of {ends} ends of sessions have delivered everything: {left:?}");
            return Ok(Some(Violation { stream: "the end".into(), what }));
        }
        self.world.enter(Phase::Close);
        let members = std::mem::take(&mut self.tasks);
        let closed = async {
            for mut tasks in members {
                // Those that accept wait for more; those that dialled are done.
                for _ in 0..tasks.len().saturating_sub(1) {
                    tasks.join_next().await;
                }
                tasks.shutdown().await;
            }
        };
        if within(args.patience, "the sessions to be closed", closed).await.is_err() {
            let what = format!("not all sessions are closed within {:?}", args.patience);
            return Ok(Some(Violation { stream: "the end".into(), what }));
        }
        self.judge_footprint(lasts)
    }

    async fn perform(&mut self, act: Act) -> Result<()> {
        match act {
            Act::Link { pair, forth, back, .. } => self.set(pair, forth, back),
            Act::Mend { pair } => self.set(pair, self.usual, self.usual),
            Act::ChangePort { pair: (a, b) } => {
                self.cluster.link(a, b).change_client_port();
            }
            Act::Silence { member } => self.cluster.pause(member),
            Act::Resume { member } => self.cluster.resume(member),
            Act::StopReading { member } => {
                self.world.stopped[member].store(true, Ordering::Relaxed);
            }
            Act::Read { member } => self.world.stopped[member].store(false, Ordering::Relaxed),
            Act::Restart { member } => {
                // Nobody hears its end.
                self.cluster.pause(member);
                self.tasks[member].shutdown().await;
                self.cluster.restart(member).await.context("a member does not start again")?;
                self.tasks[member] = self.member(member);
                self.restarts += 1;
            }
        }
        let is_fault = !matches!(act, Act::Mend { .. } | Act::Resume { .. } | Act::Read { .. });
        self.faults += u64::from(is_fault);
        Ok(())
    }

    /// On the links of both: whoever of them dialled.
    fn set(&self, (a, b): (usize, usize), forth: Conditions, back: Conditions) {
        for (from, to, there, here) in [(a, b, forth, back), (b, a, back, forth)] {
            let link = self.cluster.link(from, to);
            link.set(Towards::Server, there);
            link.set(Towards::Client, here);
        }
    }

    fn view(&mut self, app: &App, lasts: Duration) -> Result<()> {
        let elapsed = self.started.elapsed();
        if self.first.is_none() && elapsed >= SETTLED.min(lasts / 2) {
            self.first = Some(Footprint::now()?);
        }
        if app.out.json {
            return Ok(());
        }
        let totals = self.world.book().totals;
        remark(format_args!(
            "{:>5.0} of {:.0} s: {} faults, {} frames taken, {} answers, {} sessions",
            elapsed.as_secs_f64(),
            lasts.as_secs_f64(),
            self.faults,
            totals.taken,
            totals.answers,
            totals.streams / 2
        ));
        Ok(())
    }

    fn judge_footprint(&self, lasts: Duration) -> Result<Option<Violation>> {
        let Some(first) = self.first.filter(|_| lasts >= 2 * SETTLED) else { return Ok(None) };
        let last = Footprint::now()?;
        let percent = 100.0 * last.rss_mib / first.rss_mib;
        let grew = percent > MEMORY_PERCENT_MAX || last.descriptors > first.descriptors + 50;
        let what = format!("it takes more and more: {first:?}, then {last:?}");
        Ok(grew.then_some(Violation { stream: "the process".into(), what }))
    }
}

/// What the process takes.
#[derive(Debug, Clone, Copy, Serialize)]
struct Footprint {
    rss_mib: f64,
    descriptors: usize,
    threads: usize,
}

impl Footprint {
    fn now() -> Result<Self> {
        let count = |path: &str| Ok::<_, std::io::Error>(std::fs::read_dir(path)?.count());
        let taken =
            || Ok::<_, std::io::Error>((count("/proc/self/fd")?, count("/proc/self/task")?));
        let (descriptors, threads) = taken().context("no /proc")?;
        Ok(Self { rss_mib: rss_kib()? / 1024.0, descriptors, threads })
    }
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rss_mib, descriptors, threads } = self;
        write!(f, "{rss_mib:.0} MiB, {descriptors} descriptors, {threads} threads")
    }
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Verdict {
    seed: u64,
    profile: String,
    members: usize,
    seconds: f64,
    faults: u64,
    restarts: u64,
    #[serde(flatten)]
    totals: Totals,
    /// After five minutes, or half of the time.
    first: Option<Footprint>,
    last: Footprint,
    broken: Option<String>,
    last_events: Vec<String>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Totals { streams, accepted, taken, delivered, maybe_sent, requests, answers, .. } =
            self.totals;
        for event in &self.last_events {
            writeln!(f, "{event}")?;
        }
        writeln!(
            f,
            "{} faults, {} of them restarts, in {:.0} s",
            self.faults, self.restarts, self.seconds
        )?;
        writeln!(
            f,
            "{accepted} frames accepted in {} sessions, {taken} taken, {delivered} told delivered (requests included), {maybe_sent} maybe sent",
            streams / 2
        )?;
        writeln!(f, "{requests} requests, {answers} answers")?;
        if let Some(first) = &self.first {
            writeln!(f, "it took {first} when it had settled, and {} at the end", self.last)?;
        }
        match &self.broken {
            None => write!(f, "0 lost, 0 twice, 0 out of order"),
            Some(what) => write!(f, "BROKEN: {what}"),
        }
    }
}
