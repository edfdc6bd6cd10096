//! What can go wrong with one's own keys and certificates.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

use super::{CERTIFICATE_BYTES_MAX, SIGNATURES_EXAMINED_MAX};

/// Where a certificate or a key was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// Bytes that the program handed over.
    Memory,
    /// A file.
    File(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => formatter.write_str("the given data"),
            Self::File(path) => path.display().fmt(formatter),
        }
    }
}

/// Why a credential could not be made, read or written.
///
/// Every message names the file and says what to do. None contains a part of a key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// A file cannot be read.
    #[error("cannot read {}: check that it exists and that this user may read it", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error(
        "cannot write {}: check that its directory exists and that this user may write there",
        .path.display()
    )]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Nothing is overwritten: a lost key is a lost identity.
    #[error("{} exists already: move it away or choose another name", .path.display())]
    FileExists {
        /// The file.
        path: PathBuf,
    },
    /// There is no certificate at all.
    #[error(
        "{origin} holds no certificate: it must hold PEM blocks named CERTIFICATE, or one \
         certificate in DER"
    )]
    CertificateMissing {
        /// Where it was looked for.
        origin: Origin,
    },
    /// A certificate cannot be read.
    #[error("{origin} holds a certificate that cannot be read: make it again or copy it anew")]
    CertificateMalformed {
        /// Where it was read from.
        origin: Origin,
        /// What is wrong with it.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A certificate is larger than peers read.
    #[error(
        "{origin} holds a certificate of {bytes} bytes, and peers read at most \
         {CERTIFICATE_BYTES_MAX}: make one with fewer names"
    )]
    CertificateTooLarge {
        /// Where it was read from.
        origin: Origin,
        /// Its size.
        bytes: usize,
    },
    /// The own chain is larger than a handshake carries.
    #[error(
        "{origin} makes a chain of {bytes} bytes ({certificates} certificates), and a handshake \
         carries at most {limit}: leave out what peers have themselves (the root first), \
         or make certificates with fewer names"
    )]
    ChainTooLarge {
        /// Where it was read from.
        origin: Origin,
        /// How many certificates it has.
        certificates: usize,
        /// Its size in a handshake.
        bytes: usize,
        /// [`CHAIN_BYTES_MAX`](super::CHAIN_BYTES_MAX), or less for long protocol names.
        limit: usize,
    },
    /// There is no private key at all.
    #[error(
        "{origin} holds no private key: it must hold a PEM block named PRIVATE KEY, or PKCS#8 in DER"
    )]
    KeyMissing {
        /// Where it was looked for.
        origin: Origin,
    },
    /// The private key cannot be read, or its parts contradict each other.
    #[error("{origin} holds a private key that is damaged: make it again or copy it anew")]
    KeyMalformed {
        /// Where it was read from.
        origin: Origin,
    },
    /// The private key is protected by a password.
    #[error(
        "{origin} holds an encrypted private key: decrypt it with `openssl pkcs8 -in <encrypted> \
         -out <decrypted>`"
    )]
    KeyEncrypted {
        /// Where it was read from.
        origin: Origin,
    },
    /// The private key is in an older form than PKCS#8.
    #[error(
        "{origin} holds a private key that is not PKCS#8: convert it with `openssl pkcs8 -topk8 \
         -nocrypt -in <key> -out <converted>`"
    )]
    KeyNotPkcs8 {
        /// Where it was read from.
        origin: Origin,
    },
    /// The private key is of a kind that does not serve here.
    #[error("{origin} holds {found} key where {usable} is needed: make another key")]
    KeyUnsupported {
        /// Where it was read from.
        origin: Origin,
        /// The kind of the key, with its article.
        found: String,
        /// The kinds that serve.
        usable: &'static str,
    },
    /// The private key belongs to another certificate.
    #[error(
        "the private key in {key} does not belong to the first certificate in {certificate}: use \
         the two files that were made together, the peer's own certificate first"
    )]
    KeyMismatch {
        /// Where the certificate was read from.
        certificate: Origin,
        /// Where the key was read from.
        key: Origin,
    },
    /// More signers than anybody examines.
    #[error(
        "{given} keys were to sign one certificate, and peers examine {SIGNATURES_EXAMINED_MAX}"
    )]
    TooManySigners {
        /// How many there were.
        given: usize,
    },
    /// A name that cannot stand in a certificate.
    #[error("{subject:?} cannot be a certificate's name: use DNS names or IP addresses")]
    SubjectInvalid {
        /// The name.
        subject: String,
        /// Why it cannot.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A key or certificate could not be made.
    #[error("cannot make a certificate")]
    Generate {
        /// What the library said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Key and chain could not be packed for the transport.
    #[error("cannot pack the credential as PKCS#12")]
    Pack {
        /// What the library said.
        source: Box<dyn Error + Send + Sync>,
    },
}
