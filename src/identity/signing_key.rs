//! The key of somebody who vouches for certificates.

use std::fmt;
use std::path::Path;

use ed25519_dalek::Signer;
use ed25519_dalek::pkcs8::DecodePrivateKey;
use rand::RngCore;
use zeroize::Zeroizing;

use super::{CredentialError, Origin, SignerKey, key_files, private_key};

/// What precedes the 32 secret bytes of an Ed25519 key in PKCS#8, version 1 (RFC 8410, section 7).
const PKCS8_HEAD: [u8; 16] =
    [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// An Ed25519 private key that signs the keys of certificates.
///
/// It never takes part in a handshake: keep it apart from the machines whose certificates it
/// signs. `Debug` shows the public half only, and the key is wiped from memory when dropped.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// Makes a key from random bytes of a generator that the operating system seeds.
    #[must_use]
    pub fn generate() -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        rand::rng().fill_bytes(&mut *secret);
        Self(ed25519_dalek::SigningKey::from_bytes(&secret))
    }

    /// Reads a key from PKCS#8 PEM, as `openssl genpkey -algorithm ed25519` writes it.
    ///
    /// # Errors
    /// A [`CredentialError`] if the text holds no private key, or one that is encrypted, damaged,
    /// or not Ed25519.
    pub fn from_pkcs8_pem(pem: &str) -> Result<Self, CredentialError> {
        Self::read(pem.as_bytes(), Origin::Memory)
    }

    /// Reads a key from a file, PKCS#8 in PEM or DER.
    ///
    /// A file that others may read or write is taken, and a warning is logged that names it.
    ///
    /// # Errors
    /// As [`from_pkcs8_pem`](Self::from_pkcs8_pem), and [`CredentialError::Unreadable`]. Every
    /// message names the file.
    pub fn from_file(path: &Path) -> Result<Self, CredentialError> {
        let data = key_files::read_secret_file(path)?;
        Self::read(&data, Origin::File(path.to_owned()))
    }

    fn read(data: &[u8], origin: Origin) -> Result<Self, CredentialError> {
        let der = key_files::read_key(data, &origin)?;
        private_key::check_signing_key(&der, &origin)?;
        ed25519_dalek::SigningKey::from_pkcs8_der(&der)
            .map(Self)
            .map_err(|_| CredentialError::KeyMalformed { origin })
    }

    /// The key as PKCS#8 PEM. **This is the secret itself**; the text is wiped when dropped.
    #[must_use]
    pub fn to_pkcs8_pem(&self) -> Zeroizing<String> {
        // Put together by hand to be version 1, without the public key: some releases of OpenSSL
        // cannot read version 2, which is all that the library writes.
        let mut der = Zeroizing::new(PKCS8_HEAD.to_vec());
        der.extend(self.0.as_bytes());
        key_files::encode_secret(&der)
    }

    /// The public half, which others add to whom they trust.
    #[must_use]
    pub fn public(&self) -> SignerKey {
        SignerKey::from_bytes(self.0.verifying_key().to_bytes())
    }

    /// The entry of the signatures extension that vouches for this `SubjectPublicKeyInfo`.
    pub(super) fn entry(&self, public_key_info_der: &[u8]) -> Vec<u8> {
        let mut entry = self.public().as_bytes().to_vec();
        entry.extend(self.0.sign(public_key_info_der).to_bytes());
        entry
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SigningKey").field("public", &self.public()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8410, section 10.3: the same key without and with its public half.
    const RFC_8410: [&str; 2] = [
        "-----BEGIN PRIVATE KEY-----\n\
         MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
         -----END PRIVATE KEY-----\n",
        "-----BEGIN PRIVATE KEY-----\n\
         MHICAQEwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
         oB8wHQYKKoZIhvcNAQkJFDEPDA1DdXJkbGUgQ2hhaXJzgSEAGb9ECWmEzf6FQbrB\n\
         Z9w7lshQhqowtrbLDFw4rXAxZuE=\n\
         -----END PRIVATE KEY-----\n",
    ];
    const RFC_8410_PUBLIC: &str =
        "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";

    #[test]
    fn key_comes_back_from_its_own_pem() {
        let key = SigningKey::generate();
        let pem = key.to_pkcs8_pem();
        assert_eq!(SigningKey::from_pkcs8_pem(&pem).unwrap().public(), key.public());
        assert_ne!(SigningKey::generate().public(), key.public());
    }

    #[test]
    fn key_of_the_rfc_is_read_and_written() {
        for pem in RFC_8410 {
            let key = SigningKey::from_pkcs8_pem(pem).unwrap();
            assert_eq!(key.public().to_string(), RFC_8410_PUBLIC);
            assert_eq!(*key.to_pkcs8_pem(), RFC_8410[0]);
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let key = SigningKey::from_pkcs8_pem(RFC_8410[0]).unwrap();
        assert_eq!(format!("{key:?}"), "SigningKey { public: SignerKey(19bf4409), .. }");
    }

    #[test]
    fn what_is_no_ed25519_key_says_so() {
        let tls = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let error = SigningKey::from_pkcs8_pem(&tls).unwrap_err();
        assert!(matches!(error, CredentialError::KeyUnsupported { .. }), "{error:?}");
        let error = SigningKey::from_pkcs8_pem("nothing").unwrap_err();
        assert!(matches!(error, CredentialError::KeyMissing { .. }), "{error:?}");
        let damaged = RFC_8410[0].replace("MC4C", "MC4D");
        let error = SigningKey::from_pkcs8_pem(&damaged).unwrap_err();
        assert!(matches!(error, CredentialError::KeyMalformed { .. }), "{error:?}");
    }
}
