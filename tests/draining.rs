//! A node that stops: what is in flight is finished, and its peers come back when it is back.

mod common;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::{LIMIT, end, free_port, friends, loopback, node, node_with, within};
use moorline::{
    CloseCode, Delivery, Incoming, Lane, NetCredential, Node, NodeError, Peer, PeerEnded,
    PeerSendError, Peers, Request, RequestError, Target,
};

const PROTOCOL: &str = "orders/1";

/// Longer than any test waits.
const NEVER: Duration = Duration::from_secs(60);

struct Pair {
    server: Node,
    client: Node,
    credentials: (NetCredential, NetCredential),
    address: SocketAddr,
    target: Target,
    at_server: Peer,
    at_client: Peer,
    peers: Peers,
}

impl Pair {
    /// Peers of the server wait for so long once it stops.
    async fn new(away_time: Duration) -> Self {
        let credentials = friends();
        let (a, b) = credentials.clone();
        let server = node_with(a, |config| config.limits.sessions.away_time = away_time).await;
        let mut peers = server.accept(PROTOCOL);
        let address = within("listening", server.listen(free_port())).await.expect("a listener");
        let target = Target::from(address).expect(server.identity());
        let client = node(b).await;
        let at_client = within("a peer", client.peer(target.clone(), PROTOCOL)).await;
        let at_client = at_client.expect("a peer");
        let at_server = within("its other end", peers.next()).await.expect("it came");
        Self { server, client, credentials, address, target, at_server, at_client, peers }
    }

    /// The server, again on its port.
    async fn restarted(&self) -> (Node, Peers) {
        let server = node(self.credentials.0.clone()).await;
        let peers = server.accept(PROTOCOL);
        within("listening", server.listen(self.address)).await.expect("a listener");
        (server, peers)
    }
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
    let asking = pair.at_client.clone();
    let asked = tokio::spawn(async move { asking.request("question", LIMIT).await });
    let in_hand = request(&pair.at_server).await;
    let mut receipts = Vec::new();
    for number in 0..50_u8 {
        let sent = pair.at_client.send_tracked(Lane::Data, vec![number]);
        receipts.push(within("sending", sent).await.expect("accepted"));
    }
    let stopping = tokio::spawn(pair.server.close(LIMIT));
    until_it_stops(&pair.at_client).await;
    // Neither is its own application cut off.
    within("sending", pair.at_server.send("the last word")).await.expect("accepted");
    within("answering", in_hand.reply("answer")).await.expect("somebody waits");
    assert_eq!(within("the answer", asked).await.expect("no panic").expect("an answer"), "answer");
    let late = within("a late question", pair.at_client.request("late", LIMIT)).await;
    assert_eq!(late, Err(RequestError::NotSent));
    let last = within("a frame", pair.at_client.recv()).await;
    assert!(matches!(&last, Ok(Incoming::Message(frame)) if frame == "the last word"), "{last:?}");
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
    for (number, receipt) in receipts.into_iter().enumerate() {
        let delivery = within("what became of it", receipt.delivery()).await;
        let expected = if number < taken.into() { Delivery::Delivered } else { Delivery::NotSent };
        assert_eq!(delivery, expected, "{number} of {taken}");
    }
    for counts in pair.at_client.deliveries() {
        assert_eq!(counts.accepted, counts.delivered + counts.not_sent, "{counts:?}");
    }
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
