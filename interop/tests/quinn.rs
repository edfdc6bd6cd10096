//! moorline and quinn: frames in both directions whoever dials, and what each makes of the other's
//! faults.

use anyhow::{Context, Result, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use moorline::{
    AcceptError, CertificateRefused, CloseCode, CloseReason, ConnectError, DEFAULT_ALPN, Limits,
    MsQuicListener, MsQuicNetConnection, MsQuicTransport, NetCredential, Position, RecvError,
    Refusal, Side,
};
use moorline_interop::quinn_peer::{
    QuinnLink, Settings, application_code, dialler, listener, tls_alert,
};
use moorline_interop::{
    ANY_PORT, LIMIT, Outgoing, PeerCertificate, encode, exchange, frame, within,
};

/// TLS alerts (RFC 8446, section 6).
const BAD_CERTIFICATE: u64 = 42;
const CERTIFICATE_REQUIRED: u64 = 116;
const NO_APPLICATION_PROTOCOL: u64 = 120;

/// A code of an application's, at both ends.
const APPLICATION_CODE: u64 = 0x1234;

/// moorline with one transport, and a quinn peer's certificate that it trusts.
struct Fixture {
    transport: MsQuicTransport,
    credential: NetCredential,
    certificate: PeerCertificate,
}

impl Fixture {
    fn new() -> Result<Self> {
        let certificate = PeerCertificate::generate()?;
        let credential = NetCredential::generate_self_signed(&["localhost"], &[])?
            .trust_hash(certificate.identity());
        Ok(Self { transport: MsQuicTransport::new(), credential, certificate })
    }

    /// What a quinn peer is to be for moorline to take it.
    fn settings(&self) -> Settings<'_> {
        Settings::new(&self.certificate, self.credential.identity())
    }

    async fn listen(&self) -> Result<MsQuicListener> {
        let alpns = [DEFAULT_ALPN];
        Ok(self.transport.create_listener(ANY_PORT, &alpns, self.credential.clone()).await?)
    }

    async fn connect(&self, to: &quinn::Endpoint) -> Result<MsQuicNetConnection, ConnectError> {
        let address = to.local_addr().map_err(|error| ConnectError::Address {
            given: "quinn's endpoint".to_owned(),
            problem: error.to_string(),
        })?;
        let dial = self.transport.connect(address, &[DEFAULT_ALPN], self.credential.clone());
        within(LIMIT, "moorline dials", dial).await
    }

    /// A connection that quinn dialled.
    async fn dialled_by_quinn(&self) -> Result<(MsQuicNetConnection, QuinnLink, quinn::Endpoint)> {
        let moorline = self.listen().await?;
        let endpoint = dialler(&self.settings())?;
        let (link, connection) =
            tokio::join!(QuinnLink::dial(&endpoint, moorline.local_addr()), accept(&moorline));
        Ok((connection?, link?, endpoint))
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

async fn recv(connection: &MsQuicNetConnection) -> Result<Bytes, RecvError> {
    within(LIMIT, "moorline receives", connection.recv()).await.map(|(frame, _)| frame)
}

#[tokio::test]
async fn quinn_dials_a_listener_and_frames_of_every_size_go_both_ways() -> Result<()> {
    let fixture = Fixture::new()?;
    let (connection, mut link, _endpoint) = fixture.dialled_by_quinn().await?;
    assert_eq!(connection.remote_identity(), fixture.certificate.identity());
    assert_eq!(connection.remote_certificate(), fixture.certificate.certificate_der());
    assert_eq!(connection.alpn_negotiated(), DEFAULT_ALPN);
    exchange(&connection, &mut link.out, &mut link.frames).await?;
    drop(connection);
    fixture.ends().await
}

#[tokio::test]
async fn a_connection_to_quinn_carries_frames_of_every_size_both_ways() -> Result<()> {
    let fixture = Fixture::new()?;
    let endpoint = listener(&fixture.settings())?;
    let (connection, link) = tokio::join!(fixture.connect(&endpoint), QuinnLink::accept(&endpoint));
    let (connection, mut link) = (connection?, link?);
    assert_eq!(connection.remote_identity(), fixture.certificate.identity());
    assert_eq!(connection.alpn_negotiated(), DEFAULT_ALPN);
    exchange(&connection, &mut link.out, &mut link.frames).await?;
    drop(connection);
    fixture.ends().await
}

#[tokio::test]
async fn an_expected_hash_is_enough_to_trust_a_quinn_server() -> Result<()> {
    let fixture = Fixture::new()?;
    let stranger = NetCredential::generate_self_signed(&[], &[])?;
    let endpoint = listener(&Settings::new(&fixture.certificate, stranger.identity()))?;
    let expected = Some(fixture.certificate.identity());
    let address = endpoint.local_addr()?;
    let dial = fixture.transport.connect_expecting(address, &[DEFAULT_ALPN], stranger, expected);
    let dial = within(LIMIT, "moorline dials", dial);
    let (connection, link) = tokio::join!(dial, QuinnLink::accept(&endpoint));
    let (connection, mut link) = (connection?, link?);
    connection.send(b"to the expected one").await?;
    let received = within(LIMIT, "quinn receives", link.frames.expect()).await?;
    assert_eq!(received, "to the expected one");
    drop(connection);
    fixture.ends().await
}

#[tokio::test]
async fn a_frame_whose_every_byte_has_a_packet_of_its_own_arrives_whole() -> Result<()> {
    let fixture = Fixture::new()?;
    let (connection, mut link, _endpoint) = fixture.dialled_by_quinn().await?;
    let payload = frame(1, 300);
    let packets = |link: &QuinnLink| link.connection.stats().frame_tx.stream;
    let before = packets(&link);
    let encoded = encode(&payload);
    for at in 0..encoded.len() {
        link.out.write(encoded.slice(at..=at)).await?;
        // quinn's driver runs on this thread: letting it run sends what was written.
        while packets(&link) - before <= at as u64 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(recv(&connection).await?, payload);
    drop(connection);
    fixture.ends().await
}

#[tokio::test]
async fn quinn_without_a_certificate_is_refused_and_the_accept_error_says_so() -> Result<()> {
    let fixture = Fixture::new()?;
    let moorline = fixture.listen().await?;
    let endpoint = dialler(&Settings { certificate: None, ..fixture.settings() })?;
    // A TLS 1.3 client is done before the server has judged it: the refusal comes next.
    let dialled = async {
        match QuinnLink::dial(&endpoint, moorline.local_addr()).await {
            Ok(link) => Ok(link.closed().await),
            Err(error) => error.downcast::<quinn::ConnectionError>(),
        }
    };
    let (accepted, closed) = tokio::join!(accept(&moorline), dialled);
    let Err(AcceptError::Closed { peer, reason: CloseReason::Certificate(refused) }) = accepted
    else {
        panic!("accepted: {accepted:?}")
    };
    assert_eq!(peer.port(), endpoint.local_addr()?.port());
    let missing = CertificateRefused::ByUs { refusal: Refusal::Missing, keys: None };
    assert_eq!(*refused, missing);
    assert_eq!(tls_alert(&closed?), Some(CERTIFICATE_REQUIRED));
    drop(moorline);
    fixture.ends().await
}

#[tokio::test]
async fn quinn_with_an_unpinned_certificate_is_refused_by_the_listener() -> Result<()> {
    let fixture = Fixture::new()?;
    let moorline = fixture.listen().await?;
    let stranger = PeerCertificate::generate()?;
    let endpoint = dialler(&Settings { certificate: Some(&stranger), ..fixture.settings() })?;
    let dialled = async {
        match QuinnLink::dial(&endpoint, moorline.local_addr()).await {
            Ok(link) => Ok(link.closed().await),
            Err(error) => error.downcast::<quinn::ConnectionError>(),
        }
    };
    let (accepted, closed) = tokio::join!(accept(&moorline), dialled);
    let Err(AcceptError::Closed { reason: CloseReason::Certificate(refused), .. }) = accepted
    else {
        panic!("accepted: {accepted:?}")
    };
    assert_eq!(refused.side(), Side::Local);
    assert_eq!(tls_alert(&closed?), Some(BAD_CERTIFICATE));
    drop(moorline);
    fixture.ends().await
}

#[tokio::test]
async fn a_quinn_server_with_an_unpinned_certificate_is_refused_by_this_side() -> Result<()> {
    let fixture = Fixture::new()?;
    let stranger = PeerCertificate::generate()?;
    let endpoint = listener(&Settings::new(&stranger, fixture.credential.identity()))?;
    let (connected, accepted) =
        tokio::join!(fixture.connect(&endpoint), QuinnLink::accept(&endpoint));
    let Err(ConnectError::CertificateRefused { peer, refused }) = connected else {
        panic!("connected: {connected:?}")
    };
    assert_eq!(peer, endpoint.local_addr()?);
    assert_eq!(refused.side(), Side::Local);
    assert!(matches!(*refused, CertificateRefused::ByUs { keys: Some(_), .. }), "{refused:?}");
    let error = accepted.err().context("quinn accepted")?.downcast::<quinn::ConnectionError>()?;
    assert_eq!(tls_alert(&error), Some(BAD_CERTIFICATE), "{error}");
    fixture.ends().await
}

#[tokio::test]
async fn a_quinn_server_that_refuses_this_certificate_is_named_as_the_refuser() -> Result<()> {
    let fixture = Fixture::new()?;
    let other = NetCredential::generate_self_signed(&[], &[])?;
    let endpoint = listener(&Settings::new(&fixture.certificate, other.identity()))?;
    let (connected, accepted) =
        tokio::join!(fixture.connect(&endpoint), QuinnLink::accept(&endpoint));
    ensure!(accepted.is_err(), "quinn accepted");
    // The client is done first; where the refusal comes after that, the next operation tells.
    let reason = match connected {
        Ok(connection) => within(LIMIT, "the refusal arrives", connection.watch_close()).await,
        Err(ConnectError::CertificateRefused { refused, .. }) => CloseReason::Certificate(refused),
        Err(error) => return Err(error.into()),
    };
    assert_eq!(reason.side(), Some(Side::Peer), "{reason}");
    assert!(matches!(reason, CloseReason::Certificate(_)), "{reason}");
    fixture.ends().await
}

#[tokio::test]
async fn a_quinn_server_with_another_alpn_is_told_apart_from_other_failures() -> Result<()> {
    let fixture = Fixture::new()?;
    let endpoint = listener(&Settings { alpn: "another/1", ..fixture.settings() })?;
    let (connected, accepted) =
        tokio::join!(fixture.connect(&endpoint), QuinnLink::accept(&endpoint));
    ensure!(accepted.is_err(), "quinn accepted");
    let Err(ConnectError::AlpnMismatch { peer, offered }) = connected else {
        panic!("connected: {connected:?}")
    };
    assert_eq!(peer, endpoint.local_addr()?);
    assert_eq!(offered, [DEFAULT_ALPN]);
    fixture.ends().await
}

#[tokio::test]
async fn quinn_with_another_alpn_is_refused_by_the_listener() -> Result<()> {
    let fixture = Fixture::new()?;
    let moorline = fixture.listen().await?;
    let endpoint = dialler(&Settings { alpn: "another/1", ..fixture.settings() })?;
    let dialled = QuinnLink::dial(&endpoint, moorline.local_addr()).await;
    let error = dialled.err().context("connected")?.downcast::<quinn::ConnectionError>()?;
    assert_eq!(tls_alert(&error), Some(NO_APPLICATION_PROTOCOL), "{error}");
    drop(moorline);
    fixture.ends().await
}

#[tokio::test]
async fn a_length_over_the_limit_is_named_at_both_ends_behind_the_frames_before_it() -> Result<()> {
    let fixture = Fixture::new()?;
    let (connection, mut link, _endpoint) = fixture.dialled_by_quinn().await?;
    let limit = Limits::default().frame_bytes_max;
    let announced = u32::try_from(limit)? + 1;
    let mut bytes = BytesMut::from(&encode(b"a good frame")[..]);
    bytes.put_u32(announced);
    link.out.write(bytes.freeze()).await?;
    assert_eq!(recv(&connection).await?, "a good frame");
    let announced = u64::from(announced);
    assert_eq!(recv(&connection).await, Err(RecvError::FrameTooLarge { announced, limit }));
    assert_eq!(application_code(&link.closed().await), Some(CloseCode::FRAME_TOO_LARGE.value()));
    drop(connection);
    fixture.ends().await
}

#[tokio::test]
async fn a_stream_that_quinn_finishes_inside_a_payload_ends_there_by_name() -> Result<()> {
    let fixture = Fixture::new()?;
    let (connection, mut link, _endpoint) = fixture.dialled_by_quinn().await?;
    link.out.write(encode(b"whole")).await?;
    link.out.write(encode(&frame(1, 100)).slice(..4 + 40)).await?;
    link.out.finish().await?;
    assert_eq!(recv(&connection).await?, "whole");
    let position = Position::InBody { received: 40, announced: 100 };
    assert_eq!(recv(&connection).await, Err(RecvError::EndOfStream { position }));
    assert_eq!(application_code(&link.closed().await), Some(CloseCode::FRAME_TRUNCATED.value()));
    drop(connection);
    fixture.ends().await
}

#[tokio::test]
async fn a_stream_that_quinn_finishes_inside_a_length_ends_there_by_name() -> Result<()> {
    let fixture = Fixture::new()?;
    let (connection, mut link, _endpoint) = fixture.dialled_by_quinn().await?;
    link.out.write(Bytes::from_static(&[0, 0, 1])).await?;
    link.out.finish().await?;
    let position = Position::InLength { received: 3 };
    assert_eq!(recv(&connection).await, Err(RecvError::EndOfStream { position }));
    assert_eq!(application_code(&link.closed().await), Some(CloseCode::FRAME_TRUNCATED.value()));
    drop(connection);
    fixture.ends().await
}

#[tokio::test]
async fn a_stream_that_quinn_finishes_between_frames_leaves_the_other_direction_open() -> Result<()>
{
    let fixture = Fixture::new()?;
    let (connection, mut link, _endpoint) = fixture.dialled_by_quinn().await?;
    link.out.write(encode(b"the last one")).await?;
    link.out.finish().await?;
    assert_eq!(recv(&connection).await?, "the last one");
    let position = Position::Boundary;
    assert_eq!(recv(&connection).await, Err(RecvError::EndOfStream { position }));
    connection.send(b"still here").await?;
    assert_eq!(within(LIMIT, "quinn receives", link.frames.expect()).await?, "still here");
    drop(connection);
    fixture.ends().await
}

#[tokio::test]
async fn a_close_delivers_every_frame_to_quinn_and_then_the_code() -> Result<()> {
    const FRAMES: usize = 64;
    let fixture = Fixture::new()?;
    let (connection, mut link, _endpoint) = fixture.dialled_by_quinn().await?;
    let moorline_ends = async {
        for seed in 0..FRAMES {
            connection.send(frame(seed, 50_000)).await?;
        }
        anyhow::Ok(connection.close(CloseCode::NORMAL).await)
    };
    let quinn_reads = async {
        for seed in 0..FRAMES {
            ensure!(link.frames.expect().await? == frame(seed, 50_000), "frame {seed} is another");
        }
        ensure!(link.frames.next().await?.is_none(), "more frames than were sent");
        // moorline closes once both directions have ended.
        link.out.finish().await?;
        anyhow::Ok(link.closed().await)
    };
    let both = async { tokio::try_join!(moorline_ends, quinn_reads) };
    let (reason, closed) = within(LIMIT, "the connection is drained and closed", both).await?;
    assert_eq!(reason, CloseReason::Local { code: CloseCode::NORMAL });
    assert_eq!(application_code(&closed), Some(CloseCode::NORMAL.value()));
    drop(connection);
    fixture.ends().await
}

#[tokio::test]
async fn the_code_that_quinn_closes_with_is_the_reason_here() -> Result<()> {
    let fixture = Fixture::new()?;
    let (connection, mut link, _endpoint) = fixture.dialled_by_quinn().await?;
    link.out.write(encode(b"before the close")).await?;
    assert_eq!(recv(&connection).await?, "before the close");
    link.connection.close(u32::try_from(APPLICATION_CODE)?.into(), b"done");
    let code = CloseCode::application(APPLICATION_CODE).context("it is an application's")?;
    let reason = CloseReason::Peer { code };
    assert_eq!(recv(&connection).await, Err(RecvError::Closed { reason: reason.clone() }));
    assert_eq!(within(LIMIT, "it is over", connection.watch_close()).await, reason);
    drop(connection);
    fixture.ends().await
}
