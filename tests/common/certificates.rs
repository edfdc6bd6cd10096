//! Credentials whose certificates the library itself would not make.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use moorline::NetCredential;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};

const YEAR: u64 = 365 * 24 * 60 * 60;

/// Was valid in 1990, for a year.
pub(crate) fn expired() -> NetCredential {
    valid_between(at(20 * YEAR), at(21 * YEAR))
}

/// Will be valid in 2090, for a year.
pub(crate) fn not_yet_valid() -> NetCredential {
    valid_between(at(120 * YEAR), at(121 * YEAR))
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// To the second.
pub(crate) fn valid_between(from: SystemTime, to: SystemTime) -> NetCredential {
    let date = |time: SystemTime| {
        date_time_ymd(1970, 1, 1) + time.duration_since(UNIX_EPOCH).expect("it is past")
    };
    let key = KeyPair::generate().expect("a key");
    let mut parameters = CertificateParams::new(vec!["test".to_owned()]).expect("a name");
    (parameters.not_before, parameters.not_after) = (date(from), date(to));
    let certificate = parameters.self_signed(&key).expect("a certificate");
    NetCredential::from_der(vec![certificate.der().to_vec()], key.serialize_der())
        .expect("a key and its certificate")
}
