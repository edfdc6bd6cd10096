//! What can only be said to the C library through the environment.

/// Tells OpenSSL inside MsQuic to look for no system certificates.
///
/// MsQuic builds the peer's chain against the system's store at every handshake, although trust
/// is decided by this crate alone; with an empty store a handshake costs about a third less.
/// Call it first in `main`: it does nothing, and returns `false`, once the process has a second
/// thread, because the environment must not change under one. A variable that is set already is
/// left as it is.
#[must_use = "it has no effect after a second thread was started"]
pub fn skip_system_certificates() -> bool {
    let threads = std::fs::read_dir("/proc/self/task").map(Iterator::count);
    if !matches!(threads, Ok(1)) {
        return false;
    }
    for name in ["SSL_CERT_DIR", "SSL_CERT_FILE"] {
        if std::env::var_os(name).is_none() {
            // SAFETY: the process has one thread, this one, so nobody reads the environment now.
            unsafe { std::env::set_var(name, "/nonexistent") };
        }
    }
    true
}
