//! Certificates as a stranger may send them, and the signatures that they carry.
//!
//! An input is `[kind][rest]`:
//!
//! - kind 0: the rest is a certificate, whatever it is: it is read or refused, and nothing else happens;
//! - other kinds: a certificate is made whose signatures extension is made by the rest, a byte an entry (see
//!   [`Entry`]); of kind 2 it has that extension twice. The library must find the entries that were written, and
//!   hold for true those alone whose signer signed this very key.

use std::time::{Duration, SystemTime};

use ed25519_dalek::{Signer, SigningKey};

use super::certificate::{Certificate, CertificateFault};
use super::{CERTIFICATE_BYTES_MAX, SIGNATURES_EXAMINED_MAX, SignerKey};

/// Entries that are written at most: more than are looked at.
const ENTRIES_MAX: usize = 40;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 2;
const BIT_STRING: u8 = 3;
const OCTET_STRING: u8 = 4;
const OBJECT_ID: u8 = 6;
const UTC_TIME: u8 = 23;

const ECDSA_WITH_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const PRIME256V1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
/// 1.2.3.4.5.6
const SIGNATURES: &[u8] = &[0x2a, 3, 4, 5, 6];

/// What a byte writes.
#[derive(Clone, Copy)]
enum Entry {
    /// The signature of this signer.
    True(u8),
    /// It, with this bit of its entry the other way round.
    Spoilt(usize),
    /// The signature of this signer over another key.
    Astray(u8),
    /// The last bytes are missing, so many.
    Cut(usize),
}

impl Entry {
    fn of(byte: u8) -> Self {
        let number = byte >> 2;
        match byte & 3 {
            0 => Self::True(number),
            // Odd steps reach signer and signature.
            1 => Self::Spoilt(usize::from(number) * 12 + 3),
            2 => Self::Astray(number),
            _ => Self::Cut(usize::from(number) + 1),
        }
    }

    fn bytes(self, public: &[u8]) -> Vec<u8> {
        let entry = |number: u8, signed: &[u8]| {
            let key = SigningKey::from_bytes(&[number; 32]);
            [&key.verifying_key().to_bytes()[..], &key.sign(signed).to_bytes()].concat()
        };
        match self {
            Self::True(number) => entry(number, public),
            Self::Spoilt(bit) => {
                let mut bytes = entry(7, public);
                bytes[bit / 8] ^= 1 << (bit % 8);
                bytes
            }
            Self::Astray(number) => entry(number, &public[1..]),
            Self::Cut(missing) => {
                let mut bytes = entry(9, public);
                bytes.truncate(bytes.len() - missing);
                bytes
            }
        }
    }
}

/// Tag, length and content.
fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let length = match u8::try_from(length) {
        Ok(short) if short < 0x80 => vec![short],
        _ => vec![0x82, (length >> 8) as u8, length as u8],
    };
    [&[tag][..], &length, content].concat()
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    value(SEQUENCE, &parts.concat())
}

/// `SubjectPublicKeyInfo` of a point that need not lie on the curve.
fn public_key() -> Vec<u8> {
    let algorithm = sequence(&[&value(OBJECT_ID, EC_PUBLIC_KEY), &value(OBJECT_ID, PRIME256V1)]);
    let point = [&[0, 4][..], &[0x5a; 64]].concat();
    sequence(&[&algorithm, &value(BIT_STRING, &point)])
}

/// A certificate (RFC 5280, section 4.1) that nobody signed, with this extension so often.
fn certificate(public: &[u8], signatures: &[u8], times: usize) -> Vec<u8> {
    let algorithm = sequence(&[&value(OBJECT_ID, ECDSA_WITH_SHA256)]);
    let extension = sequence(&[&value(OBJECT_ID, SIGNATURES), &value(OCTET_STRING, signatures)]);
    let validity =
        sequence(&[&value(UTC_TIME, b"200101000000Z"), &value(UTC_TIME, b"400101000000Z")]);
    let tbs = sequence(&[
        &value(0xa0, &value(INTEGER, &[2])),
        &value(INTEGER, &[1]),
        &algorithm,
        &sequence(&[]),
        &validity,
        &sequence(&[]),
        public,
        &value(0xa3, &sequence(&[&extension.repeat(times)])),
    ]);
    sequence(&[&tbs, &algorithm, &value(BIT_STRING, &[0, 1, 2, 3])])
}

/// All that is asked of a certificate whose signatures are not known.
fn whatever(der: &[u8]) {
    match Certificate::parse(der) {
        Err(CertificateFault::TooLarge { bytes }) => assert!(bytes > CERTIFICATE_BYTES_MAX),
        Err(_) => {}
        Ok(certificate) => {
            assert!(der.len() <= CERTIFICATE_BYTES_MAX);
            let long = Duration::from_secs(u64::MAX >> 2);
            for now in [Some(SystemTime::UNIX_EPOCH), SystemTime::UNIX_EPOCH.checked_add(long)] {
                let _ = now.map(|now| certificate.period(now));
            }
            let own = certificate.public_key();
            assert!(certificate.distinctive_key_bytes().len() <= own.len());
            if let Ok(claimed) = certificate.claimed_signatures() {
                let claimed: Vec<_> = claimed.collect();
                assert!(claimed.len() <= SIGNATURES_EXAMINED_MAX);
                for claimed in &claimed {
                    std::hint::black_box(certificate.verify(claimed));
                }
            }
        }
    }
}

fn written(script: &[u8], times: usize) {
    let public = public_key();
    let entries: Vec<_> = script.iter().take(ENTRIES_MAX).map(|&byte| Entry::of(byte)).collect();
    let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.bytes(&public)).collect();
    let der = certificate(&public, &bytes, times);
    let certificate = Certificate::parse(&der).expect("it is one");
    let claimed = match certificate.claimed_signatures() {
        Ok(claimed) => claimed.collect::<Vec<_>>(),
        Err(fault) => {
            assert_eq!(fault, CertificateFault::Signatures);
            assert!(times > 1 || bytes.len() % 96 != 0, "these are whole");
            return;
        }
    };
    assert!(times == 1 && bytes.len() % 96 == 0, "these are not");
    let (all, _) = bytes.as_chunks::<96>();
    assert_eq!(claimed.len(), all.len().min(SIGNATURES_EXAMINED_MAX));
    // What is missing of one moves the others.
    let is_moved = entries.iter().any(|entry| matches!(entry, Entry::Cut(_)));
    for ((claimed, bytes), entry) in claimed.iter().zip(all).zip(&entries) {
        let signer = *bytes.first_chunk().expect("32 of 96");
        assert_eq!(claimed.signer, SignerKey::from_bytes(signer));
        if !is_moved {
            let is_true = matches!(entry, Entry::True(_));
            assert_eq!(certificate.verify(claimed), is_true, "{signer:?}");
        }
    }
}

/// One input.
pub fn run(input: &[u8]) {
    match input.split_first() {
        None => {}
        Some((0, der)) => whatever(der),
        Some((2, script)) => written(script, 2),
        Some((_, script)) => written(script, 1),
    }
}
