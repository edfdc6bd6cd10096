//! A node that stops: what is in flight is finished, and its peers come back when it is back.

mod common;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::{LIMIT, end, free_port, friends, loopback, node, node_with, within};
use moorline::testing::{ChaosProxy, Conditions};
use moorline::{
    CloseCode, Delivery, Incoming, Lane, NetCredential, Node, NodeError, Peer, PeerEnded,
    PeerSendError, Peers, Request, RequestError, Target,
};

const PROTOCOL: &str = "orders/1";

/// Requests that the server handles at a time; more are refused as they come.
const REQUESTS: usize = 2;

/// What a close may take, and longer than that.
const CLOSE_TIME: Duration = Duration::from_millis(200);
const LONGER: Duration = Duration::from_millis(800);

/// Longer than any test waits.
const NEVER: Duration = Duration::from_secs(60);

struct Pair {
    server: Node,
    client: Node,
    credentials: (NetCredential, NetCredential),
    address: SocketAddr,
    target: Target,
    path: ChaosProxy,
    at_server: Peer,
    at_client: Peer,
    peers: Peers,
}

impl Pair {
    /// Peers of the server wait for so long once it stops.
    async fn new(away_time: Duration) -> Self {
        let credentials = friends();
        let (a, b) = credentials.clone();
        let server = node_with(a, |config| {
            config.limits.sessions.away_time = away_time;
            config.limits.sessions.node_requests_max = REQUESTS;
            config.limits.close_time_max = CLOSE_TIME;
        })
        .await;
        let mut peers = server.accept(PROTOCOL);
        let address = within("listening", server.listen(free_port())).await.expect("a listener");
        let path = ChaosProxy::start(address, 1).expect("a path");
        let target = Target::from(path.address()).expect(server.identity());
        let client = node(b).await;
        let at_client = within("a peer", client.peer(target.clone(), PROTOCOL)).await;
        let at_client = at_client.expect("a peer");
        let at_server = within("its other end", peers.next()).await.expect("it came");
        Self { server, client, credentials, address, target, path, at_server, at_client, peers }
    }

    /// The server, again on its port.
    async fn restarted(&self) -> (Node, Peers) {
        let server = node(self.credentials.0.clone()).await;
        let peers = server.accept(PROTOCOL);
        within("listening", server.listen(self.address)).await.expect("a listener");
        (server, peers)
    }
}

/// Nothing ends while something is in flight, however long it takes.
async fn goes_on(ends: [&Peer; 2]) {
    tokio::time::sleep(LONGER).await; // not synchronisation: nothing is to happen
    assert_eq!(ends.map(Peer::ended), [None, None]);
}

async fn request(peer: &Peer) -> Request {
    match within("a request", peer.recv()).await {
        Ok(Incoming::Request(request)) => request,
        other => panic!("{other:?}"),
    }
}

/// Sends until it is told that the peer stops.
async fn until_it_stops(peer: &Peer) {
    within("the word that the peer stops", async {
        loop {
            match peer.try_send_on(Lane::Control, "are you there?") {
                Ok(()) | Err(PeerSendError::Full { .. }) => tokio::task::yield_now().await,
                Err(PeerSendError::Ended { ended, .. }) => {
                    assert_eq!(ended, PeerEnded::ByPeer { code: CloseCode::GOING_AWAY });
                    return;
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_answers_what_it_was_asked_and_takes_what_it_was_sent() {
    let pair = Pair::new(NEVER).await;
    let (mut asked, mut in_hand) = (Vec::new(), Vec::new());
    for _ in 0..REQUESTS {
        let asking = pair.at_client.clone();
        asked.push(tokio::spawn(async move { asking.request("question", LIMIT).await }));
        in_hand.push(request(&pair.at_server).await);
    }
    let mut receipts = Vec::new();
    for number in 0..50_u8 {
        let sent = pair.at_client.send_tracked(Lane::Data, vec![number]);
        receipts.push(within("sending", sent).await.expect("accepted"));
    }
    // It is refused when it comes, and what was sent before has come then.
    let refused = within("one too many", pair.at_client.request("too many", LIMIT)).await;
    assert_eq!(refused, Err(RequestError::Refused));
    let stopping = tokio::spawn(pair.server.close(LIMIT));
    until_it_stops(&pair.at_client).await;
    // Neither is its own application cut off.
    within("sending", pair.at_server.send("the last word")).await.expect("accepted");
    for (in_hand, asked) in in_hand.into_iter().zip(asked) {
        within("answering", in_hand.reply("answer")).await.expect("somebody waits");
        let answer = within("the answer", asked).await.expect("no panic");
        assert_eq!(answer.expect("an answer"), "answer");
    }
    let late = within("a late question", pair.at_client.request("late", LIMIT)).await;
    assert_eq!(late, Err(RequestError::NotSent));
    let last = within("a frame", pair.at_client.recv()).await;
    assert!(matches!(&last, Ok(Incoming::Message(frame)) if frame == "the last word"), "{last:?}");
    // What the node's own application has not taken is all that is left.
    goes_on([&pair.at_server, &pair.at_client]).await;
    let mut taken = 0;
    let ended = loop {
        match within("a frame", pair.at_server.recv()).await {
            Ok(Incoming::Message(frame)) if frame.len() == 1 => {
                assert_eq!(frame[0], taken);
                taken += 1;
            }
            Ok(Incoming::Message(_)) => {}
            Ok(other) => panic!("{other:?}"),
            Err(ended) => break ended,
        }
    };
    assert_eq!(ended, PeerEnded::Closed, "in order");
    let ended = within("the end", pair.at_client.recv()).await.expect_err("it is over");
    assert_eq!(ended, PeerEnded::ByPeer { code: CloseCode::GOING_AWAY });
    assert_eq!(usize::from(taken), receipts.len());
    for receipt in receipts {
        let delivery = within("what became of it", receipt.delivery()).await;
        assert_eq!(delivery, Delivery::Delivered);
    }
    for counts in pair.at_client.deliveries() {
        assert_eq!(counts.accepted, counts.delivered + counts.not_sent, "{counts:?}");
    }
    drop((pair.at_server, pair.at_client, pair.peers));
    within("the end of the node", stopping).await.expect("no panic").expect("in order");
    end([pair.client]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_to_a_node_that_has_stopped_is_told_as_not_sent_and_taken_by_nobody() {
    let pair = Pair::new(NEVER).await;
    let at_server = pair.at_server.clone();
    let taking = tokio::spawn(async move {
        let mut taken = 0_u64;
        while let Ok(Incoming::Message(_)) = at_server.recv().await {
            taken += 1;
        }
        taken
    });
    // Frames are on their way at every moment.
    let mut long = Conditions::default();
    long.delay = Duration::from_millis(10);
    pair.path.set_both(long);
    let at_client = pair.at_client.clone();
    let sending =
        tokio::spawn(async move { while at_client.send(vec![7; 1_000]).await.is_ok() {} });
    let delivered = || pair.at_client.deliveries()[Lane::Data as usize].delivered;
    common::until("a stream of frames", || delivered() > 1_000).await;
    within("the end of the node", pair.server.shutdown(LIMIT)).await.expect("in order");
    within("the sender", sending).await.expect("no panic");
    let taken = within("the taker", taking).await.expect("no panic");
    let counts = pair.at_client.deliveries()[Lane::Data as usize];
    assert_eq!((counts.delivered, counts.maybe_sent), (taken, 0), "{counts:?}");
    assert_eq!(counts.accepted, counts.delivered + counts.not_sent, "{counts:?}");
    assert!(counts.not_sent > 0, "it stopped amid the stream: {counts:?}");
    // Whoever sends these elsewhere does so because nobody took them.
    let unsent = u64::try_from(pair.at_client.take_unsent().len()).expect("few");
    assert_eq!(unsent, counts.not_sent, "given back: {counts:?}");
    drop((pair.server, pair.at_server, pair.at_client, pair.peers));
    end([pair.client]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_waits_until_its_peer_took_what_it_was_sent() {
    let pair = Pair::new(NEVER).await;
    let sent = within("sending", pair.at_server.send_tracked(Lane::Bulk, "take your time")).await;
    let sent = sent.expect("accepted");
    let stopping = tokio::spawn(pair.server.close(LIMIT));
    until_it_stops(&pair.at_client).await;
    while pair.at_server.try_recv().expect("it goes on").is_some() {}
    goes_on([&pair.at_server, &pair.at_client]).await;
    let frame = within("a frame", pair.at_client.recv()).await;
    assert!(matches!(&frame, Ok(Incoming::Message(frame)) if frame == "take your time"));
    assert_eq!(within("its end", sent.delivery()).await, Delivery::Delivered);
    assert_eq!(within("the end", pair.at_server.recv()).await.err(), Some(PeerEnded::Closed));
    drop((pair.at_server, pair.at_client, pair.peers));
    within("the end of the node", stopping).await.expect("no panic").expect("in order");
    end([pair.client]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_waits_for_its_own_requests_and_no_longer_than_its_grace() {
    let pair = Pair::new(NEVER).await;
    let asking = pair.at_server.clone();
    let asked = tokio::spawn(async move { asking.request("question", LIMIT).await });
    let in_hand = request(&pair.at_client).await;
    let asking = pair.at_server.clone();
    let never = tokio::spawn(async move { asking.request("never", LIMIT).await });
    let unanswered = request(&pair.at_client).await;
    let grace = Duration::from_secs(1);
    let (begun, stopping) = (Instant::now(), tokio::spawn(pair.server.close(grace)));
    until_it_stops(&pair.at_client).await;
    within("answering", in_hand.reply("answer")).await.expect("somebody waits");
    assert_eq!(within("the answer", asked).await.expect("no panic").expect("an answer"), "answer");
    let lost = within("the end of the other one", never).await.expect("no panic");
    assert_eq!(lost, Err(RequestError::SessionLost));
    drop((pair.at_server, unanswered, pair.at_client, pair.peers));
    let stopped = within("the end of the node", stopping).await.expect("no panic");
    assert!(matches!(stopped, Err(NodeError::GraceExceeded { .. })), "{stopped:?}");
    assert!(begun.elapsed() >= grace, "after {:?}", begun.elapsed());
    end([pair.client]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_with_nothing_in_flight_does_not_wait() {
    let pair = Pair::new(NEVER).await;
    // Far longer than the test: what waits for it shows.
    let stopping = tokio::spawn(pair.server.close(NEVER));
    let ended = within("the end", pair.at_client.recv()).await.expect_err("it is over");
    assert_eq!(ended, PeerEnded::ByPeer { code: CloseCode::GOING_AWAY });
    drop((pair.at_server, pair.at_client, pair.peers));
    within("the end of the node", stopping).await.expect("no panic").expect("in order");
    end([pair.client]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stopped_is_not_dialled_before_its_delay_is_over() {
    let delay = Duration::from_secs(2);
    let pair = Pair::new(delay).await;
    let begun = Instant::now();
    within("the end of the node", pair.server.shutdown(LIMIT)).await.expect("in order");
    let (again, mut peers) = pair.restarted().await;
    let peer = within("a peer", pair.client.peer(pair.target.clone(), PROTOCOL)).await;
    let peer = peer.expect("it is back");
    // The delay began with the word that it stops, behind `begun`.
    assert!(begun.elapsed() >= delay, "dialled after {:?}", begun.elapsed());
    drop((within("its other end", peers.next()).await, peer, peers));
    drop((pair.server, pair.at_server, pair.at_client, pair.peers));
    end([pair.client, again]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_back_by_itself_is_not_waited_for() {
    let pair = Pair::new(NEVER).await;
    let mut at_client = pair.client.accept(PROTOCOL);
    let address = within("listening", pair.client.listen(loopback())).await.expect("a listener");
    let client = Target::from(address).expect(pair.client.identity());
    within("the end of the node", pair.server.shutdown(LIMIT)).await.expect("in order");
    let (again, peers) = pair.restarted().await;
    let (asking, target) = (pair.client.clone(), pair.target.clone());
    let waiting = tokio::spawn(async move { asking.peer(target, PROTOCOL).await });
    let from_server = within("a peer", again.peer(client, PROTOCOL)).await.expect("a peer");
    let from_client = within("the one who waited", waiting).await.expect("no panic");
    let from_client = from_client.expect("it is back");
    within("sending", from_server.send("I am back")).await.expect("accepted");
    let received = within("a frame", from_client.recv()).await;
    assert!(matches!(&received, Ok(Incoming::Message(frame)) if frame == "I am back"));
    drop((from_server, from_client, peers));
    // Whichever side was first, there is one session.
    drop(pair.at_client);
    drop((pair.at_server, pair.server, pair.peers));
    end([again]).await;
    within("its end", pair.client.close(LIMIT)).await.expect("in order");
    while within("the end", at_client.next()).await.is_some() {}
}
