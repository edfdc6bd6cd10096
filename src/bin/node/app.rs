//! One command from its start to its exit code, and the nodes it started on the way.

mod arguments;
mod bench;
mod demo;
mod dial;
mod exit;
mod keys;
mod line_queue;
mod logging;
mod output;
mod ping;
mod refusals;
mod run;
mod send;
mod signals;
#[cfg(feature = "testing")]
mod soak;
mod wait;

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use moorline::{Latency, Node, NodeConfig, NodeError};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Mutex;

use arguments::{Cli, Command, Network};
use exit::Exit;
use output::{Output, remark};
use signals::Stop;

/// How long connections may drain when a command has ended, unless it says otherwise.
const GRACE: Duration = Duration::from_secs(5);

/// How much longer than it may take a command is waited for that was asked to stop.
const BEYOND_GRACE: Duration = Duration::from_secs(2);

/// As by default: 3 s and 1 s for 0.5 s.
const SILENT_INTERVALS: u32 = 6;
const UNANSWERED_INTERVALS: u32 = 2;

/// How long the runtime waits for threads of its own that are busy, such as a name lookup.
const RUNTIME_GRACE: Duration = Duration::from_millis(500);

/// The whole program.
pub(crate) fn main() -> ExitCode {
    // First of all, while there is one thread: it changes the environment.
    let skipped = moorline::skip_system_certificates();
    let cli = match arguments::parse() {
        Ok(cli) => cli,
        Err(exit) => return exit.into(),
    };
    if cli.command.is_service() {
        if let Err(error) = output::serve(cli.json) {
            remark(format_args!("error: cannot start the threads that write: {error}"));
            return Exit::Failed.into();
        }
        std::panic::set_hook(Box::new(logging::log_panic));
    }
    logging::start(&cli);
    tracing::debug!(skipped, "system certificates");
    let exit = execute(cli);
    output::flush();
    exit.into()
}

/// What every command gets.
#[derive(Clone)]
pub(crate) struct App {
    pub out: Output,
    pub stop: Stop,
    /// How long workers look for work before they sleep, in microseconds.
    pub poll_idle: Option<u32>,
    /// Interval of keep-alives.
    pub keep_alive: Option<Duration>,
    /// What is in front of a far end.
    pub network: Network,
    started: Arc<Mutex<Vec<Node>>>,
}

impl App {
    /// Starts a node that is shut down when the command ends, however it ends.
    pub(crate) async fn start(&self, mut config: NodeConfig) -> Result<Node> {
        if let Some(idle_us) = self.poll_idle {
            config.latency = match idle_us {
                0 => Latency::Saving,
                idle_us => Latency::Polling { idle_us },
            };
        }
        if let Some(interval) = self.keep_alive {
            config.limits.keep_alive_interval = interval;
            config.limits.idle_time_max = interval * SILENT_INTERVALS;
            config.limits.disconnect_time_max = interval * UNANSWERED_INTERVALS;
        }
        // Held meanwhile, so that no node can come to be behind the back of `shut_down`.
        let mut started = self.started.lock().await;
        let node = Node::spawn(config).await?;
        started.push(node.clone());
        Ok(node)
    }

    /// Shuts every node down, all at once. What had to be cut is said, and is no error: the
    /// command has its result already.
    pub(crate) async fn shut_down(&self, grace: Duration) {
        let nodes = std::mem::take(&mut *self.started.lock().await);
        let stopping = nodes.into_iter().map(|node| {
            tokio::spawn(async move {
                // Until MsQuic itself has let go of everything, the process must not end.
                match node.close(grace).await {
                    Ok(()) | Err(NodeError::Stopped) => {}
                    Err(error) => tracing::warn!("{error}"),
                }
            })
        });
        for task in stopping.collect::<Vec<_>>() {
            if let Err(error) = task.await {
                tracing::error!(%error, "a node could not be shut down");
            }
        }
    }
}

/// Does what the command line asks for.
fn execute(cli: Cli) -> Exit {
    let out = Output { json: cli.json };
    let done = match cli.command {
        Command::Keygen(args) => keys::keygen(out, &args),
        Command::Id { certificate, verbose } => keys::id(out, &certificate, verbose),
        Command::Version => keys::version(out),
        command => in_runtime(out, (cli.poll_idle, cli.keep_alive), command),
    };
    match done {
        Ok(()) => Exit::Done,
        Err(error) => {
            remark(format_args!("error: {error:#}"));
            Exit::of(&error)
        }
    }
}

fn in_runtime(
    out: Output,
    (poll_idle, keep_alive): (Option<u32>, Option<Duration>),
    command: Command,
) -> Result<()> {
    let runtime = runtime_for(&command).context("cannot start the runtime")?;
    let grace = grace_of(&command);
    let app = App {
        out,
        stop: signals::listen(grace + BEYOND_GRACE).context("cannot listen for signals")?,
        poll_idle,
        keep_alive,
        network: Network::default(),
        started: Arc::default(),
    };
    let done = runtime.block_on(async {
        // A task of its own, so that not even a panic skips the shutdown behind it.
        let done = tokio::spawn(dispatch(app.clone(), command)).await;
        app.shut_down(grace).await;
        done.unwrap_or_else(|error| Err(anyhow!(error).context("a defect in this program")))
    });
    // Lines are read from standard input on a thread that nothing can wake.
    runtime.shutdown_timeout(RUNTIME_GRACE);
    done
}

async fn dispatch(app: App, command: Command) -> Result<()> {
    match command {
        Command::Run(args) => run::run(app, args).await,
        Command::Send(args) => send::send(app, args).await,
        Command::Ping(args) => ping::ping(app, args).await,
        Command::Bench(args) => bench::bench(app, args).await,
        Command::BenchFarEnd(args) => bench::far_end(app, args).await,
        Command::Demo(args) => demo::demo(app, args).await,
        #[cfg(feature = "testing")]
        Command::Soak(args) => soak::soak(app, args).await,
        Command::Keygen(_) | Command::Id { .. } | Command::Version => Ok(()),
    }
}

fn runtime_for(command: &Command) -> io::Result<Runtime> {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = match command {
        // The programs it is compared with have two, on every machine.
        Command::Bench(_) | Command::BenchFarEnd(_) => 2,
        Command::Run(_)
        | Command::Send(_)
        | Command::Ping(_)
        | Command::Demo(_)
        | Command::Keygen(_)
        | Command::Id { .. }
        | Command::Version => all,
        #[cfg(feature = "testing")]
        Command::Soak(_) => all,
    };
    rehearse(workers)?;
    Builder::new_multi_thread().worker_threads(workers).enable_all().build()
}

/// Starts so many threads and lets them go: a runtime that gets no thread for one of its workers panics,
/// and then waits for the others for ever.
fn rehearse(threads: usize) -> io::Result<()> {
    let gate = std::sync::Mutex::new(());
    std::thread::scope(|scope| {
        let _closed = gate.lock();
        for _ in 0..threads {
            std::thread::Builder::new().spawn_scoped(scope, || drop(gate.lock()))?;
        }
        Ok(())
    })
}

fn grace_of(command: &Command) -> Duration {
    match command {
        Command::Run(args) => args.grace,
        Command::Send(_)
        | Command::Ping(_)
        | Command::Bench(_)
        | Command::BenchFarEnd(_)
        | Command::Demo(_)
        | Command::Keygen(_)
        | Command::Id { .. }
        | Command::Version => GRACE,
        #[cfg(feature = "testing")]
        Command::Soak(_) => GRACE,
    }
}
