//! Reading a certificate.
//!
//! The bytes may come from a stranger: everything is checked, and nothing is read before its size
//! is known to be small.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ed25519_dalek::{Signature, VerifyingKey};
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::Oid;
use x509_parser::der_parser::asn1_rs::oid;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use super::{CERTIFICATE_BYTES_MAX, SIGNATURES_EXAMINED_MAX, SignerKey};

/// Where a certificate carries the signatures of those who vouch for its key.
///
/// The value is a sequence of entries without any framing, each a 32-byte Ed25519 public key and
/// its 64-byte signature over the certificate's `SubjectPublicKeyInfo` DER.
pub(super) const SIGNATURES_OID: [u64; 6] = [1, 2, 3, 4, 5, 6];
const SIGNATURES_OID_DER: Oid<'static> = oid!(1.2.3.4.5.6);

const SIGNER_BYTES: usize = 32;
const SIGNATURE_BYTES: usize = 64;
const ENTRY_BYTES: usize = SIGNER_BYTES + SIGNATURE_BYTES;

/// The mark of an uncompressed point in front of an elliptic curve key (SEC 1, section 2.3.3). It
/// is the same in all of them, so it tells none apart.
const UNCOMPRESSED_POINT: u8 = 0x04;

/// Why bytes cannot be read as a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum CertificateFault {
    #[error("it has {bytes} bytes, more than the {CERTIFICATE_BYTES_MAX} that are read")]
    TooLarge { bytes: usize },
    #[error("it is not an X.509 certificate in DER")]
    NotX509,
    #[error("more bytes follow the certificate")]
    TrailingBytes,
    #[error("its signatures extension is damaged")]
    Signatures,
}

/// How a certificate's validity period relates to a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Period {
    /// It begins that much later.
    NotYet(Duration),
    Within,
    /// It ended that long ago.
    Over(Duration),
}

/// One entry of the signatures extension; nothing about it is verified.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClaimedSignature {
    pub(super) signer: SignerKey,
    signature: [u8; SIGNATURE_BYTES],
}

/// A certificate that could be read. Nothing says yet that anybody should trust it.
#[derive(Debug)]
pub(super) struct Certificate<'a>(X509Certificate<'a>);

impl<'a> Certificate<'a> {
    pub(super) fn parse(der: &'a [u8]) -> Result<Self, CertificateFault> {
        if der.len() > CERTIFICATE_BYTES_MAX {
            return Err(CertificateFault::TooLarge { bytes: der.len() });
        }
        match X509Certificate::from_der(der) {
            Ok(([], certificate)) => Ok(Self(certificate)),
            Ok(_) => Err(CertificateFault::TrailingBytes),
            Err(_) => Err(CertificateFault::NotX509),
        }
    }

    pub(super) fn period(&self, now: SystemTime) -> Period {
        let now = unix_seconds(now);
        let validity = self.0.validity();
        let (begin, end) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        if now < begin {
            Period::NotYet(Duration::from_secs(begin.abs_diff(now)))
        } else if now > end {
            Period::Over(Duration::from_secs(now.abs_diff(end)))
        } else {
            Period::Within
        }
    }

    /// The bits of the subject's public key, as the private key's owner would write them.
    pub(super) fn public_key(&self) -> &[u8] {
        &self.0.public_key().subject_public_key.data
    }

    /// The part of the public key that differs from key to key: an elliptic curve point without
    /// its mark, an RSA modulus without its leading zero.
    pub(super) fn distinctive_key_bytes(&self) -> &[u8] {
        let bytes = self.public_key();
        match self.0.public_key().parsed() {
            Ok(PublicKey::EC(_)) => bytes.strip_prefix(&[UNCOMPRESSED_POINT]).unwrap_or(bytes),
            Ok(PublicKey::RSA(key)) => key.modulus.strip_prefix(&[0]).unwrap_or(key.modulus),
            Ok(_) | Err(_) => bytes,
        }
    }

    /// What the signatures extension claims, at most [`SIGNATURES_EXAMINED_MAX`] entries of it.
    pub(super) fn claimed_signatures(
        &self,
    ) -> Result<impl Iterator<Item = ClaimedSignature>, CertificateFault> {
        let extension = self
            .0
            .get_extension_unique(&SIGNATURES_OID_DER)
            .map_err(|_| CertificateFault::Signatures)?;
        let (entries, rest) =
            extension.map_or(&[][..], |extension| extension.value).as_chunks::<ENTRY_BYTES>();
        if !rest.is_empty() {
            return Err(CertificateFault::Signatures);
        }
        Ok(entries.iter().take(SIGNATURES_EXAMINED_MAX).map(ClaimedSignature::read))
    }

    /// Whether the claimed signer really signed this certificate's public key.
    pub(super) fn verify(&self, claimed: &ClaimedSignature) -> bool {
        VerifyingKey::from_bytes(claimed.signer.as_bytes()).is_ok_and(|key| {
            let signature = Signature::from_bytes(&claimed.signature);
            key.verify_strict(self.0.public_key().raw, &signature).is_ok()
        })
    }
}

impl ClaimedSignature {
    fn read(entry: &[u8; ENTRY_BYTES]) -> Self {
        let (mut signer, mut signature) = ([0; SIGNER_BYTES], [0; SIGNATURE_BYTES]);
        signer.copy_from_slice(&entry[..SIGNER_BYTES]);
        signature.copy_from_slice(&entry[SIGNER_BYTES..]);
        Self { signer: SignerKey::from_bytes(signer), signature }
    }
}

fn unix_seconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |secs| -secs),
    }
}
