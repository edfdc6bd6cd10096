//! Sessions over links that break, for tests of what is lost then: nothing.

use std::time::Duration;

use moorline::testing::ChaosProxy;
use moorline::{CertHash, Node, NodeConfig, NodeEvent, Peer, PeerError, Peers, Target};
use tokio::sync::watch;

use super::{LIMIT, friends, loopback, node_with, within, within_limit};

/// Whoever is gone is known to be within a tenth of a second, and dialled again at once. On a busy machine
/// some are taken for gone who are not, which must do no harm either.
pub(crate) fn brisk(_: usize, config: &mut NodeConfig) {
    config.limits.keep_alive_interval = Duration::from_millis(20);
    config.limits.idle_time_max = Duration::from_millis(150);
    config.limits.disconnect_time_max = Duration::from_millis(80);
    // A dial into a link that is cut says nothing for a second.
    config.limits.handshake_time_max = Duration::from_millis(400);
    config.limits.handshake_answer_max = Duration::from_millis(400);
    config.backoff.initial = Duration::from_millis(20);
    config.backoff.cap = Duration::from_millis(100);
}

/// The seed of a test: another one each time, printed, or that of the environment.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("MOORLINE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    eprintln!("MOORLINE_SEED={seed}");
    seed
}

/// A session with a node that listens. The first dial of a process may take more time than [`brisk`] ones have.
pub(crate) async fn peer(node: &Node, target: Target, protocol: &str) -> Peer {
    let asking = async {
        loop {
            match node.peer(target.clone(), protocol).await {
                Ok(peer) => return peer,
                Err(PeerError::Connect(late)) => eprintln!("asking again: {late}"),
                Err(other) => panic!("{other:?}"),
            }
        }
    };
    within_limit(LIMIT, "a peer", asking).await
}

/// Two nodes and one session between them over a link, seen from both ends.
pub(crate) struct Pair {
    /// Listens.
    pub(crate) server: Node,
    /// Asked for the session.
    pub(crate) client: Node,
    /// The server, over the link.
    pub(crate) target: Target,
    pub(crate) link: ChaosProxy,
    pub(crate) at_server: Peer,
    pub(crate) at_client: Peer,
    /// What comes to the server after that.
    pub(crate) begun: Peers,
}

impl Pair {
    /// With the default configuration.
    pub(crate) async fn new(protocol: &str) -> Self {
        Self::with(protocol, |_| ()).await
    }

    /// With a configuration for both.
    pub(crate) async fn with(protocol: &str, change: impl Fn(&mut NodeConfig)) -> Self {
        let (a, b) = friends();
        let (server, client) = (node_with(a, &change).await, node_with(b, &change).await);
        let mut begun = server.accept(protocol);
        let address = within("listening", server.listen(loopback())).await.expect("a listener");
        let link = ChaosProxy::start(address, 1).expect("a proxy");
        let target = Target::from(link.address()).expect(server.identity());
        let opened = within("a peer", client.peer(target.clone(), protocol)).await;
        let at_client = opened.expect("a peer");
        let at_server = within("its other end", begun.next()).await.expect("it came");
        Self { server, client, target, link, at_server, at_client, begun }
    }

    /// Ends both nodes.
    pub(crate) async fn end(self) {
        let Self { server, client, at_server, at_client, begun, .. } = self;
        drop((at_server, at_client, begun));
        super::end([client, server]).await;
    }
}

/// Whether a session has a connection, and how often it lost one.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Line {
    pub(crate) is_up: bool,
    pub(crate) lost: u64,
}

/// The sessions of a node with one peer, as its events tell.
#[derive(Debug)]
pub(crate) struct Lines(watch::Receiver<Line>);

impl Lines {
    /// From here on, until the node ends.
    pub(crate) fn of(node: &Node, of: CertHash) -> Self {
        let (tell, told) = watch::channel(Line::default());
        let mut events = node.subscribe();
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                match event {
                    NodeEvent::PeerUp { peer, .. } if peer == of => {
                        tell.send_modify(|line| line.is_up = true);
                    }
                    NodeEvent::PeerDown { peer, .. } if peer == of => tell.send_modify(|line| {
                        line.is_up = false;
                        line.lost += 1;
                    }),
                    NodeEvent::PeerEnded { peer, .. } if peer == of => {
                        tell.send_modify(|line| line.is_up = false);
                    }
                    NodeEvent::Lagged(missed) => panic!("{missed} events were missed"),
                    _ => {}
                }
            }
        });
        Self(told)
    }

    pub(crate) fn lost(&self) -> u64 {
        self.0.borrow().lost
    }

    /// Waits until it lost its connection more often than this, or has none anyway.
    pub(crate) async fn loses(&mut self, before: u64) {
        let lost = self.0.wait_for(|line| line.lost > before || !line.is_up);
        within_limit(LIMIT, "the loss of a connection", lost).await.expect("the node lives");
    }

    /// Waits until it has one.
    pub(crate) async fn has_one(&mut self) {
        let up = self.0.wait_for(|line| line.is_up);
        within_limit(LIMIT, "another connection", up).await.expect("the node lives");
    }
}
