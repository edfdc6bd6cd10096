//! Who a process is, and whom it trusts.
//!
//! A peer *is* its certificate: the [`CertHash`] of the leaf. A [`NetCredential`] holds the own key
//! and chain together with a [`Trust`], and [`Trust::judge`] is the one place where a peer's
//! certificate is accepted or refused.
//!
//! ```text
//! identity.rs ............ CertHash, SignerKey: the two names a certificate can be trusted by
//! ├── credential.rs ...... NetCredential: own key, own chain, trust
//! ├── key_files.rs ....... PEM and DER, on disk and in memory
//! ├── private_key.rs ..... kinds of keys, and whose they are
//! ├── pkcs12.rs .......... key and chain for the C library
//! ├── signing_key.rs ..... SigningKey: vouches for certificates
//! ├── trust.rs ........... Trust and Refusal
//! ├── prefixes.rs ........ KeyPrefixes: the short names that messages use
//! ├── certificate.rs ..... reading a certificate
//! └── error.rs ........... CredentialError
//! ```
//!
//! Invariants: nobody is trusted unless it was asked for; nothing a peer sends makes this module
//! panic, or allocate beyond a small multiple of [`CERTIFICATE_BYTES_MAX`]; no `Debug` or `Display`
//! shows a secret.

mod certificate;
mod credential;
mod error;
mod key_files;
mod pkcs12;
mod prefixes;
mod private_key;
#[cfg(feature = "serde")]
mod serialized;
mod signing_key;
mod trust;

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

pub use credential::NetCredential;
pub use error::{CredentialError, Origin};
pub use key_files::read_certificate;
pub(crate) use pkcs12::Pkcs12;
pub use prefixes::{KeyPrefixes, key_prefixes};
pub use signing_key::SigningKey;
pub use trust::{Refusal, Trust};

/// The largest leaf certificate that is read, in bytes. Real ones take one or two KiB; the limit
/// keeps what a stranger can make us parse small.
pub const CERTIFICATE_BYTES_MAX: usize = 64 * 1024;

/// The largest own chain, in bytes of a handshake: its certificates in DER, and 5 bytes for each.
///
/// MsQuic keeps what is unacknowledged of a handshake in a buffer that it doubles, up to 32 KiB; with
/// more a worker of the library would never end. Of this room long protocol names take theirs: each byte
/// over 288 of them takes two.
pub const CHAIN_BYTES_MAX: usize = 30 * 1024;

/// Bytes of protocol names, one more for each, that leave a chain its [`CHAIN_BYTES_MAX`].
///
/// A client that is asked to begin anew has sent its names twice. The rest of a handshake takes up to
/// 880 bytes beside these at the client (two hellos, the signature of an RSA key of 4,096 bits,
/// Finished) and 1,350 at the server, of 2,048.
pub(crate) const ALPN_BYTES_FREE: usize = 288;

/// How many entries of a certificate's signatures extension are examined. A certificate has few
/// signers; the limit keeps a stranger from buying signature checks.
pub const SIGNATURES_EXAMINED_MAX: usize = 8;

/// What OpenSSL prints before a fingerprint, in one case or the other.
const FINGERPRINT_WORDS: &str = "sha256 Fingerprint=";

/// How many bytes of a hash or a key its short form shows: enough to tell peers apart in a log,
/// never enough to decide anything.
const SHORT_BYTES: usize = 4;

/// An identity: the SHA-256 of a certificate's leaf DER.
///
/// Shown and parsed as 64 hex digits, the same as
/// `openssl x509 -outform der -in certificate.pem | sha256sum`. What
/// `openssl x509 -noout -fingerprint -sha256 -in certificate.pem` prints is parsed as well, with or
/// without the words before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CertHash([u8; 32]);

impl CertHash {
    /// The identity of the certificate with this DER encoding.
    #[must_use]
    pub fn of_der(leaf_der: &[u8]) -> Self {
        Self(Sha256::digest(leaf_der).into())
    }

    /// The identity with these 32 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the hash.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for CertHash {
    type Err = ParseHexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words = text.get(..FINGERPRINT_WORDS.len());
        let named = words.is_some_and(|words| words.eq_ignore_ascii_case(FINGERPRINT_WORDS));
        parse_hex(if named { &text[FINGERPRINT_WORDS.len()..] } else { text }).map(Self)
    }
}

/// The public half of a [`SigningKey`]: 32 bytes of Ed25519, shown and parsed as 64 hex digits.
///
/// Who trusts it accepts every certificate whose public key it has signed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SignerKey([u8; 32]);

impl SignerKey {
    /// The key with these 32 bytes. Bytes that are no Ed25519 key make a key that signed nothing.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for SignerKey {
    type Err = ParseHexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_hex(text).map(Self)
    }
}

/// All of it as hex digits, or the first few of them.
macro_rules! shown_as_hex {
    ($($name:ident),+) => {$(
        impl $name {
            /// The first 8 hex digits, for people to read. Others may begin with the same.
            #[must_use]
            pub fn short(&self) -> String {
                Hex(&self.0[..SHORT_BYTES]).to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                Hex(&self.0).fmt(formatter)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{}({})", stringify!($name), Hex(&self.0[..SHORT_BYTES]))
            }
        }
    )+};
}

shown_as_hex!(CertHash, SignerKey);

/// Why a text is no hash or key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseHexError {
    /// The text is too short or too long.
    #[error("expected {expected} hex digits, found {found} characters")]
    Length {
        /// How many digits there should be.
        expected: usize,
        /// How many characters there are.
        found: usize,
    },
    /// One character is no hex digit.
    #[error("expected only hex digits, found {found:?} as character {position}")]
    Digit {
        /// Which character, counted from 1.
        position: usize,
        /// The character.
        found: char,
    },
}

/// 64 digits, or 32 pairs of digits with colons between them.
fn parse_hex(text: &str) -> Result<[u8; 32], ParseHexError> {
    let mut bytes = [0; 32];
    let expected = 2 * bytes.len();
    // With colons every third character is one.
    let colons = text.chars().nth(2) == Some(':');
    let separates = |index: usize, found: char| colons && index % 3 == 2 && found == ':';
    let characters = || text.chars().enumerate().filter(|(at, found)| !separates(*at, *found));
    let found = characters().count();
    if found != expected {
        return Err(ParseHexError::Length { expected, found });
    }
    for (index, (at, found)) in characters().enumerate() {
        let digit = found.to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let Some(digit) = digit else {
            return Err(ParseHexError::Digit { position: at + 1, found });
        };
        bytes[index / 2] = bytes[index / 2] << 4 | digit;
    }
    Ok(bytes)
}

/// Shows bytes as lower-case hex digits.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// SHA-256 of nothing, as FIPS 180-4 implementations agree on it.
    const OF_NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn hash_is_sha_256_in_lower_case_hex() {
        let hash = CertHash::of_der(b"");
        assert_eq!(hash.to_string(), OF_NOTHING);
        assert_eq!(hash.short(), "e3b0c442");
        assert_eq!(format!("{hash:?}"), "CertHash(e3b0c442)");
        assert_eq!(CertHash::from_bytes(*hash.as_bytes()), hash);
    }

    #[test]
    fn hash_is_parsed_in_either_case() {
        let hash = CertHash::of_der(b"");
        assert_eq!(OF_NOTHING.parse(), Ok(hash));
        assert_eq!(OF_NOTHING.to_uppercase().parse(), Ok(hash));
    }

    #[test]
    fn hash_is_parsed_as_openssl_prints_it() {
        let pairs: Vec<&str> = (0..32).map(|at| &OF_NOTHING[2 * at..2 * at + 2]).collect();
        let colons = pairs.join(":");
        for text in [&colons, &colons.to_uppercase()] {
            assert_eq!(text.parse(), Ok(CertHash::of_der(b"")));
        }
        for words in ["sha256 Fingerprint=", "SHA256 Fingerprint="] {
            let printed = format!("{words}{}", colons.to_uppercase());
            assert_eq!(printed.parse(), Ok(CertHash::of_der(b"")));
        }
        let sha_1 = pairs[..20].join(":").parse::<CertHash>().unwrap_err();
        assert_eq!(sha_1.to_string(), "expected 64 hex digits, found 40 characters");
        let odd = "e3b0:".to_owned() + &OF_NOTHING[5..];
        let error = odd.parse::<CertHash>().unwrap_err();
        assert_eq!(error.to_string(), "expected only hex digits, found ':' as character 5");
        let double = colons.replacen(':', "::", 1);
        let error = double.parse::<CertHash>().unwrap_err();
        assert!(error.to_string().starts_with("expected 64 hex digits"), "{error}");
    }

    #[test]
    fn what_is_no_hash_says_why() {
        let short = OF_NOTHING[..63].parse::<CertHash>().unwrap_err();
        assert_eq!(short.to_string(), "expected 64 hex digits, found 63 characters");
        let letter = OF_NOTHING.replacen("b0", "bx", 1).parse::<CertHash>().unwrap_err();
        assert_eq!(letter.to_string(), "expected only hex digits, found 'x' as character 4");
        assert!("".parse::<SignerKey>().is_err());
    }

    proptest! {
        #[test]
        fn any_hash_and_key_comes_back_from_its_text(bytes: [u8; 32]) {
            prop_assert_eq!(CertHash(bytes).to_string().parse(), Ok(CertHash(bytes)));
            prop_assert_eq!(SignerKey(bytes).to_string().parse(), Ok(SignerKey(bytes)));
        }

        #[test]
        fn any_text_is_parsed_without_a_panic(text in "\\PC{0,80}|[0-9a-fé+]{64}|[0-9a-fA-F:é]{90,100}") {
            let _ = text.parse::<CertHash>();
        }
    }
}
