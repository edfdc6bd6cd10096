//! The command `moorline`: arguments, logging, signals and exit codes. What it does is in its modules.
//!
//! ```text
//! arguments ── app ─┬─ keys            keygen, id, version
//!    │          │   ├─ run             a node until it is told to stop
//!  output      exit ├─ send, ping ──── dial
//!    │          │   ├─ bench           bench/…
//! line_queue   wait └─ demo            demo/…
//!    │
//!  signals
//! ```
//!
//! Invariant: every node is started through [`app::App::start`], and `app` shuts down whatever was
//! started before the process ends. MsQuic aborts a process that ends with live connections.

#[path = "node/app.rs"]
mod app;
#[path = "node/arguments.rs"]
mod arguments;
#[path = "node/bench.rs"]
mod bench;
#[path = "node/demo.rs"]
mod demo;
#[path = "node/dial.rs"]
mod dial;
#[path = "node/exit.rs"]
mod exit;
#[path = "node/keys.rs"]
mod keys;
#[path = "node/line_queue.rs"]
mod line_queue;
#[path = "node/output.rs"]
mod output;
#[path = "node/ping.rs"]
mod ping;
#[path = "node/refusals.rs"]
mod refusals;
#[path = "node/run.rs"]
mod run;
#[path = "node/send.rs"]
mod send;
#[path = "node/signals.rs"]
mod signals;
#[path = "node/wait.rs"]
mod wait;

use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

use crate::arguments::Cli;

/// Chooses what is logged, in the form of `RUST_LOG`: `debug`, `moorline=trace,info`.
const LOG_VARIABLE: &str = "MOORLINE_LOG";

fn main() -> ExitCode {
    // First of all, while there is one thread: it changes the environment.
    let skipped = moorline::skip_system_certificates();
    let cli = match arguments::parse() {
        Ok(cli) => cli,
        Err(exit) => return exit.into(),
    };
    if cli.command.is_service() {
        if let Err(error) = output::serve(cli.json) {
            output::remark(format_args!("error: cannot start the threads that write: {error}"));
            return exit::Exit::Failed.into();
        }
        std::panic::set_hook(Box::new(log_panic));
    }
    start_logging(&cli);
    tracing::debug!(skipped, "system certificates");
    let exit = app::execute(cli);
    output::flush();
    exit.into()
}

/// As the standard library's, but for where it goes: a panic must not wait for a full pipe.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("without a name");
    let backtrace = std::backtrace::Backtrace::capture();
    tracing::error!(thread = name, %backtrace, "{panic}");
}

/// Logs to standard error: standard output belongs to what a command answers.
fn start_logging(cli: &Cli) {
    // What a command answers matters, and a key that others can read; a service tells how it is doing.
    let level = if cli.command.is_service() { "info" } else { "error,moorline::identity=warn" };
    let asked = std::env::var(LOG_VARIABLE).ok().filter(|text| !text.is_empty());
    let filter = asked.as_deref().map(EnvFilter::try_new);
    let (filter, problem) = match filter {
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (EnvFilter::new(level), Some(error)),
        None => (EnvFilter::new(level), None),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(output::LogWriter)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .log_internal_errors(false)
        .init();
    if let Some(error) = problem {
        tracing::warn!("{LOG_VARIABLE} is ignored ({error}): give a level or target=level pairs");
    }
}
