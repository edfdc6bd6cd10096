//! What the listeners and dials of one transport share.

use std::sync::{Arc, Mutex, OnceLock};

use super::bounds::Bounds;
use super::configuration::ConfigFactory;
use super::dial_port::DialPorts;
use super::registration::RegistrationWrapper;
use crate::config::Limits;
use crate::error::LibraryError;
use crate::lock::lock;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) bounds: Arc<Bounds>,
    // Before the registration: configurations are closed first.
    pub(super) factory: Arc<ConfigFactory>,
    pub(super) dial_ports: Arc<DialPorts>,
    registration: OnceLock<Arc<RegistrationWrapper>>,
    /// Held while it is opened.
    opening: Mutex<()>,
}

impl Shared {
    pub(super) fn new(limits: Limits) -> Self {
        Self { bounds: Arc::new(Bounds::new(limits)), ..Self::default() }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.bounds.limits
    }

    /// The registration; the first call opens it. Where that fails the next call tries again.
    pub(super) fn registration(&self) -> Result<Arc<RegistrationWrapper>, LibraryError> {
        if let Some(open) = self.registration.get() {
            return Ok(Arc::clone(open));
        }
        let _alone = lock(&self.opening);
        if let Some(open) = self.registration.get() {
            return Ok(Arc::clone(open));
        }
        let opened = RegistrationWrapper::open()?;
        Ok(Arc::clone(self.registration.get_or_init(|| opened)))
    }
}
