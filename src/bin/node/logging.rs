//! What the program says of itself, beside what a command answers.

use tracing_subscriber::EnvFilter;

use crate::app::arguments::Cli;
use crate::app::output;

/// Chooses what is logged, in the form of `RUST_LOG`: `debug`, `moorline=trace,info`.
const LOG_VARIABLE: &str = "MOORLINE_LOG";

/// As the standard library's, but for where it goes: a panic must not wait for a full pipe.
pub(super) fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("without a name");
    let backtrace = std::backtrace::Backtrace::capture();
    tracing::error!(thread = name, %backtrace, "{panic}");
}

/// Logs to standard error: standard output belongs to what a command answers.
pub(super) fn start(cli: &Cli) {
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
