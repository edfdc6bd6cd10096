//! From a credential and limits to an MsQuic configuration, one per credential and role.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::blocking::{self, NotRun};
use super::bounds::Windows;
use super::ffi::{self, Role};
use super::registration::RegistrationWrapper;
use crate::config::{Algorithm, Limits};
use crate::error::LibraryError;
use crate::identity::{CredentialError, NetCredential};
use crate::lock::lock;

/// Configurations kept for reuse: loading one costs 9 to 16 ms and 829 KiB. Sixteen cover two
/// credentials in both roles with windows of all sizes; the least recently used goes first.
const CONFIGURATIONS_MAX: usize = 16;

/// Makes configurations and keeps them.
#[derive(Debug, Default)]
pub(super) struct ConfigFactory {
    kept: Mutex<Kept>,
}

/// The least recently used first.
#[derive(Debug, Default)]
struct Kept(VecDeque<(Key, Arc<ffi::Configuration>)>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    credential: u64,
    role: Role,
    alpns: Vec<String>,
    shape: Shape,
}

/// What differs from one connection of a role to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// A few sizes, so that few configurations are loaded.
    pub(super) windows: Windows,
    pub(super) algorithm: Algorithm,
}

/// Why there is no configuration.
#[derive(Debug)]
pub(super) enum ConfigurationError {
    Credential(CredentialError),
    Library { action: &'static str, source: LibraryError },
    NotRun(NotRun),
}

impl ConfigFactory {
    /// The configuration for `credential` in `role`, of this shape. (Given to a connection by itself it
    /// would cost a dial a round of the library's worker.)
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a configuration that is being loaded is kept for the next call.
    pub(super) async fn configuration(
        self: &Arc<Self>,
        registration: &Arc<RegistrationWrapper>,
        role: Role,
        alpns: &[String],
        credential: &NetCredential,
        (limits, shape): (&Arc<Limits>, Shape),
    ) -> Result<Arc<ffi::Configuration>, ConfigurationError> {
        let key = Key { credential: credential.id(), role, alpns: alpns.to_vec(), shape };
        if let Some(found) = lock(&self.kept).find(&key) {
            return Ok(found);
        }
        let (this, registration) = (Arc::clone(self), Arc::clone(registration));
        let (credential, limits) = (credential.clone(), Arc::clone(limits));
        // Keys are derived and parsed in there: too long for a runtime's thread.
        let loaded = blocking::run(move || {
            let mut kept = lock(&this.kept);
            // Under the lock: two dials that start together load the credential once.
            if let Some(found) = kept.find(&key) {
                return Ok(found);
            }
            let opened = open(&registration, &key, &credential, &limits)?;
            Ok(kept.keep(key, Arc::new(opened)))
        });
        loaded.await.map_err(ConfigurationError::NotRun)?
    }
}

impl Kept {
    fn find(&mut self, key: &Key) -> Option<Arc<ffi::Configuration>> {
        let at = self.0.iter().position(|(known, _)| known == key)?;
        let found = self.0.remove(at)?;
        let configuration = Arc::clone(&found.1);
        self.0.push_back(found);
        Some(configuration)
    }

    fn keep(&mut self, key: Key, opened: Arc<ffi::Configuration>) -> Arc<ffi::Configuration> {
        if self.0.len() >= CONFIGURATIONS_MAX {
            self.0.pop_front();
        }
        self.0.push_back((key, Arc::clone(&opened)));
        opened
    }
}

fn open(
    registration: &RegistrationWrapper,
    Key { role, alpns, shape, .. }: &Key,
    credential: &NetCredential,
    limits: &Limits,
) -> Result<ffi::Configuration, ConfigurationError> {
    let pkcs12 = credential.pkcs12(alpns).map_err(ConfigurationError::Credential)?;
    let library = |action| move |source| ConfigurationError::Library { action, source };
    let settings = ffi::QuicSettings::new(limits, shape.windows, shape.algorithm);
    let registration = registration.raw().map_err(library("open a configuration"))?;
    let configuration = ffi::Configuration::open(registration, alpns, &settings)
        .map_err(library("open a configuration"))?;
    configuration.load_credential(&pkcs12, *role).map_err(library("load the credential"))?;
    Ok(configuration)
}
