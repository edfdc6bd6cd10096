//! How much memory this process has, as the kernel counts it.

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Who measures the memory of the process is alone in it; the others share it.
static PROCESS: RwLock<()> = RwLock::const_new(());

pub(crate) async fn alone() -> RwLockWriteGuard<'static, ()> {
    PROCESS.write().await
}

pub(crate) async fn together() -> RwLockReadGuard<'static, ()> {
    PROCESS.read().await
}

/// One mebibyte.
pub(crate) const MIB: usize = 1 << 20;

/// Resident bytes of this process.
pub(crate) fn resident() -> usize {
    status("VmRSS:")
}

/// The most that was ever resident.
pub(crate) fn peak() -> usize {
    status("VmHWM:")
}

fn status(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find(|line| line.starts_with(name)).expect("such a line");
    let kibibytes = line.split_whitespace().nth(1).expect("a number");
    kibibytes.parse::<usize>().expect("a number") * 1024
}

/// What was resident at some moment, to compare with.
pub(crate) struct Baseline(usize);

impl Baseline {
    /// From here on.
    pub(crate) fn take() -> Self {
        Self(resident())
    }

    /// Bytes that came since; 0 if it became less.
    pub(crate) fn growth(&self) -> usize {
        resident().saturating_sub(self.0)
    }

    /// Panics if more than `bytes` came since.
    pub(crate) fn assert_growth_below(&self, bytes: usize, what: &str) {
        let growth = self.growth();
        eprintln!("{what}: grew by {} KiB", growth / 1024);
        assert!(growth < bytes, "{what}: grew by {growth} bytes, at most {bytes} are allowed");
    }
}
