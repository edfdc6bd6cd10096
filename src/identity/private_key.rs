//! What a private key is: its kind, and whether it belongs to a certificate.
//!
//! Keys are PKCS#8 (RFC 5958, section 2). What is wrong with one is said here, and not by the first
//! handshake that fails.

use ring::rand::SystemRandom;
use ring::rsa;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, KeyPair,
};
use x509_parser::der_parser::asn1_rs::{Any, Class, Sequence, Tag};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION,
    OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer;
use x509_parser::x509::AlgorithmIdentifier;
use zeroize::Zeroizing;

use super::{CredentialError, Origin};

pub(super) const USABLE_FOR_TLS: &str =
    "an ECDSA P-256, ECDSA P-384 or RSA (2048, 3072 or 4096 bits) key";
const USABLE_FOR_SIGNING: &str = "an Ed25519 key";

/// Sizes of an RSA modulus, in bits: those that ring takes. Less is broken, more costs every
/// handshake milliseconds.
const RSA_BITS: [usize; 3] = [2_048, 3_072, 4_096];

/// The least public exponent that ring takes, and what every program makes today.
const RSA_EXPONENT_MIN: u64 = 65_537;

/// The mark of a point with both coordinates (SEC 1, section 2.3.3).
const UNCOMPRESSED_POINT: u8 = 4;

/// Checks that PKCS#8 DER holds a key that TLS can use here, and that it is the private half of
/// `public_key`, which the certificate's `SubjectPublicKeyInfo` carries.
pub(super) fn check_tls_key(
    (der, key_origin): (&[u8], &Origin),
    (public_key, certificate_origin): (&[u8], &Origin),
) -> Result<(), CredentialError> {
    let kind = KeyKind::of(der, key_origin)?;
    let private = private_part(der);
    let judged = match kind {
        KeyKind::Ec256 => judge_ec(private, public_key, &ECDSA_P256_SHA256_ASN1_SIGNING, 32),
        KeyKind::Ec384 => judge_ec(private, public_key, &ECDSA_P384_SHA384_ASN1_SIGNING, 48),
        KeyKind::Rsa => judge_rsa(private, public_key),
        KeyKind::Ed25519 | KeyKind::Other(_) => {
            return Err(kind.unsupported(key_origin, USABLE_FOR_TLS));
        }
    };
    judged.map_err(|fault| match fault {
        Fault::Malformed => CredentialError::KeyMalformed { origin: key_origin.clone() },
        Fault::Unsupported(found) => KeyKind::Other(found).unsupported(key_origin, USABLE_FOR_TLS),
        Fault::OfAnother => CredentialError::KeyMismatch {
            certificate: certificate_origin.clone(),
            key: key_origin.clone(),
        },
    })
}

/// Checks that PKCS#8 DER holds a key that signs certificates here.
pub(super) fn check_signing_key(der: &[u8], origin: &Origin) -> Result<(), CredentialError> {
    match KeyKind::of(der, origin)? {
        KeyKind::Ed25519 => Ok(()),
        other => Err(other.unsupported(origin, USABLE_FOR_SIGNING)),
    }
}

/// What is wrong with a key of a kind that serves.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    Malformed,
    Unsupported(String),
    OfAnother,
}

/// The octets of PKCS#8's `privateKey`.
fn private_part(pkcs8: &[u8]) -> Option<&[u8]> {
    let mut parts = Parts::of_sequence(pkcs8)?;
    parts.next_with(Tag::Integer)?;
    parts.next_with(Tag::Sequence)?;
    parts.next_with(Tag::OctetString)
}

/// `ECPrivateKey` (RFC 5915, section 3). Its public half may be absent: then it is made from the
/// scalar, as OpenSSL does, and what the scalar is to be is known from the certificate.
fn judge_ec(
    private: Option<&[u8]>,
    of_certificate: &[u8],
    algorithm: &'static EcdsaSigningAlgorithm,
    scalar_bytes: usize,
) -> Result<(), Fault> {
    let key = private.and_then(EcKey::read).ok_or(Fault::Malformed)?;
    let scalar = key.scalar_of(scalar_bytes).ok_or(Fault::Malformed)?;
    let random = SystemRandom::new();
    let is_half_of = |public: &[u8]| {
        EcdsaKeyPair::from_private_key_and_public_key(algorithm, &scalar, public, &random).is_ok()
    };
    let matches = match (key.public, of_certificate) {
        (Some(own @ [UNCOMPRESSED_POINT, ..]), _) => {
            if !is_half_of(own) {
                return Err(Fault::Malformed);
            }
            compressed(own) == compressed(of_certificate)
        }
        (own, [UNCOMPRESSED_POINT, ..]) => {
            is_half_of(of_certificate)
                && own.is_none_or(|own| compressed(own) == compressed(of_certificate))
        }
        // Nothing here has the square roots that it takes.
        _ => return Err(Fault::Unsupported("an ECDSA (point in compressed form)".to_owned())),
    };
    matches.then_some(()).ok_or(Fault::OfAnother)
}

/// A point in the form that leaves out one coordinate but for its parity (SEC 1, section 2.3.3).
fn compressed(point: &[u8]) -> Option<Vec<u8>> {
    match point {
        [UNCOMPRESSED_POINT, coordinates @ .., last] => {
            let x = coordinates.get(..coordinates.len().div_ceil(2))?;
            Some([&[2 | (last & 1)], x].concat())
        }
        [2 | 3, ..] => Some(point.to_vec()),
        _ => None,
    }
}

struct EcKey<'a> {
    scalar: &'a [u8],
    public: Option<&'a [u8]>,
}

impl<'a> EcKey<'a> {
    fn read(der: &'a [u8]) -> Option<Self> {
        let mut parts = Parts::of_sequence(der)?;
        parts.next_with(Tag::Integer)?;
        let scalar = parts.next_with(Tag::OctetString)?;
        // [0]: the curve again.
        parts.next_explicit(0);
        let public = match parts.next_explicit(1) {
            None => None,
            Some(bits) => match Parts(bits).next_with(Tag::BitString)? {
                [0, point @ ..] => Some(point),
                _ => return None,
            },
        };
        parts.0.is_empty().then_some(Self { scalar, public })
    }

    /// The scalar with its leading zeros, all of them: some programs leave them out.
    fn scalar_of(&self, bytes: usize) -> Option<Zeroizing<Vec<u8>>> {
        let digits = without_zeros(self.scalar);
        let missing = bytes.checked_sub(digits.len())?;
        let mut scalar = Zeroizing::new(Vec::with_capacity(bytes));
        scalar.resize(missing, 0);
        scalar.extend_from_slice(digits);
        Some(scalar)
    }
}

/// `RSAPrivateKey` (RFC 8017, appendix A.1.2).
fn judge_rsa(private: Option<&[u8]>, of_certificate: &[u8]) -> Result<(), Fault> {
    let private = private.ok_or(Fault::Malformed)?;
    let public = RsaPublic::read(private).ok_or(Fault::Malformed)?;
    let bits = public.modulus_bits();
    if !RSA_BITS.contains(&bits) {
        return Err(Fault::Unsupported(format!("an RSA ({bits} bits)")));
    }
    if public.exponent < RSA_EXPONENT_MIN {
        let exponent = public.exponent;
        return Err(Fault::Unsupported(format!("an RSA (public exponent {exponent})")));
    }
    let pair = rsa::KeyPair::from_der(private).map_err(|_| Fault::Malformed)?;
    let matches = pair.public_key().as_ref() == of_certificate;
    matches.then_some(()).ok_or(Fault::OfAnother)
}

/// The public numbers of an RSA key, to say what is special about one that does not serve.
struct RsaPublic<'a> {
    /// Without leading zeros.
    modulus: &'a [u8],
    /// The largest number where it is larger.
    exponent: u64,
}

impl<'a> RsaPublic<'a> {
    fn read(private: &'a [u8]) -> Option<Self> {
        let mut parts = Parts::of_sequence(private)?;
        parts.next_with(Tag::Integer)?;
        let modulus = without_zeros(parts.next_with(Tag::Integer)?);
        let exponent = without_zeros(parts.next_with(Tag::Integer)?);
        let exponent = match exponent.len() {
            0..=8 => exponent.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)),
            _ => u64::MAX,
        };
        Some(Self { modulus, exponent })
    }

    fn modulus_bits(&self) -> usize {
        let unused = self.modulus.first().map_or(0, |first| first.leading_zeros());
        8 * self.modulus.len() - unused as usize
    }
}

fn without_zeros(number: &[u8]) -> &[u8] {
    &number[number.iter().take_while(|byte| **byte == 0).count()..]
}

/// The values that stand one behind the other in DER.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn of_sequence(der: &'a [u8]) -> Option<Self> {
        let mut whole = Self(der);
        let content = whole.next_with(Tag::Sequence)?;
        whole.0.is_empty().then_some(Self(content))
    }

    /// The content of the next value, which must have this tag.
    fn next_with(&mut self, tag: Tag) -> Option<&'a [u8]> {
        let (rest, value) = Any::from_der(self.0).ok()?;
        let matches = value.class() == Class::Universal && value.tag() == tag;
        self.0 = rest;
        matches.then_some(value.data)
    }

    /// What the next value holds, if it has this context-specific tag; else it is left.
    fn next_explicit(&mut self, number: u32) -> Option<&'a [u8]> {
        let (rest, value) = Any::from_der(self.0).ok()?;
        if value.class() != Class::ContextSpecific || value.tag() != Tag(number) {
            return None;
        }
        self.0 = rest;
        Some(value.data)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum KeyKind {
    Ec256,
    Ec384,
    Rsa,
    Ed25519,
    Other(String),
}

impl KeyKind {
    /// Tells the kind of a PKCS#8 key (RFC 5958, section 2) and what else DER may hold: the
    /// older forms start with a version too, the encrypted form with an algorithm.
    fn of(der: &[u8], origin: &Origin) -> Result<Self, CredentialError> {
        let malformed = || CredentialError::KeyMalformed { origin: origin.clone() };
        let (rest, outer) = Sequence::from_der(der).map_err(|_| malformed())?;
        if !rest.is_empty() {
            return Err(malformed());
        }
        let (after_version, version) = Any::from_der(&outer.content).map_err(|_| malformed())?;
        match version.tag() {
            Tag::Integer => {}
            Tag::Sequence => return Err(CredentialError::KeyEncrypted { origin: origin.clone() }),
            _ => return Err(malformed()),
        }
        let (_, next) = Any::from_der(after_version).map_err(|_| malformed())?;
        match next.tag() {
            Tag::Sequence => {}
            Tag::Integer | Tag::OctetString => {
                return Err(CredentialError::KeyNotPkcs8 { origin: origin.clone() });
            }
            _ => return Err(malformed()),
        }
        let (_, algorithm) =
            AlgorithmIdentifier::from_der(after_version).map_err(|_| malformed())?;
        Ok(Self::of_algorithm(&algorithm))
    }

    fn of_algorithm(algorithm: &AlgorithmIdentifier<'_>) -> Self {
        let oid = &algorithm.algorithm;
        let curve = || algorithm.parameters().and_then(|curve| curve.as_oid().ok());
        if *oid == OID_PKCS1_RSAENCRYPTION {
            Self::Rsa
        } else if *oid == OID_SIG_ED25519 {
            Self::Ed25519
        } else if *oid != OID_KEY_TYPE_EC_PUBLIC_KEY {
            Self::Other(format!("an unknown ({oid})"))
        } else {
            match curve() {
                Some(curve) if curve == OID_EC_P256 => Self::Ec256,
                Some(curve) if curve == OID_NIST_EC_P384 => Self::Ec384,
                Some(curve) => Self::Other(format!("an ECDSA (curve {curve})")),
                None => Self::Other("an ECDSA (curve without a name)".to_owned()),
            }
        }
    }

    fn unsupported(self, origin: &Origin, usable: &'static str) -> CredentialError {
        let found = match self {
            Self::Ec256 => "an ECDSA P-256".to_owned(),
            Self::Ec384 => "an ECDSA P-384".to_owned(),
            Self::Rsa => "an RSA".to_owned(),
            Self::Ed25519 => "an Ed25519".to_owned(),
            Self::Other(found) => found,
        };
        CredentialError::KeyUnsupported { origin: origin.clone(), found, usable }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::SignatureAlgorithm;

    use super::*;

    const P_256: &SignatureAlgorithm = &rcgen::PKCS_ECDSA_P256_SHA256;

    /// Scalar and public point of a fresh key.
    fn halves(kind: &'static SignatureAlgorithm, bytes: usize) -> (Vec<u8>, Vec<u8>) {
        let pair = rcgen::KeyPair::generate_for(kind).unwrap();
        let pkcs8 = pair.serialize_der();
        let key = private_part(&pkcs8).and_then(EcKey::read).unwrap();
        let scalar = key.scalar_of(bytes).unwrap();
        (scalar.to_vec(), pair.public_key_raw().to_vec())
    }

    fn value(tag: u8, content: &[u8]) -> Vec<u8> {
        [&[tag, u8::try_from(content.len()).unwrap()], content].concat()
    }

    /// `ECPrivateKey`.
    fn ec_key(scalar: &[u8], public: Option<&[u8]>) -> Vec<u8> {
        let public = public.map(|point| value(0xa1, &value(3, &[&[0], point].concat())));
        let content = [&[2, 1, 1][..], &value(4, scalar), &public.unwrap_or_default()].concat();
        value(0x30, &content)
    }

    fn judge_p_256(key: &[u8], of_certificate: &[u8]) -> Result<(), Fault> {
        judge_ec(Some(key), of_certificate, &ECDSA_P256_SHA256_ASN1_SIGNING, 32)
    }

    #[test]
    fn a_public_half_may_be_absent_whole_or_compressed() {
        let (scalar, point) = halves(P_256, 32);
        let short = compressed(&point).unwrap();
        assert_eq!((short.len(), &short[1..]), (33, &point[1..33]));
        for public in [None, Some(&*point), Some(&*short)] {
            let key = ec_key(&scalar, public);
            assert_eq!(judge_p_256(&key, &point), Ok(()), "{public:?}");
        }
        assert_eq!(judge_p_256(&ec_key(&scalar, Some(&point)), &short), Ok(()));
        // What cannot be judged is not called damaged.
        for public in [None, Some(&*short)] {
            let judged = judge_p_256(&ec_key(&scalar, public), &short);
            assert!(matches!(judged, Err(Fault::Unsupported(_))), "{judged:?}");
        }
    }

    #[test]
    fn a_key_of_another_certificate_is_told_from_a_damaged_one() {
        let ((scalar, point), (_, other)) = (halves(P_256, 32), halves(P_256, 32));
        for public in [None, Some(&*point)] {
            let judged = judge_p_256(&ec_key(&scalar, public), &other);
            assert_eq!(judged, Err(Fault::OfAnother), "{public:?}");
        }
        let contradicting = ec_key(&scalar, Some(&other));
        assert_eq!(judge_p_256(&contradicting, &other), Err(Fault::Malformed));
        assert_eq!(judge_p_256(&ec_key(&[0; 33], None), &point), Err(Fault::OfAnother));
        assert_eq!(judge_p_256(&ec_key(&[1; 33], None), &point), Err(Fault::Malformed));
        let (_, larger) = halves(&rcgen::PKCS_ECDSA_P384_SHA384, 48);
        assert_eq!(judge_p_256(&ec_key(&scalar, None), &larger), Err(Fault::OfAnother));
    }

    #[test]
    fn a_scalar_may_be_written_without_its_leading_zeros_or_with_more() {
        let beginning_with_zero = || {
            let (scalar, point) = halves(P_256, 32);
            (scalar[0] == 0).then_some((scalar, point))
        };
        let (scalar, point) = (0..).find_map(|_| beginning_with_zero()).unwrap();
        for written in [&scalar[1..], &[&[0, 0], &*scalar].concat()] {
            assert_eq!(judge_p_256(&ec_key(written, None), &point), Ok(()));
        }
    }

    #[test]
    fn an_rsa_key_that_does_not_serve_says_what_is_special_about_it() {
        let number = |digits: &[u8]| value(2, digits);
        let key = |modulus: &[u8], exponent: &[u8]| {
            value(0x30, &[number(&[0]), number(modulus), number(exponent)].concat())
        };
        let found = |key: &[u8]| match judge_rsa(Some(key), &[]) {
            Err(Fault::Unsupported(found)) => found,
            other => panic!("{other:?}"),
        };
        assert_eq!(found(&key(&[0, 0x80, 0, 0, 1], &[1, 0, 1])), "an RSA (32 bits)");
        assert_eq!(found(&key(&[1, 1], &[3])), "an RSA (9 bits)");
        assert_eq!(found(&key(&[0], &[3])), "an RSA (0 bits)");
        assert_eq!(judge_rsa(Some(&[0x30, 0]), &[]), Err(Fault::Malformed));
        assert_eq!(judge_rsa(None, &[]), Err(Fault::Malformed));
    }
}
