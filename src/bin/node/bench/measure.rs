//! What a process costs, as Linux tells it.

use std::time::Instant;

use anyhow::{Context, Result};

/// Clock ticks of `/proc/…/stat` in a second: fixed in the interface of Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// `/proc/…/statm` counts pages.
const PAGE_KIB: f64 = 4.0;

/// Which processes count: this one, and perhaps the far end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Processes {
    pub far_end: Option<u32>,
}

impl Processes {
    pub(super) const THIS_ONE: Self = Self { far_end: None };

    /// User and system CPU time used so far, in seconds.
    pub(super) fn cpu_seconds(self) -> Result<f64> {
        let own = cpu_seconds("self")?;
        let far = self.far_end.map_or(Ok(0.0), |id| cpu_seconds(&id.to_string()))?;
        Ok(own + far)
    }

    pub(super) fn start(self) -> Result<Started> {
        Ok(Started { processes: self, at: Instant::now(), cpu: self.cpu_seconds()? })
    }
}

/// The beginning of what is measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Started {
    processes: Processes,
    pub at: Instant,
    cpu: f64,
}

/// What passed since the beginning.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Spent {
    pub seconds: f64,
    pub cpu_seconds: f64,
}

impl Started {
    pub(super) fn spent(self) -> Result<Spent> {
        let seconds = self.at.elapsed().as_secs_f64();
        Ok(Spent { seconds, cpu_seconds: self.processes.cpu_seconds()? - self.cpu })
    }
}

impl Spent {
    pub(super) fn cores(self) -> f64 {
        self.cpu_seconds / self.seconds
    }
}

fn cpu_seconds(process: &str) -> Result<f64> {
    let path = format!("/proc/{process}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    ticks(&stat).map(|ticks| ticks / TICKS_PER_SECOND).with_context(|| format!("{path} is odd"))
}

/// utime + stime, fields 14 and 15: the name in field 2 may hold anything, so count behind it.
fn ticks(stat: &str) -> Option<f64> {
    let (_, behind_name) = stat.rsplit_once(") ")?;
    let mut fields = behind_name.split(' ').skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Resident memory of this process, in KiB.
pub(crate) fn rss_kib() -> Result<f64> {
    let statm =
        std::fs::read_to_string("/proc/self/statm").context("cannot read /proc/self/statm")?;
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<f64>().ok());
    pages.map(|pages| pages * PAGE_KIB).context("/proc/self/statm is odd")
}

/// How many files this process may have open: the soft limit, which `ulimit -n` shows.
pub(super) fn open_files_max() -> Option<usize> {
    soft_limit(&std::fs::read_to_string("/proc/self/limits").ok()?)
}

/// How many files this process has open.
pub(super) fn open_files() -> Result<usize> {
    Ok(std::fs::read_dir("/proc/self/fd").context("cannot read /proc/self/fd")?.count())
}

fn soft_limit(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "1 (a) b) R 2 3 4 5 6 7 8 9 10 11 120 30 14 15";
        assert_eq!(ticks(stat), Some(150.0));
        assert_eq!(ticks("1 (a) R 2"), None);
    }

    #[test]
    fn the_limit_of_open_files_is_the_soft_one() {
        let limits = "Limit   Soft   Hard\nMax open files            1024     4096     files\n";
        assert_eq!(soft_limit(limits), Some(1024));
        assert_eq!(soft_limit("Max open files unlimited unlimited files"), None);
        assert!(open_files_max().is_some());
    }

    #[test]
    fn this_process_has_memory_and_cpu_time() {
        assert!(rss_kib().unwrap() > 100.0);
        let started = Processes::THIS_ONE.start().unwrap();
        assert!(started.spent().unwrap().cpu_seconds >= 0.0);
    }
}
