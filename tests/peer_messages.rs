//! A session driven by actor messages alone, from the supervisor on.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use common::messages::{ask, call, number, numbered};
use common::{friends, loopback, node, node_with, within};
use moorline::testing::ChaosProxy;
use moorline::{
    ArrivedPeer, CertHash, CloseCode, Delivery, Incoming, Lane, NetCredential, Node, NodeConfig,
    NodeEvent, PeerBatch, PeerChange, PeerCredit, PeerEnded, PeerError, PeerMessage, PeerNews,
    PeerSendError, RequestError, SupervisorMessage, Target,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::mpsc;

const PROTOCOL: &str = "orders/1";
const TIME: Duration = Duration::from_secs(15);

/// What the actor of an application is told.
#[derive(Debug)]
enum Told {
    Batch(PeerBatch),
    News(PeerNews),
    Peer(ArrivedPeer),
    Panic,
}

macro_rules! told {
    ($($message:ident as $kind:ident),*) => {$(
        impl From<$message> for Told {
            fn from(message: $message) -> Self {
                Self::$kind(message)
            }
        }

        impl TryFrom<Told> for $message {
            type Error = ();

            fn try_from(told: Told) -> Result<Self, ()> {
                match told {
                    Told::$kind(message) => Ok(message),
                    _ => Err(()),
                }
            }
        }
    )*};
}

told!(PeerBatch as Batch, PeerNews as News, ArrivedPeer as Peer);

/// Passes on what it is told.
struct App;

impl Actor for App {
    type Msg = Told;
    type State = mpsc::UnboundedSender<Told>;
    type Arguments = mpsc::UnboundedSender<Told>;

    async fn pre_start(
        &self,
        _myself: ActorRef<Told>,
        told: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(told)
    }

    async fn handle(
        &self,
        _myself: ActorRef<Told>,
        message: Told,
        told: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Told::Panic => panic!("asked to by the test"),
            Told::Batch(mut batch) if told.is_closed() => {
                // Dies with a frame of it taken and the others not.
                drop(batch.next());
                panic!("it takes no more");
            }
            message => Ok(told.send(message)?),
        }
    }
}

type Words = mpsc::UnboundedReceiver<Told>;

async fn app() -> (ActorRef<Told>, Words) {
    let (sender, told) = mpsc::unbounded_channel();
    let (app, _) = Actor::spawn(None, App, sender).await.expect("an actor");
    (app, told)
}

async fn batch(told: &mut Words) -> PeerBatch {
    match within("a batch", told.recv()).await {
        Some(Told::Batch(batch)) => batch,
        other => panic!("{other:?}"),
    }
}

async fn open(
    node: &ActorRef<SupervisorMessage>,
    target: Target,
) -> Result<ActorRef<PeerMessage>, PeerError> {
    let protocol = PROTOCOL.to_owned();
    call("a peer", node, |reply| SupervisorMessage::OpenPeer { target, protocol, reply }).await
}

async fn credit(peer: &ActorRef<PeerMessage>, frames: usize, length: usize) -> PeerCredit {
    let lane = Lane::Data;
    let reserved =
        call("room", peer, |reply| PeerMessage::Reserve { lane, frames, length, reply }).await;
    reserved.expect("room")
}

async fn subscribe(peer: &ActorRef<PeerMessage>, app: &ActorRef<Told>) -> bool {
    let subscriber = app.get_derived();
    let reply = |reply| PeerMessage::Subscribe { subscriber, reply: Some(reply) };
    call("a subscription", peer, reply).await
}

/// Sends one frame, without asking what becomes of it.
async fn send(peer: &ActorRef<PeerMessage>, frame: Bytes) {
    let credit = credit(peer, 1, frame.len()).await;
    peer.cast(PeerMessage::Send { frame, credit, reply: None }).expect("the actor lives");
}

/// Two nodes of which a program holds the supervisors alone.
struct Pair {
    nodes: [Node; 2],
    target: Target,
    relay: ChaosProxy,
    at_client: ActorRef<PeerMessage>,
    at_server: ActorRef<PeerMessage>,
    acceptor: (ActorRef<Told>, Words),
}

impl Pair {
    async fn new() -> Self {
        Self::with(|_| ()).await
    }

    async fn with(client: impl FnOnce(&mut NodeConfig)) -> Self {
        let (a, b) = friends();
        Self::of(a, b, client).await
    }

    async fn of(a: NetCredential, b: NetCredential, change: impl FnOnce(&mut NodeConfig)) -> Self {
        let (server, client) = (node(a).await, node_with(b, change).await);
        let (app, mut told) = app().await;
        let acceptor = app.get_derived();
        let protocol = PROTOCOL.to_owned();
        let accept =
            |reply| SupervisorMessage::AcceptPeers { protocol, acceptor, reply: Some(reply) };
        assert!(call("accepting", server.supervisor(), accept).await);
        let listen = |reply| SupervisorMessage::Listen { address: loopback(), reply };
        let address = call("listening", server.supervisor(), listen).await.expect("a listener");
        let relay = ChaosProxy::start(address, 1).expect("a proxy");
        let target = Target::from(relay.address()).expect(server.identity());
        let at_client = open(client.supervisor(), target.clone()).await.expect("a peer");
        let Some(Told::Peer(arrived)) = within("its other end", told.recv()).await else {
            panic!("a peer")
        };
        assert_eq!((arrived.identity(), arrived.protocol()), (client.identity(), PROTOCOL));
        let at_server = arrived.take();
        Self { nodes: [client, server], target, relay, at_client, at_server, acceptor: (app, told) }
    }

    fn client(&self) -> &ActorRef<SupervisorMessage> {
        self.nodes[0].supervisor()
    }

    fn server_identity(&self) -> CertHash {
        self.nodes[1].identity()
    }

    async fn end(self) {
        for node in self.nodes {
            within("the end of a node", node.close(TIME)).await.expect("an orderly end");
        }
    }
}

#[tokio::test]
async fn messages_alone_open_accept_send_receive_ask_answer_watch_and_close() {
    let pair = Pair::new().await;
    let (app, mut told) = app().await;
    assert!(subscribe(&pair.at_server, &app).await);
    assert!(!subscribe(&pair.at_server, &app).await, "there is one");
    let watcher = app.get_derived();
    pair.at_server.cast(PeerMessage::Watch { watcher, reply: None }).expect("it lives");
    within("its connection", async {
        // It came before its connection was the session's.
        loop {
            let Some(Told::News(news)) = told.recv().await else { panic!("news") };
            if *news.change() == PeerChange::Up {
                return;
            }
        }
    })
    .await;

    // A frame, with its outcome, and one with a receipt.
    let one = credit(&pair.at_client, 1, 3).await;
    let sent = ask(&pair.at_client, |reply| PeerMessage::Send {
        frame: "one".into(),
        credit: one,
        reply: Some(reply),
    });
    let many = credit(&pair.at_client, 2, 8).await;
    let frames = vec!["two".into(), "three".into()];
    let sent_many = ask(&pair.at_client, |reply| PeerMessage::SendMany {
        frames,
        credit: many,
        reply: Some(reply),
    });
    let four = credit(&pair.at_client, 1, 4).await;
    let receipt = call("a receipt", &pair.at_client, |reply| PeerMessage::SendTracked {
        frame: "four".into(),
        credit: four,
        reply,
    });
    let receipt = receipt.await.expect("accepted");
    let mut seen = Vec::new();
    while seen.len() < 4 {
        for incoming in batch(&mut told).await {
            let Incoming::Message(frame) = incoming else { panic!("a message") };
            seen.push(frame);
        }
    }
    assert_eq!(seen, ["one", "two", "three", "four"]);
    assert_eq!(within("an outcome", sent).await, Ok(Ok(())));
    assert_eq!(within("an outcome", sent_many).await, Ok(Ok(())));
    assert_eq!(within("an outcome", receipt.delivery()).await, Delivery::Delivered);

    // A question, which is answered elsewhere.
    let answer = ask(&pair.at_client, |reply| PeerMessage::Request {
        lane: Lane::Bulk,
        frame: "question".into(),
        time: TIME,
        reply,
    });
    let Some(Incoming::Request(request)) = batch(&mut told).await.next() else { panic!("one") };
    assert_eq!(request.frame(), b"question");
    tokio::spawn(request.reply("answer"));
    assert_eq!(within("an answer", answer).await, Ok(Ok("answer".into())));
    let deliveries = call("numbers", &pair.at_client, |reply| PeerMessage::Deliveries { reply });
    let deliveries = deliveries.await[Lane::Data as usize];
    assert_eq!((deliveries.accepted, deliveries.delivered), (4, 4));

    let close = |reply| PeerMessage::Close { code: CloseCode::NORMAL, reply: Some(reply) };
    assert_eq!(call("the end", &pair.at_client, close).await, PeerEnded::Closed);
    let by_peer = PeerEnded::ByPeer { code: CloseCode::NORMAL };
    let mut words = Vec::new();
    while words.len() < 3 {
        match within("the last words", told.recv()).await.expect("it lives") {
            Told::News(news) => words.push(news.change().clone()),
            Told::Batch(mut batch) => {
                assert!(batch.next().is_none());
                if let Some(ended) = batch.ended() {
                    words.push(PeerChange::Ended { reason: ended.clone() });
                }
            }
            other => panic!("{other:?}"),
        }
    }
    let ended = words.iter().filter(|word| **word == PeerChange::Ended { reason: by_peer.clone() });
    assert_eq!(ended.count(), 2, "the subscriber and the watcher: {words:?}");
    pair.end().await;
}

#[tokio::test]
async fn who_opens_twice_has_one_actor_and_a_peer_that_is_not_there_is_an_error() {
    let pair = Pair::new().await;
    let again = open(pair.client(), pair.target.clone()).await.expect("the same");
    assert_eq!(again.get_id(), pair.at_client.get_id());
    let (peer, protocol) = (pair.server_identity(), PROTOCOL.to_owned());
    let find = |reply| SupervisorMessage::FindPeer { peer, protocol, reply };
    let found = call("the actor", pair.client(), find).await.expect("it is there");
    assert_eq!(found.get_id(), again.get_id());
    let handle = call("a handle", &found, |reply| PeerMessage::Handle { reply }).await;
    let of = |reply| SupervisorMessage::PeerActor { peer: handle.clone(), reply };
    assert_eq!(call("the actor", pair.client(), of).await.get_id(), again.get_id());
    let nobody = open(pair.client(), "127.0.0.1:9".parse().expect("an address")).await;
    assert!(matches!(nobody, Err(PeerError::NobodyExpected)));
    let (peer, protocol) = (pair.nodes[0].identity(), PROTOCOL.to_owned());
    let find = |reply| SupervisorMessage::FindPeer { peer, protocol, reply };
    assert!(call("the actor", pair.client(), find).await.is_none());
    drop(handle);
    pair.end().await;
}

#[tokio::test]
async fn what_a_subscriber_that_died_did_not_take_comes_first_to_the_next_one() {
    const COUNT: u32 = 1_000;
    let pair = Pair::new().await;
    let (app, told) = app().await;
    // It takes one frame, and panics in the midst of a batch.
    drop(told);
    for frame in 0..COUNT {
        send(&pair.at_client, numbered(frame)).await;
    }
    assert!(subscribe(&pair.at_server, &app).await);
    within("its death", app.wait(None)).await.expect("it panics");
    let mut expected = 1;
    let (app, mut told) = self::app().await;
    assert!(subscribe(&pair.at_server, &app).await, "the dead one makes place");
    // Batches that are dropped without having been taken from lose nothing either.
    drop(batch(&mut told).await.next_on(Lane::Bulk));
    let first = batch(&mut told).await.next();
    let Some(Incoming::Message(frame)) = first else { panic!("a frame") };
    assert_eq!(number(&frame), expected);
    expected += 1;
    // The rest goes to who asks by the handle, and nothing to a subscription that was ended.
    let mut left = batch(&mut told).await;
    let ended = |reply| PeerMessage::Unsubscribe { reply: Some(reply) };
    assert!(call("the end", &pair.at_server, ended).await);
    assert!(left.next().is_none());
    let handle = call("a handle", &pair.at_server, |reply| PeerMessage::Handle { reply }).await;
    while expected < COUNT {
        let mut many = Vec::new();
        let count =
            within("frames", handle.recv_many(&mut many, 100)).await.expect("there is more");
        assert_eq!(count, many.len());
        for incoming in many {
            let Incoming::Message(frame) = incoming else { panic!("a message") };
            assert_eq!(number(&frame), expected);
            expected += 1;
        }
    }
    assert!(handle.try_recv().expect("it goes on").is_none());
    drop((handle, left));
    pair.end().await;
}

/// The ledger is the session's: what is in the mailbox of an actor that dies was not accepted, and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_that_is_killed_under_load_is_started_again_and_nothing_is_lost_or_comes_twice() {
    const COUNT: u32 = 20_000;
    let pair = Pair::new().await;
    let (app, mut told) = app().await;
    assert!(subscribe(&pair.at_server, &app).await);
    let receiving = tokio::spawn(async move {
        let mut seen = Vec::new();
        while seen.len() < COUNT as usize {
            for incoming in batch(&mut told).await {
                let Incoming::Message(frame) = incoming else { panic!("a message") };
                seen.push(number(&frame));
            }
        }
        seen
    });
    let mut events = pair.nodes[0].subscribe();
    let find = |node: &ActorRef<SupervisorMessage>| {
        let (node, protocol, peer) = (node.clone(), PROTOCOL.to_owned(), pair.server_identity());
        async move {
            let find = |reply| SupervisorMessage::FindPeer { peer, protocol, reply };
            call("the actor", &node, find).await.expect("it is there")
        }
    };
    let mut peer = pair.at_client.clone();
    let mut kills = 0;
    let mut left: BTreeSet<u32> = (0..COUNT).collect();
    while !left.is_empty() {
        let mut asked = Vec::new();
        for number in left.iter().copied().take(500) {
            let (lane, frames, length) = (Lane::Data, 1, 4);
            let (reply, reserved) = tokio::sync::oneshot::channel();
            let reserve = PeerMessage::Reserve { lane, frames, length, reply: reply.into() };
            if peer.cast(reserve).is_err() {
                break;
            }
            let Ok(Ok(credit)) = within("room", reserved).await else { break };
            let (reply, sent) = tokio::sync::oneshot::channel();
            let frame = numbered(number);
            let send = PeerMessage::Send { frame, credit, reply: Some(reply.into()) };
            if peer.cast(send).is_err() {
                break;
            }
            asked.push((number, sent));
        }
        if kills < 4 {
            // With what it has not handled in its mailbox.
            peer.kill();
            kills += 1;
        }
        for (number, sent) in asked {
            // Without an answer it was never accepted: it is sent again.
            if let Ok(sent) = within("an outcome", sent).await {
                sent.expect("taken by the peer's application");
                left.remove(&number);
            }
        }
        peer = find(pair.client()).await;
    }
    let mut seen = within("the last frame", receiving).await.expect("no panic");
    seen.sort_unstable();
    assert!(seen.iter().copied().eq(0..COUNT), "each came once");
    let mut restarts = 0;
    while restarts < kills {
        let event = within("a restart", events.next()).await.expect("the node lives");
        if let NodeEvent::PeerActorRestarted { peer, protocol } = event {
            assert_eq!((peer, protocol.as_str()), (pair.server_identity(), PROTOCOL));
            restarts += 1;
        }
    }
    app.stop(None);
    pair.end().await;
}

#[tokio::test]
async fn a_request_by_message_survives_a_reconnect_and_the_death_of_its_actor() {
    let pair = Pair::new().await;
    let (app, mut told) = app().await;
    assert!(subscribe(&pair.at_server, &app).await);
    let answer = ask(&pair.at_client, |reply| PeerMessage::Request {
        lane: Lane::Data,
        frame: "question".into(),
        time: TIME,
        reply,
    });
    let Some(Incoming::Request(request)) = batch(&mut told).await.next() else { panic!("one") };
    let mut events = pair.nodes[0].subscribe();
    pair.relay.cut();
    within("the loss", async {
        while !matches!(events.next().await, Some(NodeEvent::PeerDown { .. })) {}
    })
    .await;
    pair.at_client.kill();
    within("its death", pair.at_client.wait(None)).await.expect("it ends");
    pair.relay.mend();
    within("the answer's way", request.reply("answer")).await.expect("it waits");
    assert_eq!(within("an answer", answer).await, Ok(Ok("answer".into())));
    pair.end().await;
}

#[tokio::test]
async fn a_caller_by_message_that_is_gone_cancels_its_request_and_frees_its_place() {
    let pair = Pair::new().await;
    let (app, mut told) = app().await;
    assert!(subscribe(&pair.at_server, &app).await);
    let request = |time| {
        ask(&pair.at_client, |reply| PeerMessage::Request {
            lane: Lane::Data,
            frame: "question".into(),
            time,
            reply,
        })
    };
    // Longer than this waits for the word.
    let long = Duration::from_secs(60);
    let mut asked: Vec<_> = (0..1_024).map(|_| request(long)).collect();
    let too_many = within("an answer", request(TIME)).await;
    assert_eq!(too_many, Ok(Err(RequestError::TooMany { in_flight: 1_024 })));
    let Some(Incoming::Request(first)) = batch(&mut told).await.next() else { panic!("one") };
    drop(asked.remove(0));
    within("the word", first.cancelled()).await;
    // It had a place at the peer as well.
    drop(first);
    let late = Duration::from_millis(200);
    let answered = within("a place", async {
        loop {
            match request(late).await {
                Ok(Err(RequestError::TooMany { .. })) => tokio::task::yield_now().await,
                answered => return answered,
            }
        }
    })
    .await;
    assert!(matches!(answered, Ok(Err(RequestError::DeadlineExceeded { .. }))), "{answered:?}");
    drop((asked, told));
    // A node that ends waits for what it has received; these let go of it.
    for end in [&pair.at_server, &pair.at_client] {
        end.cast(PeerMessage::Leave).expect("it lives");
    }
    pair.end().await;
}

#[tokio::test]
async fn room_by_message_is_bounded_and_a_credit_covers_what_it_says() {
    let small = |config: &mut NodeConfig| {
        config.limits.sessions.flow_bytes_max = 64 << 10;
        config.limits.frame_bytes_max = 62 << 10;
        config.limits.stream_op_timeout = Duration::from_millis(300);
    };
    let pair = Pair::with(small).await;
    let all = credit(&pair.at_client, 1, 60 << 10).await;
    let (lane, frames, length) = (Lane::Data, 1, 60 << 10);
    let reserve = |reply| PeerMessage::Reserve { lane, frames, length, reply };
    let waits = ask(&pair.at_client, reserve);
    let full = within("the limit", waits).await.expect("answered");
    assert!(matches!(full, Err(PeerSendError::Full { .. })));
    let waits = ask(&pair.at_client, reserve);
    assert_eq!((all.lane(), all.frames(), all.length()), (Lane::Data, 1, 60 << 10));
    drop(all);
    let reserved = within("room", waits).await.expect("answered").expect("room");
    let send = |reply| PeerMessage::Send {
        frame: vec![0; (60 << 10) + 1].into(),
        credit: reserved,
        reply: Some(reply),
    };
    let sent = call("an error", &pair.at_client, send).await;
    assert!(matches!(sent, Err(PeerSendError::Credit { frame }) if frame.len() == (60 << 10) + 1));
    // The room of what was refused is back.
    drop(credit(&pair.at_client, 1, 60 << 10).await);
    let frames = 1_000;
    let reserve = |reply| PeerMessage::Reserve { lane, frames, length, reply };
    let never = call("an error", &pair.at_client, reserve).await;
    assert!(matches!(never, Err(PeerSendError::TooLarge { .. })));
    pair.end().await;
}

#[tokio::test]
async fn what_was_not_sent_is_given_once_after_the_end_and_leaving_ends_the_session() {
    let pair = Pair::new().await;
    let mut events = pair.nodes[0].subscribe();
    pair.relay.cut();
    within("the loss", async {
        while !matches!(events.next().await, Some(NodeEvent::PeerDown { .. })) {}
    })
    .await;
    let many = credit(&pair.at_client, 2, 6).await;
    let frames = vec!["one".into(), "two".into()];
    let sent = ask(&pair.at_client, |reply| PeerMessage::SendMany {
        frames,
        credit: many,
        reply: Some(reply),
    });
    let handle = call("a handle", &pair.at_client, |reply| PeerMessage::Handle { reply }).await;
    // The last one that holds it, but for this handle.
    pair.at_client.cast(PeerMessage::Leave).expect("it lives");
    within("its end", pair.at_client.wait(None)).await.expect("it ends");
    assert!(handle.ended().is_none(), "the handle holds it");
    let of = |reply| SupervisorMessage::PeerActor { peer: handle.clone(), reply };
    let actor = call("another one", pair.client(), of).await;
    drop(handle);
    let code = CloseCode::NORMAL;
    actor.cast(PeerMessage::Close { code, reply: None }).expect("it lives");
    let error = within("the outcome", sent).await.expect("answered").expect_err("it ended before");
    assert_eq!(error.deliveries, [Delivery::NotSent; 2]);
    // A caller that is gone takes nothing.
    drop(ask(&actor, |reply| PeerMessage::TakeUnsent { reply }));
    let unsent = call("them", &actor, |reply| PeerMessage::TakeUnsent { reply }).await;
    assert_eq!(unsent, [(Lane::Data, "one".into()), (Lane::Data, "two".into())]);
    let unsent = call("them", &actor, |reply| PeerMessage::TakeUnsent { reply }).await;
    assert_eq!(unsent, []);
    pair.end().await;
}

#[tokio::test]
async fn a_peer_that_no_acceptor_took_is_given_up_and_an_acceptor_that_died_makes_place() {
    let pair = Pair::new().await;
    let close = |reply| PeerMessage::Close { code: CloseCode::NORMAL, reply: Some(reply) };
    call("the end", &pair.at_client, close).await;
    let Pair { nodes, target, relay, mut acceptor, .. } = pair;
    let opened = open(nodes[0].supervisor(), target.clone()).await.expect("a peer");
    let Some(Told::Peer(arrived)) = within("a peer", acceptor.1.recv()).await else {
        panic!("a peer")
    };
    // Not taken.
    drop(arrived);
    let watcher = app().await;
    let mut told = watcher.1;
    let news = watcher.0.get_derived();
    opened.cast(PeerMessage::Watch { watcher: news, reply: None }).expect("it lives");
    within("the end", async {
        loop {
            let Some(Told::News(news)) = told.recv().await else { panic!("news") };
            if let PeerChange::Ended { reason } = news.change() {
                return assert!(matches!(reason, PeerEnded::ByPeer { .. }), "{reason:?}");
            }
        }
    })
    .await;
    acceptor.0.cast(Told::Panic).expect("it lives");
    within("its death", acceptor.0.wait(None)).await.expect("it panics");
    let (next, mut told) = app().await;
    let (protocol, acceptor) = (PROTOCOL.to_owned(), next.get_derived());
    let accept = |reply| SupervisorMessage::AcceptPeers { protocol, acceptor, reply: Some(reply) };
    assert!(call("accepting", nodes[1].supervisor(), accept).await);
    let again = open(nodes[0].supervisor(), target).await.expect("a peer");
    let Some(Told::Peer(arrived)) = within("a peer", told.recv()).await else { panic!("a peer") };
    let at_server = arrived.take();
    send(&again, "hello".into()).await;
    let handle = call("a handle", &at_server, |reply| PeerMessage::Handle { reply }).await;
    let Ok(Incoming::Message(frame)) = within("a frame", handle.recv()).await else {
        panic!("a frame")
    };
    assert_eq!(frame, "hello");
    drop((handle, relay));
    for node in nodes {
        within("the end of a node", node.close(TIME)).await.expect("an orderly end");
    }
}
