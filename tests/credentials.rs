//! Own keys and chains of every kind, in handshakes.

mod common;

use common::{LIMIT, connected, loopback, node_with, stranger, within};
use moorline::{
    CHAIN_BYTES_MAX, CertHash, ConnectError, CredentialError, NetCredential, Redial, Target,
};
use rcgen::{CertificateParams, CustomExtension, KeyPair, SignatureAlgorithm};

/// What a handshake puts around each certificate of a chain.
const AROUND: usize = 5;

/// A certificate for this key, with so many names.
fn certificate(key: &KeyPair, padding: usize) -> Vec<u8> {
    let mut parameters = CertificateParams::new(vec!["test".to_owned()]).expect("a name");
    // An extension that nobody knows.
    let padding = CustomExtension::from_oid_content(&[1, 3, 9, 9], vec![7; padding]);
    parameters.custom_extensions.push(padding);
    parameters.self_signed(key).expect("a certificate").der().to_vec()
}

/// A chain for this key that takes just so many bytes of a handshake.
fn chain_of(key: &KeyPair, bytes: usize) -> Vec<Vec<u8>> {
    let issuer = certificate(key, 1_000);
    let leaf = bytes - issuer.len() - 2 * AROUND;
    // An ECDSA signature has a length of its own each time.
    let fits = |certificate: &Vec<u8>| certificate.len() == leaf;
    let bare = certificate(key, 1_000).len() - 1_000;
    let candidates = (0..200).map(|at| certificate(key, leaf - bare - 12 + at % 20));
    vec![candidates.into_iter().find(fits).expect("one of them fits"), issuer]
}

fn rsa(bits: u32) -> KeyPair {
    KeyPair::from_pem(&rsa_pem(bits)).expect("a key")
}

/// Keys for tests alone: ring makes none of this kind.
fn rsa_pem(bits: u32) -> String {
    let path = format!("{}/tests/keys/rsa-{bits}.pem", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).expect("a key")
}

/// Listens and dials with `credential`, and tells whom each peer has seen.
async fn seen_by_both_peers(credential: NetCredential, alpns: &[String]) -> [CertHash; 2] {
    let (own, friend) = (credential.identity(), stranger());
    let credential = credential.trust_hash(friend.identity());
    let tested = node_with(credential, |config| config.alpns = alpns.to_vec()).await;
    let last = alpns.last().expect("one").clone();
    let friend = friend.insecure_accept_any();
    let friend = node_with(friend, |config| config.alpns = vec![last]).await;
    let mut at_friend = friend.subscribe();

    let listening = within("listening", tested.listen(loopback())).await.expect("a listener");
    let target = Target::from(listening).redial(Redial::Never);
    let dialled = within("a dial", friend.connect(target)).await.expect("a connection");
    within("an acknowledgement", dialled.send_acked("hello")).await.expect("acknowledged");
    assert_eq!(connected(&mut at_friend).await.peer(), own);

    let listening = within("listening", friend.listen(loopback())).await.expect("a listener");
    let target = Target::from(listening).redial(Redial::Never);
    let back = within("a dial", tested.connect(target)).await.expect("a connection");
    within("an acknowledgement", back.send_acked("hello")).await.expect("acknowledged");
    let seen = [dialled.peer(), connected(&mut at_friend).await.peer()];
    for node in [tested, friend] {
        within("the end", node.close(LIMIT)).await.expect("an orderly end");
    }
    seen
}

async fn serves(credential: NetCredential) {
    let own = credential.identity();
    let alpns = [moorline::DEFAULT_ALPN.to_owned()];
    assert_eq!(seen_by_both_peers(credential, &alpns).await, [own; 2]);
}

#[tokio::test]
async fn keys_of_every_kind_serve_both_ends() {
    let generated = |kind: &'static SignatureAlgorithm| KeyPair::generate_for(kind).expect("a key");
    let p_256 = generated(&rcgen::PKCS_ECDSA_P256_SHA256);
    let p_384 = generated(&rcgen::PKCS_ECDSA_P384_SHA384);
    for key in [p_256, p_384, rsa(2_048), rsa(4_096)] {
        let chain = vec![certificate(&key, 0)];
        serves(NetCredential::from_der(chain, key.serialize_der()).expect("a credential")).await;
    }
}

/// Algorithm and scalar of a P-256 or P-384 key in PKCS#8. Both come from ring, and have one form
/// each: what is around the scalar does not change.
fn parts(pkcs8: &[u8]) -> (&[u8], &[u8]) {
    match pkcs8.len() {
        138 => (&pkcs8[6..27], &pkcs8[36..68]),
        185 => (&pkcs8[6..24], &pkcs8[35..83]),
        other => panic!("{other} bytes are no key of a kind that is known here"),
    }
}

/// PKCS#8 of such a key without its public half, which is optional (RFC 5915, section 3).
fn without_public_half(pkcs8: &[u8]) -> Vec<u8> {
    let (algorithm, scalar) = parts(pkcs8);
    // Some programs leave leading zeros out.
    let scalar = &scalar[scalar.iter().take_while(|byte| **byte == 0).count()..];
    let tagged = |tag: u8, content: &[u8]| {
        let length = u8::try_from(content.len()).expect("short");
        [&[tag, length], content].concat()
    };
    let ec = tagged(0x30, &[&[2, 1, 1][..], &tagged(4, scalar)].concat());
    tagged(0x30, &[&[2, 1, 0][..], algorithm, &tagged(4, &ec)].concat())
}

#[tokio::test]
async fn keys_without_their_public_half_serve_both_ends() {
    for kind in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384] {
        let key = KeyPair::generate_for(kind).expect("a key");
        let bare = without_public_half(&key.serialize_der());
        let chain = vec![certificate(&key, 0)];
        serves(NetCredential::from_der(chain, bare.clone()).expect("a credential")).await;

        let other = vec![certificate(&KeyPair::generate_for(kind).expect("a key"), 0)];
        let error = NetCredential::from_der(other, bare).expect_err("of another");
        assert!(matches!(error, CredentialError::KeyMismatch { .. }), "{error:?}");
    }
    let generated = || KeyPair::generate().expect("a key");
    let begins_with_zero = |key: &KeyPair| parts(&key.serialize_der()).1[0] == 0;
    let key = std::iter::repeat_with(generated).find(begins_with_zero).expect("one of 256");
    let short = without_public_half(&key.serialize_der());
    let chain = vec![certificate(&key, 0)];
    serves(NetCredential::from_der(chain, short).expect("a credential")).await;
}

#[tokio::test]
async fn the_first_certificate_of_a_chain_is_shown_also_where_others_have_the_same_key() {
    let key = KeyPair::generate().expect("a key");
    let chain = (0..4).map(|padding| certificate(&key, padding)).collect();
    serves(NetCredential::from_der(chain, key.serialize_der()).expect("a credential")).await;
}

#[tokio::test]
async fn a_chain_as_large_as_a_handshake_carries_serves_both_ends() {
    let largest_signature = rsa(4_096);
    for key in [KeyPair::generate().expect("a key"), largest_signature] {
        let chain = chain_of(&key, CHAIN_BYTES_MAX);
        serves(NetCredential::from_der(chain, key.serialize_der()).expect("a credential")).await;
    }
}

#[test]
fn a_chain_that_no_handshake_carries_is_refused_in_words_wherever_it_comes_from() {
    let key = KeyPair::generate().expect("a key");
    let too_large = |error: CredentialError, origin: &str| {
        let text = error.to_string();
        assert!(matches!(error, CredentialError::ChainTooLarge { .. }), "{error:?}");
        assert!(text.starts_with(origin), "{text}");
        assert!(text.contains("carries at most 30720: leave out"), "{text}");
    };
    let chain = chain_of(&key, CHAIN_BYTES_MAX + 1);
    let (der, given) = (key.serialize_der(), "the given data makes a chain of 30721 bytes (2 ");
    too_large(NetCredential::from_der(chain.clone(), der).expect_err("too large"), given);

    let blocks = chain.iter().map(|der| pem::encode(&pem::Pem::new("CERTIFICATE", &**der)));
    let (certificates, private) = (blocks.collect::<String>(), key.serialize_pem());
    let read = NetCredential::from_pem(certificates.as_bytes(), private.as_bytes());
    too_large(read.expect_err("too large"), given);

    let folder = tempfile::tempdir().expect("a folder");
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, certificates).expect("written");
    std::fs::write(&key, private).expect("written");
    let read = NetCredential::from_files(&cert, &key);
    too_large(read.expect_err("too large"), &cert.display().to_string());

    let names: Vec<String> = (0..600).map(|number| format!("{number:0>60}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let made = NetCredential::generate_self_signed(&names, &[]);
    too_large(made.expect_err("too large"), "the given data");
}

/// What is unacknowledged of a handshake shares one buffer with the names.
#[tokio::test]
async fn long_protocol_names_take_of_the_room_of_a_chain() {
    let alpns: Vec<String> = (0..16).map(|number| format!("{number:0>255}")).collect();
    let key = KeyPair::generate().expect("a key");
    let credential = |bytes| {
        let chain = chain_of(&key, bytes);
        NetCredential::from_der(chain, key.serialize_der()).expect("a credential")
    };
    let room = CHAIN_BYTES_MAX - 2 * (16 * 256 - 288);
    let fits = credential(room);
    let own = fits.identity();
    assert_eq!(seen_by_both_peers(fits, &alpns).await, [own; 2]);

    let node = node_with(credential(room + 1), |config| config.alpns = alpns).await;
    let error = within("listening", node.listen(loopback())).await.expect_err("too large");
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert!(cause.contains(&format!("carries at most {room}: leave out")), "{error}: {cause}");
    let nobody = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
    let target = Target::from(nobody).redial(Redial::Never);
    let error = within("a dial", node.connect(target)).await.expect_err("too large");
    assert!(matches!(error, ConnectError::Credential { .. }), "{error:?}");
    within("the end", node.close(LIMIT)).await.expect("an orderly end");
}

#[test]
fn an_rsa_key_of_another_size_says_which_serve() {
    let weak = rsa_pem(1_024);
    let cert = stranger().certificate_pem();
    let error = NetCredential::from_pem(cert.as_bytes(), weak.as_bytes()).expect_err("too weak");
    assert_eq!(
        error.to_string(),
        "the given data holds an RSA (1024 bits) key where an ECDSA P-256, ECDSA P-384 or RSA \
         (2048, 3072 or 4096 bits) key is needed: make another key"
    );
}
