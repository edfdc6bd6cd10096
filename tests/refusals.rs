//! Certificates that are refused, by whom and why, and what both sides are told.

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use common::{LIMIT, certificates, connected, end, friends, loopback, node, stranger, within};
use moorline::{
    AcceptError, CertHash, CertificateAlert, CertificateRefused, CloseReason, ConnectError,
    ErrorKind, Events, KeyPrefixes, MsQuicTransport, NetCredential, Node, NodeEvent, Outcome,
    RecvError, Redial, Refusal, SendError, Side, SigningKey, Target, key_prefixes,
    resolve_bad_certificate,
};

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
