//! Certificates and private keys as PEM and DER, in memory and on disk.
//!
//! What is read here is the operator's own. It is checked so that a mistake is named where it was
//! made, and not by the first handshake that fails.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;

use pem::{EncodeConfig, LineEnding, Pem};
use zeroize::Zeroizing;

use super::private_key::USABLE_FOR_TLS;
use super::{CredentialError, Origin};

const CERTIFICATE_TAG: &str = "CERTIFICATE";
const PRIVATE_KEY_TAG: &str = "PRIVATE KEY";
const ENCRYPTED_KEY_TAG: &str = "ENCRYPTED PRIVATE KEY";
const OPENSSH_KEY_TAG: &str = "OPENSSH PRIVATE KEY";
const PEM_BEGIN: &[u8] = b"-----BEGIN ";
/// What every DER certificate and key starts with: a SEQUENCE.
const DER_BEGIN: u8 = 0x30;
const ENCODING: EncodeConfig = EncodeConfig::new().set_line_ending(LineEnding::LF);

/// Larger files are no certificates and no keys, and are not read to their end.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads a whole file.
pub(super) fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, CredentialError> {
    let read = || {
        let mut data = Zeroizing::new(Vec::new());
        File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut data)?;
        if data.len() as u64 > FILE_BYTES_MAX {
            return Err(io::Error::other("it is too large to be a certificate or a key"));
        }
        Ok(data)
    };
    read().map_err(|source| CredentialError::Unreadable { path: path.to_owned(), source })
}

/// Reads a whole file that only its owner should be able to read, and warns if others are.
///
/// It is taken all the same: who mounts secrets into containers cannot always choose their mode.
pub(super) fn read_secret_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, CredentialError> {
    let data = read_file(path)?;
    if let Some(mode) = exposed_mode(path) {
        let name = path.display();
        tracing::warn!(
            mode = %format_args!("{mode:04o}"),
            "others than its owner may read or write the private key in {name}: chmod 600 {name}"
        );
    }
    Ok(data)
}

/// The permission bits of a file, if they let others than its owner read or write it.
#[cfg(unix)]
fn exposed_mode(path: &Path) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt;

    let mode = fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (mode & 0o066 != 0).then_some(mode)
}

#[cfg(not(unix))]
fn exposed_mode(_path: &Path) -> Option<u32> {
    None
}

/// The first certificate in a file, PEM or DER, as DER: the one whose SHA-256 is an identity.
///
/// # Errors
///
/// [`CredentialError`] names the file: it cannot be read, or holds no certificate.
pub fn read_certificate(path: &Path) -> Result<Vec<u8>, CredentialError> {
    let (data, origin) = (read_file(path)?, Origin::File(path.to_owned()));
    let chain = read_chain(&data, &origin)?;
    let missing = CredentialError::CertificateMissing { origin };
    chain.into_iter().next().ok_or(missing)
}

/// The certificates in the data, as DER and in order. There is at least one; none is checked.
pub(super) fn read_chain(data: &[u8], origin: &Origin) -> Result<Vec<Vec<u8>>, CredentialError> {
    if !is_pem(data) {
        let missing = || CredentialError::CertificateMissing { origin: origin.clone() };
        return (data.first() == Some(&DER_BEGIN)).then(|| vec![data.to_vec()]).ok_or_else(missing);
    }
    let blocks = pem::parse_many(data).map_err(|source| CredentialError::CertificateMalformed {
        origin: origin.clone(),
        source: source.into(),
    })?;
    let chain: Vec<Vec<u8>> = blocks
        .into_iter()
        .filter(|block| block.tag() == CERTIFICATE_TAG)
        .map(Pem::into_contents)
        .collect();
    if chain.is_empty() {
        return Err(CredentialError::CertificateMissing { origin: origin.clone() });
    }
    Ok(chain)
}

/// The first private key in the data, as PKCS#8 DER. Its algorithm is not checked.
pub(super) fn read_key(
    data: &[u8],
    origin: &Origin,
) -> Result<Zeroizing<Vec<u8>>, CredentialError> {
    let missing = || CredentialError::KeyMissing { origin: origin.clone() };
    if !is_pem(data) {
        return (data.first() == Some(&DER_BEGIN))
            .then(|| Zeroizing::new(data.to_vec()))
            .ok_or_else(missing);
    }
    // The cause is left out: it may quote a line of the key.
    let blocks = pem::parse_many(data)
        .map_err(|_| CredentialError::KeyMalformed { origin: origin.clone() })?;
    let block = blocks
        .into_iter()
        .find(|block| block.tag().ends_with(PRIVATE_KEY_TAG))
        .ok_or_else(missing)?;
    let encrypted = block.headers().get("Proc-Type").is_some_and(|kind| kind.contains("ENCRYPTED"));
    match block.tag() {
        ENCRYPTED_KEY_TAG => Err(CredentialError::KeyEncrypted { origin: origin.clone() }),
        _ if encrypted => Err(CredentialError::KeyEncrypted { origin: origin.clone() }),
        PRIVATE_KEY_TAG => Ok(Zeroizing::new(block.into_contents())),
        OPENSSH_KEY_TAG => Err(CredentialError::KeyUnsupported {
            origin: origin.clone(),
            found: "an OpenSSH".to_owned(),
            usable: USABLE_FOR_TLS,
        }),
        _ => Err(CredentialError::KeyNotPkcs8 { origin: origin.clone() }),
    }
}

/// A chain as PEM, leaf first.
pub(super) fn encode_chain(chain: &[Vec<u8>]) -> String {
    let encode = |der: &Vec<u8>| pem::encode_config(&Pem::new(CERTIFICATE_TAG, &**der), ENCODING);
    chain.iter().map(encode).collect()
}

/// A private key as PEM.
pub(super) fn encode_secret(pkcs8_der: &[u8]) -> Zeroizing<String> {
    let block = Pem::new(PRIVATE_KEY_TAG, pkcs8_der);
    let text = Zeroizing::new(pem::encode_config(&block, ENCODING));
    drop(Zeroizing::new(block.into_contents()));
    text
}

/// Writes a certificate and its key, each to a file of its own. Neither may exist, and if one
/// cannot be written none is left behind.
pub(super) fn write_pair(
    certificate: (&Path, &str),
    key: (&Path, &str),
) -> Result<(), CredentialError> {
    let mut key_file = Unfinished::create(key.0, Access::OwnerOnly)?;
    let mut certificate_file = Unfinished::create(certificate.0, Access::Usual)?;
    key_file.write(key.1)?;
    certificate_file.write(certificate.1)?;
    key_file.keep();
    certificate_file.keep();
    Ok(())
}

fn is_pem(data: &[u8]) -> bool {
    data.windows(PEM_BEGIN.len()).any(|window| window == PEM_BEGIN)
}

/// Who may read a file that is created.
#[derive(Clone, Copy)]
enum Access {
    Usual,
    OwnerOnly,
}

/// A file that is removed again unless it is kept.
struct Unfinished<'a> {
    path: &'a Path,
    file: File,
    kept: bool,
}

impl<'a> Unfinished<'a> {
    fn create(path: &'a Path, access: Access) -> Result<Self, CredentialError> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        match access {
            Access::Usual => {}
            Access::OwnerOnly => owner_only(&mut options),
        }
        match options.open(path) {
            Ok(file) => Ok(Self { path, file, kept: false }),
            Err(source) => Err(match source.kind() {
                ErrorKind::AlreadyExists => CredentialError::FileExists { path: path.to_owned() },
                _ => CredentialError::Unwritable { path: path.to_owned(), source },
            }),
        }
    }

    /// Returns once the disk has it: a key that is lost with the power is a lost identity.
    fn write(&mut self, text: &str) -> Result<(), CredentialError> {
        self.file
            .write_all(text.as_bytes())
            .and_then(|()| self.file.sync_all())
            .map_err(|source| CredentialError::Unwritable { path: self.path.to_owned(), source })
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.kept {
            // The error that led here is the one to report.
            let _ = fs::remove_file(self.path);
        }
    }
}

#[cfg(unix)]
fn owner_only(options: &mut OpenOptions) {
    use std::os::unix::fs::OpenOptionsExt;

    options.mode(0o600);
}

#[cfg(not(unix))]
fn owner_only(_options: &mut OpenOptions) {}
