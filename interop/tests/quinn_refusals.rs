//! moorline and quinn when one does not take the other: each end says who refused, and why.

use anyhow::{Context, Result, ensure};
use moorline::{
    AcceptError, CertificateRefused, CloseCode, CloseReason, ConnectError, DEFAULT_ALPN,
    MsQuicListener, NetCredential, NodeEvent, Refusal, Side,
};
use moorline_interop::moorline_end::{Moorline, accept, end, node_trusting};
use moorline_interop::quinn_peer::{QuinnLink, Settings, dialler, listener, tls_alert};
use moorline_interop::{ANY_PORT, LIMIT, PeerCertificate, within};
use quinn::ConnectionError;

/// TLS alerts (RFC 8446, section 6; RFC 7301, section 3.2).
const BAD_CERTIFICATE: u64 = 42;
const CERTIFICATE_REQUIRED: u64 = 116;
const NO_APPLICATION_PROTOCOL: u64 = 120;

/// How quinn's dial ends that moorline does not take. A TLS 1.3 client is done before the server
/// has judged it: the refusal may come as the end of an established connection.
async fn refused_dial(endpoint: &quinn::Endpoint, to: &MsQuicListener) -> Result<ConnectionError> {
    refused_dial_to(endpoint, to.local_addr()).await
}

async fn refused_dial_to(
    endpoint: &quinn::Endpoint,
    address: std::net::SocketAddr,
) -> Result<ConnectionError> {
    match QuinnLink::dial(endpoint, address).await {
        Ok(link) => Ok(link.closed().await),
        Err(error) => error.downcast(),
    }
}

#[tokio::test]
async fn quinn_without_a_certificate_is_refused_and_the_accept_error_says_so() -> Result<()> {
    let moorline = Moorline::trusting(&PeerCertificate::generate()?)?;
    let at = moorline.listen().await?;
    let pinned = moorline.credential.identity();
    let endpoint = dialler(&Settings { certificate: None, pinned, alpn: DEFAULT_ALPN })?;
    let (accepted, closed) = tokio::join!(accept(&at), refused_dial(&endpoint, &at));
    let Err(AcceptError::Closed { peer, reason: CloseReason::Certificate(refused) }) = accepted
    else {
        panic!("accepted: {accepted:?}")
    };
    assert_eq!(peer.port(), endpoint.local_addr()?.port());
    assert_eq!(*refused, CertificateRefused::ByUs { refusal: Refusal::Missing, keys: None });
    assert_eq!(tls_alert(&closed?), Some(CERTIFICATE_REQUIRED));
    drop(at);
    moorline.ends().await
}

#[tokio::test]
async fn quinn_with_an_unpinned_certificate_is_refused_by_the_listener() -> Result<()> {
    let moorline = Moorline::trusting(&PeerCertificate::generate()?)?;
    let at = moorline.listen().await?;
    let stranger = PeerCertificate::generate()?;
    let endpoint = dialler(&Settings::new(&stranger, moorline.credential.identity()))?;
    let (accepted, closed) = tokio::join!(accept(&at), refused_dial(&endpoint, &at));
    let Err(AcceptError::Closed { reason: CloseReason::Certificate(refused), .. }) = accepted
    else {
        panic!("accepted: {accepted:?}")
    };
    assert_eq!(refused.side(), Side::Local);
    assert_eq!(tls_alert(&closed?), Some(BAD_CERTIFICATE));
    drop(at);
    moorline.ends().await
}

#[tokio::test]
async fn a_node_tells_of_the_quinn_peer_that_it_refused() -> Result<()> {
    let (node, credential) = node_trusting(&PeerCertificate::generate()?).await?;
    let mut events = node.subscribe();
    let address = within(LIMIT, "the node listens", node.listen(ANY_PORT)).await?;
    let stranger = PeerCertificate::generate()?;
    let endpoint = dialler(&Settings::new(&stranger, credential.identity()))?;
    assert_eq!(tls_alert(&refused_dial_to(&endpoint, address).await?), Some(BAD_CERTIFICATE));
    let remote = loop {
        let event = within(LIMIT, "the node tells of a refusal", events.next()).await;
        if let NodeEvent::Refused { remote, .. } = event.context("the node has ended")? {
            break remote;
        }
    };
    assert_eq!(remote.port(), endpoint.local_addr()?.port());
    assert!(node.connections().is_empty());
    end(node).await
}

#[tokio::test]
async fn a_quinn_server_with_an_unpinned_certificate_is_refused_by_this_side() -> Result<()> {
    let moorline = Moorline::trusting(&PeerCertificate::generate()?)?;
    let stranger = PeerCertificate::generate()?;
    let endpoint = listener(&Settings::new(&stranger, moorline.credential.identity()))?;
    let (connected, accepted) =
        tokio::join!(moorline.connect(endpoint.local_addr()?), QuinnLink::accept(&endpoint));
    let Err(ConnectError::CertificateRefused { peer, refused }) = connected else {
        panic!("connected: {connected:?}")
    };
    assert_eq!(peer, endpoint.local_addr()?);
    assert_eq!(refused.side(), Side::Local);
    assert!(matches!(*refused, CertificateRefused::ByUs { keys: Some(_), .. }), "{refused:?}");
    let error: ConnectionError = accepted.err().context("quinn accepted")?.downcast()?;
    assert_eq!(tls_alert(&error), Some(BAD_CERTIFICATE), "{error}");
    moorline.ends().await
}

#[tokio::test]
async fn an_expected_hash_is_enough_to_trust_a_quinn_server_and_another_one_refuses_it()
-> Result<()> {
    let certificate = PeerCertificate::generate()?;
    let moorline = Moorline::trusting(&PeerCertificate::generate()?)?;
    let own = moorline.credential.clone();
    let endpoint = listener(&Settings::new(&certificate, own.identity()))?;
    let address = endpoint.local_addr()?;
    for (expected, is_taken) in [(certificate.identity(), true), (own.identity(), false)] {
        let transport = moorline.transport();
        let dial =
            transport.connect_expecting(address, &[DEFAULT_ALPN], own.clone(), Some(expected));
        let dial = within(LIMIT, "moorline dials", dial);
        let (connected, accepted) = tokio::join!(dial, QuinnLink::accept(&endpoint));
        assert_eq!((connected.is_ok(), accepted.is_ok()), (is_taken, is_taken));
    }
    moorline.ends().await
}

#[tokio::test]
async fn a_quinn_server_that_refuses_this_certificate_is_named_as_the_refuser() -> Result<()> {
    let certificate = PeerCertificate::generate()?;
    let moorline = Moorline::trusting(&certificate)?;
    let other = NetCredential::generate_self_signed(&[], &[])?;
    let endpoint = listener(&Settings::new(&certificate, other.identity()))?;
    let (connected, accepted) =
        tokio::join!(moorline.connect(endpoint.local_addr()?), QuinnLink::accept(&endpoint));
    ensure!(accepted.is_err(), "quinn accepted");
    // The client is done first; where the refusal comes after that, the connection's end tells.
    let reason = match connected {
        Ok(connection) => within(LIMIT, "the refusal arrives", connection.watch_close()).await,
        Err(ConnectError::CertificateRefused { refused, .. }) => CloseReason::Certificate(refused),
        Err(error) => return Err(error.into()),
    };
    assert_eq!(reason.side(), Some(Side::Peer), "{reason}");
    assert!(matches!(reason, CloseReason::Certificate(_)), "{reason}");
    moorline.ends().await
}

#[tokio::test]
async fn a_connector_waits_for_quinns_verdict_before_it_says_connected() -> Result<()> {
    let certificate = PeerCertificate::generate()?;
    let (node, _) = node_trusting(&certificate).await?;
    let other = NetCredential::generate_self_signed(&[], &[])?;
    let endpoint = listener(&Settings::new(&certificate, other.identity()))?;
    let connect = within(LIMIT, "the connector dials", node.connect(endpoint.local_addr()?));
    let (connected, accepted) = tokio::join!(connect, QuinnLink::accept(&endpoint));
    ensure!(accepted.is_err(), "quinn accepted");
    let Err(ConnectError::CertificateRefused { refused, .. }) = connected else {
        panic!("connected: {connected:?}")
    };
    assert_eq!(refused.side(), Side::Peer);
    end(node).await
}

#[tokio::test]
async fn a_quinn_server_with_another_alpn_is_told_apart_from_other_failures() -> Result<()> {
    let certificate = PeerCertificate::generate()?;
    let moorline = Moorline::trusting(&certificate)?;
    let settings = Settings::new(&certificate, moorline.credential.identity());
    let endpoint = listener(&Settings { alpn: "another/1", ..settings })?;
    let (connected, accepted) =
        tokio::join!(moorline.connect(endpoint.local_addr()?), QuinnLink::accept(&endpoint));
    ensure!(accepted.is_err(), "quinn accepted");
    let Err(ConnectError::AlpnMismatch { peer, offered }) = connected else {
        panic!("connected: {connected:?}")
    };
    assert_eq!(peer, endpoint.local_addr()?);
    assert_eq!(offered, [DEFAULT_ALPN]);
    moorline.ends().await
}

#[tokio::test]
async fn quinn_with_another_alpn_is_refused_by_the_listener() -> Result<()> {
    let certificate = PeerCertificate::generate()?;
    let moorline = Moorline::trusting(&certificate)?;
    let at = moorline.listen().await?;
    let settings = Settings::new(&certificate, moorline.credential.identity());
    let endpoint = dialler(&Settings { alpn: "another/1", ..settings })?;
    let error = refused_dial(&endpoint, &at).await?;
    assert_eq!(tls_alert(&error), Some(NO_APPLICATION_PROTOCOL), "{error}");
    drop(at);
    moorline.ends().await
}

#[tokio::test]
async fn a_quinn_server_that_is_full_refuses_before_the_handshake() -> Result<()> {
    let certificate = PeerCertificate::generate()?;
    let moorline = Moorline::trusting(&certificate)?;
    let endpoint = listener(&Settings::new(&certificate, moorline.credential.identity()))?;
    let refused = async {
        let incoming = within(LIMIT, "quinn is dialled", endpoint.accept()).await;
        incoming.context("the endpoint is closed")?.refuse();
        anyhow::Ok(())
    };
    let (connected, refused) = tokio::join!(moorline.connect(endpoint.local_addr()?), refused);
    refused?;
    let Err(ConnectError::Closed { reason: CloseReason::Refused, .. }) = connected else {
        panic!("connected: {connected:?}")
    };
    moorline.ends().await
}

#[tokio::test]
async fn a_quinn_server_that_gives_up_during_the_handshake_is_told_as_a_refusal() -> Result<()> {
    let certificate = PeerCertificate::generate()?;
    let moorline = Moorline::trusting(&certificate)?;
    let endpoint = listener(&Settings::new(&certificate, moorline.credential.identity()))?;
    let given_up = async {
        let incoming = within(LIMIT, "quinn is dialled", endpoint.accept()).await;
        // Dropped during the handshake, it is closed with APPLICATION_ERROR.
        drop(incoming.context("the endpoint is closed")?.accept()?);
        anyhow::Ok(())
    };
    let (connected, given_up) = tokio::join!(moorline.connect(endpoint.local_addr()?), given_up);
    given_up?;
    assert!(
        matches!(connected, Err(ConnectError::Closed { reason: CloseReason::Refused, .. })),
        "connected: {connected:?}"
    );
    moorline.ends().await
}

#[tokio::test]
async fn quinn_learns_that_its_request_was_refused() -> Result<()> {
    // RFC 9000, section 10.2.3: during the handshake the application's code is replaced by
    // APPLICATION_ERROR, 0xc. MsQuic has the number of INVALID_TOKEN for it.
    const APPLICATION_ERROR: [u64; 2] = [0xc, 0xb];
    let certificate = PeerCertificate::generate()?;
    let moorline = Moorline::trusting(&certificate)?;
    let at = moorline.listen().await?;
    let endpoint = dialler(&Settings::new(&certificate, moorline.credential.identity()))?;
    let refuse = async {
        let request = within(LIMIT, "moorline is dialled", at.accept()).await?;
        request.refuse(CloseCode::TOO_MANY_CONNECTIONS);
        anyhow::Ok(())
    };
    let (error, refused) = tokio::join!(refused_dial(&endpoint, &at), refuse);
    refused?;
    let ConnectionError::ConnectionClosed(close) = error? else { panic!("not closed by moorline") };
    assert!(APPLICATION_ERROR.contains(&close.error_code.into()), "{close}");
    drop(at);
    moorline.ends().await
}
