//! Runs every program in turn, round by round, so that a change of the machine's speed hits all.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::arguments::{CompareArgs, Comparison, Network, PeerName, Workload, name};
use crate::far_end::FAILED;
use crate::figure::Figure;
use crate::plot;
use crate::summary::{Row, Summary};
use crate::tunnel::in_own_namespace;
use crate::wait::{STEP_TIME_MAX, within};

const ROUNDS: u32 = 3;

/// What a program may take beside the time that is counted.
const OVERHEAD_TIME_MAX: Duration = Duration::from_secs(120);

/// Counted where it has to be quick.
const QUICK: Duration = Duration::from_secs(1);
const QUICK_CONNECTIONS: usize = 200;
const QUICK_ROUND_TRIPS: usize = 5000;

/// Over a path of tens of milliseconds; as `moorline bench` counts them.
const FAR_ROUND_TRIPS: usize = 600;

/// Counted otherwise; the same that `moorline bench` counts by itself.
const COUNTED: Duration = Duration::from_secs(5);
const COUNTED_CONNRATE: Duration = Duration::from_secs(4);

pub(crate) async fn compare(args: CompareArgs) -> Result<()> {
    ensure!(
        args.moorline.is_file(),
        "{} is not there; `cargo build --release --bin moorline` makes it, --moorline says where it is",
        args.moorline.display()
    );
    // Before anything is measured: a name that cannot be written to shows at once.
    let mut json = args.json.as_deref().map(create).transpose()?;
    let mut drawing = args.plot.as_deref().map(create).transpose()?;
    let (mut workloads, mut peers) =
        (or_all(&args.workloads, &Comparison::ALL), or_all(&args.peers, &PeerName::ALL));
    if args.path.network != Network::Loopback {
        workloads.retain(|workload| workload.has_two_processes());
        peers.retain(|peer| peer.goes_far());
        ensure!(!workloads.is_empty(), "--network goes with workloads in two processes");
    }
    let rounds = args.rounds.unwrap_or(if args.quick { 1 } else { ROUNDS });
    let mut summaries = Vec::with_capacity(workloads.len());
    for comparison in workloads {
        let plan = Plan { comparison, rounds, args: &args };
        let summary = plan.carry_out(&peers, json.as_mut()).await?;
        println!("{summary}\n");
        summaries.push(summary);
    }
    if let Some(file) = &mut drawing {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let between = match args.path.network {
            Network::Loopback => "Both ends on loopback".to_owned(),
            network => format!("Network: {}", name(network)),
        };
        let note = format!("Rounds: {rounds}. Cores: {cores}. {between}.");
        file.write_all(plot::draw(&summaries, &note).as_bytes())?;
    }
    let rows = summaries.iter().flat_map(Summary::rows);
    let missing = rows.filter(|row| row.figures.is_empty()).count();
    ensure!(missing == 0, "{missing} of the programs gave no figure");
    Ok(())
}

fn create(path: &std::path::Path) -> Result<File> {
    File::create(path).with_context(|| format!("cannot write {}", path.display()))
}

fn or_all<T: Copy>(chosen: &[T], all: &[T]) -> Vec<T> {
    if chosen.is_empty() { all.to_vec() } else { chosen.to_vec() }
}

/// A program that measures.
#[derive(Debug, Clone, Copy)]
enum Program {
    Moorline,
    Peer { peer: PeerName, batched: bool },
}

impl Program {
    fn title(self) -> String {
        match self {
            Self::Moorline => "moorline".to_owned(),
            Self::Peer { peer, batched: false } => peer.title().to_owned(),
            Self::Peer { peer, batched: true } => format!("{}, batched", peer.title()),
        }
    }
}

/// One workload, in all its rounds.
#[derive(Clone, Copy)]
struct Plan<'a> {
    comparison: Comparison,
    rounds: u32,
    args: &'a CompareArgs,
}

impl Plan<'_> {
    async fn carry_out(self, peers: &[PeerName], mut json: Option<&mut File>) -> Result<Summary> {
        let mut programs = vec![Program::Moorline];
        let workload = self.comparison.workload();
        for peer in peers.iter().copied().filter(|peer| peer.takes_part(workload)) {
            programs.push(Program::Peer { peer, batched: false });
            // moorline gathers small frames by itself; the others are given that by hand too.
            if workload == Workload::Small {
                programs.push(Program::Peer { peer, batched: true });
            }
        }
        let mut rows: Vec<Row> = programs
            .iter()
            .map(|program| Row { title: program.title(), figures: Vec::new() })
            .collect();
        for round in 1..=self.rounds {
            eprintln!("{}: round {round} of {}", self.comparison.title(), self.rounds);
            for (program, row) in programs.iter().zip(&mut rows) {
                // The others are still worth seeing; the summary says what is missing.
                match self.run(*program).await {
                    Ok((line, figure)) => {
                        if let Some(file) = json.as_deref_mut() {
                            writeln!(file, "{}", self.record(line, round, *program))?;
                        }
                        row.figures.push(figure);
                    }
                    Err(error) => eprintln!("no figure of {}: {error:#}", row.title),
                }
            }
        }
        let others = rows.split_off(1);
        let moorline = rows.pop().context("moorline is always one of the programs")?;
        Ok(Summary { comparison: self.comparison, moorline, others })
    }

    /// Starts the program and takes the figure that it prints.
    async fn run(self, program: Program) -> Result<(Value, Figure)> {
        let (path, arguments) = match program {
            Program::Moorline => (self.args.moorline.clone(), self.node_arguments()),
            Program::Peer { peer, batched } => (own_path()?, self.peer_arguments(peer, batched)),
        };
        let mut command = match program {
            Program::Peer { peer, .. } if self.args.path.is_tunnel_of(peer) => {
                in_own_namespace(&path)
            }
            _ => Command::new(&path),
        };
        let mut process = command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", path.display()))?;
        let stdout = process.stdout.take().context("the program has no output")?;
        let mut lines = BufReader::new(stdout).lines();
        let answering = async {
            while let Some(line) = lines.next_line().await? {
                if line.starts_with('{') {
                    return Ok(line);
                }
                if let Some(reason) = line.strip_prefix(FAILED) {
                    bail!("{reason}");
                }
            }
            bail!("it ended with {}", process.wait().await?)
        };
        let line = within(OVERHEAD_TIME_MAX + self.counted(), "the figure", answering).await??;
        // A peer waits to be ended; whatever still runs has nothing more to say.
        within(STEP_TIME_MAX, "the program to end", process.kill()).await??;
        let line: Value = serde_json::from_str(&line).context("a figure that is not JSON")?;
        let figure = Figure::from_json(&line)?;
        Ok((line, figure))
    }

    fn node_arguments(self) -> Vec<String> {
        let workload = name(self.comparison.workload());
        let mut arguments = to_strings(&["bench", "--json", "--workload", &workload]);
        arguments.extend(["--seconds".to_owned(), self.counted().as_secs_f64().to_string()]);
        if self.comparison.has_two_processes() {
            arguments.push("--two-processes".to_owned());
            arguments.extend(["--network".to_owned(), name(self.args.path.network)]);
        }
        if self.args.quick && self.comparison == Comparison::Memory {
            arguments.extend(["--connections".to_owned(), QUICK_CONNECTIONS.to_string()]);
        }
        arguments
    }

    fn peer_arguments(self, peer: PeerName, batched: bool) -> Vec<String> {
        let (peer, workload) = (name(peer), name(self.comparison.workload()));
        let mut arguments = to_strings(&["figure", "--peer", &peer, "--workload", &workload]);
        arguments.extend(["--seconds".to_owned(), self.counted().as_secs_f64().to_string()]);
        arguments.extend(self.args.path.words());
        if self.comparison.has_two_processes() {
            arguments.push("--two-processes".to_owned());
        }
        if batched {
            arguments.push("--batched".to_owned());
        }
        if self.args.quick {
            arguments.extend(["--connections".to_owned(), QUICK_CONNECTIONS.to_string()]);
        }
        let round_trips = match self.args.path.network {
            Network::Loopback => self.args.quick.then_some(QUICK_ROUND_TRIPS),
            Network::Wan | Network::Mobile => Some(FAR_ROUND_TRIPS),
        };
        if let Some(round_trips) = round_trips {
            arguments.extend(["--round-trips".to_owned(), round_trips.to_string()]);
        }
        arguments
    }

    fn counted(self) -> Duration {
        let counted = match self.comparison {
            Comparison::Connrate => COUNTED_CONNRATE,
            _ => COUNTED,
        };
        self.args.seconds.unwrap_or(if self.args.quick { QUICK } else { counted })
    }

    /// A line of the program's, with what only this program knows.
    fn record(self, mut line: Value, round: u32, program: Program) -> Value {
        line["workload"] = name(self.comparison).into();
        line["batched"] = matches!(program, Program::Peer { batched: true, .. }).into();
        line["round"] = round.into();
        line
    }
}

fn own_path() -> Result<PathBuf> {
    std::env::current_exe().context("cannot find this program")
}

fn to_strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
