//! A process's own key and certificate chain, and whom it trusts.

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
    PublicKeyData,
};
use ring::hkdf;
use zeroize::Zeroizing;

use super::certificate::{Certificate, CertificateFault, SIGNATURES_OID};
use super::pkcs12::Pkcs12;
use super::{
    ALPN_BYTES_FREE, CHAIN_BYTES_MAX, CertHash, CredentialError, Origin, SIGNATURES_EXAMINED_MAX,
    SignerKey, SigningKey, Trust, key_files, private_key,
};

/// How long before its making a certificate is valid, so that a peer whose clock is behind takes
/// it at once.
const VALID_BEFORE: Duration = Duration::from_secs(60 * 60);

/// How long a certificate is valid. Peers pin its hash, so every renewal is work at every peer:
/// ten years outlast most machines, and still end for a key that was forgotten.
const VALID_FOR: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The longest common name that X.520 allows, in characters.
const COMMON_NAME_CHARS_MAX: usize = 64;

/// The common name of a certificate whose first subject cannot be one.
const COMMON_NAME: &str = "moorline";

/// What TLS puts before each certificate of a chain, and behind it (RFC 8446, section 4.4.2).
const BYTES_AROUND_CERTIFICATE: usize = 3 + 2;

/// What a key for stateless resets is derived for, so that it is of no use for anything else.
const RESET_KEY_LABEL: &[u8] = b"moorline stateless reset key, version 1";

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Own private key, own certificate chain, and [`Trust`]. Cheap to clone.
///
/// A credential trusts nobody until it is told to; the methods that add trust can be chained, and
/// leave clones made before as they were. The key is wiped from memory with the last clone, except
/// for what the libraries it passed through have copied.
///
/// # Example
/// ```
/// use moorline::{NetCredential, SigningKey};
///
/// let operator = SigningKey::generate();
/// let server = NetCredential::generate_self_signed(&["localhost"], &[operator.clone()])?;
/// let client = NetCredential::generate_self_signed(&[], &[])?.trust_key(operator.public());
/// let server = server.trust_hash(client.identity());
/// # Ok::<(), moorline::CredentialError>(())
/// ```
#[derive(Clone)]
pub struct NetCredential {
    id: u64,
    material: Arc<Material>,
    trust: Arc<Trust>,
}

struct Material {
    /// PKCS#8 DER.
    key: Zeroizing<Vec<u8>>,
    /// Leaf first, never empty.
    chain: Vec<Vec<u8>>,
    identity: CertHash,
    /// Where the chain came from.
    origin: Origin,
}

impl NetCredential {
    /// Makes an ECDSA P-256 key and a certificate for it that is signed by the key itself.
    ///
    /// `subjects` are DNS names or IP addresses; peers that go by hashes and signer keys do not
    /// look at them, and there may be none. Each of the `signing_keys` vouches for the new key, at
    /// most [`SIGNATURES_EXAMINED_MAX`]. The certificate is valid from one hour ago, for peers
    /// whose clock is behind, for ten years.
    ///
    /// # Errors
    /// [`CredentialError::SubjectInvalid`], [`CredentialError::TooManySigners`],
    /// [`CredentialError::ChainTooLarge`] for more names than a handshake carries, or
    /// [`CredentialError::Generate`] if the system has no randomness.
    pub fn generate_self_signed(
        subjects: &[&str],
        signing_keys: &[SigningKey],
    ) -> Result<Self, CredentialError> {
        if signing_keys.len() > SIGNATURES_EXAMINED_MAX {
            return Err(CredentialError::TooManySigners { given: signing_keys.len() });
        }
        let key = KeyPair::generate().map(Zeroizing::new).map_err(generate_error)?;
        let mut parameters = parameters_for(subjects)?;
        if !signing_keys.is_empty() {
            let public_key_info = key.subject_public_key_info();
            let entries = signing_keys.iter().flat_map(|signer| signer.entry(&public_key_info));
            parameters
                .custom_extensions
                .push(CustomExtension::from_oid_content(&SIGNATURES_OID, entries.collect()));
        }
        let certificate = parameters.self_signed(&*key).map_err(generate_error)?;
        let key_der = Zeroizing::new(key.serialize_der());
        Self::from_checked((vec![certificate.der().to_vec()], Origin::Memory), key_der)
    }

    /// Reads a chain (leaf first) and its private key (PKCS#8) from PEM. Data that is DER is taken
    /// as well.
    ///
    /// # Errors
    /// A [`CredentialError`] if there is no certificate or no key, if one of them cannot be read
    /// or used, if the key is not the leaf's, or if the chain is over [`CHAIN_BYTES_MAX`].
    pub fn from_pem(cert_chain_pem: &[u8], key_pem: &[u8]) -> Result<Self, CredentialError> {
        Self::read((cert_chain_pem, Origin::Memory), (key_pem, Origin::Memory))
    }

    /// Takes a chain (leaf first) and its private key (PKCS#8), each in DER.
    ///
    /// # Errors
    /// As [`from_pem`](Self::from_pem).
    pub fn from_der(chain: Vec<Vec<u8>>, key: Vec<u8>) -> Result<Self, CredentialError> {
        let key = Zeroizing::new(key);
        Self::check((chain, Origin::Memory), (key, Origin::Memory))
    }

    /// Reads a chain (leaf first) and its private key (PKCS#8) from two files, PEM or DER: which
    /// of them is told by the content.
    ///
    /// A key file that others may read or write is taken, and a warning is logged that names it.
    ///
    /// # Errors
    /// As [`from_pem`](Self::from_pem), and [`CredentialError::Unreadable`]. Every message names
    /// the file.
    pub fn from_files(cert: &Path, key: &Path) -> Result<Self, CredentialError> {
        let chain_data = key_files::read_file(cert)?;
        let key_data = key_files::read_secret_file(key)?;
        Self::read(
            (&chain_data, Origin::File(cert.to_owned())),
            (&key_data, Origin::File(key.to_owned())),
        )
    }

    /// Writes the chain and the private key as PEM. Only the owner may read the key's file
    /// (mode 0600).
    ///
    /// # Errors
    /// [`CredentialError::FileExists`] if one of the files exists: nothing is ever overwritten.
    /// [`CredentialError::Unwritable`] if one cannot be written; then neither is left behind.
    pub fn write_files(&self, cert: &Path, key: &Path) -> Result<(), CredentialError> {
        key_files::write_pair((cert, &self.certificate_pem()), (key, &self.private_key_pem()))
    }

    /// The certificate chain as PEM, leaf first. Anybody may see it.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        key_files::encode_chain(&self.material.chain)
    }

    /// The private key as PKCS#8 PEM. **This is the secret itself**; the text is wiped when dropped.
    #[must_use]
    pub fn private_key_pem(&self) -> Zeroizing<String> {
        key_files::encode_secret(&self.material.key)
    }

    /// The own identity: the hash that peers trust or expect.
    #[must_use]
    pub fn identity(&self) -> CertHash {
        self.material.identity
    }

    /// The certificates in DER, leaf first; there is at least one.
    #[must_use]
    pub fn chain_der(&self) -> &[Vec<u8>] {
        &self.material.chain
    }

    /// Whom this credential trusts.
    #[must_use]
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Trusts the peer with this identity.
    #[must_use]
    pub fn trust_hash(self, hash: CertHash) -> Self {
        self.with_trust(|trust| trust.add_hash(hash))
    }

    /// Trusts every peer whose public key this key has signed.
    #[must_use]
    pub fn trust_key(self, signer: SignerKey) -> Self {
        self.with_trust(|trust| trust.add_signer(signer))
    }

    /// Trusts **everybody** who shows a certificate inside its validity period. Whoever can reach
    /// the address is let in: for tests and experiments.
    #[must_use]
    pub fn insecure_accept_any(self) -> Self {
        self.with_trust(Trust::set_accept_any)
    }

    /// Names this combination of key, chain and trust, in this process and until it ends: what was
    /// built from the credential can be kept under it. Clones share it, changed trust has another.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Key and chain as PKCS#12, for the C library, to be used with these protocol names.
    pub(crate) fn pkcs12(&self, alpns: &[String]) -> Result<Pkcs12, CredentialError> {
        let names = alpns.iter().map(|name| name.len() + 1).sum::<usize>();
        let taken = 2 * names.saturating_sub(ALPN_BYTES_FREE);
        let limit = CHAIN_BYTES_MAX.saturating_sub(taken);
        check_chain_size(&self.material.chain, &self.material.origin, limit)?;
        Pkcs12::pack(&self.material.key, &self.material.chain).map_err(pack_error)
    }

    /// A key for stateless resets (RFC 9000, section 10.3.2) that is the same after a restart: nobody learns
    /// anything of the private key by it. None if it cannot be derived, which nothing brings about.
    pub(crate) fn reset_key(&self) -> Option<Zeroizing<[u8; 32]>> {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, RESET_KEY_LABEL);
        let secret = salt.extract(&self.material.key);
        let mut key = Zeroizing::new([0; 32]);
        let expanded = secret.expand(&[RESET_KEY_LABEL], hkdf::HKDF_SHA256);
        expanded.and_then(|expanded| expanded.fill(&mut *key)).ok()?;
        Some(key)
    }

    fn read(
        (chain_data, chain_origin): (&[u8], Origin),
        (key_data, key_origin): (&[u8], Origin),
    ) -> Result<Self, CredentialError> {
        let chain = key_files::read_chain(chain_data, &chain_origin)?;
        let key = key_files::read_key(key_data, &key_origin)?;
        Self::check((chain, chain_origin), (key, key_origin))
    }

    fn check(
        (chain, chain_origin): (Vec<Vec<u8>>, Origin),
        (key, key_origin): (Zeroizing<Vec<u8>>, Origin),
    ) -> Result<Self, CredentialError> {
        let mut certificates = Vec::with_capacity(chain.len());
        for der in &chain {
            let certificate =
                Certificate::parse(der).map_err(|fault| chain_error(&chain_origin, fault))?;
            certificates.push(certificate);
        }
        let Some(leaf) = certificates.first() else {
            return Err(CredentialError::CertificateMissing { origin: chain_origin });
        };
        private_key::check_tls_key((&key, &key_origin), (leaf.public_key(), &chain_origin))?;
        Self::from_checked((chain, chain_origin), key)
    }

    fn from_checked(
        (chain, origin): (Vec<Vec<u8>>, Origin),
        key: Zeroizing<Vec<u8>>,
    ) -> Result<Self, CredentialError> {
        check_chain_size(&chain, &origin, CHAIN_BYTES_MAX)?;
        // What cannot be packed is known here, and not when it is used first.
        Pkcs12::pack(&key, &chain).map_err(pack_error)?;
        let identity = CertHash::of_der(&chain[0]);
        let material = Arc::new(Material { key, chain, identity, origin });
        Ok(Self { id: next_id(), material, trust: Arc::default() })
    }

    fn with_trust(mut self, change: impl FnOnce(&mut Trust)) -> Self {
        change(Arc::make_mut(&mut self.trust));
        self.id = next_id();
        self
    }
}

impl fmt::Debug for NetCredential {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("NetCredential")
            .field("identity", &self.identity())
            .field("trust", &self.trust)
            .finish_non_exhaustive()
    }
}

fn check_chain_size(
    chain: &[Vec<u8>],
    origin: &Origin,
    limit: usize,
) -> Result<(), CredentialError> {
    let bytes = chain.iter().map(|der| der.len() + BYTES_AROUND_CERTIFICATE).sum();
    if bytes <= limit {
        return Ok(());
    }
    let (origin, certificates) = (origin.clone(), chain.len());
    Err(CredentialError::ChainTooLarge { origin, certificates, bytes, limit })
}

fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

fn parameters_for(subjects: &[&str]) -> Result<CertificateParams, CredentialError> {
    let mut parameters = CertificateParams::default();
    for subject in subjects {
        let names = CertificateParams::new(vec![(*subject).to_owned()]).map_err(|source| {
            let subject = (*subject).to_owned();
            CredentialError::SubjectInvalid { subject, source: source.into() }
        })?;
        parameters.subject_alt_names.extend(names.subject_alt_names);
    }
    let common_name = subjects
        .first()
        .filter(|subject| subject.chars().count() <= COMMON_NAME_CHARS_MAX)
        .unwrap_or(&COMMON_NAME);
    parameters.distinguished_name.push(DnType::CommonName, *common_name);
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Every peer both dials and listens.
    parameters.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    // A clock before 1970 makes a certificate of 1970: the peers' clocks decide.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    parameters.not_before = epoch + now.saturating_sub(VALID_BEFORE);
    parameters.not_after = epoch + now + VALID_FOR;
    Ok(parameters)
}

fn chain_error(origin: &Origin, fault: CertificateFault) -> CredentialError {
    let origin = origin.clone();
    match fault {
        CertificateFault::TooLarge { bytes } => {
            CredentialError::CertificateTooLarge { origin, bytes }
        }
        CertificateFault::NotX509
        | CertificateFault::TrailingBytes
        | CertificateFault::Signatures => {
            CredentialError::CertificateMalformed { origin, source: fault.into() }
        }
    }
}

fn pack_error(source: der::Error) -> CredentialError {
    CredentialError::Pack { source: source.into() }
}

fn generate_error(source: rcgen::Error) -> CredentialError {
    CredentialError::Generate { source: source.into() }
}
