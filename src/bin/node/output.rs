//! What commands answer on standard output: text for people, or one JSON object a line.
//!
//! A command that answers and ends waits for its output, and fails with it. A service waits for
//! nobody: its lines and its log go through queues that drop, and count ([`serve`]).

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use tracing_subscriber::fmt::MakeWriter;

use crate::app::line_queue::LineQueue;

/// How long the end of a service waits for what is queued. Whoever reads takes it in no time.
const FLUSH_TIME_MAX: Duration = Duration::from_millis(500);

/// The queues of a service; none for other commands.
static QUEUES: OnceLock<Queues> = OnceLock::new();

struct Queues {
    answers: LineQueue,
    log: LineQueue,
}

/// From here on neither standard output nor standard error is waited for: this process is a service.
pub(crate) fn serve(json: bool) -> io::Result<()> {
    let lost = if json { lost_as_json } else { lost_as_text };
    let answers = LineQueue::start(&io::stdout(), lost)?;
    let log = LineQueue::start(&io::stderr(), lost_as_text)?;
    let _ = QUEUES.set(Queues { answers, log });
    Ok(())
}

/// Waits for what a service has queued, within limits.
pub(crate) fn flush() {
    if let Some(queues) = QUEUES.get() {
        queues.answers.flush(FLUSH_TIME_MAX);
        queues.log.flush(FLUSH_TIME_MAX);
    }
}

fn lost_as_json(lines: u64) -> String {
    format!("{{\"event\":\"lines_lost\",\"lines\":{lines}}}")
}

fn lost_as_text(lines: u64) -> String {
    format!("lines lost: {lines}, for nobody took them in time")
}

/// Where answers go, and in which form.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub json: bool,
}

impl Output {
    /// Prints one answer and flushes it: who reads along may act on every line. For a service it
    /// does not fail for its output.
    pub(crate) fn line(self, line: &(impl Serialize + Display)) -> anyhow::Result<()> {
        let text = if self.json {
            serde_json::to_string(line).context("cannot write JSON")?
        } else {
            line.to_string()
        };
        heading(&text)
    }
}

/// Prints text as it is: a heading, or a line that another process of this program reads.
pub(crate) fn heading(text: &str) -> anyhow::Result<()> {
    if let Some(queues) = QUEUES.get() {
        queues.answers.push(text.as_bytes());
        return Ok(());
    }
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")
        .and_then(|()| stdout.flush())
        .context("cannot write to standard output")
}

/// Prints a remark for people on standard error. Where that is closed, nobody wants it.
pub(crate) fn remark(text: impl Display) {
    match QUEUES.get() {
        Some(queues) => queues.log.push(text.to_string().as_bytes()),
        None => drop(writeln!(io::stderr(), "{text}")),
    }
}

/// Where the log goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogWriter;

impl Write for LogWriter {
    /// Takes one event, which comes at once.
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        match QUEUES.get() {
            Some(queues) => queues.log.push(text.strip_suffix(b"\n").unwrap_or(text)),
            None => io::stderr().write_all(text)?,
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for LogWriter {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}

/// `bytes` as text on one line: control characters and what is no UTF-8 escaped, and only the
/// first `limit` bytes of it.
pub(crate) fn escaped(bytes: &[u8], limit: usize) -> String {
    let shown = &bytes[..bytes.len().min(limit)];
    let mut text = String::with_capacity(shown.len());
    for chunk in shown.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                // Quotes do no harm, and text is easier to read with them as they are.
                '"' | '\'' => text.push(character),
                other => text.extend(other.escape_debug()),
            }
        }
        text.extend(chunk.invalid().escape_ascii().map(char::from));
    }
    if shown.len() < bytes.len() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_sends_stays_on_one_line_and_within_the_limit() {
        assert_eq!(escaped("grüße \"you\"".as_bytes(), 99), "grüße \"you\"");
        assert_eq!(escaped(b"a\n\x1b[2J\0\xff", 99), "a\\n\\u{1b}[2J\\0\\xff");
        assert_eq!(escaped(b"abcdef", 3), "abc…");
        assert_eq!(escaped("é".as_bytes(), 1), "\\xc3…");
        assert_eq!(escaped(b"", 3), "");
    }
}
