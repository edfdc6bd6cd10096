//! What the wall clock decides, and what it does not. It judges certificates, where a connection comes to stand: a clock
//! that is set on by an hour is one under which they end an hour earlier, and one that is set back one under which
//! they begin an hour later. Nothing else reads it, which `tests/tidy.rs` holds.
#![cfg(feature = "testing")]

mod common;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use common::certificates::valid_between;
use common::load::Load;
use common::sessions::{Lines, peer, seed};
use common::{end, event, loopback, node_with, quick, stranger, until, within};
use moorline::testing::ChaosProxy;
use moorline::{
    CertificateRefused, ConnectError, ErrorKind, NetCredential, Node, NodeConfig, NodeEvent,
    PeerEnded, Redial, Refusal, Target,
};

const PROTOCOL: &str = "clock/1";

const HOUR: Duration = Duration::from_secs(60 * 60);

/// After that a certificate of a test begins, or is over.
const SOON: Duration = Duration::from_secs(5);

/// Whoever says nothing for so long is gone.
const GONE: Duration = Duration::from_secs(3);

/// Between two dials for a session.
const SPACING: Duration = Duration::from_millis(300);

/// Times in a certificate are to the second.
const SECOND: Duration = Duration::from_secs(1);

/// A node that listens with this credential, and one that trusts it.
struct Scene {
    server: Node,
    client: Node,
    address: SocketAddr,
    target: Target,
}

impl Scene {
    async fn new(credential: NetCredential, change: impl Fn(&mut NodeConfig)) -> Self {
        let own = stranger().trust_hash(credential.identity());
        let server = node_with(credential.trust_hash(own.identity()), &change).await;
        let client = node_with(own, &change).await;
        let address = within("listening", server.listen(loopback())).await.expect("a listener");
        let target = Target::from(address).expect(server.identity());
        Self { server, client, address, target }
    }

    async fn end(self) {
        end([self.client, self.server]).await;
    }
}

/// How this side refused the peer's certificate, if that is what was in the way.
fn refusal(error: &ConnectError) -> Option<Refusal> {
    let ConnectError::CertificateRefused { refused, .. } = error else { return None };
    match &**refused {
        CertificateRefused::ByUs { refusal, .. } => Some(refusal.clone()),
        _ => None,
    }
}

/// Why a certificate was refused in a dial, and whether it is dialled again.
fn refused(event: &NodeEvent) -> Option<(Refusal, bool)> {
    match event {
        NodeEvent::DialFailed { error, retry_in, .. } => {
            Some((refusal(error)?, retry_in.is_some()))
        }
        _ => None,
    }
}

#[tokio::test]
async fn a_clock_that_is_an_hour_off_refuses_certificates_by_that_hour_and_dialling_again_can_help()
{
    let now = SystemTime::now();
    let on = valid_between(now - 2 * HOUR, now - HOUR);
    let back = valid_between(now + HOUR, now + 2 * HOUR);
    for (credential, is_on) in [(on, true), (back, false)] {
        let scene = Scene::new(credential, quick).await;
        let target = Target::from(scene.address).expect(scene.server.identity());
        let dialled = within("a dial", scene.client.connect(target.redial(Redial::Never))).await;
        let error = dialled.expect_err("it is not valid");
        let (off, was_on) = match refusal(&error) {
            Some(Refusal::Expired { ago, .. }) => (ago, true),
            Some(Refusal::NotYetValid { wait, .. }) => (wait, false),
            other => panic!("{other:?}"),
        };
        assert!(off.abs_diff(HOUR) < SOON, "{off:?}");
        assert_eq!((was_on, error.kind()), (is_on, ErrorKind::Retry));
        scene.end().await;
    }
}

#[tokio::test]
async fn a_peer_whose_certificate_begins_later_is_dialled_until_it_has() {
    let begin = SystemTime::now() + SOON;
    let scene = Scene::new(valid_between(begin, begin + HOUR), quick).await;
    let mut events = scene.client.subscribe();
    let (client, target) = (scene.client.clone(), scene.target.clone().redial(Redial::Always));
    let dialling = tokio::spawn(async move { client.connect(target).await });
    let failed = event(&mut events, "a failed dial", &mut Vec::new(), refused).await;
    assert!(matches!(failed, (Refusal::NotYetValid { .. }, true)), "{failed:?}");
    let handle = within("a connection", dialling).await.expect("no panic").expect("in time");
    assert!(SystemTime::now() > begin - SECOND, "it has begun");
    drop(handle);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_outlives_the_certificate_that_it_began_with_but_is_not_dialled_again_with_it() {
    let over = SystemTime::now() + SOON;
    let scene = Scene::new(valid_between(over - HOUR, over), |config| {
        config.limits.idle_time_max = GONE;
        config.limits.disconnect_time_max = GONE;
        config.limits.keep_alive_interval = GONE / 10;
        config.limits.sessions.session_time_max = GONE;
        (config.backoff.initial, config.backoff.cap) = (SPACING, SPACING);
        config.backoff.jitter = 0.0;
    })
    .await;
    let link = ChaosProxy::start(scene.address, 1).expect("a proxy");
    let target = Target::from(link.address()).expect(scene.server.identity());
    let mut begun = scene.server.accept(PROTOCOL);
    let mut lines = Lines::of(&scene.client, scene.server.identity());
    let at_client = peer(&scene.client, target, PROTOCOL).await;
    let at_server = within("its other end", begun.next()).await.expect("it came");
    let mut load = Load::of_a_session_that_ends([at_client.clone(), at_server], seed());
    load.brings(500).await;
    until("the end of the certificate", || SystemTime::now() > over + SECOND).await;
    load.brings(500).await;
    assert_eq!(lines.lost(), 0, "it has the connection that it had");
    let mut events = scene.client.subscribe();
    link.cut();
    lines.loses(0).await;
    link.mend();
    // A session is dialled for by one dial after the other, and those that fail at once are no reason to hurry.
    for _ in 0..2 {
        let (refusal, _) = event(&mut events, "a failed dial", &mut Vec::new(), refused).await;
        assert!(matches!(refusal, Refusal::Expired { .. }), "{refusal:?}");
    }
    assert_eq!(at_client.ended(), None, "it has its time for another connection");
    drop(at_client);
    assert_eq!(load.cut_off().await, [PeerEnded::TimedOut, PeerEnded::TimedOut]);
    let mut dials = 2;
    while let Ok(event) = tokio::time::timeout(Duration::ZERO, events.next()).await {
        dials += u128::from(event.is_some_and(|event| refused(&event).is_some()));
    }
    let dials_max = GONE.as_millis() / SPACING.as_millis() + 2;
    assert!(dials <= dials_max, "{dials} dials in {GONE:?}");
    drop((begun, events));
    scene.end().await;
}
