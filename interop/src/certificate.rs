//! Certificates that moorline did not make.

use anyhow::Result;
use moorline::CertHash;
use rcgen::{CertificateParams, DnType, KeyPair};

/// A foreign peer's key and self-signed certificate.
#[derive(Debug)]
pub struct PeerCertificate {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl PeerCertificate {
    /// Makes one, with a P-256 key.
    ///
    /// # Errors
    ///
    /// If no key can be made.
    pub fn generate() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::new(vec!["localhost".to_owned()])?;
        parameters.distinguished_name.push(DnType::CommonName, "a foreign peer");
        Ok(Self { certificate: parameters.self_signed(&key)?, key })
    }

    /// What moorline knows the peer by.
    #[must_use]
    pub fn identity(&self) -> CertHash {
        CertHash::of_der(self.certificate.der())
    }

    /// The certificate as DER.
    #[must_use]
    pub fn certificate_der(&self) -> &[u8] {
        self.certificate.der()
    }

    /// The private key as PKCS#8 DER.
    #[must_use]
    pub fn key_der(&self) -> &[u8] {
        self.key.serialized_der()
    }

    /// The certificate as PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        self.certificate.pem()
    }

    /// The private key as PEM.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }
}
