//! Which MsQuic is in this process, and how it got there.

use super::ffi;

/// How MsQuic is linked: `bundled` (static, built with the crate) or `system`.
pub const LINKAGE: &str = if cfg!(feature = "system") { "system" } else { "bundled" };

/// The version of the MsQuic library in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LibraryVersion([u32; 4]);

impl LibraryVersion {
    /// The first version with the fixes that matter here (SECURITY.md).
    const FIXED: Self = Self([2, 5, 10, 0]);

    /// Asks the library.
    #[must_use]
    pub fn linked() -> Self {
        Self(ffi::library_version())
    }

    /// Whether it is older than 2.5.10, with known faults (SECURITY.md).
    #[must_use]
    pub fn is_affected(&self) -> bool {
        *self < Self::FIXED
    }
}

impl std::fmt::Display for LibraryVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [major, minor, patch, build] = self.0;
        write!(f, "{major}.{minor}.{patch}.{build}")
    }
}
