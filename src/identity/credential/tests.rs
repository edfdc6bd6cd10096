//! Credentials made, read and written, and files that do not serve.

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::identity::Refusal;

fn generate() -> NetCredential {
    NetCredential::generate_self_signed(&["localhost", "::1"], &[]).unwrap()
}

/// A directory that is removed with the test.
struct Directory(PathBuf);

impl Directory {
    fn create() -> Self {
        let name = format!("moorline-identity-{}-{}", std::process::id(), next_id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn generated_certificate_is_accepted_by_who_trusts_its_hash_or_its_signer() {
    let signers = [SigningKey::generate(), SigningKey::generate()];
    let peer = NetCredential::generate_self_signed(&["localhost"], &signers).unwrap();
    let leaf = Some(peer.chain_der()[0].as_slice());
    let now = SystemTime::now();
    let own = generate();

    let refusal = own.trust().judge(leaf, None, now);
    assert_eq!(refusal, Err(Refusal::Untrusted { found: peer.identity() }));
    for trusting in [
        own.clone().trust_hash(peer.identity()),
        own.clone().trust_key(signers[0].public()),
        own.clone().trust_key(signers[1].public()),
        own.clone().insecure_accept_any(),
    ] {
        assert_eq!(trusting.trust().judge(leaf, None, now), Ok(peer.identity()));
    }
}

#[test]
fn generated_certificate_is_valid_from_an_hour_ago_for_ten_years() {
    let own = generate();
    let accepting = own.clone().insecure_accept_any();
    let judge = |now| accepting.trust().judge(Some(&own.chain_der()[0]), None, now);
    let (now, margin) = (SystemTime::now(), Duration::from_secs(60));
    assert!(judge(now - VALID_BEFORE + margin).is_ok());
    assert!(judge(now - VALID_BEFORE - margin).is_err());
    assert!(judge(now + VALID_FOR - margin).is_ok());
    assert!(judge(now + VALID_FOR + margin).is_err());
}

#[test]
fn more_signers_than_peers_examine_are_refused() {
    let signers = vec![SigningKey::generate(); SIGNATURES_EXAMINED_MAX + 1];
    let error = NetCredential::generate_self_signed(&[], &signers).unwrap_err();
    assert!(matches!(error, CredentialError::TooManySigners { given: 9 }), "{error:?}");
    assert!(NetCredential::generate_self_signed(&[], &signers[1..]).is_ok());
}

#[test]
fn subject_that_is_no_name_is_named_in_the_error() {
    let error = NetCredential::generate_self_signed(&["ok", "häfen"], &[]).unwrap_err();
    assert!(error.to_string().contains("häfen"), "{error}");
    assert!(error.source().is_some());
}

#[test]
fn changed_trust_has_its_own_id_and_the_same_key() {
    let own = generate();
    let clone = own.clone();
    assert_eq!(own.id(), clone.id());
    let changed = clone.trust_hash(CertHash::of_der(b"peer"));
    assert_ne!(own.id(), changed.id());
    assert!(Arc::ptr_eq(&own.material, &changed.material));
    assert!(own.trust().is_empty());
    assert_eq!(changed.trust().hashes().len(), 1);
    assert_ne!(generate().id(), generate().id());
}

#[test]
fn credential_comes_back_from_pem_and_der() {
    let own = generate();
    let (certificate, key) = (own.certificate_pem(), own.private_key_pem());
    let from_pem = NetCredential::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
    assert_eq!(from_pem.identity(), own.identity());
    assert_eq!(*from_pem.private_key_pem(), *key);
    let (chain, key) = (own.chain_der().to_vec(), own.material.key.to_vec());
    let from_der = NetCredential::from_der(chain, key).unwrap();
    assert_eq!(from_der.certificate_pem(), certificate);
    assert!(from_der.trust().is_empty());
}

#[test]
fn p_384_key_serves_as_well() {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let certificate = parameters_for(&["localhost"]).unwrap().self_signed(&key).unwrap();
    let chain = vec![certificate.der().to_vec()];
    assert!(NetCredential::from_der(chain, key.serialize_der()).is_ok());
}

#[test]
fn chain_keeps_its_order_and_the_leaf_is_the_identity() {
    let (leaf, issuer) = (generate(), generate());
    let chain = leaf.certificate_pem() + "between blocks\n" + &issuer.certificate_pem();
    let key = leaf.private_key_pem();
    let read = NetCredential::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
    assert_eq!(read.identity(), leaf.identity());
    assert_eq!(read.chain_der(), [leaf.chain_der()[0].clone(), issuer.chain_der()[0].clone()]);
}

#[test]
fn debug_shows_no_secret() {
    let own = generate().trust_hash(CertHash::of_der(b"peer"));
    let shown = format!("{own:?} {:?}", own.pkcs12(&[]).unwrap());
    assert!(shown.contains(&own.identity().short()));
    assert!(shown.len() < 300 && shown.contains("Pkcs12 { bytes: "), "{shown}");
}

#[test]
fn written_files_are_read_back_and_never_overwritten() {
    let (directory, own) = (Directory::create(), generate());
    let (certificate, key) = (directory.path("own.crt"), directory.path("own.key"));
    own.write_files(&certificate, &key).unwrap();
    let read = NetCredential::from_files(&certificate, &key).unwrap();
    assert_eq!(read.identity(), own.identity());

    let error = generate().write_files(&directory.path("other.crt"), &key).unwrap_err();
    assert!(matches!(&error, CredentialError::FileExists { path } if *path == key), "{error:?}");
    assert!(error.to_string().contains("own.key"));
    assert!(!directory.path("other.crt").exists());
    let error = generate().write_files(&certificate, &directory.path("other.key")).unwrap_err();
    assert!(error.to_string().contains("own.crt"), "{error}");
    assert!(!directory.path("other.key").exists());
    let read = NetCredential::from_files(&certificate, &key).unwrap();
    assert_eq!(read.identity(), own.identity());
}

#[cfg(unix)]
#[test]
fn key_file_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;

    let directory = Directory::create();
    let key = directory.path("own.key");
    generate().write_files(&directory.path("own.crt"), &key).unwrap();
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn der_files_are_told_from_pem_by_their_content() {
    let (directory, own) = (Directory::create(), generate());
    let certificate = directory.file("own.crt", &own.chain_der()[0]);
    let key = directory.file("own.key", own.material.key.as_slice());
    let read = NetCredential::from_files(&certificate, &key).unwrap();
    assert_eq!(read.identity(), own.identity());
}

#[test]
fn every_error_of_the_key_file_names_it_and_its_kind() {
    let (directory, own) = (Directory::create(), generate());
    let certificate = directory.file("own.crt", own.certificate_pem());
    let block = |tag: &str| format!("-----BEGIN {tag}-----\nMAA=\n-----END {tag}-----\n");
    let legacy = "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMAA=\n\
                  -----END EC PRIVATE KEY-----\n";
    let ed25519 = SigningKey::generate().to_pkcs8_pem();
    let other = generate().private_key_pem();
    type Expected = fn(&CredentialError) -> bool;
    let cases: [(&str, &str, Expected); 8] = [
        ("empty", "", |error| matches!(error, CredentialError::KeyMissing { .. })),
        ("certificate", &own.certificate_pem(), |error| {
            matches!(error, CredentialError::KeyMissing { .. })
        }),
        ("damaged", &block("PRIVATE KEY"), |error| {
            matches!(error, CredentialError::KeyMalformed { .. })
        }),
        ("encrypted", &block("ENCRYPTED PRIVATE KEY"), |error| {
            matches!(error, CredentialError::KeyEncrypted { .. })
        }),
        ("legacy", legacy, |error| matches!(error, CredentialError::KeyEncrypted { .. })),
        ("sec1", &block("EC PRIVATE KEY"), |error| {
            matches!(error, CredentialError::KeyNotPkcs8 { .. })
        }),
        ("ed25519", &ed25519, |error| matches!(error, CredentialError::KeyUnsupported { .. })),
        ("other", &other, |error| matches!(error, CredentialError::KeyMismatch { .. })),
    ];
    for (name, content, expected) in cases {
        let key = directory.file(name, content);
        let error = NetCredential::from_files(&certificate, &key).unwrap_err();
        assert!(expected(&error), "{name}: {error:?}");
        assert!(error.to_string().contains(key.to_str().unwrap()), "{error}");
    }
    let absent = directory.path("absent");
    let error = NetCredential::from_files(&certificate, &absent).unwrap_err();
    assert!(error.to_string().contains("absent") && error.source().is_some(), "{error:?}");
}

#[test]
fn every_error_of_the_certificate_file_names_it() {
    let (directory, own) = (Directory::create(), generate());
    let key = directory.file("own.key", own.private_key_pem().as_bytes());
    let (key_pem, truncated) = (own.private_key_pem(), &own.chain_der()[0][..100]);
    let cases: [(&str, &[u8]); 5] = [
        ("empty", b""),
        ("text", b"a certificate"),
        ("key", key_pem.as_bytes()),
        ("truncated", truncated),
        ("block", b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"),
    ];
    for (name, content) in cases {
        let certificate = directory.file(name, content);
        let error = NetCredential::from_files(&certificate, &key).unwrap_err();
        assert!(error.to_string().contains(certificate.to_str().unwrap()), "{error}");
    }
}

#[test]
fn older_and_encrypted_forms_of_a_key_are_told_apart_in_der() {
    let chain = generate().chain_der().to_vec();
    let check = |key: &[u8]| NetCredential::from_der(chain.clone(), key.to_vec()).unwrap_err();
    let rsa_pkcs1 = check(&[0x30, 6, 2, 1, 0, 2, 1, 5]);
    assert!(matches!(rsa_pkcs1, CredentialError::KeyNotPkcs8 { .. }), "{rsa_pkcs1:?}");
    let sec1 = check(&[0x30, 6, 2, 1, 1, 4, 1, 5]);
    assert!(matches!(sec1, CredentialError::KeyNotPkcs8 { .. }), "{sec1:?}");
    let encrypted = check(&[0x30, 7, 0x30, 2, 5, 0, 4, 1, 5]);
    assert!(matches!(encrypted, CredentialError::KeyEncrypted { .. }), "{encrypted:?}");
    let no_chain = NetCredential::from_der(Vec::new(), Vec::new()).unwrap_err();
    assert!(matches!(no_chain, CredentialError::CertificateMissing { .. }), "{no_chain:?}");
}

proptest! {
    #[test]
    fn random_data_is_refused_without_a_panic(
        chain in proptest::collection::vec(any::<u8>(), 0..300),
        key in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        prop_assert!(NetCredential::from_pem(&chain, &key).is_err());
        prop_assert!(NetCredential::from_der(vec![chain], key).is_err());
    }

    #[test]
    fn damaged_pem_and_der_are_read_without_a_panic(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let own = generate();
        let spoil = |data: &[u8]| {
            let mut data = data.to_vec();
            for (index, byte) in &damage {
                let index = index.index(data.len());
                data[index] = *byte;
            }
            data
        };
        let (chain, key) = (own.certificate_pem(), own.private_key_pem());
        let _ = NetCredential::from_pem(&spoil(chain.as_bytes()), key.as_bytes());
        let _ = NetCredential::from_pem(chain.as_bytes(), &spoil(key.as_bytes()));
        let _ = SigningKey::from_pkcs8_pem(&String::from_utf8_lossy(&spoil(key.as_bytes())));
        let _ = NetCredential::from_der(own.chain_der().to_vec(), spoil(&own.material.key));
    }
}

#[test]
fn the_key_for_resets_is_the_same_after_a_restart_and_another_one_for_each_credential() {
    let [first, second] = [(); 2].map(|()| NetCredential::generate_self_signed(&[], &[]).unwrap());
    let (chain, key) = (first.certificate_pem(), first.private_key_pem());
    let again = NetCredential::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
    let keys = [&first, &again, &second].map(|it| it.reset_key().expect("a key"));
    assert_eq!(keys[0], keys[1]);
    assert_ne!(keys[0], keys[2]);
    assert_ne!(*keys[0], [0; 32]);
}
