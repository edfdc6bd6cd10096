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

#[tokio::test]
async fn a_close_delivers_every_frame_to_msquic_async_and_then_the_code() -> Result<()> {
    const FRAMES: usize = 64;
    let fixture = Fixture::new()?;
    let (connection, mut link) = fixture.dialled_by_peer().await?;
    let moorline_ends = async {
        for seed in 0..FRAMES {
            connection.send(frame(seed, 50_000)).await?;
        }
        anyhow::Ok(connection.close(CloseCode::NORMAL).await)
    };
    let peer_reads = async {
        for seed in 0..FRAMES {
            ensure!(link.frames.expect().await? == frame(seed, 50_000), "frame {seed} is another");
        }
        ensure!(link.frames.next().await?.is_none(), "more frames than were sent");
        // moorline closes once both directions have ended.
        link.out.finish().await?;
        link.closed().await
    };
    let both = async { tokio::try_join!(moorline_ends, peer_reads) };
    let (reason, closed) = within(LIMIT, "the connection is drained and closed", both).await?;
    assert_eq!(reason, CloseReason::Local { code: CloseCode::NORMAL });
    let StreamStartError::ConnectionLost(ConnectionError::ShutdownByPeer(code)) = closed else {
        panic!("{closed:?}")
    };
    assert_eq!(code, CloseCode::NORMAL.value());
    drop(connection);
    drop(link);
    fixture.ends().await
}

#[tokio::test]
async fn msquic_async_without_a_certificate_is_refused_and_the_accept_error_says_so() -> Result<()>
{
    let credential = NetCredential::generate_self_signed(&["localhost"], &[])?;
    let peer = MsQuicAsyncPeer::start(&PeerCertificate::generate()?, None, &credential)?;
    let fixture = Fixture { transport: MsQuicTransport::new(), credential, peer };
    let moorline = fixture.listen().await?;
    let dial = fixture.peer.dial(moorline.local_addr());
    // The peer's own answer depends on which of both ends is done first; moorline's does not.
    let (accepted, dialled) = tokio::join!(accept(&moorline), dial);
    let Err(AcceptError::Closed { reason: CloseReason::Certificate(refused), .. }) = accepted
    else {
        panic!("accepted: {accepted:?}")
    };
    let missing = CertificateRefused::ByUs { refusal: Refusal::Missing, keys: None };
    assert_eq!(*refused, missing);
    drop((dialled, moorline));
    fixture.ends().await
}
