//! Files of certificates and of private keys, as an operator may have damaged or mixed them up.
//!
//! An input is `[kind][rest]`:
//!
//! - kind 0: the rest is a file of certificates, PEM or DER;
//! - kind 1: the rest is a file of a key, beside the certificate of the first of [`KEYS`];
//! - other kinds: one of [`KEYS`], changed as the rest says, beside its own certificate. Three bytes are a change:
//!   place (two bytes) and value; the two highest bits of the place say whether the value replaces what is there,
//!   is put in front of it, or what is there is left out.
//!
//! A key is taken only if it still is the private half of the certificate's; the unchanged one is.

use super::certificate::Certificate;
use super::key_files::{read_chain, read_key};
use super::private_key::check_tls_key;
use super::{CredentialError, Origin};

/// A key of nobody.
struct Key {
    pkcs8: &'static [u8],
    /// What makes it this key: where, and how many bytes.
    secrets: &'static [(usize, usize)],
    /// Of its certificate: where in the key it stands.
    public: (usize, usize),
    /// What stands around it there.
    around: (&'static [u8], &'static [u8]),
}

const KEYS: [Key; 3] = [
    Key {
        pkcs8: include_bytes!("../../keys/p256.der"),
        secrets: &[(36, 32)],
        public: (73, 65),
        around: (&[], &[]),
    },
    Key {
        pkcs8: include_bytes!("../../keys/p384.der"),
        secrets: &[(35, 48)],
        public: (88, 97),
        around: (&[], &[]),
    },
    Key {
        pkcs8: include_bytes!("../../keys/rsa2048.der"),
        // The modulus and both its factors.
        secrets: &[(38, 256), (563, 128), (695, 128)],
        public: (38, 256),
        // `RSAPublicKey` (RFC 8017, appendix A.1.1).
        around: (&[0x30, 0x82, 1, 10, 2, 0x82, 1, 1, 0], &[2, 3, 1, 0, 1]),
    },
];

impl Key {
    fn part(&self, (from, bytes): (usize, usize)) -> &[u8] {
        &self.pkcs8[from..from + bytes]
    }

    fn public(&self) -> Vec<u8> {
        [self.around.0, self.part(self.public), self.around.1].concat()
    }

    fn has_its_secrets(&self, der: &[u8]) -> bool {
        let has = |part: &[u8]| der.windows(part.len()).any(|window| window == part);
        self.secrets.iter().all(|&part| has(self.part(part)))
    }

    fn changed(&self, changes: &[u8]) -> Vec<u8> {
        let mut der = self.pkcs8.to_vec();
        for &[high, low, value] in changes.as_chunks::<3>().0 {
            let place = usize::from(u16::from_be_bytes([high & 0x3f, low])) % (der.len() + 1);
            match (high >> 6, der.get_mut(place)) {
                (0 | 1, Some(byte)) => *byte = value,
                (2, Some(_)) => drop(der.remove(place)),
                _ => der.insert(place, value),
            }
        }
        der
    }

    fn check(&self, der: &[u8]) -> Result<(), CredentialError> {
        let origin = Origin::Memory;
        check_tls_key((der, &origin), (&self.public(), &origin))
    }
}

fn chain_file(file: &[u8]) {
    let Ok(chain) = read_chain(file, &Origin::Memory) else { return };
    assert!(!chain.is_empty());
    for der in chain {
        assert!(der.len() <= file.len());
        drop(Certificate::parse(&der));
    }
}

fn key_file(file: &[u8]) {
    let Ok(der) = read_key(file, &Origin::Memory) else { return };
    if KEYS[0].check(&der).is_ok() {
        assert!(KEYS[0].has_its_secrets(&der), "another key is taken for it");
    }
}

fn changed_key(key: &Key, changes: &[u8]) {
    let der = key.changed(changes);
    match key.check(&der) {
        Ok(()) => assert!(key.has_its_secrets(&der), "another key is taken for it"),
        Err(error) => assert_ne!(der, key.pkcs8, "{error}"),
    }
}

/// One input.
pub fn run(input: &[u8]) {
    match input.split_first() {
        None => {}
        Some((0, file)) => chain_file(file),
        Some((1, file)) => key_file(file),
        Some((kind, changes)) => changed_key(&KEYS[usize::from(*kind) % KEYS.len()], changes),
    }
}
