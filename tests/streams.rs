//! Streams of the bare transport, one by one: the pool, and reads of a single stream.

mod common;

use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use common::{friends, loopback, within};
use moorline::{
    CloseCode, Lane, Limits, MsQuicListener, MsQuicNetConnection, MsQuicTransport, Position,
    RecvError, StreamError, read_message_from_stream, write_buffer_to_stream,
};

/// Two transports and one connection between them.
struct Bare {
    server: MsQuicNetConnection,
    client: MsQuicNetConnection,
    _listener: MsQuicListener,
}

async fn bare(change: impl Fn(&mut Limits)) -> Bare {
    let (a, b) = friends();
    let mut limits = Limits::default();
    change(&mut limits);
    let here = MsQuicTransport::with_limits(limits.clone()).expect("limits that work");
    let there = MsQuicTransport::with_limits(limits).expect("limits that work");
    let listener = here.create_listener(loopback(), &["x"], a).await.expect("it listens");
    let address = listener.local_addr();
    let accept = async {
        let request = within("a request", listener.accept()).await.expect("a request");
        within("the handshake", request.accept()).await.expect("accepted")
    };
    let (client, server) = tokio::join!(there.connect(address, &["x"], b), accept);
    Bare { server, client: client.expect("it connects"), _listener: listener }
}

async fn message(stream: &moorline::ReadStream) -> Result<Bytes, RecvError> {
    within("a message", read_message_from_stream(stream)).await.map(|(frame, _)| frame)
}

#[tokio::test]
async fn messages_of_one_stream_are_read_alone_and_in_order() {
    let bare = bare(|_| ()).await;
    let (near, far) = (bare.client.streams(), bare.server.streams());
    let stream = within("a stream", near.acquire_send()).await.expect("a stream");
    for number in 0..100_u8 {
        let written = write_buffer_to_stream(&stream, vec![number; usize::from(number)]);
        within("a write", written).await.expect("taken over");
    }
    bare.client.send_on(Lane::Bulk, "on another one").await.expect("taken over");
    let stream = within("a stream", far.acquire_recv()).await.expect("a stream");
    for number in 0..100_u8 {
        assert_eq!(message(&stream).await, Ok(vec![number; usize::from(number)].into()));
    }
    let (frame, _) = within("a frame", bare.server.recv()).await.expect("a frame");
    assert_eq!(frame, "on another one");
}

/// On one thread, where a task that does not give way is seen at once: timers stand still.
#[test]
fn a_reader_of_one_stream_waits_while_another_one_has_a_frame() {
    let (done, finished) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let bare = bare(|_| ()).await;
            bare.client.send_on(Lane::Data, "first").await.expect("taken over");
            let pool = bare.server.streams();
            let stream = within("a stream", pool.acquire_recv()).await.expect("a stream");
            assert_eq!(message(&stream).await, Ok("first".into()));
            bare.client.send_on(Lane::Control, "on another one").await.expect("taken over");
            let waiting = read_message_from_stream(&stream);
            let waited = tokio::time::timeout(Duration::from_millis(200), waiting).await;
            assert!(waited.is_err(), "{waited:?}");
            bare.client.send_on(Lane::Data, "second").await.expect("taken over");
            assert_eq!(message(&stream).await, Ok("second".into()));
            let (frame, _) = within("the other frame", bare.server.recv()).await.expect("a frame");
            assert_eq!(frame, "on another one");
        });
        done.send(()).expect("somebody waits");
    });
    finished.recv_timeout(common::LIMIT).expect("the runtime goes on");
}

#[tokio::test]
async fn a_stream_that_is_discarded_is_replaced_and_its_reader_is_told_the_code() {
    let bare = bare(|_| ()).await;
    let (near, far) = (bare.client.streams(), bare.server.streams());
    let first = within("a stream", near.acquire_send()).await.expect("a stream");
    let written = write_buffer_to_stream(&first, "on the first");
    within("a write", written).await.expect("taken over");
    let reading = within("a stream", far.acquire_recv()).await.expect("a stream");
    assert_eq!(message(&reading).await, Ok("on the first".into()));
    near.discard(&first);
    let position = Position::Boundary;
    let reset = RecvError::Reset { code: CloseCode::NORMAL, position };
    assert_eq!(message(&reading).await, Err(reset.clone()));
    assert_eq!(message(&reading).await, Err(reset), "as often as it is asked for");

    let second = within("a stream", near.acquire_send()).await.expect("another stream");
    let written = write_buffer_to_stream(&second, "on the second");
    within("a write", written).await.expect("taken over");
    // Whoever reads them all is not told of streams that come and go.
    let (frame, _) = within("a frame", bare.server.recv()).await.expect("a frame");
    assert_eq!(frame, "on the second");
}

#[tokio::test]
async fn a_stream_that_ended_gives_what_it_had_and_then_its_end() {
    let bare = bare(|_| ()).await;
    bare.client.send("the last").await.expect("taken over");
    let pool = bare.server.streams();
    let stream = within("a stream", pool.acquire_recv()).await.expect("a stream");
    let close = async { bare.client.close(CloseCode::NORMAL).await };
    let read = async {
        assert_eq!(message(&stream).await, Ok("the last".into()));
        let end = message(&stream).await;
        assert_eq!(end, Err(RecvError::EndOfStream { position: Position::Boundary }));
        bare.server.close(CloseCode::NORMAL).await
    };
    within("both closes", async { tokio::join!(close, read) }).await;
}

#[tokio::test]
async fn a_pool_without_a_stream_of_the_peers_waits_for_its_limit() {
    let limit = Duration::from_millis(200);
    let bare = bare(|limits| limits.stream_op_timeout = limit).await;
    let none = within("the limit", bare.server.streams().acquire_recv()).await;
    assert_eq!(none.expect_err("nobody sent"), StreamError::TimedOut { after: limit });
}

#[tokio::test]
async fn every_lane_is_known_by_the_numbers_of_its_streams_also_after_an_error() {
    let bare = bare(|_| ()).await;
    let pool = bare.client.streams();
    for round in 0..5 {
        for lane in [Lane::Bulk, Lane::Data, Lane::Control] {
            let frame = format!("{round} {lane:?}");
            within("a send", bare.client.send_on(lane, frame)).await.expect("taken over");
        }
        for lane in Lane::ALL {
            let (frame, _) = within("a frame", bare.server.recv_on(lane)).await.expect("a frame");
            assert_eq!(frame, format!("{round} {lane:?}"));
        }
        // The next stream of data has another number.
        let data = within("a stream", pool.acquire_send()).await.expect("a stream");
        pool.discard(&data);
    }
}
