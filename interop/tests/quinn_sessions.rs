//! moorline and a peer of `moorline/1` that was written from the wire format alone: sessions that outlive
//! their connections, whoever of both decides and whoever dials.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use moorline::{
    CloseCode, Incoming, Limits, NetCredential, Node, NodeConfig, NodeEvent, Peer, PeerEnded,
    PeerError, Peers, Target,
};
use moorline_interop::moorline_end::end;
use moorline_interop::quinn_peer::{QuinnLink, Settings, application_code, dialler, listener};
use moorline_interop::session_message::{SessionMessage, kind};
use moorline_interop::session_peer::{
    DATA, DATA_REPLIES, FrameKind, NumberedFrame, SESSION_ALPN, SessionPeer,
};
use moorline_interop::{ANY_PORT, LIMIT, PeerCertificate, within};
use tokio::net::UdpSocket;

const PROTOCOL: &str = "orders/1";
const TIME: Duration = Duration::from_secs(20);
const TIME_MS: u32 = 20_000;

/// The peer's numbers: what it calls itself and the session, and its nonce on every connection.
const INCARNATION: u64 = 0x1234_5678_9abc_def0;
const MINE: u64 = 77;
const NONCE: u64 = 0xffff_0000_0000_0001;

/// What the peer grants of each flow.
const CREDIT: u64 = 100_000;

/// A node, and a certificate of the peer's that is greater than the node's or not.
async fn node_and_certificate(peer_decides: bool) -> Result<(Node, PeerCertificate)> {
    node_and_certificate_with(peer_decides, |_| ()).await
}

async fn node_and_certificate_with(
    peer_decides: bool,
    change: impl FnOnce(&mut Limits),
) -> Result<(Node, PeerCertificate)> {
    let credential = NetCredential::generate_self_signed(&["localhost"], &[])?;
    let certificate = loop {
        let certificate = PeerCertificate::generate()?;
        if (certificate.identity() > credential.identity()) == peer_decides {
            break certificate;
        }
    };
    let credential = credential.trust_hash(certificate.identity());
    let mut config = NodeConfig::new(credential);
    change(&mut config.limits);
    let node = within(LIMIT, "a node starts", Node::spawn(config)).await?;
    Ok((node, certificate))
}

fn settings<'a>(certificate: &'a PeerCertificate, node: &Node) -> Settings<'a> {
    Settings { alpn: SESSION_ALPN, ..Settings::new(certificate, node.identity()) }
}

/// A Hello of the peer's.
fn hello(attempt: u64, echo: u64, yours: u64, known: u64) -> SessionMessage {
    hello_of(MINE, attempt, echo, yours, known)
}

/// One of the session that the peer calls so.
fn hello_of(mine: u64, attempt: u64, echo: u64, yours: u64, known: u64) -> SessionMessage {
    let numbers = [
        (0, 1),
        (1, 1),
        (2, INCARNATION),
        (3, attempt),
        (4, NONCE),
        (5, echo),
        (6, mine),
        (7, yours),
        (8, known),
        (10, 1 << 20),
        (11, 16),
    ];
    let hello = SessionMessage::new(kind::HELLO, &numbers);
    let hello = SessionMessage { text: Some(PROTOCOL.to_owned()), ..hello };
    hello.with_flow(DATA, &[0, 0, CREDIT]).with_flow(DATA_REPLIES, &[0, 0, CREDIT])
}

/// Says Attach, or hears it.
async fn attach(
    peer: &mut SessionPeer,
    decides: bool,
    theirs: &SessionMessage,
    generation: u64,
) -> Result<()> {
    if decides {
        let numbers = [(0, generation), (1, theirs.number(4)), (2, theirs.number(6))];
        return peer.say(&SessionMessage::new(kind::ATTACH, &numbers)).await;
    }
    let expected = [(0, generation), (1, NONCE), (2, MINE)];
    ensure!(peer.hear(kind::ATTACH).await? == SessionMessage::new(kind::ATTACH, &expected));
    Ok(())
}

/// Waits until so many frames of the lane of data are said to be taken.
async fn taken(peer: &mut SessionPeer, count: u64) -> Result<()> {
    loop {
        let taken = peer.hear(kind::TAKEN).await?;
        if let [_, told, credit] = *taken.flow(DATA) {
            ensure!(told <= count && credit > 0, "{taken:?}");
            if told == count {
                return Ok(());
            }
        }
    }
}

async fn recv(peer: &Peer) -> Result<Vec<u8>> {
    match within(LIMIT, "moorline receives", peer.recv()).await? {
        Incoming::Message(frame) => Ok(frame.to_vec()),
        other => anyhow::bail!("{other:?}"),
    }
}

fn message(generation: u64, number: u64, payload: &'static str) -> NumberedFrame {
    let (kind, payload) = (FrameKind::Message, payload.as_bytes().into());
    NumberedFrame { generation, flow: DATA, number, kind, payload }
}

/// A session over its first connection, which the peer dialled.
struct Session {
    node: Node,
    at_node: Peer,
    begun: Peers,
    peer: SessionPeer,
    theirs: SessionMessage,
    address: std::net::SocketAddr,
    endpoint: quinn::Endpoint,
    decides: bool,
}

impl Session {
    async fn new(decides: bool) -> Result<Self> {
        let (node, certificate) = node_and_certificate(decides).await?;
        let mut begun = node.accept(PROTOCOL);
        let address = within(LIMIT, "the node listens", node.listen(ANY_PORT)).await?;
        let endpoint = dialler(&settings(&certificate, &node))?;
        let mut peer =
            SessionPeer::new(QuinnLink::dial(&endpoint, address).await?.connection).await?;
        peer.say(&hello(1, 0, 0, 0)).await?;
        let theirs = peer.hear(kind::HELLO).await?;
        assert_eq!((theirs.number(0), theirs.number(1)), (1, 1), "versions");
        assert_eq!((theirs.number(3), theirs.number(5)), (0, NONCE), "attempt and echo");
        assert_eq!((theirs.number(7), theirs.number(8), theirs.number(9)), (MINE, 0, 0));
        assert_eq!(theirs.text.as_deref(), Some(PROTOCOL));
        assert!(matches!(*theirs.flow(DATA), [0, 0, credit] if credit > 0), "{theirs:?}");
        attach(&mut peer, decides, &theirs, 1).await?;
        let at_node = within(LIMIT, "a session begins", begun.next()).await.context("one")?;
        Ok(Self { node, at_node, begun, peer, theirs, address, endpoint, decides })
    }

    /// Leaves the connection, and dials again: `received` messages came, and were taken.
    async fn again(&mut self, received: u64) -> Result<SessionMessage> {
        self.peer.connection.close(0_u32.into(), b"lost");
        let link = QuinnLink::dial(&self.endpoint, self.address).await?;
        self.peer = SessionPeer::new(link.connection).await?;
        let mine = hello(2, 0, self.theirs.number(6), 1);
        self.peer.say(&mine.with_flow(DATA, &[received, received, CREDIT])).await?;
        let theirs = self.peer.hear(kind::HELLO).await?;
        assert_eq!(
            (theirs.number(2), theirs.number(6)),
            (self.theirs.number(2), self.theirs.number(6))
        );
        attach(&mut self.peer, self.decides, &theirs, 2).await?;
        Ok(theirs)
    }

    async fn end(self) -> Result<()> {
        drop((self.at_node, self.begun));
        end(self.node).await
    }
}

async fn frames_go_on_over_another_connection(decides: bool) -> Result<()> {
    let mut it = Session::new(decides).await?;
    it.peer.begin_flow(1, DATA, 1).await?;
    for payload in ["one", "two"] {
        it.peer.send(DATA, &FrameKind::Message, payload.as_bytes()).await?;
        assert_eq!(recv(&it.at_node).await?, payload.as_bytes());
    }
    taken(&mut it.peer, 2).await?;
    for (number, payload) in [(1, "a"), (2, "b")] {
        it.at_node.send(payload).await?;
        assert_eq!(it.peer.frame().await?, message(1, number, payload));
    }
    // The second one counts as lost on the way: the peer says no word of it.
    let told = SessionMessage::new(kind::TAKEN, &[]).with_flow(DATA, &[1, 1, CREDIT]);
    it.peer.say(&told).await?;

    let theirs = it.again(1).await?;
    assert_eq!(theirs.flow(DATA)[..2], [2, 2], "what moorline received and took");
    it.at_node.send("c").await?;
    // A stream may begin earlier than it must, and what was received is skipped.
    let mut next = it.peer.frame().await?;
    if next.number == 1 {
        next = it.peer.frame().await?;
    }
    assert_eq!(next, message(2, 2, "b"));
    assert_eq!(it.peer.frame().await?, message(2, 3, "c"));
    it.peer.begin_flow(2, DATA, 2).await?;
    for payload in ["two", "three"] {
        it.peer.send(DATA, &FrameKind::Message, payload.as_bytes()).await?;
    }
    assert_eq!(recv(&it.at_node).await?, b"three");
    taken(&mut it.peer, 3).await?;
    it.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_go_on_over_another_connection_where_the_peer_decides() -> Result<()> {
    frames_go_on_over_another_connection(true).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_go_on_over_another_connection_where_moorline_decides() -> Result<()> {
    frames_go_on_over_another_connection(false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_answered_both_ways() -> Result<()> {
    let mut it = Session::new(false).await?;
    it.peer.begin_flow(1, DATA, 1).await?;
    it.peer.send(DATA, &FrameKind::Request(TIME_MS), b"question").await?;
    match within(LIMIT, "a request comes", it.at_node.recv()).await? {
        Incoming::Request(request) => {
            assert_eq!(request.frame(), b"question");
            request.reply("answer").await?;
        }
        other => anyhow::bail!("{other:?}"),
    }
    let (kind, payload) = (FrameKind::Reply(1, 0), "answer".into());
    let answer = NumberedFrame { generation: 1, flow: DATA_REPLIES, number: 1, kind, payload };
    assert_eq!(it.peer.frame().await?, answer);

    it.peer.begin_flow(1, DATA_REPLIES, 1).await?;
    let asked = it.at_node.request("what?", TIME);
    let answers = async {
        let request = it.peer.frame().await?;
        let FrameKind::Request(1..=TIME_MS) = request.kind else {
            anyhow::bail!("{request:?}");
        };
        assert_eq!((request.flow, request.number, &request.payload[..]), (DATA, 1, &b"what?"[..]));
        it.peer.send(DATA_REPLIES, &FrameKind::Reply(1, 0), b"that").await
    };
    let (answer, answered) = tokio::join!(asked, answers);
    answered?;
    assert_eq!(answer?, "that");
    it.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_waits_for_the_word_of_what_was_taken() -> Result<()> {
    let mut it = Session::new(true).await?;
    it.at_node.send("last").await?;
    assert_eq!(it.peer.frame().await?, message(1, 1, "last"));
    let code = CloseCode::application(0x1234).context("it is an application's")?;
    let at_peer = async {
        let close = it.peer.hear(kind::CLOSE).await?;
        assert_eq!((close.number(0), close.flow(DATA)[0]), (0x1234, 1));
        it.peer.say(&SessionMessage::new(kind::CLOSED, &[]).with_flow(DATA, &[1])).await?;
        let ended = it.peer.hear(kind::ENDED).await?;
        let numbers = [0, 1, 2, 3].map(|key| ended.number(key));
        assert_eq!(numbers, [it.theirs.number(6), MINE, 1, 0x1234], "ids, closed, and the code");
        it.peer.connection.close(0_u32.into(), b"");
        anyhow::Ok(())
    };
    let close = within(LIMIT, "the session is closed", it.at_node.close(code));
    let (ended, heard) = tokio::join!(close, at_peer);
    heard?;
    assert_eq!(ended, PeerEnded::Closed);
    it.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moorline_dials_and_a_stream_that_leaves_frames_out_ends_the_session() -> Result<()> {
    let (node, certificate) = node_and_certificate(true).await?;
    let endpoint = listener(&settings(&certificate, &node))?;
    let target = Target::from(endpoint.local_addr()?).expect(certificate.identity());
    let met = async {
        let connection = QuinnLink::accept(&endpoint).await?.connection;
        let mut peer = SessionPeer::new(connection).await?;
        let theirs = peer.hear(kind::HELLO).await?;
        assert_eq!((theirs.number(5), theirs.number(7)), (0, 0), "nothing is known yet");
        assert!(theirs.number(3) > 0, "a dial has a number");
        peer.say(&hello(0, theirs.number(4), theirs.number(6), 0)).await?;
        attach(&mut peer, true, &theirs, 1).await?;
        anyhow::Ok(peer)
    };
    let opened = within(LIMIT, "a session", node.peer(target, PROTOCOL));
    let (at_node, peer) = tokio::join!(opened, met);
    let (at_node, mut peer) = (at_node?, peer?);
    peer.begin_flow(1, DATA, 2).await?;
    peer.send(DATA, &FrameKind::Message, b"the second one").await?;
    let ended = within(LIMIT, "the session ends", at_node.recv()).await;
    assert!(matches!(ended, Err(PeerEnded::ProtocolError)), "{ended:?}");
    let closed = within(LIMIT, "quinn learns of the close", peer.connection.closed()).await;
    assert_eq!(application_code(&closed), Some(CloseCode::PROTOCOL_ERROR.value()));
    drop(at_node);
    end(node).await
}

/// A peer that tells so many sessions, one after the other, that what they met is over, and goes on with the next one if
/// there is one; how many it met, and what came of the wish for one.
async fn met_the_past(times: u64) -> Result<(u64, Result<(), PeerError>)> {
    let (node, certificate) = node_and_certificate(true).await?;
    let endpoint = listener(&settings(&certificate, &node))?;
    let target = Target::from(endpoint.local_addr()?).expect(certificate.identity());
    let met = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&met);
    let at_peer = async {
        let connection = QuinnLink::accept(&endpoint).await?.connection;
        let (mut peer, mut before) = (SessionPeer::new(connection).await?, 0);
        for number in 0.. {
            let theirs = loop {
                let said = peer.hear_any().await?;
                // Before another session is there, and of the one that is over.
                let is_of_the_past =
                    said.kind == kind::ENDED || [0, before].contains(&said.number(6));
                if !is_of_the_past {
                    break said;
                }
            };
            ensure!(theirs.kind == kind::HELLO && theirs.number(7) == 0, "{theirs:?}");
            before = theirs.number(6);
            count.store(number + 1, Ordering::Relaxed);
            let mine = MINE + number;
            peer.say(&hello_of(mine, 0, theirs.number(4), before, 0)).await?;
            if number >= times {
                attach(&mut peer, true, &theirs, 1).await?;
                break;
            }
            let given_up = [(0, mine), (1, before), (2, 4), (3, CloseCode::NORMAL.value())];
            peer.say(&SessionMessage::new(kind::ENDED, &given_up)).await?;
        }
        // Until the other half is done.
        peer.connection.closed().await;
        anyhow::Ok(())
    };
    let opening = within(LIMIT, "an answer", node.peer(target, PROTOCOL));
    let opened = tokio::select! {
        opened = opening => opened,
        failed = at_peer => anyhow::bail!("the peer has ended: {failed:?}"),
    };
    let opened = opened.map(drop);
    endpoint.close(0_u32.into(), b"");
    end(node).await?;
    Ok((met.load(Ordering::Relaxed), opened))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_met_one_that_is_over_is_begun_anew_a_few_times() -> Result<()> {
    for (times, expected) in [(1, 2), (3, 4), (4, 4)] {
        let (met, opened) = met_the_past(times).await?;
        assert_eq!(met, expected, "{opened:?}");
        let is_over = matches!(opened, Err(PeerError::Ended(PeerEnded::ByPeer { .. })));
        assert_eq!(is_over, times == 4, "{opened:?}");
        assert_eq!(opened.is_ok(), times < 4, "{opened:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_that_fails_while_the_peers_own_connection_is_met_is_no_error() -> Result<()> {
    let (node, certificate) = node_and_certificate_with(true, |limits| {
        limits.handshake_time_max = Duration::from_secs(2);
        // The peer says Attach when it likes.
        limits.sessions.hello_time_max = LIMIT;
    })
    .await?;
    let mut events = node.subscribe();
    let address = within(LIMIT, "the node listens", node.listen(ANY_PORT)).await?;
    let nobody = UdpSocket::bind(ANY_PORT).await?;
    let target = Target::from(nobody.local_addr()?).expect(certificate.identity());
    let opening = {
        let node = node.clone();
        tokio::spawn(async move { node.peer(target, PROTOCOL).await })
    };
    let mut datagram = [0; 2_048];
    within(LIMIT, "the node dials", nobody.recv_from(&mut datagram)).await?;

    let endpoint = dialler(&settings(&certificate, &node))?;
    let connection = QuinnLink::dial(&endpoint, address).await?.connection;
    let mut peer = SessionPeer::new(connection).await?;
    peer.say(&hello(1, 0, 0, 0)).await?;
    let theirs = peer.hear(kind::HELLO).await?;
    let failed = async {
        loop {
            match events.next().await.context("the node has ended")? {
                NodeEvent::DialFailed { .. } => return anyhow::Ok(()),
                _ => continue,
            }
        }
    };
    within(LIMIT, "the dial fails", failed).await?;
    // The session is told before it is dialled again.
    while nobody.try_recv_from(&mut datagram).is_ok() {}
    within(LIMIT, "another dial", nobody.recv_from(&mut datagram)).await?;
    assert!(!opening.is_finished(), "the peer's connection may become the session's");
    attach(&mut peer, true, &theirs, 1).await?;
    let at_node = within(LIMIT, "a session", opening).await??;
    peer.begin_flow(1, DATA, 1).await?;
    peer.send(DATA, &FrameKind::Message, b"hello").await?;
    assert_eq!(recv(&at_node).await?, b"hello");
    drop(at_node);
    end(node).await
}
