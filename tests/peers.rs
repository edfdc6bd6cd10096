//! Peers that outlive connections, as an application sees them.

mod common;

use std::time::{Duration, Instant};

use moorline::{
    CloseCode, Delivery, Incoming, Lane, NodeEvent, Peer, PeerEnded, PeerError, PeerSendError,
    RequestError, Target,
};

use moorline::testing::{Conditions, RateLimit};

use common::sessions::Pair;
use common::{friends, loopback, node, within};
use tokio::task::JoinSet;

const PROTOCOL: &str = "orders/1";
const TIME: Duration = Duration::from_secs(15);

async fn message(peer: &Peer) -> Vec<u8> {
    match within("a frame", peer.recv()).await {
        Ok(Incoming::Message(frame)) => frame.to_vec(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn frames_are_delivered_once_the_peers_application_has_taken_them() {
    let pair = Pair::new(PROTOCOL).await;
    assert_eq!(pair.at_client.identity(), pair.server.identity());
    assert_eq!(pair.at_server.protocol(), PROTOCOL);
    let receipt = within("sending", pair.at_client.send_tracked(Lane::Data, "one")).await;
    let receipt = receipt.expect("accepted");
    assert_eq!(message(&pair.at_server).await, b"one");
    assert_eq!(within("the word", receipt.delivery()).await, Delivery::Delivered);
    for (lane, frame) in [(Lane::Bulk, "bulk"), (Lane::Control, "control")] {
        within("sending", pair.at_server.send_on(lane, frame)).await.expect("accepted");
        let received = within("a frame", pair.at_client.recv_on(lane)).await;
        let Ok(Incoming::Message(received)) = received else { panic!("{received:?}") };
        assert_eq!(received, frame);
    }
    let acked = pair.at_client.send_acked("two");
    let (sent, ()) = tokio::join!(within("the word", acked), async {
        assert_eq!(message(&pair.at_server).await, b"two");
    });
    sent.expect("delivered");
    let counts = pair.at_client.deliveries()[Lane::Data as usize];
    assert_eq!((counts.accepted, counts.delivered), (2, 2));
    pair.end().await;
}

#[tokio::test]
async fn who_reads_one_lane_is_woken_by_what_comes_there_whoever_else_reads() {
    let pair = Pair::new(PROTOCOL).await;
    for lane in Lane::ALL {
        // Whoever began to wait first may be woken first: the reader of this lane comes last.
        let mut others = JoinSet::new();
        for other in Lane::ALL.into_iter().filter(|other| *other != lane) {
            let at_server = pair.at_server.clone();
            others.spawn(async move { at_server.recv_on(other).await });
            tokio::task::yield_now().await;
        }
        let at_server = pair.at_server.clone();
        let reading = tokio::spawn(async move { at_server.recv_on(lane).await });
        tokio::task::yield_now().await;
        within("sending", pair.at_client.send_on(lane, "for you")).await.expect("accepted");
        let received = within("a frame", reading).await.expect("no panic");
        assert!(matches!(received, Ok(Incoming::Message(frame)) if frame == "for you"), "{lane:?}");
        others.shutdown().await;
    }
    pair.end().await;
}

#[tokio::test]
async fn requests_have_answers_and_each_has_one_end() {
    let pair = Pair::new(PROTOCOL).await;
    let server = pair.at_server.clone();
    let handler = tokio::spawn(async move {
        while let Ok(incoming) = server.recv().await {
            let Incoming::Request(request) = incoming else { panic!("a request") };
            match request.frame() {
                b"echo" => request.reply("echo").await.expect("somebody waits"),
                b"drop" => drop(request),
                b"wait" => request.cancelled().await,
                other => panic!("{other:?}"),
            }
        }
    });
    let ask = |frame: &'static str, time| pair.at_client.request(frame, time);
    assert_eq!(within("an answer", ask("echo", TIME)).await.expect("an answer"), "echo");
    let dropped = within("an answer", ask("drop", TIME)).await;
    assert_eq!(dropped, Err(RequestError::NoReply));
    let late = within("a deadline", ask("wait", Duration::from_millis(100))).await;
    assert_eq!(late, Err(RequestError::DeadlineExceeded { may_have_run: true }));
    // The handler is told, so that it goes on with the next one.
    assert_eq!(within("an answer", ask("echo", TIME)).await.expect("an answer"), "echo");
    let given_up = tokio::time::timeout(Duration::from_millis(100), ask("wait", TIME)).await;
    assert!(given_up.is_err(), "nobody answers");
    assert_eq!(within("an answer", ask("echo", TIME)).await.expect("an answer"), "echo");
    handler.abort();
    pair.end().await;
}

#[tokio::test]
async fn what_is_accepted_while_nothing_comes_through_comes_when_the_network_is_back() {
    let pair = Pair::new(PROTOCOL).await;
    let mut events = pair.client.subscribe();
    pair.at_client.send("before").await.expect("accepted");
    assert_eq!(message(&pair.at_server).await, b"before");
    // Nothing comes through for now.
    pair.link.cut();
    let down = async {
        loop {
            if let Some(NodeEvent::PeerDown { peer, .. }) = events.next().await {
                return peer;
            }
        }
    };
    assert_eq!(within("the loss", down).await, pair.server.identity());
    for number in 0..100_u64 {
        let frame = number.to_be_bytes().to_vec();
        within("sending", pair.at_client.send(frame)).await.expect("accepted");
    }
    assert!(!pair.at_client.is_connected());
    pair.link.mend();
    for number in 0..100_u64 {
        assert_eq!(message(&pair.at_server).await, number.to_be_bytes());
    }
    pair.end().await;
}

#[tokio::test]
async fn a_long_path_is_filled_where_the_application_takes_what_comes() {
    const FRAMES: u64 = 6_000;
    let pair = Pair::new(PROTOCOL).await;
    let mut long = Conditions::default();
    long.delay = Duration::from_millis(25);
    // Frames come one by one and are taken so: what counts is what was taken, not what waits.
    long.limit = Some(RateLimit { bytes_a_second: 2 << 20, queue_bytes: 1 << 20 });
    pair.link.set_both(long);
    let began = Instant::now();
    let sending = async {
        for number in 0..FRAMES {
            let mut frame = number.to_be_bytes().to_vec();
            frame.resize(1_000, 0);
            within("sending", pair.at_client.send(frame)).await.expect("accepted");
        }
    };
    let taking = async {
        for number in 0..FRAMES {
            assert_eq!(message(&pair.at_server).await[..8], number.to_be_bytes());
        }
    };
    tokio::join!(sending, taking);
    // With what is granted first, for each of some 110 round trips, it is 19 s.
    let took = began.elapsed();
    println!("{took:?}");
    assert!(took < Duration::from_secs(8), "{took:?}");
    pair.end().await;
}

#[tokio::test]
async fn both_sides_that_ask_for_each_other_share_one_session() {
    let (a, b) = friends();
    let (one, other) = (node(a).await, node(b).await);
    let [mut begun_one, mut begun_other] = [&one, &other].map(|node| node.accept(PROTOCOL));
    let mut targets = Vec::new();
    for node in [&one, &other] {
        let address = within("listening", node.listen(loopback())).await.expect("a listener");
        targets.push(Target::from(address).expect(node.identity()));
    }
    let (from_one, from_other) = within("both", async {
        tokio::join!(
            one.peer(targets[1].clone(), PROTOCOL),
            other.peer(targets[0].clone(), PROTOCOL)
        )
    })
    .await;
    let (from_one, from_other) = (from_one.expect("a peer"), from_other.expect("a peer"));
    for (from, to) in [(&from_one, &from_other), (&from_other, &from_one)] {
        within("sending", from.send("hello")).await.expect("accepted");
        assert_eq!(message(to).await, b"hello");
    }
    // Nobody came beside them.
    drop((from_one, from_other));
    within("one's end", one.close(TIME)).await.expect("an orderly end");
    within("the other's end", other.close(TIME)).await.expect("an orderly end");
    for begun in [&mut begun_one, &mut begun_other] {
        while let Some(peer) = within("its end", begun.next()).await {
            assert!(peer.recv().await.is_err(), "it is the one that was opened");
        }
    }
}

#[tokio::test]
async fn who_asks_twice_has_one_session_until_the_last_handle_goes() {
    let pair = Pair::new(PROTOCOL).await;
    let again = within("a peer", pair.client.peer(pair.target.clone(), PROTOCOL)).await;
    let again = again.expect("the same");
    drop(pair.at_client.clone());
    drop(again);
    within("sending", pair.at_client.send("still here")).await.expect("accepted");
    assert_eq!(message(&pair.at_server).await, b"still here");
    pair.end().await;
}

#[tokio::test]
async fn a_close_waits_until_everything_was_taken() {
    let pair = Pair::new(PROTOCOL).await;
    for number in 0..1_000_u64 {
        let frame = number.to_be_bytes().to_vec();
        within("sending", pair.at_client.send(frame)).await.expect("accepted");
    }
    let closer = pair.at_client.clone();
    let mut closing = Box::pin(async move { closer.close(CloseCode::NORMAL).await });
    tokio::select! {
        biased;
        ended = &mut closing => panic!("nothing was taken: {ended:?}"),
        () = std::future::ready(()) => {}
    }
    let refused = pair.at_client.try_send("late").expect_err("it closes");
    assert!(
        matches!(refused, PeerSendError::Ended { ended: PeerEnded::Closing, .. }),
        "{refused:?}"
    );
    for number in 0..1_000_u64 {
        assert_eq!(message(&pair.at_server).await, number.to_be_bytes());
    }
    let ended = within("the end", pair.at_server.recv()).await;
    let by_peer = PeerEnded::ByPeer { code: CloseCode::NORMAL };
    assert_eq!(ended.err(), Some(by_peer));
    assert_eq!(within("the close", closing).await, PeerEnded::Closed);
    let refused = pair.at_client.send("late").await.expect_err("it is closed");
    assert!(
        matches!(refused, PeerSendError::Ended { ended: PeerEnded::Closed, .. }),
        "{refused:?}"
    );
    let counts = pair.at_client.deliveries()[Lane::Data as usize];
    assert_eq!((counts.accepted, counts.delivered), (1_000, 1_000));
    pair.end().await;
}

#[tokio::test]
async fn a_close_behind_everything_that_was_taken_does_not_wait() {
    let pair = Pair::new(PROTOCOL).await;
    within("sending", pair.at_client.send("one")).await.expect("accepted");
    assert_eq!(message(&pair.at_server).await, b"one");
    let closed = within("the close", pair.at_client.close(CloseCode::NORMAL)).await;
    assert_eq!(closed, PeerEnded::Closed);
    let by_peer = PeerEnded::ByPeer { code: CloseCode::NORMAL };
    assert_eq!(within("the end", pair.at_server.recv()).await.err(), Some(by_peer));
    pair.end().await;
}

#[tokio::test]
async fn a_protocol_that_nobody_accepts_and_a_target_without_identity_are_told() {
    let pair = Pair::new(PROTOCOL).await;
    let unknown = within("an error", pair.client.peer(pair.target.clone(), "other/1")).await;
    let error = unknown.expect_err("nobody speaks it");
    let PeerError::Ended(PeerEnded::Refused { code, .. }) = error else { panic!("{error:?}") };
    assert_eq!(code, CloseCode::UNKNOWN_PROTOCOL);
    let anybody = within("an error", pair.client.peer("127.0.0.1:1", PROTOCOL)).await;
    assert!(matches!(anybody, Err(PeerError::NobodyExpected)));
    pair.end().await;
}

#[tokio::test]
async fn a_protocol_is_accepted_until_the_last_that_accepts_it_is_dropped() {
    const OTHER: &str = "other/1";
    let pair = Pair::new(PROTOCOL).await;
    let first = pair.server.accept(OTHER);
    let mut second = pair.server.accept(OTHER);
    drop(first);
    let opened = within("a peer", pair.client.peer(pair.target.clone(), OTHER)).await;
    let at_client = opened.expect("the second accepts it");
    let at_server = within("its other end", second.next()).await.expect("it came");
    drop(second);
    within("sending", at_client.send("goes on")).await.expect("accepted");
    assert_eq!(message(&at_server).await, b"goes on");
    assert_eq!(within("the close", at_client.close(CloseCode::NORMAL)).await, PeerEnded::Closed);
    let late = within("an error", pair.client.peer(pair.target.clone(), OTHER)).await;
    let error = late.expect_err("nobody accepts it any more");
    let PeerError::Ended(PeerEnded::Refused { code, .. }) = error else { panic!("{error:?}") };
    assert_eq!(code, CloseCode::UNKNOWN_PROTOCOL);
    drop((at_client, at_server));
    pair.end().await;
}

#[tokio::test]
async fn a_time_may_be_without_an_end() {
    let pair = Pair::new(PROTOCOL).await;
    let asking = pair.at_client.request("anything", Duration::MAX);
    let (answer, ()) = tokio::join!(within("an answer", asking), async {
        let Ok(Incoming::Request(request)) = within("a request", pair.at_server.recv()).await
        else {
            panic!("a request")
        };
        request.reply("answer").await.expect("somebody waits");
    });
    assert_eq!(answer.expect("an answer"), "answer");
    let Pair { client, server, at_client, at_server, begun, .. } = pair;
    drop((at_client, at_server, begun));
    within("the client's end", client.close(Duration::MAX)).await.expect("an orderly end");
    within("the server's end", server.close(TIME)).await.expect("an orderly end");
}

#[test]
fn peers_are_accepted_from_outside_of_the_runtime() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (a, b) = friends();
    let (server, client) = runtime.block_on(async { (node(a).await, node(b).await) });
    let mut begun = server.accept(PROTOCOL);
    runtime.block_on(async {
        let address = within("listening", server.listen(loopback())).await.expect("a listener");
        let target = Target::from(address).expect(server.identity());
        let opened = within("a peer", client.peer(target, PROTOCOL)).await.expect("a peer");
        let taken = within("its other end", begun.next()).await.expect("it came");
        drop((opened, taken, begun));
        common::end([server, client]).await;
    });
}
