//! Whom to trust.
//!
//! [`Trust::judge`] is pure: no clock, no network, no state. It may be called from a transport
//! callback, on a thread that must not wait.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use super::certificate::{Certificate, CertificateFault, Period};
use super::{CERTIFICATE_BYTES_MAX, CertHash, SignerKey};

/// The peers a credential lets in. The default trusts nobody.
///
/// The sets are the operator's own and have no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    hashes: BTreeSet<CertHash>,
    signers: BTreeSet<SignerKey>,
    accept_any: bool,
}

impl Trust {
    /// The identities that are trusted as they are.
    pub fn hashes(&self) -> impl ExactSizeIterator<Item = &CertHash> {
        self.hashes.iter()
    }

    /// The keys whose signature makes a certificate trusted.
    pub fn signers(&self) -> impl ExactSizeIterator<Item = &SignerKey> {
        self.signers.iter()
    }

    /// Whether everybody with a certificate inside its validity period is trusted.
    #[must_use]
    pub const fn accepts_any(&self) -> bool {
        self.accept_any
    }

    /// Whether every peer is refused that is not expected by its hash.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty() && self.signers.is_empty() && !self.accept_any
    }

    pub(super) fn add_hash(&mut self, hash: CertHash) {
        self.hashes.insert(hash);
    }

    pub(super) fn add_signer(&mut self, signer: SignerKey) {
        self.signers.insert(signer);
    }

    pub(super) fn set_accept_any(&mut self) {
        self.accept_any = true;
    }

    /// Accepts or refuses the certificate a peer has shown, and says who the peer is.
    ///
    /// The rules, in order:
    /// 1. There must be a certificate of at most [`CERTIFICATE_BYTES_MAX`] bytes that can be read.
    /// 2. `now` must lie inside its validity period. Nothing overrides this: not a pinned hash, and
    ///    not [`insecure_accept_any`](super::NetCredential::insecure_accept_any).
    /// 3. If a hash is `expected`, it must be exactly this one, and no other trust is needed.
    /// 4. Otherwise its hash must be trusted, or anybody must be accepted, or one of the first
    ///    [`SIGNATURES_EXAMINED_MAX`](super::SIGNATURES_EXAMINED_MAX) signatures it carries must be
    ///    a trusted key's signature over its public key.
    ///
    /// The signature vouches for the key alone. All else in such a certificate, its validity period
    /// too, is the peer's own word: who must be shut out is shut out by no longer trusting the signer.
    ///
    /// That the peer holds the private key is for the TLS handshake to prove.
    ///
    /// # Errors
    /// A [`Refusal`] that says which rule was broken.
    pub fn judge(
        &self,
        leaf_der: Option<&[u8]>,
        expected: Option<CertHash>,
        now: SystemTime,
    ) -> Result<CertHash, Refusal> {
        let leaf_der = leaf_der.ok_or(Refusal::Missing)?;
        let certificate = Certificate::parse(leaf_der).map_err(Refusal::from_fault)?;
        let found = CertHash::of_der(leaf_der);
        match certificate.period(now) {
            Period::Within => {}
            Period::NotYet(wait) => return Err(Refusal::NotYetValid { found, wait }),
            Period::Over(ago) => return Err(Refusal::Expired { found, ago }),
        }
        if let Some(expected) = expected {
            let matches = expected == found;
            return matches.then_some(found).ok_or(Refusal::Unexpected { expected, found });
        }
        if self.hashes.contains(&found) || self.accept_any || self.vouched_for(&certificate)? {
            return Ok(found);
        }
        Err(Refusal::Untrusted { found })
    }

    /// Membership comes first: a stranger's signatures cost a look-up, never a verification.
    fn vouched_for(&self, certificate: &Certificate<'_>) -> Result<bool, Refusal> {
        if self.signers.is_empty() {
            return Ok(false);
        }
        let mut claimed = certificate.claimed_signatures().map_err(Refusal::from_fault)?;
        Ok(claimed
            .any(|claimed| self.signers.contains(&claimed.signer) && certificate.verify(&claimed)))
    }
}

/// Why a peer's certificate was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The peer showed no certificate.
    #[error("the peer showed no certificate: it must be started with a credential of its own")]
    Missing,
    /// The certificate is larger than is read.
    #[error(
        "the peer's certificate has {bytes} bytes, more than the {CERTIFICATE_BYTES_MAX} that are \
         read: it must use a smaller one"
    )]
    TooLarge {
        /// The size of the certificate.
        bytes: usize,
    },
    /// The certificate cannot be read.
    #[error("the peer's certificate is damaged, {reason}: it must be made again")]
    Malformed {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The validity period is over.
    #[error(
        "the peer's certificate {found} expired {} s ago: it must be renewed, unless this \
         machine's clock is wrong", .ago.as_secs()
    )]
    Expired {
        /// The certificate's hash.
        found: CertHash,
        /// How long ago the validity period ended.
        ago: Duration,
    },
    /// The validity period has not begun.
    #[error(
        "the peer's certificate {found} is not valid for another {} s: compare the clocks of both \
         machines", .wait.as_secs()
    )]
    NotYetValid {
        /// The certificate's hash.
        found: CertHash,
        /// How long until the validity period begins.
        wait: Duration,
    },
    /// The peer is another one than was asked for.
    #[error(
        "the peer showed the certificate {found} where {expected} was expected: check the address, \
         or expect the other hash if the peer's certificate was replaced"
    )]
    Unexpected {
        /// The hash that was asked for.
        expected: CertHash,
        /// The certificate's hash.
        found: CertHash,
    },
    /// Nobody said that this peer is to be trusted.
    #[error(
        "the peer's certificate {found} is not trusted: to let it in, add its hash to the trusted \
         set, or have its key signed by a trusted signer"
    )]
    Untrusted {
        /// The certificate's hash.
        found: CertHash,
    },
}

impl Refusal {
    fn from_fault(fault: CertificateFault) -> Self {
        let reason = match fault {
            CertificateFault::TooLarge { bytes } => return Self::TooLarge { bytes },
            CertificateFault::NotX509 => "not an X.509 certificate in DER",
            CertificateFault::TrailingBytes => "more bytes follow it",
            CertificateFault::Signatures => "its signatures extension has an impossible form",
        };
        Self::Malformed { reason }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;
    use rcgen::{CertificateParams, CustomExtension, KeyPair, PublicKeyData};

    use super::*;
    use crate::identity::certificate::SIGNATURES_OID;
    use crate::identity::{SIGNATURES_EXAMINED_MAX, SigningKey};

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    /// A certificate with this content of the signatures extension, valid around [`now`].
    fn certificate_with(key: &KeyPair, signatures: &[Vec<u8>]) -> Vec<u8> {
        let mut parameters = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(2027, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2028, 1, 1);
        for signatures in signatures {
            parameters
                .custom_extensions
                .push(CustomExtension::from_oid_content(&SIGNATURES_OID, signatures.clone()));
        }
        parameters.self_signed(key).unwrap().der().to_vec()
    }

    fn entry(signer: &SigningKey, key: &KeyPair) -> Vec<u8> {
        signer.entry(&key.subject_public_key_info())
    }

    fn trusting_signer(signer: &SigningKey) -> Trust {
        let mut trust = Trust::default();
        trust.add_signer(signer.public());
        trust
    }

    fn trusting_hash(hash: CertHash) -> Trust {
        let mut trust = Trust::default();
        trust.add_hash(hash);
        trust
    }

    fn accepting_any() -> Trust {
        let mut trust = Trust::default();
        trust.set_accept_any();
        trust
    }

    fn plain_leaf() -> Vec<u8> {
        certificate_with(&KeyPair::generate().unwrap(), &[])
    }

    #[test]
    fn empty_trust_refuses_a_good_certificate() {
        let leaf = plain_leaf();
        let found = CertHash::of_der(&leaf);
        assert!(Trust::default().is_empty());
        let refusal = Trust::default().judge(Some(&leaf), None, now()).unwrap_err();
        assert_eq!(refusal, Refusal::Untrusted { found });
        assert!(refusal.to_string().contains(&found.to_string()));
    }

    #[test]
    fn no_certificate_is_refused_even_when_anybody_is_accepted() {
        assert_eq!(accepting_any().judge(None, None, now()), Err(Refusal::Missing));
    }

    #[test]
    fn pinned_hash_is_accepted_and_another_is_not() {
        let leaf = plain_leaf();
        let trust = trusting_hash(CertHash::of_der(&leaf));
        assert_eq!(trust.judge(Some(&leaf), None, now()), Ok(CertHash::of_der(&leaf)));
        let other = plain_leaf();
        assert!(matches!(trust.judge(Some(&other), None, now()), Err(Refusal::Untrusted { .. })));
    }

    #[test]
    fn anybody_is_accepted_only_when_asked_for() {
        let leaf = plain_leaf();
        assert_eq!(accepting_any().judge(Some(&leaf), None, now()), Ok(CertHash::of_der(&leaf)));
    }

    #[test]
    fn expected_hash_needs_no_other_trust() {
        let leaf = plain_leaf();
        let found = CertHash::of_der(&leaf);
        assert_eq!(Trust::default().judge(Some(&leaf), Some(found), now()), Ok(found));
    }

    #[test]
    fn expected_hash_overrules_every_other_trust() {
        let leaf = plain_leaf();
        let found = CertHash::of_der(&leaf);
        let expected = CertHash::of_der(b"another");
        let refusal = Err(Refusal::Unexpected { expected, found });
        assert_eq!(accepting_any().judge(Some(&leaf), Some(expected), now()), refusal);
        assert_eq!(trusting_hash(found).judge(Some(&leaf), Some(expected), now()), refusal);
    }

    #[test]
    fn certificate_signed_by_a_trusted_key_is_accepted() {
        let (signer, key) = (SigningKey::generate(), KeyPair::generate().unwrap());
        let leaf = certificate_with(&key, &[entry(&signer, &key)]);
        let verdict = trusting_signer(&signer).judge(Some(&leaf), None, now());
        assert_eq!(verdict, Ok(CertHash::of_der(&leaf)));
    }

    #[test]
    fn certificate_signed_by_another_key_is_refused() {
        let (signer, key) = (SigningKey::generate(), KeyPair::generate().unwrap());
        let leaf = certificate_with(&key, &[entry(&signer, &key)]);
        let verdict = trusting_signer(&SigningKey::generate()).judge(Some(&leaf), None, now());
        assert_eq!(verdict, Err(Refusal::Untrusted { found: CertHash::of_der(&leaf) }));
    }

    #[test]
    fn signature_copied_to_another_key_is_refused() {
        let (signer, owner) = (SigningKey::generate(), KeyPair::generate().unwrap());
        let thief = KeyPair::generate().unwrap();
        let leaf = certificate_with(&thief, &[entry(&signer, &owner)]);
        let verdict = trusting_signer(&signer).judge(Some(&leaf), None, now());
        assert_eq!(verdict, Err(Refusal::Untrusted { found: CertHash::of_der(&leaf) }));
    }

    #[test]
    fn trusted_key_claimed_by_another_signature_is_refused() {
        let (trusted, other) = (SigningKey::generate(), SigningKey::generate());
        let key = KeyPair::generate().unwrap();
        let mut forged = entry(&other, &key);
        forged[..32].copy_from_slice(trusted.public().as_bytes());
        let leaf = certificate_with(&key, &[forged]);
        let verdict = trusting_signer(&trusted).judge(Some(&leaf), None, now());
        assert_eq!(verdict, Err(Refusal::Untrusted { found: CertHash::of_der(&leaf) }));
    }

    #[test]
    fn signature_is_examined_up_to_the_limit_and_no_further() {
        let (signer, key) = (SigningKey::generate(), KeyPair::generate().unwrap());
        let trust = trusting_signer(&signer);
        for (strangers, accepted) in
            [(SIGNATURES_EXAMINED_MAX - 1, true), (SIGNATURES_EXAMINED_MAX, false)]
        {
            let mut entries = Vec::new();
            for _ in 0..strangers {
                entries.extend(entry(&SigningKey::generate(), &key));
            }
            entries.extend(entry(&signer, &key));
            let leaf = certificate_with(&key, &[entries]);
            assert_eq!(trust.judge(Some(&leaf), None, now()).is_ok(), accepted, "{strangers}");
        }
    }

    #[test]
    fn damaged_signatures_matter_only_where_they_are_needed() {
        let (signer, key) = (SigningKey::generate(), KeyPair::generate().unwrap());
        let good = entry(&signer, &key);
        for damaged in [vec![good[..95].to_vec()], vec![good.clone(), good.clone()]] {
            let leaf = certificate_with(&key, &damaged);
            let found = CertHash::of_der(&leaf);
            let verdict = trusting_signer(&signer).judge(Some(&leaf), None, now());
            assert!(matches!(verdict, Err(Refusal::Malformed { .. })), "{verdict:?}");
            let untrusted = Err(Refusal::Untrusted { found });
            assert_eq!(Trust::default().judge(Some(&leaf), None, now()), untrusted);
            assert_eq!(trusting_hash(found).judge(Some(&leaf), None, now()), Ok(found));
            assert_eq!(accepting_any().judge(Some(&leaf), None, now()), Ok(found));
            assert_eq!(Trust::default().judge(Some(&leaf), Some(found), now()), Ok(found));
        }
    }

    #[test]
    fn empty_signatures_extension_is_no_signature() {
        let leaf = certificate_with(&KeyPair::generate().unwrap(), &[Vec::new()]);
        let verdict = trusting_signer(&SigningKey::generate()).judge(Some(&leaf), None, now());
        assert_eq!(verdict, Err(Refusal::Untrusted { found: CertHash::of_der(&leaf) }));
    }

    #[test]
    fn weak_signer_key_vouches_for_nobody() {
        // The identity point is an Ed25519 key for which one signature fits every message.
        let mut identity_point = [0; 32];
        identity_point[0] = 1;
        let key = KeyPair::generate().unwrap();
        let mut forged = identity_point.to_vec();
        forged.extend(identity_point);
        forged.extend([0; 32]);
        let leaf = certificate_with(&key, &[forged]);
        let mut trust = Trust::default();
        trust.add_signer(SignerKey::from_bytes(identity_point));
        let verdict = trust.judge(Some(&leaf), None, now());
        assert_eq!(verdict, Err(Refusal::Untrusted { found: CertHash::of_der(&leaf) }));
    }

    #[test]
    fn validity_period_overrules_every_trust() {
        let leaf = plain_leaf();
        let found = CertHash::of_der(&leaf);
        let (begin, end) = (1_798_761_600, 1_830_297_600);
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        for trust in [accepting_any(), trusting_hash(found)] {
            for expected in [None, Some(found)] {
                let judge = |now| trust.judge(Some(&leaf), expected, now);
                let second = Duration::from_secs(1);
                let early = Err(Refusal::NotYetValid { found, wait: second });
                assert_eq!(judge(at(begin - 1)), early);
                assert_eq!(judge(at(begin)), Ok(found));
                assert_eq!(judge(at(end)), Ok(found));
                assert_eq!(judge(at(end + 1)), Err(Refusal::Expired { found, ago: second }));
            }
        }
    }

    #[test]
    fn clock_before_1970_refuses_without_a_panic() {
        let leaf = plain_leaf();
        let past = UNIX_EPOCH - Duration::from_secs(86_400);
        let verdict = accepting_any().judge(Some(&leaf), None, past);
        assert!(matches!(verdict, Err(Refusal::NotYetValid { .. })), "{verdict:?}");
    }

    #[test]
    fn oversized_certificate_is_refused_before_it_is_read() {
        let huge = vec![0x30; CERTIFICATE_BYTES_MAX + 1];
        let refusal = accepting_any().judge(Some(&huge), None, now()).unwrap_err();
        assert_eq!(refusal, Refusal::TooLarge { bytes: CERTIFICATE_BYTES_MAX + 1 });
    }

    #[test]
    fn bytes_after_the_certificate_are_refused() {
        let mut leaf = plain_leaf();
        leaf.push(0);
        let verdict = accepting_any().judge(Some(&leaf), None, now());
        assert!(matches!(verdict, Err(Refusal::Malformed { .. })), "{verdict:?}");
    }

    proptest! {
        #[test]
        fn random_bytes_are_refused_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..600)
        ) {
            prop_assert!(accepting_any().judge(Some(&bytes), None, now()).is_err());
            let _ = crate::identity::key_prefixes(&bytes);
        }

        #[test]
        fn damaged_certificate_is_judged_without_a_panic(
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            length in any::<prop::sample::Index>(),
            truncate: bool,
        ) {
            let (signer, key) = (SigningKey::generate(), KeyPair::generate().unwrap());
            let leaf = certificate_with(&key, &[entry(&signer, &key)]);
            let mut damaged = leaf.clone();
            for (index, byte) in damage {
                let index = index.index(damaged.len());
                damaged[index] = byte;
            }
            if truncate {
                damaged.truncate(length.index(damaged.len()));
            }
            let _ = trusting_signer(&signer).judge(Some(&damaged), None, now());
            let _ = crate::identity::key_prefixes(&damaged);
            if damaged != leaf {
                let pinned = trusting_hash(CertHash::of_der(&leaf));
                prop_assert!(pinned.judge(Some(&damaged), None, now()).is_err());
            }
        }
    }
}
