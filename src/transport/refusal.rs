//! From what MsQuic reports about an end to a reason that says who did it.

use super::ffi::status;
use crate::error::{CertificateAlert, CertificateRefused, CloseReason, ConnectError};
use crate::identity::{KeyPrefixes, NetCredential, key_prefixes};

/// TLS alerts travel as QUIC transport errors 0x100 to 0x1ff (RFC 9001, section 4.8).
const CRYPTO_ERROR: std::ops::Range<u64> = 0x100..0x200;

/// What a peer's application says before the handshake is done: RFC 9000, section 10.2.3, hides
/// its code behind APPLICATION_ERROR (0xc), which MsQuic numbers 0xb.
const APPLICATION_ERROR: std::ops::RangeInclusive<u64> = 0xb..=0xc;

/// `no_application_protocol` (RFC 7301, section 3.2).
const ALERT_NO_APPLICATION_PROTOCOL: u8 = 120;

/// Turns the refusal of our certificate by the peer into an error that names the peer's address
/// and the public keys of the certificate that was refused, which is ours; `None` if `reason` is
/// something else. A certificate that this side refused is told by the same error, with the
/// peer's keys and the other side.
#[must_use]
pub fn resolve_bad_certificate(
    peer: std::net::SocketAddr,
    reason: &CloseReason,
) -> Option<ConnectError> {
    let CloseReason::Certificate(refused) = reason else { return None };
    Some(ConnectError::CertificateRefused { peer, refused: refused.clone() })
}

/// The keys of the certificate that we show.
pub(super) fn own_keys(credential: &NetCredential) -> KeyPrefixes {
    key_prefixes(credential.chain_der().first().map_or(&[], Vec::as_slice))
}

/// The reason behind a shutdown that the transport began.
pub(super) fn resolve_transport_close(
    status: u32,
    error_code: u64,
    connected: bool,
    own_keys: impl FnOnce() -> KeyPrefixes,
) -> CloseReason {
    let alert = alert(status, error_code);
    let by_peer = |alert| {
        CloseReason::Certificate(Box::new(CertificateRefused::ByPeer { keys: own_keys(), alert }))
    };
    match (alert, status) {
        (Some(ALERT_NO_APPLICATION_PROTOCOL), _) | (_, status::ALPN_NEG_FAILURE) => {
            CloseReason::AlpnMismatch
        }
        (Some(42), _) => by_peer(CertificateAlert::Bad),
        (Some(45), _) => by_peer(CertificateAlert::Expired),
        (Some(48), _) => by_peer(CertificateAlert::UnknownAuthority),
        (Some(116), _) => by_peer(CertificateAlert::Required),
        (Some(number @ (43 | 44 | 46 | 49)), _) => by_peer(CertificateAlert::Other(number)),
        (_, status::UNREACHABLE) => CloseReason::Unreachable,
        (_, status::NO_NETWORK | status::NO_ADDRESS | status::NETWORK_DOWN) => CloseReason::NoRoute,
        (_, status::NO_FAMILY) => CloseReason::NoIpv6,
        // Nobody here ends a connection in this way: it is how the library tells a stateless reset.
        (_, status::ABORTED) if connected => CloseReason::Forgotten,
        (_, status::CONNECTION_REFUSED) => CloseReason::Refused,
        _ if !connected && APPLICATION_ERROR.contains(&error_code) => CloseReason::Refused,
        (_, status::CONNECTION_IDLE | status::CONNECTION_TIMEOUT) if connected => {
            CloseReason::TimedOut
        }
        (_, status::CONNECTION_IDLE | status::CONNECTION_TIMEOUT) => CloseReason::HandshakeTimedOut,
        _ => CloseReason::Transport { status, error_code },
    }
}

/// The TLS alert in a shutdown, if it was one.
fn alert(status: u32, error_code: u64) -> Option<u8> {
    let from_code = CRYPTO_ERROR.contains(&error_code).then(|| error_code - CRYPTO_ERROR.start);
    let from_status = status.checked_sub(status::TLS_ALERT_BASE).map(u64::from);
    from_code.or(from_status).and_then(|number| u8::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(status: u32, code: u64, connected: bool) -> CloseReason {
        let keys = || KeyPrefixes { subject: "aa".to_owned(), signers: vec![] };
        resolve_transport_close(status, code, connected, keys)
    }

    #[test]
    fn a_certificate_alert_is_the_peers_refusal_of_ours() {
        for (status, code) in
            [(status::BAD_CERTIFICATE, 0x12a), (0, 0x12a), (status::BAD_CERTIFICATE, 0)]
        {
            let reason = resolve(status, code, true);
            let CloseReason::Certificate(refused) = reason else { panic!("{reason:?}") };
            let CertificateRefused::ByPeer { keys, alert } = *refused else {
                panic!("{refused:?}")
            };
            assert_eq!((keys.subject.as_str(), alert), ("aa", CertificateAlert::Bad));
        }
    }

    #[test]
    fn every_known_status_has_a_reason_of_its_own() {
        assert_eq!(resolve(status::ALPN_NEG_FAILURE, 0x178, false), CloseReason::AlpnMismatch);
        assert_eq!(resolve(status::UNREACHABLE, 0, false), CloseReason::Unreachable);
        assert_eq!(resolve(status::CONNECTION_REFUSED, 2, false), CloseReason::Refused);
        assert_eq!(resolve(5, 0xc, false), CloseReason::Refused);
        assert_eq!(resolve(5, 0xc, true), CloseReason::Transport { status: 5, error_code: 0xc });
        assert_eq!(resolve(status::NO_NETWORK, 1, false), CloseReason::NoRoute);
        assert_eq!(resolve(status::NO_ADDRESS, 1, false), CloseReason::NoRoute);
        assert_eq!(resolve(status::NO_FAMILY, 1, false), CloseReason::NoIpv6);
        assert_eq!(resolve(status::ABORTED, 1, true), CloseReason::Forgotten);
        assert_eq!(resolve(status::CONNECTION_IDLE, 0, false), CloseReason::HandshakeTimedOut);
        assert_eq!(resolve(status::CONNECTION_TIMEOUT, 0, true), CloseReason::TimedOut);
    }

    #[test]
    fn an_unknown_status_keeps_its_numbers() {
        let unknown = CloseReason::Transport { status: 77, error_code: 5 };
        assert_eq!(resolve(77, 5, true), unknown);
    }
}
