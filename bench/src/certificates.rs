//! An authority of our own, and a certificate of each end that it signed, as files: MsQuic reads
//! nothing else, and a far end in another process needs them too.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// The protocol that both ends speak.
pub(crate) const ALPN: &str = "moorline-bench";

/// The name that a client asks for, where it asks for a name.
pub(crate) const SERVER_NAME: &str = "localhost";

const AUTHORITY: &str = "authority.pem";

/// Whose certificate.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    Server,
    Client,
}

impl End {
    fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

/// The folder with the certificates of both ends.
#[derive(Debug)]
pub(crate) struct Certificates {
    folder: PathBuf,
}

impl Certificates {
    /// Those that are in `folder` already.
    pub(crate) fn in_folder(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Makes them, with P-256 keys.
    pub(crate) fn write(folder: &Path) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut authority = CertificateParams::default();
        authority.distinguished_name.push(DnType::CommonName, "moorline-bench authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        fs::write(folder.join(AUTHORITY), authority.self_signed(&key)?.pem())?;
        let issuer = Issuer::new(authority, key);
        for end in [End::Server, End::Client] {
            let key = KeyPair::generate()?;
            let names = vec![SERVER_NAME.to_owned(), "127.0.0.1".to_owned()];
            let mut leaf = CertificateParams::new(names)?;
            leaf.distinguished_name.push(DnType::CommonName, end.name());
            leaf.use_authority_key_identifier_extension = true;
            leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            leaf.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let certificate = leaf.signed_by(&key, &issuer)?.pem();
            fs::write(folder.join(certificate_name(end)), certificate)?;
            fs::write(folder.join(key_name(end)), key.serialize_pem())?;
        }
        Ok(Self::in_folder(folder))
    }

    pub(crate) fn authority_file(&self) -> PathBuf {
        self.folder.join(AUTHORITY)
    }

    pub(crate) fn certificate_file(&self, end: End) -> PathBuf {
        self.folder.join(certificate_name(end))
    }

    pub(crate) fn key_file(&self, end: End) -> PathBuf {
        self.folder.join(key_name(end))
    }

    /// A server that takes nobody without a certificate of the authority's.
    pub(crate) fn rustls_server(&self) -> Result<ServerConfig> {
        let provider = Arc::new(ring::default_provider());
        let roots = Arc::new(self.roots()?);
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?;
        let (chain, key) = self.identity(End::Server)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        // Every handshake is a full one, as moorline's are.
        config.send_tls13_tickets = 0;
        config.alpn_protocols = vec![ALPN.as_bytes().to_vec()];
        Ok(config)
    }

    /// A client that shows its certificate and checks the server's.
    pub(crate) fn rustls_client(&self) -> Result<ClientConfig> {
        let (chain, key) = self.identity(End::Client)?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(chain, key)?;
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![ALPN.as_bytes().to_vec()];
        Ok(config)
    }

    fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.authority_file())?)?;
        Ok(roots)
    }

    fn identity(&self, end: End) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let certificate = CertificateDer::from_pem_file(self.certificate_file(end));
        let certificate = certificate.context("cannot read a certificate")?;
        let key = PrivateKeyDer::from_pem_file(self.key_file(end)).context("cannot read a key")?;
        Ok((vec![certificate], key))
    }
}

fn certificate_name(end: End) -> String {
    format!("{}.crt", end.name())
}

fn key_name(end: End) -> String {
    format!("{}.key", end.name())
}
