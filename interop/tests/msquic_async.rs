//! moorline and msquic-async: frames in both directions whoever dials, with and without actors,
//! and a graceful end.

use anyhow::{Result, ensure};
use moorline::{
    AcceptError, CertificateRefused, CloseCode, CloseReason, MsQuicNetConnection, NetCredential,
    Refusal, Side, Target,
};
use moorline_interop::moorline_end::{Moorline, accept, connected, end, node_trusting};
use moorline_interop::msquic_async_peer::{MsQuicAsyncLink, MsQuicAsyncPeer};
use moorline_interop::{ANY_PORT, LIMIT, Outgoing, PeerCertificate, exchange, frame, within};
use msquic_async::{ConnectionError, StreamStartError};

/// A connection that msquic-async dialled.
struct Dialled {
    connection: MsQuicNetConnection,
    moorline: Moorline,
    // Before the peer: its registration waits for the last handle.
    link: MsQuicAsyncLink,
    _peer: MsQuicAsyncPeer,
}

impl Dialled {
    async fn new() -> Result<Self> {
        let certificate = PeerCertificate::generate()?;
        let moorline = Moorline::trusting(&certificate)?;
        let peer = MsQuicAsyncPeer::start(&certificate, Some(&certificate), &moorline.credential)?;
        let at = moorline.listen().await?;
        let (link, connection) = tokio::join!(peer.dial(at.local_addr()), accept(&at));
        let (link, connection) = (link?, connection?);
        assert_eq!(connection.remote_identity(), certificate.identity());
        Ok(Self { connection, moorline, link, _peer: peer })
    }

    async fn ends(self) -> Result<()> {
        drop(self.connection);
        self.link.close(0).await;
        self.moorline.ends().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn msquic_async_dials_a_listener_and_frames_of_every_size_go_both_ways() -> Result<()> {
    let mut it = Dialled::new().await?;
    exchange(&it.connection, &mut it.link.out, &mut it.link.frames).await?;
    it.ends().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_to_msquic_async_carries_frames_of_every_size_both_ways() -> Result<()> {
    let certificate = PeerCertificate::generate()?;
    let moorline = Moorline::trusting(&certificate)?;
    let peer = MsQuicAsyncPeer::start(&certificate, None, &moorline.credential)?;
    let (connection, link) = tokio::join!(moorline.connect(peer.local_addr()?), peer.accept());
    let (connection, mut link) = (connection?, link?);
    assert_eq!(connection.remote_identity(), certificate.identity());
    exchange(&connection, &mut link.out, &mut link.frames).await?;
    drop(connection);
    link.close(0).await;
    moorline.ends().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_msquic_async_dials_exchanges_frames_of_every_size() -> Result<()> {
    let certificate = PeerCertificate::generate()?;
    let (node, credential) = node_trusting(&certificate).await?;
    let peer = MsQuicAsyncPeer::start(&certificate, Some(&certificate), &credential)?;
    let mut events = node.subscribe();
    let address = within(LIMIT, "the node listens", node.listen(ANY_PORT)).await?;
    let (link, handle) = tokio::join!(peer.dial(address), connected(&mut events));
    let (mut link, handle) = (link?, handle?);
    assert_eq!(handle.peer(), certificate.identity());
    exchange(&handle, &mut link.out, &mut link.frames).await?;
    link.out.finish().await?;
    let (ended, closed) = tokio::join!(end(node), link.closed());
    ended?;
    assert_eq!(application_code(&closed?), Some(CloseCode::GOING_AWAY.value()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connector_that_dials_msquic_async_exchanges_frames_of_every_size() -> Result<()> {
    let certificate = PeerCertificate::generate()?;
    let (node, credential) = node_trusting(&certificate).await?;
    let peer = MsQuicAsyncPeer::start(&certificate, None, &credential)?;
    let target = Target::from(peer.local_addr()?).expect(certificate.identity());
    let connect = within(LIMIT, "the connector dials", node.connect(target));
    let (handle, link) = tokio::join!(connect, peer.accept());
    let (handle, mut link) = (handle?, link?);
    assert_eq!(handle.peer(), certificate.identity());
    exchange(&handle, &mut link.out, &mut link.frames).await?;
    link.out.finish().await?;
    let close = within(LIMIT, "the handle closes", handle.close(CloseCode::NORMAL));
    let (reason, closed) = tokio::join!(close, link.closed());
    assert_eq!(reason, CloseReason::Local { code: CloseCode::NORMAL });
    assert_eq!(application_code(&closed?), Some(CloseCode::NORMAL.value()));
    end(node).await
}

#[tokio::test]
async fn a_close_delivers_every_frame_to_msquic_async_and_then_the_code() -> Result<()> {
    const FRAMES: usize = 64;
    let mut it = Dialled::new().await?;
    let moorline_ends = async {
        for seed in 0..FRAMES {
            it.connection.send(frame(seed, 50_000)).await?;
        }
        anyhow::Ok(it.connection.close(CloseCode::NORMAL).await)
    };
    let peer_reads = async {
        for seed in 0..FRAMES {
            let received = it.link.frames.expect().await?;
            ensure!(received == frame(seed, 50_000), "frame {seed} is another");
        }
        ensure!(it.link.frames.next().await?.is_none(), "more frames than were sent");
        // moorline closes once both directions have ended.
        it.link.out.finish().await?;
        it.link.closed().await
    };
    let both = async { tokio::try_join!(moorline_ends, peer_reads) };
    let (reason, closed) = within(LIMIT, "the connection is drained and closed", both).await?;
    assert_eq!(reason, CloseReason::Local { code: CloseCode::NORMAL });
    assert_eq!(application_code(&closed), Some(CloseCode::NORMAL.value()));
    it.ends().await
}

#[tokio::test]
async fn msquic_async_without_a_certificate_is_refused_and_the_accept_error_says_so() -> Result<()>
{
    let certificate = PeerCertificate::generate()?;
    let moorline = Moorline::trusting(&certificate)?;
    let peer = MsQuicAsyncPeer::start(&certificate, None, &moorline.credential)?;
    let at = moorline.listen().await?;
    // What the peer sees depends on which end is done first; what moorline sees does not.
    let (accepted, dialled) = tokio::join!(accept(&at), peer.dial(at.local_addr()));
    let Err(AcceptError::Closed { reason: CloseReason::Certificate(refused), .. }) = accepted
    else {
        panic!("accepted: {accepted:?}")
    };
    assert_eq!(*refused, CertificateRefused::ByUs { refusal: Refusal::Missing, keys: None });
    drop((dialled, at));
    moorline.ends().await
}

#[tokio::test]
async fn an_msquic_async_server_that_refuses_this_certificate_is_named_as_the_refuser() -> Result<()>
{
    let certificate = PeerCertificate::generate()?;
    let (node, _) = node_trusting(&certificate).await?;
    let other = NetCredential::generate_self_signed(&["localhost"], &[])?;
    let peer = MsQuicAsyncPeer::start(&certificate, None, &other)?;
    let connect = within(LIMIT, "the connector dials", node.connect(peer.local_addr()?));
    // The peer hands the connection over before it judges it.
    let (connected, link) = tokio::join!(connect, peer.accept());
    let link = link?;
    let Err(moorline::ConnectError::CertificateRefused { refused, .. }) = connected else {
        panic!("connected: {connected:?}")
    };
    assert_eq!(refused.side(), Side::Peer);
    drop(link);
    end(node).await
}

/// The code with which moorline closed a connection, if it did.
fn application_code(error: &StreamStartError) -> Option<u64> {
    match error {
        StreamStartError::ConnectionLost(ConnectionError::ShutdownByPeer(code)) => Some(*code),
        _ => None,
    }
}
