//! moorline and msquic-async: frames in both directions whoever dials, and a graceful end.

use anyhow::{Result, ensure};
use moorline::{
    AcceptError, CertificateRefused, CloseCode, CloseReason, DEFAULT_ALPN, MsQuicListener,
    MsQuicNetConnection, MsQuicTransport, NetCredential, Refusal,
};
use moorline_interop::msquic_async_peer::{MsQuicAsyncLink, MsQuicAsyncPeer};
use moorline_interop::{ANY_PORT, LIMIT, Outgoing, PeerCertificate, exchange, frame, within};
use msquic_async::{ConnectionError, StreamStartError};

/// moorline with one transport, and a peer that trusts it and is trusted by it.
struct Fixture {
    transport: MsQuicTransport,
    credential: NetCredential,
    peer: MsQuicAsyncPeer,
}

impl Fixture {
    fn new() -> Result<Self> {
        let certificate = PeerCertificate::generate()?;
        let credential = NetCredential::generate_self_signed(&["localhost"], &[])?
            .trust_hash(certificate.identity());
        let peer = MsQuicAsyncPeer::start(&certificate, Some(&certificate), &credential)?;
        Ok(Self { transport: MsQuicTransport::new(), credential, peer })
    }

    async fn listen(&self) -> Result<MsQuicListener> {
        let alpns = [DEFAULT_ALPN];
        Ok(self.transport.create_listener(ANY_PORT, &alpns, self.credential.clone()).await?)
    }

    async fn dialled_by_peer(&self) -> Result<(MsQuicNetConnection, MsQuicAsyncLink)> {
        let moorline = self.listen().await?;
        let (link, connection) =
            tokio::join!(self.peer.dial(moorline.local_addr()), accept(&moorline));
        Ok((connection?, link?))
    }

    /// Everything of moorline's is closed, and nothing is left of it.
    async fn ends(self) -> Result<()> {
        let registration = self.transport.registration()?;
        ensure!(registration.wait_idle(LIMIT).await, "handles are left open");
        Ok(())
    }
}

async fn accept(listener: &MsQuicListener) -> Result<MsQuicNetConnection, AcceptError> {
    let request = within(LIMIT, "moorline is dialled", listener.accept()).await?;
    within(LIMIT, "moorline accepts", request.accept()).await
}

#[tokio::test]
async fn msquic_async_dials_a_listener_and_frames_of_every_size_go_both_ways() -> Result<()> {
    let fixture = Fixture::new()?;
    let (connection, mut link) = fixture.dialled_by_peer().await?;
    exchange(&connection, &mut link.out, &mut link.frames).await?;
    drop(connection);
    link.close(0).await;
    fixture.ends().await
}

#[tokio::test]
async fn a_connection_to_msquic_async_carries_frames_of_every_size_both_ways() -> Result<()> {
    let fixture = Fixture::new()?;
    let address = fixture.peer.local_addr()?;
    let dial = fixture.transport.connect(address, &[DEFAULT_ALPN], fixture.credential.clone());
    let dial = within(LIMIT, "moorline dials", dial);
    let (connection, link) = tokio::join!(dial, fixture.peer.accept());
    let (connection, mut link) = (connection?, link?);
    exchange(&connection, &mut link.out, &mut link.frames).await?;
    drop(connection);
    link.close(0).await;
    fixture.ends().await
}
