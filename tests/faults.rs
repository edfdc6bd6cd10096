//! What goes wrong, and what everybody is told: refused certificates, addresses that lead nowhere,
//! connections that end under load, peers that vanish.

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::process::Stdio;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::process::without_threads;
use common::relay::Relay;
use common::{
    LIMIT, Pair, certificates, connected, friends, loopback, node, node_with, stranger, within,
    within_limit,
};
use moorline::{
    AcceptError, CertHash, CertificateAlert, CertificateRefused, CloseCode, CloseReason,
    ConnectError, ConnectionHandle, ErrorKind, Events, KeyPrefixes, Limits, ListenError,
    MsQuicTransport, NetCredential, Node, NodeEvent, Outcome, Position, RecvError, Redial, Refusal,
    SendError, Side, SigningKey, Target, key_prefixes, resolve_bad_certificate,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt};

// ---- refused certificates ----------------------------------------------------------------------

/// One refusal, as both nodes tell it.
struct Refused {
    server_address: SocketAddr,
    /// What `Node::connect` returned.
    dialled: ConnectError,
    /// Where the server saw the peer, and what it told.
    seen_from: SocketAddr,
    accepted: CloseReason,
}

/// Lets a node with `client` dial a node with `server`, which must be refused by one of them.
async fn refusal(
    server: NetCredential,
    client: NetCredential,
    expected: Option<CertHash>,
) -> Refused {
    let (server, client) = (node(server).await, node(client).await);
    let mut events = server.subscribe();
    let address = within("listening", server.listen(loopback())).await.expect("a listener");
    let mut target = Target::from(address).redial(Redial::Never);
    if let Some(expected) = expected {
        target = target.expect(expected);
    }
    let dialled = within("connecting", client.connect(target)).await.expect_err("a refusal");
    let (seen_from, accepted) = refused(&mut events).await;
    assert!(client.connections().is_empty() && server.connections().is_empty());
    end([client, server]).await;
    Refused { server_address: address, dialled, seen_from, accepted }
}

/// The next inbound connection that did not come to stand: where it came from, and why.
async fn refused(events: &mut Events) -> (SocketAddr, CloseReason) {
    within("a Refused event", async {
        loop {
            match events.next().await {
                Some(NodeEvent::Refused {
                    remote,
                    error: AcceptError::Closed { peer, reason },
                }) => {
                    assert_eq!(remote, peer);
                    return (remote, reason);
                }
                Some(NodeEvent::Connected(handle)) => panic!("{handle:?} was let in"),
                Some(_) => {}
                None => panic!("the node ended"),
            }
        }
    })
    .await
}

async fn end<const N: usize>(nodes: [Node; N]) {
    for node in nodes {
        within("the end of a node", node.close(LIMIT)).await.expect("an orderly end");
    }
}

fn keys_of(credential: &NetCredential) -> KeyPrefixes {
    key_prefixes(&credential.chain_der()[0])
}

fn certificate_refused(reason: &CloseReason) -> &CertificateRefused {
    match reason {
        CloseReason::Certificate(refused) => refused,
        reason => panic!("not a refused certificate: {reason:?}"),
    }
}

#[track_caller]
fn assert_by_us(refused: &CertificateRefused, keys: &KeyPrefixes) -> Refusal {
    assert_eq!(refused.side(), Side::Local);
    match refused {
        CertificateRefused::ByUs { refusal, keys: Some(found) } => {
            assert_eq!(found, keys, "the keys of the peer's certificate");
            refusal.clone()
        }
        refused => panic!("not refused by this side with keys: {refused:?}"),
    }
}

#[track_caller]
fn assert_by_peer(refused: &CertificateRefused, own_keys: &KeyPrefixes) {
    assert_eq!(refused.side(), Side::Peer);
    match refused {
        CertificateRefused::ByPeer { keys, alert } => {
            assert_eq!(keys, own_keys, "the keys of our own certificate");
            assert_eq!(*alert, CertificateAlert::Bad);
        }
        refused => panic!("not refused by the peer: {refused:?}"),
    }
}

impl Refused {
    /// The client refused `server`; returns why. Everybody knows who said no to whom.
    #[track_caller]
    fn by_the_client(&self, server: &NetCredential) -> Refusal {
        let keys = keys_of(server);
        let refused = self.dialled_refused();
        let refusal = assert_by_us(refused, &keys);
        // Time, or a renewal by the peer, cures what the validity period says.
        let passes = matches!(refusal, Refusal::Expired { .. } | Refusal::NotYetValid { .. });
        assert_eq!(self.dialled.kind(), if passes { ErrorKind::Retry } else { ErrorKind::Never });
        self.assert_message(&[&keys.subject, "we refused the peer", &refusal.to_string()]);
        assert_by_peer(certificate_refused(&self.accepted), &keys);
        refusal
    }

    /// The server refused `client`; returns why. The client is told only that.
    #[track_caller]
    fn by_the_server(&self, client: &NetCredential) -> Refusal {
        let keys = keys_of(client);
        assert_by_peer(self.dialled_refused(), &keys);
        assert_eq!(self.dialled.kind(), ErrorKind::Retry, "its operator may come to trust us");
        self.assert_message(&[&keys.subject, "the peer refused our certificate"]);
        assert!(self.seen_from.ip().to_canonical().is_loopback(), "{}", self.seen_from);
        assert_ne!(self.seen_from.port(), self.server_address.port());
        assert_by_us(certificate_refused(&self.accepted), &keys)
    }

    #[track_caller]
    fn dialled_refused(&self) -> &CertificateRefused {
        match &self.dialled {
            ConnectError::CertificateRefused { peer, refused } => {
                assert_eq!(*peer, self.server_address);
                refused
            }
            error => panic!("not a refused certificate: {error:?}"),
        }
    }

    #[track_caller]
    fn assert_message(&self, parts: &[&str]) {
        let message = self.dialled.to_string();
        assert!(message.contains(&self.server_address.to_string()), "{message}");
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in {message:?}");
        }
    }
}

#[tokio::test]
async fn a_server_that_is_not_pinned_is_refused_by_the_client() {
    let (server, client) = (stranger(), stranger());
    let server = server.trust_hash(client.identity());
    let client = client.trust_hash(stranger().identity());
    let refused = refusal(server.clone(), client, None).await;
    let found = server.identity();
    assert_eq!(refused.by_the_client(&server), Refusal::Untrusted { found });
}

#[tokio::test]
async fn a_client_that_is_not_pinned_is_refused_by_the_server() {
    let (server, client) = (stranger(), stranger());
    let server = server.trust_hash(stranger().identity());
    let client = client.trust_hash(server.identity());
    let refused = refusal(server, client.clone(), None).await;
    let found = client.identity();
    assert_eq!(refused.by_the_server(&client), Refusal::Untrusted { found });
}

#[tokio::test]
async fn at_the_transport_a_refused_client_learns_it_from_its_next_operation() {
    let (server, client) = (stranger(), stranger());
    let client = client.trust_hash(server.identity());
    let keys = keys_of(&client);
    let transport = MsQuicTransport::new();
    let listener = transport.create_listener(loopback(), &["test"], server).await.expect("bound");
    let address = listener.local_addr();
    let accepted = tokio::spawn(async move {
        let request = listener.accept().await.expect("a request");
        request.accept().await.map(drop)
    });
    let dialled = within("connecting", transport.connect(address, &["test"], client)).await;
    match dialled {
        Ok(connection) => {
            let error = within("the refusal", connection.recv()).await.expect_err("no frame");
            let RecvError::Closed { reason } = error else { panic!("{error:?}") };
            assert_by_peer(certificate_refused(&reason), &keys);
            let error = within("a send", connection.send("x")).await.expect_err("refused");
            let SendError::Closed { reason: again, outcome } = error else { panic!("{error:?}") };
            assert_eq!((&again, outcome), (&reason, Outcome::NotSent(Bytes::from_static(b"x"))));
            assert_eq!(within("the end", connection.watch_close()).await, reason);
            let error = resolve_bad_certificate(address, &reason).expect("it is one");
            assert!(error.to_string().contains(&address.to_string()), "{error}");
            assert!(error.to_string().contains(&keys.subject), "{error}");
        }
        // The refusal was as fast as the return of `connect`.
        Err(ConnectError::CertificateRefused { peer, refused }) => {
            assert_eq!(peer, address);
            assert_by_peer(&refused, &keys);
        }
        Err(error) => panic!("{error:?}"),
    }
    let error = within("the server", accepted).await.expect("no panic").expect_err("refused");
    let AcceptError::Closed { reason, .. } = error else { panic!("{error:?}") };
    assert_by_us(certificate_refused(&reason), &keys);
    assert!(transport.registration().expect("open").wait_idle(LIMIT).await);
}

#[tokio::test]
async fn an_expired_certificate_is_refused_even_if_it_is_pinned() {
    let (expired, other) = (certificates::expired(), stranger());
    let expired = expired.trust_hash(other.identity());
    let other = other.trust_hash(expired.identity());

    let refused = refusal(expired.clone(), other.clone(), None).await;
    let refusal_of_server = refused.by_the_client(&expired);
    let year = Duration::from_secs(365 * 24 * 60 * 60);
    let is_expired = |refusal: &Refusal| {
        matches!(refusal, Refusal::Expired { found, ago }
            if *found == expired.identity() && *ago > year)
    };
    assert!(is_expired(&refusal_of_server), "{refusal_of_server:?}");

    let refused = refusal(other.clone(), expired.clone(), None).await;
    let refusal_of_client = refused.by_the_server(&expired);
    assert!(is_expired(&refusal_of_client), "{refusal_of_client:?}");

    let expected = Some(expired.identity());
    let refused = refusal(expired.clone(), other, expected).await;
    assert!(is_expired(&refused.by_the_client(&expired)), "expecting it changes nothing");
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_yet_is_refused_with_the_time_to_wait() {
    let (early, other) = (certificates::not_yet_valid(), stranger());
    let early = early.trust_hash(other.identity());
    let other = other.trust_hash(early.identity());
    let refused = refusal(early.clone(), other, None).await;
    let refusal = refused.by_the_client(&early);
    assert!(
        matches!(&refusal, Refusal::NotYetValid { found, wait }
            if *found == early.identity() && !wait.is_zero()),
        "{refusal:?}"
    );
}

#[tokio::test]
async fn a_certificate_without_the_trusted_signature_is_refused_in_both_directions() {
    let operator = SigningKey::generate();
    let unsigned = stranger().insecure_accept_any();
    let signed = NetCredential::generate_self_signed(&["test"], std::slice::from_ref(&operator))
        .expect("a certificate")
        .trust_key(operator.public());
    let found = unsigned.identity();

    let refused = refusal(unsigned.clone(), signed.clone(), None).await;
    assert_eq!(refused.by_the_client(&unsigned), Refusal::Untrusted { found });

    let refused = refusal(signed, unsigned.clone(), None).await;
    assert_eq!(refused.by_the_server(&unsigned), Refusal::Untrusted { found });
}

#[tokio::test]
async fn a_certificate_signed_by_another_key_is_refused_and_both_keys_are_named() {
    let (operator, somebody) = (SigningKey::generate(), SigningKey::generate());
    let server = NetCredential::generate_self_signed(&["test"], std::slice::from_ref(&somebody))
        .expect("a certificate")
        .insecure_accept_any();
    let client = stranger().trust_key(operator.public());
    let refused = refusal(server.clone(), client, None).await;
    let found = server.identity();
    assert_eq!(refused.by_the_client(&server), Refusal::Untrusted { found });
    let signer = &somebody.public().to_string()[..16];
    assert_eq!(keys_of(&server).signers, [signer]);
    refused.assert_message(&["signed by", signer]);
}

#[tokio::test]
async fn certificates_signed_by_the_trusted_key_are_accepted_in_both_directions() {
    let operator = SigningKey::generate();
    let member = || {
        NetCredential::generate_self_signed(&["test"], std::slice::from_ref(&operator))
            .expect("a certificate")
            .trust_key(operator.public())
    };
    let (server, client) = (node(member()).await, node(member()).await);
    exchange(&server, &client).await;
    end([client, server]).await;
}

#[tokio::test]
async fn who_trusts_nobody_refuses_everybody() {
    let (nobody, open) = (stranger(), stranger().insecure_accept_any());
    assert!(nobody.trust().is_empty());

    let refused = refusal(nobody.clone(), open.clone(), None).await;
    let found = open.identity();
    assert_eq!(refused.by_the_server(&open), Refusal::Untrusted { found });

    let refused = refusal(open.clone(), nobody, None).await;
    assert_eq!(refused.by_the_client(&open), Refusal::Untrusted { found });
}

#[tokio::test]
async fn who_accepts_anyone_lets_a_stranger_in() {
    let server = node(stranger().insecure_accept_any()).await;
    let client = node(stranger().insecure_accept_any()).await;
    exchange(&server, &client).await;
    end([client, server]).await;
}

#[tokio::test]
async fn who_accepts_anyone_still_refuses_an_expired_certificate() {
    let open = stranger().insecure_accept_any();
    let expired = certificates::expired().insecure_accept_any();
    let refused = refusal(open, expired.clone(), None).await;
    let refusal = refused.by_the_server(&expired);
    assert!(matches!(refusal, Refusal::Expired { .. }), "{refusal:?}");
}

#[tokio::test]
async fn a_trusted_peer_is_refused_where_another_one_was_expected() {
    let (server, client) = friends();
    let (expected, found) = (stranger().identity(), server.identity());
    let refused = refusal(server.clone(), client, Some(expected)).await;
    assert_eq!(refused.by_the_client(&server), Refusal::Unexpected { expected, found });
    refused.assert_message(&[&expected.to_string(), &found.to_string()]);
}

/// Connects `client` to `server` and sends a frame each way.
async fn exchange(server: &Node, client: &Node) {
    let mut events = server.subscribe();
    let address = within("listening", server.listen(loopback())).await.expect("a listener");
    let at_client = within("connecting", client.connect(address)).await.expect("accepted");
    let at_server = connected(&mut events).await;
    assert_eq!((at_client.peer(), at_server.peer()), (server.identity(), client.identity()));
    within("sending", at_client.send("there")).await.expect("taken over");
    assert_eq!(within("receiving", at_server.recv()).await.expect("a frame"), "there");
    within("sending", at_server.send("back")).await.expect("taken over");
    assert_eq!(within("receiving", at_client.recv()).await.expect("a frame"), "back");
}

// ---- addresses that lead nowhere ---------------------------------------------------------------

#[tokio::test]
async fn a_peer_that_speaks_another_protocol_is_told_apart_from_other_failures() {
    let (a, b) = friends();
    let server = node_with(a, |config| config.alpns = vec!["one".to_owned()]).await;
    let client = node_with(b, |config| config.alpns = vec!["two".to_owned()]).await;
    let address = within("listening", server.listen(loopback())).await.expect("a listener");
    let error = within("connecting", client.connect(address)).await.expect_err("no protocol");
    // The peer may be about to be upgraded.
    assert_eq!(error.kind(), ErrorKind::Retry);
    let message = error.to_string();
    assert!(message.contains(&address.to_string()) && message.contains("two"), "{message}");
    let ConnectError::AlpnMismatch { peer, offered } = error else { panic!("{error:?}") };
    assert_eq!((peer, offered), (address, vec!["two".to_owned()]));
    end([client, server]).await;
}

#[tokio::test]
async fn a_closed_port_is_unreachable_at_once() {
    let client = node(stranger()).await;
    let address = {
        let socket = UdpSocket::bind(loopback()).expect("a socket");
        socket.local_addr().expect("a bound socket")
    };
    let fast = Duration::from_secs(2);
    let error =
        within_limit(fast, "connecting", client.connect(address)).await.expect_err("nobody");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    assert_eq!(error.kind(), ErrorKind::Retry);
    assert!(matches!(error, ConnectError::Unreachable { peer } if peer == address), "{error:?}");
    end([client]).await;
}

#[tokio::test]
async fn a_black_hole_times_out_at_the_limit_of_the_handshake() {
    let limit = Duration::from_secs(1);
    let client = node_with(stranger(), |config| config.limits.handshake_time_max = limit).await;
    let hole = UdpSocket::bind(loopback()).expect("a socket");
    let address = hole.local_addr().expect("a bound socket");
    let begun = Instant::now();
    let error = within("connecting", client.connect(address)).await.expect_err("no answer");
    let took = begun.elapsed();
    assert!((limit * 8 / 10..limit * 3).contains(&took), "took {took:?}");
    assert_eq!(error.kind(), ErrorKind::Retry);
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    let ConnectError::TimedOut { peer, after } = error else { panic!("{error:?}") };
    assert_eq!(peer, address);
    // What the credential took is no time that the peer had.
    assert!(after <= limit && !after.is_zero(), "{after:?}");
    end([client]).await;
    drop(hole);
}

#[tokio::test]
async fn a_dial_that_is_given_up_leaves_nothing_behind() {
    let transport = MsQuicTransport::new();
    let hole = UdpSocket::bind(loopback()).expect("a socket");
    let address = hole.local_addr().expect("a bound socket");
    let dial = transport.connect(address, &["test"], stranger());
    let given_up = tokio::time::timeout(Duration::from_millis(50), dial).await;
    assert!(given_up.is_err(), "nobody answers there");
    let registration = transport.registration().expect("open");
    assert!(registration.wait_idle(LIMIT).await, "{} handles", registration.live_handles());
}

#[tokio::test]
async fn an_address_that_is_none_is_named_in_the_error() {
    let client = node(stranger()).await;
    let transport = MsQuicTransport::new();
    for given in
        ["evil\0.example:4433", "localhost", "localhost:0", "127.0.0.1:0", "localhost:65536", ""]
    {
        let by_node = within("connecting", client.connect(given)).await.map(drop);
        let by_transport = transport.connect(given, &["test"], stranger());
        let by_transport = within("connecting", by_transport).await.map(drop);
        for result in [by_node, by_transport] {
            let error = result.expect_err("no address");
            assert_eq!(error.kind(), ErrorKind::Never, "{error:?}");
            let ConnectError::Address { given: named, problem } = &error else {
                panic!("{error:?}")
            };
            assert_eq!(named, given);
            assert!(!problem.is_empty());
            let message = error.to_string();
            assert!(message.contains(&format!("{given:?}")), "{message}");
            assert!(!message.contains('\0'), "{message:?}");
        }
    }
    end([client]).await;
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_named_and_may_resolve_later() {
    let client = node(stranger()).await;
    let given = "no-such-host.invalid:4433";
    let error = within("connecting", client.connect(given)).await.expect_err("no such host");
    assert_eq!(error.kind(), ErrorKind::Retry);
    let ConnectError::Resolve { name, problem } = error else { panic!("{error:?}") };
    assert_eq!(name, given);
    assert!(!problem.is_empty());
    end([client]).await;
}

#[tokio::test]
async fn a_port_with_a_listener_of_the_same_protocol_is_in_use() {
    let (first, second) = (node(stranger()).await, node(stranger()).await);
    let bound = within("listening", first.listen(loopback())).await.expect("a listener");
    for node in [&second, &first] {
        let error = within("listening", node.listen(bound)).await.expect_err("it is taken");
        assert!(error.to_string().contains(&bound.to_string()), "{error}");
        assert_eq!(error.kind(), ErrorKind::Retry);
        assert!(matches!(error, ListenError::InUse { address } if address == bound), "{error:?}");
    }
    end([first, second]).await;
}

#[tokio::test]
async fn a_port_with_a_foreign_udp_socket_is_in_use() {
    let node = node(stranger()).await;
    let socket = UdpSocket::bind(loopback()).expect("a socket");
    let bound = socket.local_addr().expect("a bound socket");
    let error = within("listening", node.listen(bound)).await.expect_err("it is taken");
    assert!(error.to_string().contains(&bound.to_string()), "{error}");
    assert!(matches!(error, ListenError::InUse { address } if address == bound), "{error:?}");
    drop(socket);
    within("listening", node.listen(bound)).await.expect("it is free again");
    end([node]).await;
}

/// In the environment of a process that a test starts: it runs the same test, as the other side.
const OTHER_PROCESS: &str = "MOORLINE_TEST_OTHER_PROCESS";

fn is_other_process() -> bool {
    std::env::var_os(OTHER_PROCESS).is_some()
}

/// This test, once more, in a process of its own.
fn other_process(test: &str) -> tokio::process::Child {
    tokio::process::Command::new(std::env::current_exe().expect("this file"))
        .args(["--exact", test, "--nocapture"])
        .env(OTHER_PROCESS, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("another process")
}

/// The first `count` addresses that another process says it listens on.
async fn addresses_of(other: &mut tokio::process::Child, count: usize) -> Vec<SocketAddr> {
    let mut told = tokio::io::BufReader::new(other.stderr.take().expect("piped")).lines();
    let mut addresses = Vec::new();
    while addresses.len() < count {
        let line = within("the other process", told.next_line()).await.expect("readable");
        let line = line.expect("it says where it listens");
        if let Some(address) = line.strip_prefix("listening on ") {
            addresses.push(address.parse().expect("an address"));
        }
    }
    addresses
}

#[tokio::test]
async fn a_port_with_a_listener_of_another_process_is_in_use() {
    let node = node(stranger()).await;
    if is_other_process() {
        let bound = within("listening", node.listen(loopback())).await.expect("a listener");
        eprintln!("listening on {bound}");
        let mut until_closed = Vec::new();
        tokio::io::stdin().read_to_end(&mut until_closed).await.expect("the end of the input");
        return end([node]).await;
    }
    let mut other = other_process("a_port_with_a_listener_of_another_process_is_in_use");
    let bound = addresses_of(&mut other, 1).await[0];
    let error = within("listening", node.listen(bound)).await.expect_err("it is taken");
    assert!(matches!(error, ListenError::InUse { address } if address == bound), "{error:?}");
    drop(other.stdin.take());
    assert!(within("its end", other.wait()).await.expect("a status").success());
    within("listening", node.listen(bound)).await.expect("it is free again");
    end([node]).await;
}

/// The library's sockets share their ports (`SO_REUSEPORT`), and the system gives a shared port
/// to whoever asks for any: a part of the peers would come to the wrong process.
#[tokio::test]
async fn a_free_port_is_not_one_that_another_process_listens_on() {
    /// Of some 28,000 ports: so many that chance would meet one of them five times over.
    const THEIRS: usize = 100;
    const OURS: usize = 1_500;
    let transport = MsQuicTransport::new();
    let credential = stranger();
    let listen = async || {
        let listener = transport.create_listener(loopback(), &["test"], credential.clone());
        within("listening", listener).await.expect("a listener")
    };
    if is_other_process() {
        let mut listeners = Vec::new();
        for _ in 0..THEIRS {
            listeners.push(listen().await);
            eprintln!("listening on {}", listeners[listeners.len() - 1].local_addr());
        }
        let mut until_closed = Vec::new();
        tokio::io::stdin().read_to_end(&mut until_closed).await.expect("the end of the input");
    } else {
        let mut other = other_process("a_free_port_is_not_one_that_another_process_listens_on");
        let theirs = addresses_of(&mut other, THEIRS).await;
        for number in 0..OURS {
            let ours = listen().await.local_addr();
            assert!(!theirs.contains(&ours), "{ours}, the {number}th, is taken");
        }
        drop(other.stdin.take());
        assert!(within("its end", other.wait()).await.expect("a status").success());
    }
    assert!(transport.registration().expect("open").wait_idle(LIMIT).await);
}

#[tokio::test]
async fn an_address_of_another_machine_cannot_be_listened_on() {
    let node = node(stranger()).await;
    // TEST-NET-1 (RFC 5737): nobody's.
    let foreign = SocketAddr::from(([192, 0, 2, 1], 0));
    let error = within("listening", node.listen(foreign)).await.expect_err("not ours");
    assert!(error.to_string().contains("192.0.2.1"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Never);
    let ListenError::Address { address, problem } = error else { panic!("{error:?}") };
    assert_eq!(address, foreign);
    assert!(!problem.is_empty());
    end([node]).await;
}

/// A caller is told what is missing and what for, and may try again.
fn assert_no_thread(error: &(dyn std::error::Error + 'static), kind: ErrorKind) {
    let text = error.to_string();
    assert!(text.contains("no thread could be started to load the credential"), "{text}");
    assert!(error.source().is_some_and(|cause| !cause.to_string().is_empty()), "{text}");
    assert_eq!(kind, ErrorKind::Retry);
}

#[test]
fn where_no_thread_can_be_started_dials_and_listeners_fail_with_words_and_the_process_ends() {
    let test =
        "where_no_thread_can_be_started_dials_and_listeners_fail_with_words_and_the_process_ends";
    without_threads(test, async {
        let node = node(stranger()).await;
        std::thread::Builder::new().spawn(|| ()).expect_err("there are none");
        let listening = within("listening", node.listen(loopback())).await;
        let error = listening.expect_err("there is no thread");
        assert_no_thread(&error, error.kind());
        let silent = UdpSocket::bind(loopback()).expect("a socket");
        let target = Target::from(silent.local_addr().expect("it is bound"));
        let dialled = within("a dial", node.connect(target.clone().redial(Redial::Never))).await;
        let error = dialled.expect_err("there is no thread");
        assert_no_thread(&error, error.kind());
        // One that is kept waits for a thread, and tells.
        let mut events = node.subscribe();
        let dialled = node.connect(target.clone().redial(Redial::Always));
        let told = async {
            loop {
                match events.next().await {
                    Some(NodeEvent::DialFailed { error, retry_in: Some(_), .. }) => return error,
                    Some(_) => {}
                    None => panic!("the node ended"),
                }
            }
        };
        tokio::select! {
            dialled = dialled => panic!("{dialled:?}"),
            error = within("it is told", told) => assert_no_thread(&error, error.kind()),
        }
        let transport = MsQuicTransport::new();
        let dialled = within("a dial", transport.connect(loopback_port_9(), &["test"], stranger()));
        let error = dialled.await.map(drop).expect_err("there is no thread");
        assert_no_thread(&error, error.kind());
        // The registration cannot be closed either: it says so, and nothing waits for ever.
        let closed = within("the end", node.close(LIMIT)).await;
        assert!(matches!(closed, Err(moorline::NodeError::StillOpen { .. })), "{closed:?}");
    });
}

fn loopback_port_9() -> SocketAddr {
    ([127, 0, 0, 1], 9).into()
}

// ---- after the end -----------------------------------------------------------------------------

const CODE: CloseCode = match CloseCode::application(0x1234) {
    Some(code) => code,
    None => panic!("an application's code"),
};

#[tokio::test]
async fn send_after_a_close_gives_the_real_reason_at_both_ends() {
    let pair = Pair::new().await;
    let (local, peer) = (CloseReason::Local { code: CODE }, CloseReason::Peer { code: CODE });
    assert_eq!(within("the close", pair.at_client.close(CODE)).await, local);
    assert_eq!(within("the close", pair.at_server.closed()).await, peer);
    for (handle, expected) in [(&pair.at_client, local), (&pair.at_server, peer)] {
        assert_eq!(handle.close_reason(), Some(expected.clone()));
        let frame = Bytes::from_static(b"too late");
        let results = [
            within("send", handle.send(frame.clone())).await,
            handle.try_send(frame.clone()),
            within("send_acked", handle.send_acked(frame.clone())).await,
        ];
        for result in results {
            let error = result.expect_err("closed");
            assert_eq!(error.kind(), ErrorKind::Retry);
            let SendError::Closed { reason, outcome } = error else { panic!("{error:?}") };
            assert_eq!((reason, outcome), (expected.clone(), Outcome::NotSent(frame.clone())));
        }
        let error = within("reserve", handle.reserve(1)).await.expect_err("closed");
        assert!(matches!(&error, SendError::Closed { reason, .. } if *reason == expected));
        let received = within("recv", handle.recv()).await;
        assert_eq!(received, Err(RecvError::Closed { reason: expected }));
        assert_eq!(handle.stats().sent.accepted, 0);
    }
    pair.end().await;
}

#[tokio::test]
async fn whoever_waits_to_send_is_told_of_a_close_at_once() {
    let pair = Pair::with(small_buffers, small_buffers).await;
    fill(&pair.at_client, 16 << 10).await;
    let waiting = {
        let handle = pair.at_client.clone();
        tokio::spawn(async move { handle.send(vec![7; 100_000]).await })
    };
    let code = CODE;
    let closing = {
        let handle = pair.at_client.clone();
        tokio::spawn(async move { handle.close(code).await })
    };
    let error = within("the waiting send", waiting).await.expect("no panic").expect_err("closed");
    let SendError::Closed { reason, outcome } = error else { panic!("{error:?}") };
    assert_eq!(reason, CloseReason::Local { code });
    assert_eq!(outcome, Outcome::NotSent(vec![7; 100_000].into()));
    within("the close", closing).await.expect("no panic");
    assert_balanced(&pair.at_client);
    pair.end().await;
}

/// Little memory, and little patience where it is full.
fn small_buffers(config: &mut moorline::NodeConfig) {
    config.limits.lane_bytes_max = 128 << 10;
    config.limits.inbound_bytes_max = 128 << 10;
    config.limits.stream_op_timeout = Duration::from_secs(5);
    config.limits.close_time_max = Duration::from_millis(500);
}

/// Sends frames that nobody reads until the lane stays full; returns how many.
async fn fill(handle: &ConnectionHandle, bytes: usize) -> u64 {
    let mut count = 0;
    loop {
        let send = handle.send(vec![1; bytes]);
        match tokio::time::timeout(Duration::from_millis(300), send).await {
            Ok(sent) => sent.expect("taken over"),
            Err(_) => return count,
        }
        count += 1;
    }
}

// ---- ends under load ---------------------------------------------------------------------------

/// Rounds of each way to end a connection under load.
const ROUNDS: usize = 10;

/// What the callers of one end were told.
#[derive(Debug, Default)]
struct Told {
    /// By `send`: taken over.
    taken_over: u64,
    /// By `send_acked`.
    completed: u64,
    not_sent: u64,
    maybe_sent: u64,
    reasons: Vec<CloseReason>,
}

/// Frames of many sizes from many tasks, until the connection is over.
struct Load {
    senders: Vec<tokio::task::JoinHandle<Told>>,
    reader: tokio::task::JoinHandle<u64>,
    /// What may be told before the reason of the end is known.
    provisional: Option<CloseReason>,
}

impl Load {
    /// `warm` is told once so many frames have arrived that everything flows.
    fn start(handle: &ConnectionHandle, warm: tokio::sync::oneshot::Sender<()>) -> Self {
        let sizes = [0, 100, 1_000, 8_192, 8_193, 30_000, 70_000, 200_000];
        let acked = sizes.into_iter().map(|size| {
            let handle = handle.clone();
            tokio::spawn(async move {
                let (mut told, frame) = (Told::default(), Bytes::from(vec![3; size]));
                loop {
                    match handle.send_acked(frame.clone()).await {
                        Ok(()) => told.completed += 1,
                        Err(SendError::Closed { reason, outcome }) => {
                            match outcome {
                                Outcome::NotSent(back) => {
                                    assert_eq!(back, frame);
                                    told.not_sent += 1;
                                }
                                Outcome::MaybeSent => told.maybe_sent += 1,
                                Outcome::Completed => panic!("an error for a completed frame"),
                            }
                            told.reasons.push(reason);
                            return told;
                        }
                        Err(error) => panic!("{error:?}"),
                    }
                }
            })
        });
        let plain = [50, 20_000].into_iter().map(|size| {
            let handle = handle.clone();
            tokio::spawn(async move {
                let (mut told, frame) = (Told::default(), Bytes::from(vec![4; size]));
                loop {
                    match handle.send(frame.clone()).await {
                        Ok(()) => told.taken_over += 1,
                        Err(SendError::Closed { reason, outcome: Outcome::NotSent(back) }) => {
                            assert_eq!(back, frame);
                            told.reasons.push(reason);
                            return told;
                        }
                        Err(error) => panic!("{error:?}"),
                    }
                }
            })
        });
        let senders = acked.chain(plain).collect();
        let reading = handle.clone();
        let reader = tokio::spawn(async move {
            let (mut warm, mut count) = (Some(warm), 0);
            loop {
                match reading.recv().await {
                    Ok(_) => count += 1,
                    Err(RecvError::Closed { .. }) => return count,
                    // Ends of streams, where the peer had the time to finish them.
                    Err(_) => {}
                }
                if count == 300
                    && let Some(warm) = warm.take()
                {
                    warm.send(()).expect("the test waits for it");
                }
            }
        });
        Self { senders, reader, provisional: None }
    }

    /// Once `handle` is over: everybody has one answer, and the counts say the same.
    async fn settle(self, what: &str, handle: &ConnectionHandle) {
        let reason = within("the end", handle.closed()).await;
        let mut all = Told::default();
        for sender in self.senders {
            let told = within("an answer", sender).await.expect("no panic");
            let [told_reason] = &told.reasons[..] else { panic!("{what}: {told:?}") };
            assert!(
                told_reason == &reason || Some(told_reason) == self.provisional.as_ref(),
                "{what}: {told_reason:?}, but {reason:?}"
            );
            all.taken_over += told.taken_over;
            all.completed += told.completed;
            all.not_sent += told.not_sent;
            all.maybe_sent += told.maybe_sent;
        }
        within("the reader", self.reader).await.expect("no panic");
        let sent = assert_balanced(handle);
        assert!(sent.completed >= all.completed, "{what}: {sent:?} {all:?}");
        assert!(sent.maybe_sent >= all.maybe_sent, "{what}: {sent:?} {all:?}");
        // What was refused before it was accepted is in nobody's count.
        let acked = sent.accepted - all.taken_over;
        let known = all.completed + all.maybe_sent;
        assert!((known..=known + all.not_sent).contains(&acked), "{what}: {sent:?} {all:?}");
    }
}

#[track_caller]
fn assert_balanced(handle: &ConnectionHandle) -> moorline::OutcomeCounts {
    let sent = handle.stats().sent;
    let ended = sent.completed + sent.not_sent + sent.maybe_sent;
    assert_eq!(sent.accepted, ended, "{sent:?}");
    sent
}

/// Loads both ends of a connection and lets `kill` end it.
async fn kill_under_load(
    what: &str,
    (at_client, at_server): (ConnectionHandle, ConnectionHandle),
    told_meanwhile: Option<CloseReason>,
    kill: impl AsyncFnOnce(),
) {
    let (warm_client, client_is_warm) = tokio::sync::oneshot::channel();
    let (warm_server, server_is_warm) = tokio::sync::oneshot::channel();
    let client_load = Load::start(&at_client, warm_client);
    let mut server_load = Load::start(&at_server, warm_server);
    server_load.provisional = told_meanwhile;
    within("frames at the client", client_is_warm).await.expect("the reader lives");
    within("frames at the server", server_is_warm).await.expect("the reader lives");
    kill().await;
    client_load.settle(what, &at_client).await;
    server_load.settle(what, &at_server).await;
}

/// One more connection between two nodes, seen from both ends.
async fn dial(
    client: &Node,
    target: &Target,
    events: &mut Events,
) -> (ConnectionHandle, ConnectionHandle) {
    let at_client = within("connecting", client.connect(target.clone())).await.expect("accepted");
    (at_client, connected(events).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_balance_when_the_actor_of_a_loaded_connection_is_killed() {
    let (a, b) = friends();
    let (server, client) = (node(a).await, node(b).await);
    let mut events = server.subscribe();
    let address = within("listening", server.listen(loopback())).await.expect("a listener");
    let target = Target::from(address).redial(Redial::Never);
    for _ in 0..ROUNDS {
        let (at_client, at_server) = dial(&client, &target, &mut events).await;
        let killed = at_client.clone();
        let kill = async move || killed.actor().kill();
        kill_under_load("killed", (at_client.clone(), at_server.clone()), None, kill).await;
        let code = CloseCode::ACTOR_FAILED;
        assert_eq!(at_client.close_reason(), Some(CloseReason::Local { code }));
        assert_eq!(at_server.close_reason(), Some(CloseReason::Peer { code }));
    }
    end([client, server]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_balance_when_the_node_of_a_loaded_peer_is_dropped() {
    let (a, b) = friends();
    let client = node(b).await;
    for _ in 0..ROUNDS {
        let server = node(a.clone()).await;
        let mut events = server.subscribe();
        let address = within("listening", server.listen(loopback())).await.expect("a listener");
        let target = Target::from(address).redial(Redial::Never);
        let (at_client, at_server) = dial(&client, &target, &mut events).await;
        let ends = (at_client.clone(), at_server.clone());
        kill_under_load("dropped", ends, None, async move || drop(server)).await;
        let code = CloseCode::GOING_AWAY;
        assert_eq!(at_client.close_reason(), Some(CloseReason::Peer { code }));
    }
    end([client]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_balance_when_a_close_under_load_is_cut_at_its_limit() {
    let (a, b) = friends();
    let server = node(a).await;
    let tiny = Duration::from_millis(1);
    let client = node_with(b, |config| config.limits.close_time_max = tiny).await;
    let mut events = server.subscribe();
    let address = within("listening", server.listen(loopback())).await.expect("a listener");
    let target = Target::from(address).redial(Redial::Never);
    for _ in 0..ROUNDS {
        let (at_client, at_server) = dial(&client, &target, &mut events).await;
        let closed = at_client.clone();
        let kill = async move || {
            let reason = within("the close", closed.close(CODE)).await;
            assert_eq!(reason, CloseReason::Local { code: CODE });
        };
        // The end of the client's frames may come long before its code.
        let meanwhile = Some(CloseReason::Peer { code: CloseCode::NORMAL });
        let ends = (at_client.clone(), at_server.clone());
        kill_under_load("closed", ends, meanwhile, kill).await;
        assert_eq!(at_server.close_reason(), Some(CloseReason::Peer { code: CODE }));
    }
    end([client, server]).await;
}

// ---- peers that vanish, and frames that do not come --------------------------------------------

async fn disconnected(events: &mut Events) -> (CertHash, CloseReason) {
    within("a Disconnected event", async {
        loop {
            match events.next().await {
                Some(NodeEvent::Disconnected { peer, reason, .. }) => return (peer, reason),
                Some(_) => {}
                None => panic!("the node ended"),
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_peer_whose_runtime_is_dropped_without_a_close_is_noticed() {
    let (a, b) = friends();
    let (gone, expected) = (b.identity(), a.identity());
    let server = node(a).await;
    let mut events = server.subscribe();
    let address = within("listening", server.listen(loopback())).await.expect("a listener");
    let (drop_it, dropped) = std::sync::mpsc::channel::<()>();
    let peer = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let kept = runtime.block_on(async {
            let client = node(b).await;
            let target = Target::from(address).expect(expected);
            let handle = within("connecting", client.connect(target)).await.expect("accepted");
            within("sending", handle.send("here")).await.expect("taken over");
            (client, handle)
        });
        // Nobody sends: the sender is dropped once the frame has arrived.
        assert!(dropped.recv().is_err());
        drop(runtime);
        kept
    });
    let at_server = connected(&mut events).await;
    assert_eq!(within("a frame", at_server.recv()).await.expect("a frame"), "here");
    let begun = Instant::now();
    drop(drop_it);
    let (peer_identity, reason) = disconnected(&mut events).await;
    assert_eq!(peer_identity, gone);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(
        matches!(
            reason,
            CloseReason::Peer {
                code: CloseCode::GOING_AWAY | CloseCode::ACTOR_FAILED | CloseCode::DROPPED
            }
        ),
        "{reason:?}"
    );
    let (_client, handle) =
        tokio::task::spawn_blocking(|| peer.join().expect("no panic")).await.expect("no panic");
    assert_eq!(within("the peer's end", handle.closed()).await.side(), Some(Side::Local));
    end([server]).await;
}

#[tokio::test]
async fn a_network_that_goes_silent_is_noticed_at_both_ends() {
    let fast = |config: &mut moorline::NodeConfig| {
        config.limits.keep_alive_interval = Duration::from_millis(100);
        config.limits.disconnect_time_max = Duration::from_millis(500);
        config.limits.idle_time_max = Duration::from_secs(2);
    };
    let (a, b) = friends();
    let (a_hash, b_hash) = (a.identity(), b.identity());
    let (server, client) = (node_with(a, fast).await, node_with(b, fast).await);
    let (mut at_a, mut at_b) = (server.subscribe(), client.subscribe());
    let address = within("listening", server.listen(loopback())).await.expect("a listener");
    let relay = Relay::start(address).await;
    let target = Target::from(relay.address()).redial(Redial::Never);
    let (at_client, at_server) = dial(&client, &target, &mut at_a).await;
    within("an exchange", at_client.send_acked("x")).await.expect("acknowledged");
    relay.cut();
    let outcome = within("the outcome", at_client.send_acked("lost")).await;
    let Err(SendError::Closed { reason, outcome: Outcome::MaybeSent }) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(reason, CloseReason::TimedOut);
    assert_eq!(disconnected(&mut at_a).await, (b_hash, CloseReason::TimedOut));
    assert_eq!(disconnected(&mut at_b).await, (a_hash, CloseReason::TimedOut));
    assert_eq!(within("a frame", at_server.recv()).await.expect("it had arrived"), "x");
    let error = within("the end", at_server.recv()).await.expect_err("nothing more");
    assert_eq!(error, RecvError::Closed { reason: CloseReason::TimedOut });
    let sent = assert_balanced(&at_client);
    assert_eq!((sent.completed, sent.maybe_sent), (1, 1));
    end([client, server]).await;
}

/// A pair over a relay, whose path carried large packets and then carries only small ones.
async fn over_a_path_that_shrinks(
    path_mtu_max: u16,
    disconnect_time_max: Duration,
) -> (Node, Node, Relay, ConnectionHandle) {
    let (a, b) = friends();
    let set = |config: &mut moorline::NodeConfig| {
        config.limits.path_mtu_max = path_mtu_max;
        config.limits.disconnect_time_max = disconnect_time_max;
        config.limits.idle_time_max = LIMIT;
    };
    let (server, client) = (node_with(a, set).await, node_with(b, set).await);
    let mut events = server.subscribe();
    let address = within("listening", server.listen(loopback())).await.expect("a listener");
    let relay = Relay::start(address).await;
    let (at_client, at_server) = dial(&client, &Target::from(relay.address()), &mut events).await;
    tokio::spawn(async move { while at_server.recv().await.is_ok() {} });
    for _ in 0..20 {
        within("a frame", at_client.send_acked(vec![1; 100_000])).await.expect("acknowledged");
    }
    relay.set_mtu(1300);
    (server, client, relay, at_client)
}

#[tokio::test]
async fn a_path_that_shrinks_ends_the_connection_and_the_next_one_fits_it() {
    let (server, client, relay, old) = over_a_path_that_shrinks(1500, Duration::from_secs(1)).await;
    let (mut events, mut at_server) = (client.subscribe(), server.subscribe());
    let outcome = within("the outcome", old.send_acked(vec![2; 100_000])).await;
    let Err(SendError::Closed { reason, outcome: Outcome::MaybeSent }) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(reason, CloseReason::TimedOut);
    let next = connected(&mut events).await;
    let there = connected(&mut at_server).await;
    tokio::spawn(async move { while there.recv().await.is_ok() {} });
    within("a frame", next.send_acked(vec![3; 100_000])).await.expect("acknowledged");
    drop((old, next));
    end([client, server]).await;
    drop(relay);
}

#[tokio::test]
async fn a_path_that_shrinks_no_further_than_the_limit_is_not_noticed() {
    let (server, client, relay, connection) = over_a_path_that_shrinks(1280, LIMIT / 2).await;
    for _ in 0..20 {
        within("a frame", connection.send_acked(vec![2; 100_000])).await.expect("acknowledged");
    }
    assert_eq!(connection.close_reason(), None);
    drop(connection);
    end([client, server]).await;
    drop(relay);
}

#[tokio::test]
async fn a_connection_that_the_peer_has_forgotten_is_told_as_such() {
    // Its peer gives it up while nothing comes through, as where this process is suspended.
    let (a, b) = friends();
    let server = node_with(a, |config| {
        config.limits.keep_alive_interval = Duration::from_millis(50);
        config.limits.disconnect_time_max = Duration::from_millis(200);
    })
    .await;
    let client = node_with(b, |config| {
        config.limits.keep_alive_interval = Duration::from_millis(50);
        config.limits.disconnect_time_max = LIMIT;
    })
    .await;
    let (mut at_a, mut at_b) = (server.subscribe(), client.subscribe());
    let address = within("listening", server.listen(loopback())).await.expect("a listener");
    let relay = Relay::start(address).await;
    let target = Target::from(relay.address()).redial(Redial::Never);
    let (at_client, at_server) = dial(&client, &target, &mut at_a).await;
    relay.cut();
    assert_eq!(within("the end there", at_server.closed()).await, CloseReason::TimedOut);
    assert_eq!(at_client.close_reason(), None, "it does not know yet");
    relay.mend();
    let reason = within("the end here", at_client.closed()).await;
    assert_eq!(reason, CloseReason::Forgotten);
    assert_eq!((reason.kind(), reason.side()), (ErrorKind::Retry, Some(Side::Peer)));
    assert!(reason.to_string().contains("does not know this connection any more"), "{reason}");
    assert_eq!(disconnected(&mut at_b).await.1, CloseReason::Forgotten);
    end([client, server]).await;
}

#[tokio::test]
async fn a_dial_outlives_the_loss_of_its_first_packets() {
    let (a, b) = friends();
    let server = node(a).await;
    let disconnect = Duration::from_millis(200);
    let client = node_with(b, |config| config.limits.disconnect_time_max = disconnect).await;
    let address = within("listening", server.listen(loopback())).await.expect("a listener");
    let relay = Relay::start(address).await;
    relay.lose_to_server(1);
    let begun = Instant::now();
    let connection = within("connecting", client.connect(relay.address())).await;
    let connection = connection.expect("a packet that is lost is sent again");
    assert_eq!(relay.left_to_lose(), 0);
    assert!(begun.elapsed() > disconnect, "the loss took less than a disconnect");
    // From here on the limit is that of a connection.
    relay.cut();
    let begun = Instant::now();
    let outcome = within("the outcome", connection.send_acked("lost")).await;
    let Err(SendError::Closed { reason, .. }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(reason, CloseReason::TimedOut);
    assert!(begun.elapsed() < Duration::from_secs(2), "took {:?}", begun.elapsed());
    end([client, server]).await;
}

#[tokio::test]
async fn a_frame_that_is_not_whole_in_time_closes_with_frame_timeout() {
    let limit = Duration::from_millis(300);
    let patient = |limits: &mut Limits| {
        limits.disconnect_time_max = LIMIT;
        limits.idle_time_max = LIMIT;
    };
    let (a, b) = friends();
    let server = node_with(a, |config| {
        patient(&mut config.limits);
        config.limits.frame_time_max = limit;
    })
    .await;
    let client = node_with(b, |config| patient(&mut config.limits)).await;
    let mut events = server.subscribe();
    let address = within("listening", server.listen(loopback())).await.expect("a listener");
    let relay = Relay::start(address).await;
    let target = Target::from(relay.address()).redial(Redial::Never);
    let (at_client, at_server) = dial(&client, &target, &mut events).await;
    within("a frame", at_client.send_acked("before")).await.expect("acknowledged");
    relay.let_through_to_server(100_000);
    at_client.try_send(vec![5; 1 << 20]).expect("taken over");

    assert_eq!(within("a frame", at_server.recv()).await.expect("a frame"), "before");
    let begun = Instant::now();
    let error = within("the deadline", at_server.recv()).await.expect_err("no whole frame");
    assert!(begun.elapsed() < limit * 4, "took {:?}", begun.elapsed());
    let RecvError::FrameTimedOut { after, position } = error else { panic!("{error:?}") };
    assert_eq!(after, limit);
    let Position::InBody { received, announced } = position else { panic!("{position:?}") };
    assert!(announced == 1 << 20 && (1..=100_000).contains(&received), "{position:?}");
    let code = CloseCode::FRAME_TIMEOUT;
    assert_eq!(within("the end", at_server.closed()).await, CloseReason::Local { code });
    assert_eq!(within("the end", at_client.closed()).await, CloseReason::Peer { code });
    let sent = assert_balanced(&at_client);
    assert_eq!((sent.accepted, sent.maybe_sent), (2, 1));
    end([client, server]).await;
}

// ---- the end of the process --------------------------------------------------------------------

#[tokio::test]
async fn a_process_that_ends_right_after_its_connections_does_not_abort() {
    if is_other_process() {
        let transport = MsQuicTransport::new();
        let server = stranger();
        let client = stranger().trust_hash(server.identity());
        let listener = transport.create_listener(loopback(), &["test"], server).await;
        let listener = listener.expect("a listener");
        let address = listener.local_addr();
        let accepted = async { listener.accept().await.expect("a request").accept().await };
        let dialled = async {
            let connection = transport.connect(address, &["test"], client).await?;
            let reason = connection.watch_close().await;
            Err::<(), _>(resolve_bad_certificate(address, &reason).expect("a refusal"))
        };
        let (accepted, dialled) = tokio::join!(
            within("the server's refusal", accepted),
            within("the client's end", dialled)
        );
        assert!(accepted.is_err(), "the server trusts nobody");
        assert!(matches!(dialled, Err(ConnectError::CertificateRefused { .. })), "{dialled:?}");
        drop(listener);
        let registration = transport.registration().expect("open");
        assert!(within("the last handle", registration.wait_idle(LIMIT)).await);
        return;
    }
    for _ in 0..40 {
        let other = other_process("a_process_that_ends_right_after_its_connections_does_not_abort");
        let ended = within("its end", other.wait_with_output()).await.expect("an end");
        let told = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{}: {told}", ended.status);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_exits_while_a_credential_is_loaded_does_not_crash() {
    if is_other_process() {
        let (loaded, mut count) = tokio::sync::mpsc::unbounded_channel();
        for _ in 0..2 {
            let loaded = loaded.clone();
            tokio::spawn(async move {
                let transport = MsQuicTransport::new();
                loop {
                    let listener = transport.create_listener(loopback(), &["test"], stranger());
                    // The exit refuses a new one.
                    let Ok(listener) = listener.await else { return };
                    drop(listener);
                    loaded.send(()).expect("the process lives");
                }
            });
        }
        for _ in 0..10 {
            within("a credential", count.recv()).await.expect("the tasks live");
        }
        std::process::exit(0);
    }
    for _ in 0..15 {
        let other =
            other_process("a_process_that_exits_while_a_credential_is_loaded_does_not_crash");
        let ended = within("its end", other.wait_with_output()).await.expect("an end");
        let told = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{}: {told}", ended.status);
    }
}
