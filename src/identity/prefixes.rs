//! Short names for the keys of a certificate, for messages about who refused whom.

use std::fmt;

use super::Hex;
use super::certificate::Certificate;

/// How many bytes of a key a prefix shows: short enough for a line of a log, long enough to find
/// the key in a configuration.
const PREFIX_BYTES: usize = 8;

/// The beginnings of a certificate's public key and of the keys that claim to have signed it.
///
/// They are what the certificate says; nothing about them is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPrefixes {
    /// The first 8 bytes of the subject's public key in hex, without what all such keys share;
    /// empty if the certificate cannot be read.
    pub subject: String,
    /// The first 8 bytes in hex of each signer's key, at most
    /// [`SIGNATURES_EXAMINED_MAX`](super::SIGNATURES_EXAMINED_MAX).
    pub signers: Vec<String>,
}

/// Reads the key prefixes of a certificate. Bytes that are no certificate have none.
#[must_use]
pub fn key_prefixes(leaf_der: &[u8]) -> KeyPrefixes {
    let Ok(certificate) = Certificate::parse(leaf_der) else {
        return KeyPrefixes { subject: String::new(), signers: Vec::new() };
    };
    let signers = certificate.claimed_signatures().map_or_else(
        |_| Vec::new(),
        |claimed| claimed.map(|claimed| prefix(claimed.signer.as_bytes())).collect(),
    );
    KeyPrefixes { subject: prefix(certificate.distinctive_key_bytes()), signers }
}

fn prefix(key: &[u8]) -> String {
    Hex(&key[..key.len().min(PREFIX_BYTES)]).to_string()
}

impl fmt::Display for KeyPrefixes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.subject.is_empty() {
            return formatter.write_str("an unreadable key");
        }
        write!(formatter, "key {}…", self.subject)?;
        for (index, signer) in self.signers.iter().enumerate() {
            let lead = if index == 0 { " signed by " } else { ", " };
            write!(formatter, "{lead}{signer}…")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{NetCredential, SigningKey};

    #[test]
    fn prefixes_name_the_subject_and_every_signer() {
        let signers = [SigningKey::generate(), SigningKey::generate()];
        let credential = NetCredential::generate_self_signed(&["localhost"], &signers).unwrap();
        let leaf = &credential.chain_der()[0];
        let prefixes = key_prefixes(leaf);

        let certificate = Certificate::parse(leaf).unwrap();
        let point = certificate.public_key();
        assert_eq!(point[0], 4);
        assert_eq!(prefixes.subject, Hex(&point[1..9]).to_string());
        let expected: Vec<String> =
            signers.iter().map(|key| key.public().to_string()[..16].to_owned()).collect();
        assert_eq!(prefixes.signers, expected);
        assert_eq!(
            prefixes.to_string(),
            format!("key {}… signed by {}…, {}…", prefixes.subject, expected[0], expected[1])
        );
    }

    #[test]
    fn prefixes_of_an_unsigned_certificate_name_its_key_alone() {
        let credential = NetCredential::generate_self_signed(&["localhost"], &[]).unwrap();
        let prefixes = key_prefixes(&credential.chain_der()[0]);
        assert_eq!(prefixes.to_string(), format!("key {}…", prefixes.subject));
    }

    #[test]
    fn prefixes_of_garbage_say_that_it_is_unreadable() {
        assert_eq!(key_prefixes(b"garbage").to_string(), "an unreadable key");
        assert_eq!(key_prefixes(b"").signers, Vec::<String>::new());
    }
}
