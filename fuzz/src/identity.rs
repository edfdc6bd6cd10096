//! Certificates and keys: the library's files, and the little that they take from the module around them.

pub mod certificates;
pub mod credentials;

#[allow(dead_code)]
#[path = "../../src/identity/certificate.rs"]
mod certificate;
#[allow(dead_code)]
#[path = "../../src/identity/error.rs"]
mod error;
#[allow(dead_code)]
#[path = "../../src/identity/key_files.rs"]
mod key_files;
#[allow(dead_code)]
#[path = "../../src/identity/private_key.rs"]
mod private_key;

pub(crate) use error::{CredentialError, Origin};

pub(crate) const CERTIFICATE_BYTES_MAX: usize = 64 * 1024;
pub(crate) const SIGNATURES_EXAMINED_MAX: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SignerKey([u8; 32]);

impl SignerKey {
    pub(crate) const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}
