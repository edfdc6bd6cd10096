//! What a peer of `moorline/1` gets that breaks its rules: each is named by a close code, nothing of it is
//! kept, and the application is told.

use std::time::Duration;

use anyhow::{Context, Result};
use moorline::{CloseCode, Incoming, NetCredential, Node, NodeConfig, Peer, PeerEnded, Peers};
use moorline_interop::moorline_end::end;
use moorline_interop::quinn_peer::{QuinnLink, Settings, application_code, dialler};
use moorline_interop::session_message::{SessionMessage, kind};
use moorline_interop::session_peer::{DATA, DATA_REPLIES, FrameKind, SESSION_ALPN, SessionPeer};
use moorline_interop::{ANY_PORT, LIMIT, PeerCertificate, within};
use quinn::Endpoint;

const PROTOCOL: &str = "orders/1";
const NONCE: u64 = 0xffff_0000_0000_0001;
const CREDIT: u64 = 100_000;

/// The least that a flow is granted, if anything.
const GRANT_MIN: u64 = 16 << 10;

/// Messages and requests of the lane of control, of which Hello says nothing here.
const CONTROL: u64 = 0;

/// Requests of the peer's that the node handles at a time.
const REQUESTS: u64 = 4;

/// A refusal: the connection is not wanted.
const REFUSED: u64 = 8;

/// A node that a peer dials, which decides.
struct Dialled {
    node: Node,
    peers: Peers,
    address: std::net::SocketAddr,
    endpoint: Endpoint,
}

impl Dialled {
    async fn new() -> Result<Self> {
        let credential = NetCredential::generate_self_signed(&["localhost"], &[])?;
        let certificate = loop {
            let certificate = PeerCertificate::generate()?;
            if certificate.identity() > credential.identity() {
                break certificate;
            }
        };
        let mut config = NodeConfig::new(credential.trust_hash(certificate.identity()));
        config.limits.sessions.hello_time_max = Duration::from_millis(500);
        config.limits.sessions.requests_max = usize::try_from(REQUESTS)?;
        config.limits.frame_bytes_max = 200_000;
        // Fewer than any machine sends, however busy.
        config.limits.sessions.control_messages_max = 1_000;
        let node = within(LIMIT, "a node starts", Node::spawn(config)).await?;
        let peers = node.accept(PROTOCOL);
        let address = within(LIMIT, "the node listens", node.listen(ANY_PORT)).await?;
        let settings = Settings::new(&certificate, node.identity());
        let endpoint = dialler(&Settings { alpn: SESSION_ALPN, ..settings })?;
        Ok(Self { node, peers, address, endpoint })
    }

    async fn connection(&self) -> Result<quinn::Connection> {
        Ok(QuinnLink::dial(&self.endpoint, self.address).await?.connection)
    }

    /// The code that the node closes with.
    async fn code(connection: &quinn::Connection) -> Option<u64> {
        let closed = within(LIMIT, "quinn learns of the close", connection.closed()).await;
        application_code(&closed)
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
        assert_eq!(Self::code(&peer.connection).await, Some(code.value()));
        Ok(())
    }

    async fn session(&mut self, incarnation: u64) -> Result<(SessionPeer, Peer)> {
        let mut peer = SessionPeer::new(self.connection().await?).await?;
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
#[derive(Debug, Clone, Copy)]
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
            peer.send(DATA, &FrameKind::Message, &[7; 200_001]).await
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
        assert_eq!(code, Some(CloseCode::PROTOCOL_ERROR.value()), "{breach:?}: {committed:?}");
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
    assert_eq!(Dialled::code(&silent).await, Some(CloseCode::HELLO_TIMEOUT.value()));
    assert!(it.node.stats().limits.hello_time_max > 0);
    let too_long = [&[0, 0xff, 0xff][..], &[0; 100]].concat();
    let no_map = vec![0, 0, 3, 0x82, 0, 1];
    for bytes in [too_long, no_map, vec![9]] {
        let connection = it.connection().await?;
        let mut stream = connection.open_uni().await?;
        stream.write_all(&bytes).await?;
        let code = Dialled::code(&connection).await;
        assert_eq!(code, Some(CloseCode::PROTOCOL_ERROR.value()), "{bytes:?}");
    }
    for credit in [1, GRANT_MIN - 1] {
        let mut peer = SessionPeer::new(it.connection().await?).await?;
        peer.say(&hello(1, 0).with_flow(CONTROL, &[0, 0, credit])).await?;
        let code = Dialled::code(&peer.connection).await;
        assert_eq!(code, Some(CloseCode::PROTOCOL_ERROR.value()), "a grant of {credit} bytes");
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
    assert_eq!(code, Some(CloseCode::STALE_INCARNATION.value()));
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
