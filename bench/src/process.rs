//! What a process costs, as Linux tells it.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};

/// Clock ticks in a second: fixed in the interface of Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// Open files that are no connections: what a process has anyway, with some to spare.
const FILES_OF_OTHERS: usize = 128;

/// CPU time of this process, and of the far end if that is another one.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    far_end: Option<u32>,
    started_at: Instant,
    cpu_seconds: f64,
}

/// What passed since a [`Stopwatch`] was started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spent {
    pub(crate) seconds: f64,
    pub(crate) cpu_seconds: f64,
}

impl Stopwatch {
    pub(crate) fn start(far_end: Option<u32>) -> Result<Self> {
        let cpu_seconds = cpu_seconds_of_both(far_end)?;
        Ok(Self { far_end, started_at: Instant::now(), cpu_seconds })
    }

    pub(crate) fn spent(&self) -> Result<Spent> {
        let seconds = self.started_at.elapsed().as_secs_f64();
        Ok(Spent { seconds, cpu_seconds: cpu_seconds_of_both(self.far_end)? - self.cpu_seconds })
    }
}

impl Spent {
    pub(crate) fn cores(self) -> f64 {
        self.cpu_seconds / self.seconds
    }
}

fn cpu_seconds_of_both(far_end: Option<u32>) -> Result<f64> {
    let far_end = far_end.map_or(Ok(0.0), |id| cpu_seconds(&id.to_string()))?;
    Ok(cpu_seconds("self")? + far_end)
}

fn cpu_seconds(process: &str) -> Result<f64> {
    let path = format!("/proc/{process}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    ticks(&stat).map(|ticks| ticks / TICKS_PER_SECOND).with_context(|| format!("{path} is odd"))
}

/// User and system time, fields 14 and 15. The name in field 2 may hold spaces and parentheses, so
/// fields are counted from its end.
fn ticks(stat: &str) -> Option<f64> {
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    Some(field(14)? + field(15)?)
}

/// Resident memory of this process, in KiB.
pub(crate) fn resident_kib() -> Result<f64> {
    let path = "/proc/self/status";
    let status = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    field_of(&status, "VmRSS:").with_context(|| format!("{path} has no VmRSS"))
}

/// As many connections as are wanted, or as many as the limit of open files allows.
pub(crate) fn affordable(wanted: usize, files_per_connection: usize) -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = field_of(&limits, "Max open files").map_or(usize::MAX, |files| files as usize);
    let possible = files.saturating_sub(FILES_OF_OTHERS) / files_per_connection.max(1);
    let affordable = wanted.min(possible).max(1);
    if affordable < wanted {
        eprintln!("note: `ulimit -n` allows {affordable} of {wanted} connections");
    }
    affordable
}

/// The first number behind `name` in a text of lines.
fn field_of(text: &str, name: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        assert_eq!(ticks("7 (a ) (b) S 4 5 6 7 8 9 10 11 12 13 40 2 16"), Some(42.0));
        assert_eq!(ticks("7 (a) S 4"), None);
    }

    #[test]
    fn the_first_number_behind_a_name_is_taken() {
        assert_eq!(field_of("VmHWM: 9 kB\nVmRSS:\t 1234 kB\n", "VmRSS:"), Some(1234.0));
        let unlimited = "Max open files  unlimited  unlimited  files";
        assert_eq!(field_of(unlimited, "Max open files"), None);
    }

    #[test]
    fn this_process_has_memory_and_spends_time() {
        assert!(resident_kib().unwrap() > 100.0);
        assert!(Stopwatch::start(None).unwrap().spent().unwrap().cores() >= 0.0);
        assert!(affordable(usize::MAX, 2) >= 1);
    }
}
