//! From a credential and limits to an MsQuic configuration, one per credential and role.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::ffi::{self, Role};
use super::lock;
use super::registration::RegistrationWrapper;
use crate::config::Limits;
use crate::error::LibraryError;
use crate::identity::{CredentialError, NetCredential};

/// Configurations kept for reuse: loading one costs 9 to 16 ms and 829 KiB. Eight cover four
/// credentials in both roles; the least recently used goes first.
const CONFIGURATIONS_MAX: usize = 8;

/// Makes configurations and keeps them.
#[derive(Debug, Default)]
pub(super) struct ConfigFactory {
    kept: Mutex<VecDeque<(Key, Arc<ffi::Configuration>)>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    credential: u64,
    role: Role,
    alpns: Vec<String>,
}

/// Why there is no configuration.
#[derive(Debug)]
pub(super) enum ConfigurationError {
    Credential(CredentialError),
    Library { action: &'static str, source: LibraryError },
}

impl ConfigFactory {
    /// The configuration for `credential` in `role`.
    pub(super) fn configuration(
        &self,
        registration: &RegistrationWrapper,
        role: Role,
        alpns: &[String],
        credential: &NetCredential,
        limits: &Limits,
    ) -> Result<Arc<ffi::Configuration>, ConfigurationError> {
        let key = Key { credential: credential.id(), role, alpns: alpns.to_vec() };
        let mut kept = lock(&self.kept);
        if let Some(at) = kept.iter().position(|(known, _)| *known == key)
            && let Some(found) = kept.remove(at)
        {
            let configuration = Arc::clone(&found.1);
            kept.push_back(found);
            return Ok(configuration);
        }
        // Under the lock: two dials that start together load the credential once.
        let configuration = Arc::new(open(registration, role, alpns, credential, limits)?);
        if kept.len() >= CONFIGURATIONS_MAX {
            kept.pop_front();
        }
        kept.push_back((key, Arc::clone(&configuration)));
        Ok(configuration)
    }
}

fn open(
    registration: &RegistrationWrapper,
    role: Role,
    alpns: &[String],
    credential: &NetCredential,
    limits: &Limits,
) -> Result<ffi::Configuration, ConfigurationError> {
    let pkcs12 = credential.pkcs12().map_err(ConfigurationError::Credential)?;
    let library = |action| move |source| ConfigurationError::Library { action, source };
    let settings = ffi::QuicSettings::new(limits);
    let registration = registration.raw().map_err(library("open a configuration"))?;
    let configuration = ffi::Configuration::open(registration, alpns, &settings)
        .map_err(library("open a configuration"))?;
    configuration
        .load_credential(pkcs12, role)
        .map_err(library("load the credential"))?;
    Ok(configuration)
}
