//! Credentials whose certificates the library itself would not make.

use moorline::NetCredential;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};

/// Was valid in 2020, for a year.
pub(crate) fn expired() -> NetCredential {
    valid_between(2020, 2021)
}

/// Will be valid in 2090, for a year.
pub(crate) fn not_yet_valid() -> NetCredential {
    valid_between(2090, 2091)
}

fn valid_between(from_year: i32, to_year: i32) -> NetCredential {
    let key = KeyPair::generate().expect("a key");
    let mut parameters = CertificateParams::new(vec!["test".to_owned()]).expect("a name");
    parameters.not_before = date_time_ymd(from_year, 1, 1);
    parameters.not_after = date_time_ymd(to_year, 1, 1);
    let certificate = parameters.self_signed(&key).expect("a certificate");
    NetCredential::from_der(vec![certificate.der().to_vec()], key.serialize_der())
        .expect("a key and its certificate")
}
