//! A chain of several certificates, as quinn sees it.

use anyhow::{Context, Result};
use moorline::NetCredential;
use moorline_interop::moorline_end::{Moorline, accept};
use moorline_interop::quinn_peer::{QuinnLink, Settings, dialler, listener};
use moorline_interop::{LIMIT, PeerCertificate, within};
use rustls::pki_types::CertificateDer;

/// The certificates that quinn was shown, in their order.
fn shown(link: &QuinnLink) -> Result<Vec<Vec<u8>>> {
    let identity = link.connection.peer_identity().context("a handshake")?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok().context("rustls")?;
    Ok(chain.iter().map(|certificate| certificate.to_vec()).collect())
}

/// Four certificates: RFC 8446, section 4.4.2, wants each behind the one that it certifies, so their
/// order is not to change.
fn with_a_chain(moorline: &mut Moorline, peer: &PeerCertificate) -> Result<()> {
    let made = || NetCredential::generate_self_signed(&["test"], &[]);
    let leaf = made()?;
    let mut chain = leaf.certificate_pem();
    for _ in 0..3 {
        chain += &made()?.certificate_pem();
    }
    let credential = NetCredential::from_pem(chain.as_bytes(), leaf.private_key_pem().as_bytes())?;
    moorline.credential = credential.trust_hash(peer.identity());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_arrives_as_it_was_given_whoever_dials() -> Result<()> {
    let certificate = PeerCertificate::generate()?;
    let mut moorline = Moorline::trusting(&certificate)?;
    with_a_chain(&mut moorline, &certificate)?;
    let settings = Settings::new(&certificate, moorline.credential.identity());

    let (at, endpoint) = (moorline.listen().await?, dialler(&settings)?);
    let (link, connection) = tokio::join!(QuinnLink::dial(&endpoint, at.local_addr()), accept(&at));
    let (link, _connection) = (link?, connection?);
    assert_eq!(shown(&link)?, moorline.credential.chain_der());

    let endpoint = listener(&settings)?;
    let address = endpoint.local_addr()?;
    let (connection, link) = tokio::join!(moorline.connect(address), QuinnLink::accept(&endpoint));
    let (_connection, link) = (connection?, link?);
    assert_eq!(shown(&link)?, moorline.credential.chain_der());
    within(LIMIT, "quinn closes", async { link.connection.close(0_u8.into(), b"") }).await;
    Ok(())
}
