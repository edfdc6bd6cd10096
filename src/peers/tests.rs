//! Two nodes' sessions over real connections.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::core::{NotAsked, PeerCore, Received, flow_of};
use super::out_flow::OutFlow;
use super::sessions::{Dial, Sessions};
use crate::config::Limits;
use crate::error::CloseCode;
use crate::identity::{CertHash, NetCredential};
use crate::lock::lock;
use crate::restart::BackoffSettings;
use crate::session::effect::{EndReason, Origin};
use crate::session::flow_out::Fate;
use crate::session::frame_head::{FrameHead, ReplyStatus};
use crate::session::requests::RequestEnd;
use crate::transport::session_streams::SESSION_ALPN;
use crate::transport::{Counts, Lane, MsQuicNetConnection, MsQuicTransport};

const LIMIT: Duration = Duration::from_secs(30);

async fn within<R>(what: &str, future: impl Future<Output = R>) -> R {
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("{what}: too late"))
}

/// One node: its sessions, and the connections that it has.
struct Side {
    me: CertHash,
    credential: NetCredential,
    transport: MsQuicTransport,
    sessions: Arc<Sessions>,
    connections: Arc<Mutex<Vec<MsQuicNetConnection>>>,
    counts: Arc<Counts>,
}

impl Side {
    fn with(credential: NetCredential, limits: Limits) -> Self {
        let me = credential.identity();
        let counts = Arc::default();
        // Nothing but what is tested takes time.
        let (initial, cap) = (Duration::from_millis(1), Duration::from_millis(2));
        let backoff = BackoffSettings { initial, cap, ..BackoffSettings::default() };
        let sessions = Sessions::new(
            &tokio::runtime::Handle::current(),
            me,
            &limits,
            backoff,
            &counts,
            Box::new(|_, change| eprintln!("{change:?}")),
        );
        let transport = MsQuicTransport::new();
        Self { me, credential, transport, sessions, connections: Arc::default(), counts }
    }

    async fn listen(&self) -> SocketAddr {
        let address = "127.0.0.1:0".parse().expect("an address");
        let credential = self.credential.clone();
        let listener = self.transport.create_listener(address, &[SESSION_ALPN], credential);
        let listener = within("a listener", listener).await.expect("a listener");
        let address = listener.local_addr();
        let (sessions, connections) = (Arc::clone(&self.sessions), Arc::clone(&self.connections));
        tokio::spawn(async move {
            while let Ok(request) = listener.accept().await {
                if let Ok(connection) = request.accept().await {
                    let core = Arc::clone(connection.core());
                    lock(&connections).push(connection);
                    sessions.link_up(core, Origin::Accepted);
                }
            }
        });
        address
    }

    fn dial(&self, to: SocketAddr) -> Dial {
        let (transport, credential) = (self.transport.clone(), self.credential.clone());
        let connections = Arc::clone(&self.connections);
        Arc::new(move || {
            let (transport, credential) = (transport.clone(), credential.clone());
            let connections = Arc::clone(&connections);
            Box::pin(async move {
                let connection = transport.connect(to, &[SESSION_ALPN], credential).await?;
                let core = Arc::clone(connection.core());
                lock(&connections).push(connection);
                Ok(core)
            })
        })
    }

    /// Ends all its connections.
    fn cut(&self) {
        for connection in lock(&self.connections).drain(..) {
            connection.core().cut(CloseCode::DROPPED);
        }
    }
}

struct Pair {
    near: Side,
    far: Side,
    at_near: Arc<PeerCore>,
    at_far: Arc<PeerCore>,
}

impl Pair {
    async fn new() -> Self {
        Self::with(&Limits::default()).await
    }

    async fn with(limits: &Limits) -> Self {
        let credential =
            |name: &str| NetCredential::generate_self_signed(&[name], &[]).expect("one");
        let (a, b) = (credential("a"), credential("b"));
        let (to_a, to_b) = (a.identity(), b.identity());
        let near = Side::with(a.trust_hash(to_b), limits.clone());
        let far = Side::with(b.trust_hash(to_a), limits.clone());
        let mut begun = far.sessions.accept("test/1", None);
        let address = far.listen().await;
        let opened = near.sessions.open(far.me, "test/1", near.dial(address));
        let at_near = opened.expect("a session");
        within("a connection", at_near.up()).await.expect("it stands");
        let at_far = within("the other end", begun.recv()).await.expect("it came");
        Self { near, far, at_near, at_far }
    }
}

async fn send(core: &PeerCore, lane: Lane, frame: Bytes) -> u64 {
    let out = core.out(lane, false);
    let cost = OutFlow::cost(frame.len());
    within("room", out.admit(cost)).await.expect("not shut");
    core.push(flow_of(lane, false), FrameHead::Message, frame, |_| {}).expect("accepted")
}

async fn message(core: &PeerCore) -> Bytes {
    match within("a frame", core.receive(&Lane::ALL)).await {
        Some(Received::Message(frame)) => frame,
        other => panic!("{other:?}"),
    }
}

fn numbered(number: u64, length: usize) -> Bytes {
    let mut frame = number.to_be_bytes().to_vec();
    frame.resize(length.max(8), 7);
    frame.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_go_both_ways_and_are_delivered_when_they_are_taken() {
    let pair = Pair::new().await;
    for (from, to) in [(&pair.at_near, &pair.at_far), (&pair.at_far, &pair.at_near)] {
        let mut last = 0;
        for (number, length) in [10, 100, 9_000, 200_000, 20].into_iter().enumerate() {
            last = send(from, Lane::Data, numbered(number as u64, length)).await;
        }
        assert_eq!(last, 5);
        for (number, length) in [10, 100, 9_000, 200_000, 20].into_iter().enumerate() {
            assert_eq!(message(to).await, numbered(number as u64, length));
        }
        let fate = within("the fate", from.out(Lane::Data, false).fate(last)).await;
        assert_eq!(fate, Fate::Delivered);
        let outcomes = from.out(Lane::Data, false).outcomes();
        assert_eq!((outcomes.accepted, outcomes.delivered), (5, 5));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_waits_while_nobody_takes_and_goes_on_when_somebody_does() {
    let pair = Pair::new().await;
    let sender = Arc::clone(&pair.at_near);
    let sending = tokio::spawn(async move {
        for number in 0..500 {
            send(&sender, Lane::Data, numbered(number, 50_000)).await;
        }
    });
    // What is kept and what is granted are bounded, so it cannot be through.
    let kept = || pair.at_near.out(Lane::Data, false).outcomes().accepted;
    within("a full flow", async {
        while kept() < 20 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!sending.is_finished());
    for number in 0..500 {
        assert_eq!(message(&pair.at_far).await, numbered(number, 50_000));
    }
    within("the sender", sending).await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_nor_comes_twice_across_links_that_are_cut() {
    let _ = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).try_init();
    let pair = Pair::new().await;
    let frames = 60_000;
    let mut tasks = tokio::task::JoinSet::new();
    for (from, to) in [(&pair.at_near, &pair.at_far), (&pair.at_far, &pair.at_near)] {
        let (from, to) = (Arc::clone(from), Arc::clone(to));
        tasks.spawn(async move {
            for number in 0..frames {
                send(&from, Lane::Data, numbered(number, (number % 3_000) as usize)).await;
            }
            let last = from.out(Lane::Data, false).last_accepted();
            let fate = within("the fate", from.out(Lane::Data, false).fate(last)).await;
            assert_eq!(fate, Fate::Delivered);
        });
        tasks.spawn(async move {
            for number in 0..frames {
                assert_eq!(message(&to).await, numbered(number, (number % 3_000) as usize));
            }
        });
    }
    let progress = || {
        let ends = [&pair.at_near, &pair.at_far];
        ends.iter().map(|end| end.out(Lane::Data, false).outcomes().delivered).sum::<u64>()
    };
    let (mut cuts, mut before) = (0, 0);
    while !tasks.is_empty() {
        match tokio::time::timeout(Duration::from_millis(10), tasks.join_next()).await {
            Ok(Some(done)) => done.expect("no panic"),
            Ok(None) => break,
            // Each link brings something on, however busy the machine is.
            Err(_) if progress() > before => {
                (cuts, before) = (cuts + 1, progress());
                [&pair.near, &pair.far][cuts % 2].cut();
            }
            Err(_) => {}
        }
    }
    println!("{cuts} cuts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_answered_in_any_order_and_those_nobody_answers_are_told() {
    let pair = Pair::new().await;
    let mut asked = Vec::new();
    for number in 0..20_u64 {
        let frame = numbered(number, 100);
        let room = pair.at_near.out(Lane::Data, false).admit(OutFlow::cost(frame.len()));
        within("room", room).await.expect("not shut");
        let deadline = Instant::now() + LIMIT;
        asked.push(pair.at_near.ask(Lane::Data, frame, deadline).expect("asked"));
    }
    let mut requests = Vec::new();
    for _ in 0..20 {
        match within("a request", pair.at_far.receive(&Lane::ALL)).await {
            Some(Received::Request { id, frame, .. }) => requests.push((id, frame)),
            other => panic!("{other:?}"),
        }
    }
    for (id, frame) in requests.into_iter().rev() {
        let number = u64::from_be_bytes(*frame.first_chunk().expect("eight bytes"));
        if number % 5 == 0 {
            pair.at_far.not_handled(id);
            continue;
        }
        assert!(pair.at_far.handled(id), "somebody waits");
        let head = FrameHead::Reply { lane: id.0, number: id.1, status: ReplyStatus::Reply };
        let answer = numbered(number * 2, 200);
        let room = pair.at_far.out(Lane::Data, true).admit(OutFlow::cost(answer.len()));
        within("room", room).await.expect("not shut");
        pair.at_far.push(flow_of(Lane::Data, true), head, answer, |_| {}).expect("accepted");
    }
    for (number, (_, answer)) in asked.into_iter().enumerate() {
        let (end, payload) = within("an answer", answer).await.expect("it is told");
        match number % 5 {
            0 => assert_eq!((end, payload.len()), (RequestEnd::NoReply, 0)),
            _ => assert_eq!((end, payload), (RequestEnd::Reply, numbered(number as u64 * 2, 200))),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_gives_a_request_up_tells_its_handler() {
    let pair = Pair::new().await;
    let frame = numbered(1, 100);
    let room = pair.at_near.out(Lane::Data, false).admit(OutFlow::cost(frame.len()));
    within("room", room).await.expect("not shut");
    let asked = pair.at_near.ask(Lane::Data, frame, Instant::now() + LIMIT);
    let (id, _answer) = asked.map_err(|error: NotAsked| error).expect("asked");
    let received = within("a request", pair.at_far.receive(&Lane::ALL)).await;
    let Some(Received::Request { cancelled, id: there, .. }) = received else {
        panic!("a request")
    };
    assert_eq!(pair.at_near.give_up(id), Some(RequestEnd::Cancelled { may_have_run: true }));
    within("the word", cancelled.wait()).await;
    assert!(!pair.at_far.handled(there), "nobody waits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_given_up_ends_on_both_sides_with_what_is_known() {
    let pair = Pair::new().await;
    let taken = send(&pair.at_near, Lane::Data, numbered(1, 10)).await;
    assert_eq!(message(&pair.at_far).await, numbered(1, 10));
    let out = pair.at_near.out(Lane::Data, false);
    assert_eq!(within("the fate", out.fate(taken)).await, Fate::Delivered);
    let left = send(&pair.at_near, Lane::Data, numbered(2, 10)).await;
    within("its arrival", async {
        while pair.at_far.inbound()[flow_of(Lane::Data, false)].received < left {
            tokio::task::yield_now().await;
        }
    })
    .await;
    pair.far.sessions.give_up(&pair.at_far);
    // Received and never taken.
    assert_ne!(within("the fate", out.fate(left)).await, Fate::Delivered);
    let ended = within("the end", async {
        loop {
            match pair.at_near.up().await {
                Ok(()) => tokio::task::yield_now().await,
                Err(reason) => return reason,
            }
        }
    })
    .await;
    assert!(matches!(ended, EndReason::Peer(..)), "{ended:?}");
    let outcomes = out.outcomes();
    let ends = outcomes.delivered + outcomes.not_sent + outcomes.maybe_sent;
    assert_eq!((outcomes.accepted, outcomes.delivered, ends), (2, 1, 2));
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    within(what, async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_gathers_without_a_link_goes_out_in_parts_that_the_peer_takes() {
    let pair = Pair::new().await;
    // As long as a dial takes.
    pair.near.cut();
    until("the loss", || !pair.at_near.has_link()).await;
    let lengths = [100, 900, 2 << 20, 100, 60_000, 60_000, 3 << 20, 10];
    for (number, length) in lengths.into_iter().enumerate() {
        send(&pair.at_near, Lane::Data, numbered(number as u64, length)).await;
    }
    // Nobody takes while all comes that may.
    within("a link", pair.at_near.up()).await.expect("it stands again");
    until("the first", || pair.at_far.inbound()[flow_of(Lane::Data, false)].received >= 2).await;
    for (number, length) in lengths.into_iter().enumerate() {
        assert_eq!(message(&pair.at_far).await, numbered(number as u64, length));
    }
    assert!(pair.at_near.ended().is_none() && pair.at_far.ended().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_frames_over_the_nodes_room_wait_until_others_are_taken_and_small_ones_do_not() {
    let mut limits = Limits { frame_bytes_max: 1 << 20, ..Limits::default() };
    limits.sessions.large_bytes_max = 1 << 20;
    let pair = Pair::with(&limits).await;
    let large = |number| numbered(number, 1 << 20);
    let received = |lane| pair.at_far.inbound()[flow_of(lane, false)].received;
    send(&pair.at_near, Lane::Data, large(1)).await;
    until("the first large one", || received(Lane::Data) == 1).await;
    send(&pair.at_near, Lane::Bulk, large(2)).await;
    let waits = || pair.far.counts.stats().limits.large_bytes_max;
    until("the second one waits", || waits() == 1).await;
    send(&pair.at_near, Lane::Control, numbered(3, 10)).await;
    until("a small one", || received(Lane::Control) == 1).await;
    assert_eq!(received(Lane::Bulk), 0);
    for number in [3, 1, 2] {
        let frame = message(&pair.at_far).await;
        assert_eq!(frame[..8], u64::to_be_bytes(number), "control, then what had room");
    }
    assert!(pair.at_near.ended().is_none(), "nobody broke the protocol");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_nobody_takes_from_holds_what_was_granted_and_others_go_on() {
    let pair = Pair::new().await;
    let filling = Arc::clone(&pair.at_near);
    let sender = tokio::spawn(async move {
        for number in 0.. {
            send(&filling, Lane::Data, numbered(number, 1_000)).await;
        }
    });
    let limits = Limits::default().sessions;
    let kept = || pair.at_near.out(Lane::Data, false).outcomes().accepted * 1_000;
    until("the flow is full", || kept() > limits.flow_bytes_max as u64 - 20_000).await;
    let held = pair.at_far.inbound()[flow_of(Lane::Data, false)];
    assert!(held.received * 1_000 <= held.credit, "{held:?}");
    assert!(held.credit < limits.granted_bytes_max as u64, "nothing was used up: {held:?}");
    send(&pair.at_near, Lane::Control, numbered(7, 10)).await;
    let control = within("another lane", pair.at_far.receive(&[Lane::Control])).await;
    assert!(matches!(control, Some(Received::Message(_))), "{control:?}");
    sender.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_not_at_rest_while_a_reply_is_about_to_be_accepted() {
    let pair = Pair::new().await;
    // Its request is in flight no more, and its frame not yet.
    let answering = pair.at_near.answering();
    let mut rest = std::pin::pin!(pair.at_near.rest());
    let waits = std::future::poll_fn(|context| {
        std::task::Poll::Ready(rest.as_mut().poll(context).is_pending())
    });
    assert!(waits.await, "it would stop without the reply");
    drop(answering);
    within("rest", rest).await;
}
