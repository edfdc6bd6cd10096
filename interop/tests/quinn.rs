//! moorline and quinn: frames in both directions whoever dials, with and without actors, and what
//! happens on their streams up to the end.

use anyhow::{Context, Result, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use moorline::{
    CloseCode, CloseReason, DEFAULT_ALPN, Limits, MsQuicNetConnection, Position, RecvError,
    SendError, Target,
};
use moorline_interop::moorline_end::{Moorline, accept, connected, end, node_trusting, recv};
use moorline_interop::quinn_peer::{QuinnLink, Settings, application_code, dialler, listener};
use moorline_interop::{
    ANY_PORT, FrameReader, Incoming, LIMIT, Outgoing, PeerCertificate, encode, exchange, frame,
    within,
};

/// A code of an application's, at both ends.
const APPLICATION_CODE: u32 = 0x1234;

/// A connection that quinn dialled.
struct Dialled {
    connection: MsQuicNetConnection,
    link: QuinnLink,
    certificate: PeerCertificate,
    moorline: Moorline,
    _endpoint: quinn::Endpoint,
}

impl Dialled {
    async fn new() -> Result<Self> {
        let certificate = PeerCertificate::generate()?;
        let moorline = Moorline::trusting(&certificate)?;
        let endpoint = dialler(&Settings::new(&certificate, moorline.credential.identity()))?;
        let at = moorline.listen().await?;
        let (link, connection) =
            tokio::join!(QuinnLink::dial(&endpoint, at.local_addr()), accept(&at));
        let (link, connection) = (link?, connection?);
        Ok(Self { connection, link, certificate, moorline, _endpoint: endpoint })
    }

    async fn ends(self) -> Result<()> {
        drop(self.connection);
        self.moorline.ends().await
    }
}

fn application_close() -> Result<CloseCode> {
    CloseCode::application(APPLICATION_CODE.into()).context("it is an application's")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quinn_dials_a_listener_and_frames_of_every_size_go_both_ways() -> Result<()> {
    let mut it = Dialled::new().await?;
    assert_eq!(it.connection.remote_identity(), it.certificate.identity());
    assert_eq!(it.connection.remote_certificate(), it.certificate.certificate_der());
    assert_eq!(it.connection.alpn_negotiated(), DEFAULT_ALPN);
    exchange(&it.connection, &mut it.link.out, &mut it.link.frames).await?;
    it.ends().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_to_quinn_carries_frames_of_every_size_both_ways() -> Result<()> {
    let certificate = PeerCertificate::generate()?;
    let moorline = Moorline::trusting(&certificate)?;
    let endpoint = listener(&Settings::new(&certificate, moorline.credential.identity()))?;
    let (connection, link) =
        tokio::join!(moorline.connect(endpoint.local_addr()?), QuinnLink::accept(&endpoint));
    let (connection, mut link) = (connection?, link?);
    assert_eq!(connection.remote_identity(), certificate.identity());
    assert_eq!(connection.alpn_negotiated(), DEFAULT_ALPN);
    exchange(&connection, &mut link.out, &mut link.frames).await?;
    drop(connection);
    moorline.ends().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_quinn_dials_exchanges_frames_of_every_size() -> Result<()> {
    let certificate = PeerCertificate::generate()?;
    let (node, credential) = node_trusting(&certificate).await?;
    let mut events = node.subscribe();
    let address = within(LIMIT, "the node listens", node.listen(ANY_PORT)).await?;
    let endpoint = dialler(&Settings::new(&certificate, credential.identity()))?;
    let (link, handle) = tokio::join!(QuinnLink::dial(&endpoint, address), connected(&mut events));
    let (mut link, handle) = (link?, handle?);
    assert_eq!(handle.peer(), certificate.identity());
    exchange(&handle, &mut link.out, &mut link.frames).await?;
    // The node closes in order only with a peer that ends its own direction as well.
    link.out.finish().await?;
    let (ended, closed) = tokio::join!(end(node), link.closed());
    ended?;
    assert_eq!(application_code(&closed), Some(CloseCode::GOING_AWAY.value()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connector_that_dials_quinn_exchanges_frames_of_every_size() -> Result<()> {
    let certificate = PeerCertificate::generate()?;
    let (node, credential) = node_trusting(&certificate).await?;
    let endpoint = listener(&Settings::new(&certificate, credential.identity()))?;
    let target = Target::from(endpoint.local_addr()?).expect(certificate.identity());
    let connect = within(LIMIT, "the connector dials", node.connect(target));
    let (handle, link) = tokio::join!(connect, QuinnLink::accept(&endpoint));
    let (handle, mut link) = (handle?, link?);
    assert_eq!(handle.peer(), certificate.identity());
    exchange(&handle, &mut link.out, &mut link.frames).await?;
    link.out.finish().await?;
    let close = within(LIMIT, "the handle closes", handle.close(application_close()?));
    let (reason, closed) = tokio::join!(close, link.closed());
    assert_eq!(reason, CloseReason::Local { code: application_close()? });
    assert_eq!(application_code(&closed), Some(APPLICATION_CODE.into()));
    end(node).await
}

#[tokio::test]
async fn a_connector_dials_quinn_again_when_quinn_closes() -> Result<()> {
    let certificate = PeerCertificate::generate()?;
    let (node, credential) = node_trusting(&certificate).await?;
    let mut events = node.subscribe();
    let endpoint = listener(&Settings::new(&certificate, credential.identity()))?;
    let connect = within(LIMIT, "the connector dials", node.connect(endpoint.local_addr()?));
    let (first, link) = tokio::join!(connect, QuinnLink::accept(&endpoint));
    let first = first?;
    assert_eq!(connected(&mut events).await?.epoch(), first.epoch());
    link?.connection.close(APPLICATION_CODE.into(), b"for now");
    let (again, link) = tokio::join!(connected(&mut events), QuinnLink::accept(&endpoint));
    let (again, mut link) = (again?, link?);
    assert_ne!(again.epoch(), first.epoch());
    assert_eq!(first.close_reason(), Some(CloseReason::Peer { code: application_close()? }));
    again.send("back").await?;
    assert_eq!(within(LIMIT, "quinn receives", link.frames.expect()).await?, "back");
    link.out.finish().await?;
    end(node).await
}

#[tokio::test]
async fn a_frame_whose_every_byte_has_a_packet_of_its_own_arrives_whole() -> Result<()> {
    let mut it = Dialled::new().await?;
    let payload = frame(1, 300);
    let encoded = encode(&payload);
    let sent = |link: &QuinnLink| link.connection.stats().frame_tx.stream;
    let before = sent(&it.link);
    let spread = async {
        for at in 0..encoded.len() {
            it.link.out.write(encoded.slice(at..=at)).await?;
            // quinn's driver runs on this thread, and sends when it is let run.
            while sent(&it.link) - before <= at as u64 {
                tokio::task::yield_now().await;
            }
        }
        anyhow::Ok(())
    };
    within(LIMIT, "quinn sends every byte alone", spread).await?;
    assert_eq!(recv(&it.connection).await?, payload);
    it.ends().await
}

#[tokio::test]
async fn quinn_may_change_its_keys_between_frames() -> Result<()> {
    let mut it = Dialled::new().await?;
    for seed in 0..5 {
        let payload = frame(seed, 10_000);
        it.link.connection.force_key_update();
        it.link.out.write(encode(&payload)).await?;
        ensure!(recv(&it.connection).await? == payload, "frame {seed} is another");
        // Answered under the new keys: without an answer the keys must not change again.
        within(LIMIT, "quinn acknowledges", it.connection.send_acked(payload.clone())).await?;
        let answer = within(LIMIT, "quinn receives", it.link.frames.expect()).await?;
        ensure!(answer == payload, "answer {seed} is another");
    }
    it.ends().await
}

#[tokio::test]
async fn a_dial_survives_the_retry_that_quinn_asks_for() -> Result<()> {
    let certificate = PeerCertificate::generate()?;
    let moorline = Moorline::trusting(&certificate)?;
    let endpoint = listener(&Settings::new(&certificate, moorline.credential.identity()))?;
    let retried = async {
        let first = within(LIMIT, "quinn is dialled", endpoint.accept()).await;
        let first = first.context("the endpoint is closed")?;
        ensure!(!first.remote_address_validated(), "the address was proven already");
        first.retry()?;
        QuinnLink::accept(&endpoint).await
    };
    let (connection, link) = tokio::join!(moorline.connect(endpoint.local_addr()?), retried);
    let (connection, mut link) = (connection?, link?);
    connection.send(b"after the retry").await?;
    let received = within(LIMIT, "quinn receives", link.frames.expect()).await?;
    assert_eq!(received, "after the retry");
    drop(connection);
    moorline.ends().await
}

#[tokio::test]
async fn streams_that_quinn_finishes_make_room_for_others() -> Result<()> {
    let it = Dialled::new().await?;
    let rounds = 3 * usize::from(Limits::default().peer_streams_max);
    for seed in 0..rounds {
        let opened = it.link.connection.open_uni();
        let mut stream = within(LIMIT, "quinn may open a stream", opened).await?;
        let payload = frame(seed, 2_000);
        stream.write_chunk(encode(&payload)).await?;
        stream.finish()?;
        assert_eq!(recv(&it.connection).await?, payload);
        let position = Position::Boundary;
        assert_eq!(recv(&it.connection).await, Err(RecvError::EndOfStream { position }));
    }
    it.ends().await
}

#[tokio::test]
async fn frames_of_many_streams_of_quinns_arrive_each_in_the_order_of_its_stream() -> Result<()> {
    const ROUNDS: u8 = 20;
    let it = Dialled::new().await?;
    let streams = u8::try_from(Limits::default().peer_streams_max)?;
    let mut open = Vec::new();
    for _ in 0..streams {
        open.push(within(LIMIT, "quinn opens a stream", it.link.connection.open_uni()).await?);
    }
    for round in 0..ROUNDS {
        for (index, stream) in (0..).zip(&mut open) {
            stream.write_chunk(encode(&[index, round])).await?;
        }
    }
    let mut next = vec![0; streams.into()];
    for _ in 0..u32::from(ROUNDS) * u32::from(streams) {
        let received = recv(&it.connection).await?;
        let [index, round] = received[..] else { panic!("{received:?}") };
        let expected = &mut next[usize::from(index)];
        assert_eq!(round, *expected, "stream {index}");
        *expected += 1;
    }
    it.ends().await
}

#[tokio::test]
async fn a_stream_that_quinn_resets_is_given_up_and_the_next_one_delivers() -> Result<()> {
    let it = Dialled::new().await?;
    let mut stream = within(LIMIT, "quinn opens a stream", it.link.connection.open_uni()).await?;
    stream.write_chunk(encode(b"whole")).await?;
    assert_eq!(recv(&it.connection).await?, "whole");
    stream.write_chunk(encode(&frame(1, 100)).slice(..50)).await?;
    stream.reset(APPLICATION_CODE.into())?;
    let mut stream = within(LIMIT, "quinn opens a stream", it.link.connection.open_uni()).await?;
    stream.write_chunk(encode(b"on the next one")).await?;
    assert_eq!(recv(&it.connection).await?, "on the next one");
    it.ends().await
}

#[tokio::test]
async fn a_stream_that_quinn_stops_is_replaced_by_another() -> Result<()> {
    let it = Dialled::new().await?;
    it.connection.send(b"first").await?;
    let opened = it.link.connection.accept_uni();
    let mut stream = within(LIMIT, "moorline opens a stream", opened).await?;
    let mut length = [0; 4 + 5];
    within(LIMIT, "quinn receives", stream.read_exact(&mut length)).await?;
    stream.stop(APPLICATION_CODE.into())?;
    let delivering = async {
        loop {
            // Streams whose numbers are passed over are reset at once.
            let stream = it.link.connection.accept_uni().await?;
            if let Ok(frame) = FrameReader::new(Stream(stream)).expect().await {
                return anyhow::Ok(frame);
            }
        }
    };
    let replaced = async {
        // Until the stop has arrived, frames still go out on the stopped stream.
        tokio::select! {
            frame = delivering => frame,
            error = async {
                loop {
                    if it.connection.close_reason().is_some() {
                        break anyhow::anyhow!("the connection is over");
                    }
                    drop(it.connection.send_acked("again").await);
                }
            } => Err(error),
        }
    };
    assert_eq!(within(LIMIT, "quinn receives on another stream", replaced).await?, "again");
    it.ends().await
}

#[tokio::test]
async fn a_frame_that_was_lost_with_a_stopped_stream_is_not_taken_for_a_closed_connection()
-> Result<()> {
    let it = Dialled::new().await?;
    // More than quinn's window for one stream: it cannot be acknowledged while nobody reads.
    let sent = it.connection.send_acked(frame(1, 8 << 20));
    let stopped = async {
        let mut stream = it.link.connection.accept_uni().await?;
        stream.stop(APPLICATION_CODE.into())?;
        anyhow::Ok(())
    };
    let both = async { tokio::join!(sent, stopped) };
    let (sent, stopped) = within(LIMIT, "the stream is stopped", both).await;
    stopped?;
    assert_eq!(it.connection.close_reason(), None);
    let error = sent.err().context("a stopped stream was acknowledged")?;
    assert!(!matches!(error, SendError::Closed { .. }), "{error:?}");
    it.ends().await
}

#[tokio::test]
async fn quinn_may_open_no_bidirectional_stream() -> Result<()> {
    let mut it = Dialled::new().await?;
    let round_trip = async {
        it.link.out.write(encode(b"ping")).await?;
        let ping = recv(&it.connection).await?;
        it.connection.send(ping).await?;
        within(LIMIT, "quinn receives", it.link.frames.expect()).await
    };
    // Where one is allowed, it opens at once: the round trip gives it every chance.
    let opened = it.link.connection.open_bi();
    let answer = tokio::select! {
        biased;
        _ = opened => panic!("moorline allows a bidirectional stream"),
        answer = round_trip => answer?,
    };
    assert_eq!(answer, "ping");
    it.ends().await
}

struct Stream(quinn::RecvStream);

impl Incoming for Stream {
    async fn read(&mut self) -> Result<Option<Bytes>> {
        Ok(self.0.read_chunk(usize::MAX, true).await?.map(|chunk| chunk.bytes))
    }
}

#[tokio::test]
async fn a_length_over_the_limit_is_named_at_both_ends_behind_the_frames_before_it() -> Result<()> {
    let mut it = Dialled::new().await?;
    let limit = Limits::default().frame_bytes_max;
    let announced = u32::try_from(limit)? + 1;
    let mut bytes = BytesMut::from(&encode(b"a good frame")[..]);
    bytes.put_u32(announced);
    it.link.out.write(bytes.freeze()).await?;
    assert_eq!(recv(&it.connection).await?, "a good frame");
    let announced = u64::from(announced);
    assert_eq!(recv(&it.connection).await, Err(RecvError::FrameTooLarge { announced, limit }));
    let closed = it.link.closed().await;
    assert_eq!(application_code(&closed), Some(CloseCode::FRAME_TOO_LARGE.value()));
    it.ends().await
}

#[tokio::test]
async fn a_stream_that_quinn_finishes_inside_a_payload_ends_there_by_name() -> Result<()> {
    let mut it = Dialled::new().await?;
    it.link.out.write(encode(b"whole")).await?;
    it.link.out.write(encode(&frame(1, 100)).slice(..4 + 40)).await?;
    it.link.out.finish().await?;
    assert_eq!(recv(&it.connection).await?, "whole");
    let position = Position::InBody { received: 40, announced: 100 };
    assert_eq!(recv(&it.connection).await, Err(RecvError::EndOfStream { position }));
    let closed = it.link.closed().await;
    assert_eq!(application_code(&closed), Some(CloseCode::FRAME_TRUNCATED.value()));
    it.ends().await
}

#[tokio::test]
async fn a_stream_that_quinn_finishes_inside_a_length_ends_there_by_name() -> Result<()> {
    let mut it = Dialled::new().await?;
    it.link.out.write(Bytes::from_static(&[0, 0, 1])).await?;
    it.link.out.finish().await?;
    let position = Position::InLength { received: 3 };
    assert_eq!(recv(&it.connection).await, Err(RecvError::EndOfStream { position }));
    let closed = it.link.closed().await;
    assert_eq!(application_code(&closed), Some(CloseCode::FRAME_TRUNCATED.value()));
    it.ends().await
}

#[tokio::test]
async fn a_stream_that_quinn_finishes_between_frames_leaves_the_other_direction_open() -> Result<()>
{
    let mut it = Dialled::new().await?;
    it.link.out.write(encode(b"the last one")).await?;
    it.link.out.finish().await?;
    assert_eq!(recv(&it.connection).await?, "the last one");
    let position = Position::Boundary;
    assert_eq!(recv(&it.connection).await, Err(RecvError::EndOfStream { position }));
    it.connection.send(b"still here").await?;
    assert_eq!(within(LIMIT, "quinn receives", it.link.frames.expect()).await?, "still here");
    it.ends().await
}

#[tokio::test]
async fn a_close_delivers_every_frame_to_quinn_and_then_the_code() -> Result<()> {
    const FRAMES: usize = 64;
    let mut it = Dialled::new().await?;
    let moorline_ends = async {
        for seed in 0..FRAMES {
            it.connection.send(frame(seed, 50_000)).await?;
        }
        anyhow::Ok(it.connection.close(CloseCode::NORMAL).await)
    };
    let quinn_reads = async {
        for seed in 0..FRAMES {
            let received = it.link.frames.expect().await?;
            ensure!(received == frame(seed, 50_000), "frame {seed} is another");
        }
        ensure!(it.link.frames.next().await?.is_none(), "more frames than were sent");
        // moorline closes once both directions have ended.
        it.link.out.finish().await?;
        anyhow::Ok(it.link.closed().await)
    };
    let both = async { tokio::try_join!(moorline_ends, quinn_reads) };
    let (reason, closed) = within(LIMIT, "the connection is drained and closed", both).await?;
    assert_eq!(reason, CloseReason::Local { code: CloseCode::NORMAL });
    assert_eq!(application_code(&closed), Some(CloseCode::NORMAL.value()));
    it.ends().await
}

#[tokio::test]
async fn the_code_that_quinn_closes_with_is_the_reason_here() -> Result<()> {
    let mut it = Dialled::new().await?;
    it.link.out.write(encode(b"before the close")).await?;
    assert_eq!(recv(&it.connection).await?, "before the close");
    it.link.connection.close(APPLICATION_CODE.into(), b"done");
    let reason = CloseReason::Peer { code: application_close()? };
    let received = recv(&it.connection).await;
    assert_eq!(received, Err(RecvError::Closed { reason: reason.clone() }));
    assert_eq!(within(LIMIT, "it is over", it.connection.watch_close()).await, reason);
    it.ends().await
}
