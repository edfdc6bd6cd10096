//! Whom an application lets begin a session.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{end, friends, loopback, node, node_with, within};
use moorline::{Admission, Arriving, CloseCode, Incoming, Node, PeerEnded, PeerError, Target};

const PROTOCOL: &str = "orders/1";

/// A node that accepts by what is said, its address as a target, and a node that dials it.
async fn nodes(hello_time_max: Duration) -> (Node, Target, Node) {
    let (a, b) = friends();
    let server =
        node_with(a, |config| config.limits.sessions.hello_time_max = hello_time_max).await;
    let address = within("listening", server.listen(loopback())).await.expect("a listener");
    let target = Target::from(address).expect(server.identity());
    (server, target, node(b).await)
}

fn refused(error: PeerError) -> (CloseCode, String) {
    match error {
        PeerError::Ended(PeerEnded::Refused { code, text }) => (code, text),
        error => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn the_application_sees_who_comes_and_the_peer_is_told_why_it_may_not() {
    let (server, target, client) = nodes(Duration::from_secs(3)).await;
    let seen: Arc<Mutex<Vec<Arriving>>> = Arc::default();
    let saw = Arc::clone(&seen);
    let mut peers = server.accept_with(PROTOCOL, move |arriving| {
        let mut seen = saw.lock().expect("no panic");
        seen.push(arriving);
        let application = CloseCode::application(0x1234).expect("it is one");
        match seen.len() {
            1 => Admission::refuse(application, "come back later"),
            2 => Admission::refuse_for_good(CloseCode::FORBIDDEN, "you never may"),
            _ => Admission::Accept,
        }
    });
    let later = within("a peer", client.peer(target.clone(), PROTOCOL)).await;
    let (code, text) = refused(later.expect_err("not now"));
    assert_eq!((code.value(), text.as_str()), (0x1234, "come back later"));
    let never = within("a peer", client.peer(target.clone(), PROTOCOL)).await;
    let (code, text) = refused(never.expect_err("never"));
    assert_eq!((code, text.as_str()), (CloseCode::FORBIDDEN, "you never may"));
    // An application may ask again all the same.
    let peer = within("a peer", client.peer(target, PROTOCOL)).await.expect("now it may");
    let at_server = within("its other end", peers.next()).await.expect("it came");
    within("sending", peer.send("hello")).await.expect("accepted");
    let received = within("a frame", at_server.recv()).await;
    assert!(matches!(received, Ok(Incoming::Message(frame)) if frame == "hello"));
    let seen = seen.lock().expect("no panic").clone();
    assert_eq!(seen.len(), 3, "it was asked once about each");
    for arriving in seen {
        assert_eq!((arriving.identity, arriving.protocol.as_str()), (client.identity(), PROTOCOL));
        assert!(arriving.remote.ip().is_loopback(), "{arriving:?}");
    }
    drop((peer, at_server, peers));
    end([client, server]).await;
}

#[tokio::test]
async fn an_application_that_panics_or_does_not_answer_refuses_and_the_next_peer_may() {
    let limit = Duration::from_millis(300);
    let (server, target, client) = nodes(limit).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let mut peers = server.accept_with(PROTOCOL, move |_| {
        let number = counted.fetch_add(1, Ordering::AcqRel);
        assert_ne!(number, 0, "as it was meant to");
        async move {
            assert_ne!(number, 1, "as it was meant to");
            if number == 2 {
                std::future::pending::<()>().await;
            }
            Admission::Accept
        }
    });
    for panics in 1..=2 {
        let opened = within("a refusal", client.peer(target.clone(), PROTOCOL)).await;
        let (code, _) = refused(opened.expect_err("a panic admits nobody"));
        assert_eq!((code, asked.load(Ordering::Acquire)), (CloseCode::REFUSED, panics));
    }
    // Who does not answer is not waited for: the code is that of a Hello that takes too long.
    let opened = within("a refusal", client.peer(target.clone(), PROTOCOL)).await;
    let (code, _) = refused(opened.expect_err("nobody answers"));
    assert_eq!((code, asked.load(Ordering::Acquire)), (CloseCode::HELLO_TIMEOUT, 3));
    assert!(server.stats().limits.hello_time_max > 0);
    let peer = within("a peer", client.peer(target, PROTOCOL)).await.expect("it may");
    drop((within("its other end", peers.next()).await.expect("it came"), peer, peers));
    end([client, server]).await;
}
