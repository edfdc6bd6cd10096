//! How far the data has come, on standard error: a bar for people, plain lines for logs.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use indicatif::{ProgressBar, ProgressStyle};

use crate::app::output::remark;

/// Plain lines come in steps of this many percent.
const STEP_PERCENT: u64 = 10;

const TEMPLATE: &str = "{bar:40} {bytes:>12} of {total_bytes} at {binary_bytes_per_sec}";

#[derive(Debug, Clone)]
pub(super) struct Progress(Arc<Form>);

#[derive(Debug)]
enum Form {
    Bar(ProgressBar),
    Lines {
        total: u64,
        done: AtomicU64,
    },
    #[cfg(test)]
    Silent,
}

impl Progress {
    pub(super) fn new(total: u64) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(Arc::new(Form::Lines { total, done: AtomicU64::new(0) }));
        }
        // The template is constant; a default bar is better than none should it ever be wrong.
        let style =
            ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
        Self(Arc::new(Form::Bar(ProgressBar::new(total).with_style(style))))
    }

    #[cfg(test)]
    pub(super) fn silent() -> Self {
        Self(Arc::new(Form::Silent))
    }

    pub(super) fn add(&self, bytes: u64) {
        match &*self.0 {
            Form::Bar(bar) => bar.inc(bytes),
            Form::Lines { total, done } => {
                let before = done.fetch_add(bytes, Relaxed);
                if let Some(percent) = step(before, before + bytes, *total) {
                    remark(format_args!("{percent} % of {} MiB", total >> 20));
                }
            }
            #[cfg(test)]
            Form::Silent => {}
        }
    }

    /// The first byte is about to leave: what passed before says nothing about the speed.
    pub(super) fn start(&self) {
        if let Form::Bar(bar) = &*self.0 {
            bar.reset();
        }
    }

    /// Takes the bar away, so that what is printed next begins on a line of its own.
    pub(super) fn finish(&self) {
        if let Form::Bar(bar) = &*self.0 {
            bar.finish_and_clear();
        }
    }
}

/// The step that was passed on the way, if any.
fn step(before: u64, after: u64, total: u64) -> Option<u64> {
    let at = |done: u64| done.min(total) * 100 / total.max(1) / STEP_PERCENT * STEP_PERCENT;
    (at(after) > at(before)).then(|| at(after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_with_every_step_and_not_between() {
        assert_eq!(step(0, 99, 1000), None);
        assert_eq!(step(99, 100, 1000), Some(10));
        assert_eq!(step(100, 199, 1000), None);
        assert_eq!(step(100, 555, 1000), Some(50));
        assert_eq!(step(990, 5000, 1000), Some(100));
        assert_eq!(step(1000, 6000, 1000), None);
        assert_eq!(step(0, 0, 0), None);
    }
}
