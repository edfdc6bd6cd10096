//! What can only be said to the C library through the environment.

use std::ffi::OsString;
use std::process::Command;
use std::sync::OnceLock;

/// Where OpenSSL looks for system certificates, each time a credential is loaded.
const VARIABLES: [&str; 2] = ["SSL_CERT_DIR", "SSL_CERT_FILE"];

/// A place without any.
const NOWHERE: &str = "/nonexistent";

/// What they were before.
static BEFORE: OnceLock<[Option<OsString>; 2]> = OnceLock::new();

/// Tells OpenSSL inside MsQuic to look for no system certificates.
///
/// MsQuic builds chains against the system's store at every handshake, although trust is decided by
/// this crate alone; with an empty store a handshake costs about a third less.
///
/// **It changes the environment of the whole process**: `SSL_CERT_DIR` and `SSL_CERT_FILE` name what is
/// not there, from here on. OpenSSL reads them whenever a credential is loaded, so they stay. Other
/// TLS in this process that trusts the system's certificates (OpenSSL's, rustls-native-certs) then
/// trusts nobody, and so does what is started from here, unless its command goes through
/// [`unskip_system_certificates`]. It is for processes that have no other TLS.
///
/// Call it first in `main`: it does nothing, and returns `false`, once the process has a second
/// thread, because the environment must not change under one. Variables that were set, as images of
/// containers do, are replaced: what they name would be read for nothing.
#[must_use = "it has no effect after a second thread was started"]
pub fn skip_system_certificates() -> bool {
    let threads = std::fs::read_dir("/proc/self/task").map(Iterator::count);
    if !matches!(threads, Ok(1)) {
        return false;
    }
    BEFORE.get_or_init(|| VARIABLES.map(std::env::var_os));
    for name in VARIABLES {
        // SAFETY: the process has one thread, this one, so nobody reads the environment now.
        unsafe { std::env::set_var(name, NOWHERE) };
    }
    true
}

/// Gives what `command` starts the environment that this process had before
/// [`skip_system_certificates`]. What was said about those variables since is kept.
pub fn unskip_system_certificates(command: &mut Command) -> &mut Command {
    for (name, before) in VARIABLES.into_iter().zip(BEFORE.get().into_iter().flatten()) {
        let ours = std::env::var_os(name).is_some_and(|value| value == NOWHERE);
        let said = command.get_envs().any(|(said, _)| said == name);
        if ours && !said {
            match before {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
    }
    command
}
