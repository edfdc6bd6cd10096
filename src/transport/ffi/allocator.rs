//! Memory that was freed and that the allocator keeps.

/// Gives memory that was freed back to the system; `false` where the allocator has no such call (it is
/// one of glibc, for programs that use its allocator).
///
/// Handshakes of strangers come and go by the thousand, each with some 50 KiB: what the largest number
/// of them at once took stays with the process afterwards. The command `moorline` calls this when it
/// has refused many. It takes milliseconds for each hundred MiB, in which other threads may wait for the
/// allocator: nothing for a callback, or for a regular timer.
pub fn release_freed_memory() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: may be called at any time, on any thread (malloc_trim(3)).
        unsafe { libc::malloc_trim(0) };
        true
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    false
}
