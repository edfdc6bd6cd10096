//! What a peer of `moorline/1` gets that breaks its rules: each is named by a close code, nothing of it is
//! kept, and the application is told.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use moorline::{
    CloseCode, Incoming, Limits, NetCredential, Node, NodeConfig, Peer, PeerEnded, Peers, Target,
};
use moorline_interop::moorline_end::end;
use moorline_interop::quinn_peer::{QuinnLink, Settings, application_code, dialler};
use moorline_interop::session_message::{SessionMessage, kind};
use moorline_interop::session_peer::{DATA, DATA_REPLIES, FrameKind, SESSION_ALPN, SessionPeer};
use moorline_interop::{ANY_PORT, LIMIT, PeerCertificate, within};
use quinn::{ConnectionError, Endpoint};
use tokio::sync::{oneshot, watch};
use tokio::time::MissedTickBehavior;

const PROTOCOL: &str = "orders/1";
const NONCE: u64 = 0xffff_0000_0000_0001;
const CREDIT: u64 = 100_000;

/// The least that a flow is granted, if anything.
const GRANT_MIN: u64 = 16 << 10;

/// Messages and requests of the lane of control, of which Hello says nothing here.
const CONTROL: u64 = 0;

/// Requests of the peer's that the node handles at a time.
const REQUESTS: u64 = 4;

/// The largest frame of the node's, and about what a flow of it keeps.
const FRAME_BYTES: usize = 200_000;

/// A refusal: the connection is not wanted.
const REFUSED: u64 = 8;

/// A node that a peer dials, which decides.
struct Dialled {
    node: Node,
    peers: Peers,
    address: std::net::SocketAddr,
    endpoint: Endpoint,
    /// Of somebody else whom the node trusts.
    friend: NetCredential,
}

impl Dialled {
    async fn new() -> Result<Self> {
        Self::with(|_| {}).await
    }

    async fn with(adjust: impl FnOnce(&mut Limits)) -> Result<Self> {
        let credential = NetCredential::generate_self_signed(&["localhost"], &[])?;
        let friend = NetCredential::generate_self_signed(&["localhost"], &[])?;
        let friend = friend.trust_hash(credential.identity());
        let credential = credential.trust_hash(friend.identity());
        let certificate = loop {
            let certificate = PeerCertificate::generate()?;
            if certificate.identity() > credential.identity() {
                break certificate;
            }
        };
        let mut config = NodeConfig::new(credential.trust_hash(certificate.identity()));
        config.limits.sessions.hello_time_max = Duration::from_millis(500);
        config.limits.sessions.requests_max = usize::try_from(REQUESTS)?;
        // On a busy machine nobody is gone who says nothing for a second.
        config.limits.idle_time_max = LIMIT;
        config.limits.disconnect_time_max = LIMIT;
        config.limits.frame_bytes_max = FRAME_BYTES;
        config.limits.sessions.flow_bytes_max = FRAME_BYTES;
        // Fewer than any machine sends, however busy.
        config.limits.sessions.control_messages_max = 1_000;
        adjust(&mut config.limits);
        let node = within(LIMIT, "a node starts", Node::spawn(config)).await?;
        let peers = node.accept(PROTOCOL);
        let address = within(LIMIT, "the node listens", node.listen(ANY_PORT)).await?;
        let settings = Settings::new(&certificate, node.identity());
        let endpoint = dialler(&Settings { alpn: SESSION_ALPN, ..settings })?;
        Ok(Self { node, peers, address, endpoint, friend })
    }

    async fn connection(&self) -> Result<quinn::Connection> {
        Ok(QuinnLink::dial(&self.endpoint, self.address).await?.connection)
    }

    /// The code that the node closes with, or how else the connection ended.
    async fn code(connection: &quinn::Connection) -> Result<u64, ConnectionError> {
        let closed = within(LIMIT, "quinn learns of the close", connection.closed()).await;
        application_code(&closed).ok_or(closed)
    }

    /// What was said is refused with this code, and final or not; the node closes with it as well.
    async fn is_refused(
        &self,
        said: &SessionMessage,
        code: CloseCode,
        is_final: u64,
    ) -> Result<()> {
        let mut peer = SessionPeer::new(self.connection().await?).await?;
        peer.say(said).await?;
        let refused = peer.hear(REFUSED).await?;
        assert_eq!((refused.number(0), refused.number(1)), (code.value(), is_final), "{refused:?}");
        // A peer that does not close is closed.
        assert_eq!(Self::code(&peer.connection).await, Ok(code.value()));
        Ok(())
    }

    async fn session(&mut self, incarnation: u64) -> Result<(SessionPeer, Peer)> {
        let peer = SessionPeer::new(self.connection().await?).await?;
        self.session_of(peer, incarnation).await
    }

    async fn session_of(
        &mut self,
        mut peer: SessionPeer,
        incarnation: u64,
    ) -> Result<(SessionPeer, Peer)> {
        peer.say(&hello(incarnation, 0)).await?;
        let mut theirs = peer.hear(kind::HELLO).await?;
        if theirs.number(6) == 0 {
            // Another incarnation is known: this one has to prove that it lives.
            peer.say(&hello(incarnation, theirs.number(4))).await?;
            theirs = peer.hear(kind::HELLO).await?;
        }
        let attach = [(0, 1), (1, theirs.number(4)), (2, theirs.number(6))];
        peer.say(&SessionMessage::new(kind::ATTACH, &attach)).await?;
        let at_node = within(LIMIT, "a session begins", self.peers.next()).await.context("one")?;
        within(LIMIT, "it has a connection", at_node.connected()).await?;
        Ok((peer, at_node))
    }

    async fn end(self) -> Result<()> {
        drop(self.peers);
        end(self.node).await
    }
}

fn hello(incarnation: u64, echo: u64) -> SessionMessage {
    let fields = [(0, 1), (1, 1), (2, incarnation), (3, 1), (4, NONCE), (5, echo)];
    let rest = [(6, 70 + incarnation), (10, 1 << 20), (11, 16)];
    let hello = SessionMessage::new(kind::HELLO, &[&fields[..], &rest].concat());
    let hello = SessionMessage { text: Some(PROTOCOL.to_owned()), ..hello };
    hello.with_flow(DATA, &[0, 0, CREDIT]).with_flow(DATA_REPLIES, &[0, 0, CREDIT])
}

fn taken(flow: &[u64]) -> SessionMessage {
    SessionMessage::new(kind::TAKEN, &[]).with_flow(DATA, flow)
}

/// The first grant of a flow that had none in Hello.
fn grant(credit: u64) -> SessionMessage {
    SessionMessage::new(kind::TAKEN, &[]).with_flow(CONTROL, &[0, 0, credit])
}

/// What a peer does that it must not.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Breach {
    AcknowledgesWhatWasNeverSent,
    TakesBackWhatItTook,
    LowersItsCredit,
    GrantsOneByte,
    GrantsAByteTooLittle,
    LeavesAFrameOut,
    PassesItsCredit,
    AnnouncesMoreThanItsCredit,
    SendsAFrameOverTheLimit,
    RepliesToWhatWasNeverAsked,
    RepliesOnAnotherLane,
    SendsAMessageWhereRepliesAre,
    FloodsTheSessionStream,
    BeginsASecondSessionStream,
}

const BREACHES: [Breach; 14] = [
    Breach::AcknowledgesWhatWasNeverSent,
    Breach::TakesBackWhatItTook,
    Breach::LowersItsCredit,
    Breach::GrantsOneByte,
    Breach::GrantsAByteTooLittle,
    Breach::LeavesAFrameOut,
    Breach::PassesItsCredit,
    Breach::AnnouncesMoreThanItsCredit,
    Breach::SendsAFrameOverTheLimit,
    Breach::RepliesToWhatWasNeverAsked,
    Breach::RepliesOnAnotherLane,
    Breach::SendsAMessageWhereRepliesAre,
    Breach::FloodsTheSessionStream,
    Breach::BeginsASecondSessionStream,
];

async fn commit(breach: Breach, peer: &mut SessionPeer, at_node: &Peer) -> Result<()> {
    match breach {
        Breach::AcknowledgesWhatWasNeverSent => peer.say(&taken(&[2, 1, CREDIT])).await,
        Breach::TakesBackWhatItTook => {
            at_node.send("one").await?;
            peer.frame().await?;
            peer.say(&taken(&[1, 1, CREDIT])).await?;
            peer.say(&taken(&[1, 0, CREDIT])).await
        }
        Breach::LowersItsCredit => peer.say(&taken(&[0, 0, CREDIT - 1])).await,
        Breach::GrantsOneByte => peer.say(&grant(1)).await,
        Breach::GrantsAByteTooLittle => peer.say(&grant(GRANT_MIN - 1)).await,
        Breach::LeavesAFrameOut => {
            peer.begin_flow(1, DATA, 2).await?;
            peer.send(DATA, &FrameKind::Message, b"the second one").await
        }
        Breach::PassesItsCredit => {
            peer.begin_flow(1, DATA, 1).await?;
            for _ in 0..40 {
                peer.send(DATA, &FrameKind::Message, &[7; 1_000]).await?;
            }
            Ok(())
        }
        Breach::AnnouncesMoreThanItsCredit => {
            peer.begin_flow(1, DATA, 1).await?;
            peer.send(DATA, &FrameKind::Message, b"one").await?;
            // Not even the rest of it has to come.
            peer.send(DATA, &FrameKind::Message, &[7; 150_000]).await
        }
        Breach::SendsAFrameOverTheLimit => {
            peer.begin_flow(1, DATA, 1).await?;
            peer.send(DATA, &FrameKind::Message, &[7; FRAME_BYTES + 1]).await
        }
        Breach::RepliesToWhatWasNeverAsked => {
            peer.begin_flow(1, DATA_REPLIES, 1).await?;
            peer.send(DATA_REPLIES, &FrameKind::Reply(1, 0), b"yes").await
        }
        Breach::RepliesOnAnotherLane => {
            let asking = at_node.clone();
            // Ends with the session.
            tokio::spawn(async move { asking.request("what?", LIMIT).await });
            peer.frame().await?;
            let mut stream = peer.connection.open_uni().await?;
            let mut bytes = vec![1];
            bytes.extend(1_u64.to_be_bytes());
            // Lane 2, replies, from the first on; a reply with one byte to request 1 of lane 1.
            bytes.extend([2, 1]);
            bytes.extend(1_u64.to_be_bytes());
            bytes.extend((2_u32 << 30 | 11).to_be_bytes());
            bytes.push(1);
            bytes.extend(1_u64.to_be_bytes());
            bytes.extend([0, b'x']);
            stream.write_all(&bytes).await?;
            // It ends with the connection.
            std::mem::forget(stream);
            Ok(())
        }
        Breach::SendsAMessageWhereRepliesAre => {
            peer.begin_flow(1, DATA_REPLIES, 1).await?;
            peer.send(DATA_REPLIES, &FrameKind::Message, b"a message").await
        }
        Breach::FloodsTheSessionStream => {
            let cancel = SessionMessage::new(3, &[(0, 1), (1, 1)]);
            // As fast as it goes; the end of the connection ends it.
            for _ in 0..200_000 {
                if peer.say(&cancel).await.is_err() {
                    break;
                }
            }
            Ok(())
        }
        Breach::BeginsASecondSessionStream => {
            let mut stream = peer.connection.open_uni().await?;
            stream.write_all(&[0]).await?;
            std::mem::forget(stream);
            Ok(())
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_breaks_a_rule_loses_its_session_and_the_next_one_is_as_good_as_ever()
-> Result<()> {
    let mut it = Dialled::new().await?;
    for (number, breach) in (0..).zip(BREACHES) {
        let (mut peer, at_node) = it.session(1 + number).await?;
        // Where the connection ends meanwhile, that is what is asked for.
        let committed = commit(breach, &mut peer, &at_node).await;
        let code = Dialled::code(&peer.connection).await;
        // A flooder may lose the packet that says so among its own; what it still sends is answered by a reset.
        let is_told = code == Ok(CloseCode::PROTOCOL_ERROR.value())
            || breach == Breach::FloodsTheSessionStream && code == Err(ConnectionError::Reset);
        assert!(is_told, "{breach:?}: {committed:?}, {code:?}");
        let ended = loop {
            match within(LIMIT, "the session ends", at_node.recv()).await {
                Ok(Incoming::Message(_) | Incoming::Request(_)) => {}
                Err(ended) => break ended,
            }
        };
        assert_eq!(ended, PeerEnded::ProtocolError, "{breach:?}");
        for counts in at_node.deliveries() {
            let ends = counts.delivered + counts.not_sent + counts.maybe_sent;
            assert_eq!(counts.accepted, ends, "{breach:?}: {counts:?}");
        }
    }
    assert!(it.node.stats().limits.control_messages_max > 0, "the flood was counted");
    assert_eq!(it.node.stats().impossible, 0);
    it.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_that_is_late_wrong_or_for_nobody_is_told_so_and_leaves_nothing_behind()
-> Result<()> {
    let it = Dialled::new().await?;
    let silent = it.connection().await?;
    assert_eq!(Dialled::code(&silent).await, Ok(CloseCode::HELLO_TIMEOUT.value()));
    assert!(it.node.stats().limits.hello_time_max > 0);
    let too_long = [&[0, 0xff, 0xff][..], &[0; 100]].concat();
    let no_map = vec![0, 0, 3, 0x82, 0, 1];
    for bytes in [too_long, no_map, vec![9]] {
        let connection = it.connection().await?;
        let mut stream = connection.open_uni().await?;
        stream.write_all(&bytes).await?;
        let code = Dialled::code(&connection).await;
        assert_eq!(code, Ok(CloseCode::PROTOCOL_ERROR.value()), "{bytes:?}");
    }
    for credit in [1, GRANT_MIN - 1] {
        let mut peer = SessionPeer::new(it.connection().await?).await?;
        peer.say(&hello(1, 0).with_flow(CONTROL, &[0, 0, credit])).await?;
        let code = Dialled::code(&peer.connection).await;
        assert_eq!(code, Ok(CloseCode::PROTOCOL_ERROR.value()), "a grant of {credit} bytes");
    }
    // Without incarnation, without nonce, and with a connection of a session that was never heard of.
    for (key, number) in [(2, 0), (4, 0), (9, 1)] {
        let mut peer = SessionPeer::new(it.connection().await?).await?;
        let mut wrong = hello(1, 0);
        wrong.numbers.insert(key, number);
        peer.say(&wrong).await?;
        let code = Dialled::code(&peer.connection).await;
        assert_eq!(code, Ok(CloseCode::PROTOCOL_ERROR.value()), "field {key} is {number}");
    }
    let mut newer = hello(1, 0);
    newer.numbers.extend([(0, 2), (1, 3)]);
    it.is_refused(&newer, CloseCode::VERSION, 0).await?;
    let unknown = SessionMessage { text: Some("other/1".to_owned()), ..hello(1, 0) };
    it.is_refused(&unknown, CloseCode::UNKNOWN_PROTOCOL, 0).await?;
    let mut peers = it.peers;
    let nobody = tokio::time::timeout(Duration::ZERO, peers.next()).await;
    assert!(nobody.is_err(), "{nobody:?}");
    drop(peers);
    end(it.node).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_processes_with_one_credential_the_later_one_stays_and_the_other_is_told_for_good()
-> Result<()> {
    let mut it = Dialled::new().await?;
    let (first, at_first) = it.session(1).await?;
    let (mut second, at_second) = it.session(2).await?;
    let code = Dialled::code(&first.connection).await;
    assert_eq!(code, Ok(CloseCode::STALE_INCARNATION.value()));
    let ended = within(LIMIT, "the first session ends", at_first.recv()).await;
    assert!(matches!(ended, Err(PeerEnded::PeerRestarted)), "{ended:?}");
    for _ in 0..3 {
        it.is_refused(&hello(1, 0), CloseCode::STALE_INCARNATION, 1).await?;
    }
    // Nothing of that reached the other one.
    at_second.send("still here").await?;
    assert_eq!(&second.frame().await?.payload[..], b"still here");
    drop((at_first, at_second));
    it.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_not_proven_to_live_takes_nobodys_place() -> Result<()> {
    let mut it = Dialled::new().await?;
    let (mut first, at_first) = it.session(1).await?;
    let mut other = SessionPeer::new(it.connection().await?).await?;
    // As it may come from a connection of long ago.
    other.say(&hello(2, 0)).await?;
    let theirs = other.hear(kind::HELLO).await?;
    assert_eq!((theirs.number(5), theirs.number(6)), (NONCE, 0), "prove that you live: {theirs:?}");
    at_first.send("still here").await?;
    assert_eq!(&first.frame().await?.payload[..], b"still here");
    assert_eq!((at_first.ended(), first.connection.close_reason()), (None, None));
    drop(at_first);
    it.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_over_the_limit_are_refused_one_by_one_and_those_within_it_are_answered()
-> Result<()> {
    let mut it = Dialled::new().await?;
    let (mut peer, at_node) = it.session(1).await?;
    peer.begin_flow(1, DATA, 1).await?;
    for _ in 0..2 * REQUESTS {
        peer.send(DATA, &FrameKind::Request(20_000), b"question").await?;
    }
    for number in REQUESTS + 1..=2 * REQUESTS {
        let refused = peer.frame().await?;
        assert_eq!((refused.kind, refused.payload.len()), (FrameKind::Reply(number, 2), 0));
    }
    for number in 1..=REQUESTS {
        match within(LIMIT, "a request", at_node.recv()).await? {
            Incoming::Request(request) => request.reply("answer").await?,
            other => anyhow::bail!("{other:?}"),
        }
        let answer = peer.frame().await?;
        assert_eq!(
            (answer.kind, &answer.payload[..]),
            (FrameKind::Reply(number, 0), &b"answer"[..])
        );
    }
    assert_eq!(it.node.stats().limits.requests_max, REQUESTS);
    drop(at_node);
    it.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_inside_a_frame_is_told_so_and_leaves_its_room_to_the_next_one_who_is_slow()
-> Result<()> {
    const LARGE: u32 = 150_000;
    const PART: &[u8] = &[7; 15_000];
    let mut it = Dialled::with(|limits| {
        limits.frame_time_max = Duration::from_secs(1);
        // Room for one at a time.
        limits.sessions.large_bytes_max = FRAME_BYTES;
    })
    .await?;
    let (mut peer, at_node) = it.session(1).await?;
    peer.begin_flow(1, DATA, 1).await?;
    peer.begin_message(DATA, LARGE, PART).await?;
    // One that says nothing stops as well as one that is in the middle of a word.
    let code = Dialled::code(&peer.connection).await;
    assert_eq!(code, Ok(CloseCode::FRAME_TIMEOUT.value()));
    assert_eq!((at_node.ended(), it.node.stats().limits.frame_time_max), (None, 1));

    let (mut slow, at_node) = it.session(2).await?;
    slow.begin_flow(1, DATA, 1).await?;
    slow.begin_message(DATA, LARGE, PART).await?;
    let mut ticks = tokio::time::interval(Duration::from_millis(250));
    for _ in 1..10 {
        ticks.tick().await;
        slow.go_on(DATA, PART).await?;
    }
    match within(LIMIT, "its frame", at_node.recv()).await? {
        Incoming::Message(frame) => assert_eq!(frame.len(), LARGE as usize),
        other => anyhow::bail!("{other:?}"),
    }
    assert_eq!((slow.connection.close_reason(), it.node.stats().limits.frame_time_max), (None, 1));
    drop(at_node);
    it.end().await
}

/// Requests of a flood.
const FLOOD: u64 = 100_000;

/// Bytes of a request or a reply without a payload, its length included.
const REQUEST_BYTES: u64 = 8;
const REPLY_BYTES: u64 = 14;

/// Refusals that a flow of replies keeps; the peer's own deadline tells it of the others.
const KEPT_REPLIES_MAX: u64 = FRAME_BYTES as u64 / REPLY_BYTES + 1;

/// On a busy machine.
const FLOOD_TIME: Duration = Duration::from_secs(60);

/// More than a flood may cost the node and this peer, which share a process, together.
const FLOOD_MEMORY: u64 = 32 << 20;

/// Asks, within its credit, and reads no answer.
async fn flood(peer: &mut SessionPeer) -> Result<()> {
    peer.begin_flow(1, DATA, 1).await?;
    let (mut credit, mut taken) = (GRANT_MIN, 0);
    for sent in 0..FLOOD {
        while (sent + 1 - taken) * REQUEST_BYTES > credit {
            if let [_, told, granted] = *peer.hear(kind::TAKEN).await?.flow(DATA) {
                (taken, credit) = (told, granted);
            }
        }
        peer.send(DATA, &FrameKind::Request(600_000), &[]).await?;
    }
    Ok(())
}

/// What this process has in memory.
fn resident_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a line")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}

/// Asks again and again, and tells how long the slowest answer took. It is told what was taken as often.
async fn goes_on_asking(peer: Peer, until: watch::Receiver<bool>) -> Result<(u64, Duration)> {
    let (mut asked, mut slowest) = (0, Duration::ZERO);
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !*until.borrow() {
        ticks.tick().await;
        let began = Instant::now();
        assert_eq!(peer.request("how are you?", LIMIT).await?, "how are you?");
        slowest = slowest.max(began.elapsed());
        asked += 1;
    }
    Ok((asked, slowest))
}

/// Answers what is asked with what it was asked.
async fn echo(peer: Peer) -> Result<()> {
    while let Ok(Incoming::Request(mut request)) = peer.recv().await {
        let frame = request.take_frame();
        request.reply(frame).await?;
    }
    Ok(())
}

/// Handles what is asked, and answers nothing before it may.
async fn hold_then_echo(peer: Peer, until: oneshot::Receiver<()>) -> Result<()> {
    let (mut held, mut until) = (Vec::new(), until);
    loop {
        tokio::select! {
            _ = &mut until => break,
            incoming = peer.recv() => match incoming? {
                Incoming::Request(request) => held.push(request),
                Incoming::Message(frame) => anyhow::bail!("{frame:?}"),
            },
        }
    }
    assert_eq!(u64::try_from(held.len())?, REQUESTS);
    for request in held {
        request.reply("answer").await?;
    }
    echo(peer).await
}

/// Takes the replies to a flood up to the last answer, and tells how many were refused.
async fn take_replies(peer: &mut SessionPeer) -> Result<u64> {
    // More seldom than the node takes messages.
    const TOLD_EVERY: u64 = 500;
    const TOLD_WITHIN: Duration = Duration::from_millis(20);
    let (mut refused, mut answers) = (0, 0);
    peer.read_frames();
    while answers < REQUESTS {
        let next = tokio::time::timeout(TOLD_WITHIN, peer.frame()).await;
        let (came, is_quiet) = (refused + answers, next.is_err());
        if is_quiet || came % TOLD_EVERY == 0 {
            let taken = SessionMessage::new(kind::TAKEN, &[]);
            peer.say(&taken.with_flow(DATA_REPLIES, &[came, came, CREDIT])).await?;
        }
        let Ok(reply) = next else { continue };
        let reply = reply?;
        match (reply.kind, &reply.payload[..]) {
            (FrameKind::Reply(request, 0), b"answer") if request <= REQUESTS => answers += 1,
            (FrameKind::Reply(request, 2), b"") if request > REQUESTS => refused += 1,
            other => anyhow::bail!("{other:?}"),
        }
    }
    Ok(refused)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_requests_of_a_peer_that_reads_no_reply_are_refused_and_harm_nobody()
-> Result<()> {
    let mut it = Dialled::new().await?;
    let friend = Node::spawn(NodeConfig::new(it.friend.clone())).await?;
    let target = Target::from(it.address).expect(it.node.identity());
    let asking = within(LIMIT, "a friend", friend.peer(target, PROTOCOL)).await?;
    let asked = within(LIMIT, "its other end", it.peers.next()).await.context("one")?;
    let echoing = tokio::spawn(echo(asked));
    let deaf = SessionPeer::deaf(it.connection().await?).await?;
    let (mut peer, at_node) = it.session_of(deaf, 1).await?;
    let (release, until) = oneshot::channel();
    let holding = tokio::spawn(hold_then_echo(at_node, until));
    let (over, until) = watch::channel(false);
    let friends = tokio::spawn(goes_on_asking(asking.clone(), until));

    let before = resident_bytes()?;
    within(FLOOD_TIME, "the flood", flood(&mut peer)).await?;
    let all_refused = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        while it.node.stats().limits.requests_max < FLOOD - REQUESTS {
            ticks.tick().await;
        }
    };
    within(LIMIT, "the refusal of all but the first", all_refused).await;
    let more = resident_bytes()?.saturating_sub(before);
    assert!(more < FLOOD_MEMORY, "{more} bytes more");
    over.send_replace(true);
    let (count, slowest) = within(LIMIT, "the friend", friends).await??;
    assert!(count > 20 && slowest < Duration::from_secs(2), "{count} answers, {slowest:?}");

    // It gets what was kept for it, and its places are free again.
    release.send(()).ok().context("a handler")?;
    let refused = within(FLOOD_TIME, "its replies", take_replies(&mut peer)).await?;
    println!("{more} bytes, {refused} told; a friend got {count} answers, {slowest:?} at most");
    assert!((1_000..=KEPT_REPLIES_MAX).contains(&refused), "{refused} were told");
    peer.send(DATA, &FrameKind::Request(20_000), b"again").await?;
    let again = peer.frame().await?;
    assert_eq!(again.kind, FrameKind::Reply(FLOOD + 1, 0));
    assert_eq!(it.node.stats().limits.requests_max, FLOOD - REQUESTS);
    drop((asking, peer));
    holding.abort();
    echoing.abort();
    end(friend).await?;
    it.end().await
}
