//! What a session takes that has no connection: of it there may be thousands, while their peers are away.

mod common;

use common::process::in_its_own_runtime;
use common::{LIMIT, loopback, node_with, within};
use dhat::{HeapStats, Profiler};
use moorline::testing::ChaosProxy;
use moorline::{NetCredential, NodeConfig, NodeEvent, Peer, Target};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Sessions of each node that begins some and is lost.
const SESSIONS: usize = 60;

/// What one takes at most, in bytes.
const MOST: f64 = 4.0 * 1024.0;

#[test]
fn an_idle_session_without_a_connection_takes_four_kibibytes() {
    in_its_own_runtime("an_idle_session_without_a_connection_takes_four_kibibytes", counted());
}

/// All sessions are with one peer, and each has its connection.
fn roomy(config: &mut NodeConfig) {
    let connections = 4 * SESSIONS;
    config.limits.connections_max = connections;
    config.limits.connections_per_peer_max = connections;
    config.limits.connections_per_minute_max = connections;
    config.limits.connections_burst_max = connections;
}

async fn counted() {
    let _profiler = Profiler::builder().testing().build();
    let make = || NetCredential::generate_self_signed(&["test"], &[]).expect("a credential");
    let (own, others) = (make(), [make(), make()]);
    let identity = own.identity();
    let trusting = others.iter().fold(own, |own, other| own.trust_hash(other.identity()));
    let server = node_with(trusting, roomy).await;
    let address = within("listening", server.listen(loopback())).await.expect("a listener");
    let protocols: Vec<_> = (0..SESSIONS).map(|number| format!("idle/{number}")).collect();
    let mut begun: Vec<_> = protocols.iter().map(|protocol| server.accept(protocol)).collect();
    let mut kept = Vec::new();
    let mut taken = Vec::new();
    for other in others {
        let link = ChaosProxy::start(address, 1).expect("a proxy");
        let target = Target::from(link.address()).expect(identity);
        let client = node_with(other.trust_hash(identity), roomy).await;
        let mut peers = Vec::new();
        for protocol in &protocols {
            let peer = within("a peer", client.peer(target.clone(), protocol)).await;
            peers.push(peer.expect("a peer"));
        }
        for begun in &mut begun {
            kept.push(within("its other end", begun.next()).await.expect("it came"));
        }
        let mut events = server.subscribe();
        drop(link);
        within("the loss of all", async {
            while kept.iter().any(Peer::is_connected) {
                let event = events.next().await.expect("the node lives");
                if let NodeEvent::PeerEnded { reason, .. } = event {
                    panic!("a session ended: {reason}");
                }
            }
        })
        .await;
        drop(peers);
        let _ = client.close(LIMIT).await;
        taken.push(HeapStats::get().curr_bytes as f64);
        eprintln!("{} bytes with {} sessions", taken[taken.len() - 1], kept.len());
    }
    let each = (taken[1] - taken[0]) / SESSIONS as f64;
    eprintln!("{each} bytes a session");
    assert!(each <= MOST, "{each} bytes a session");
}
