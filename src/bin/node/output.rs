//! What commands answer on standard output: text for people, or one JSON object a line.

use std::fmt::Display;
use std::io::{self, Write};

use anyhow::Context;
use serde::Serialize;

/// Where answers go, and in which form.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub json: bool,
}

impl Output {
    /// Prints one answer and flushes it: who reads along may act on every line.
    pub(crate) fn line(self, line: &(impl Serialize + Display)) -> anyhow::Result<()> {
        let text = if self.json {
            serde_json::to_string(line).context("cannot write JSON")?
        } else {
            line.to_string()
        };
        write_line(&text).context("cannot write to standard output")
    }
}

/// Prints text as it is: a heading, or a line that another process of this program reads.
pub(crate) fn heading(text: &str) -> anyhow::Result<()> {
    write_line(text).context("cannot write to standard output")
}

fn write_line(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()
}

/// Prints a remark for people on standard error. Where that is closed, nobody wants it.
pub(crate) fn remark(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
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
