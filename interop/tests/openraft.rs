//! A cluster of openraft over sessions: who leads, what is replicated, and a snapshot for who came late.

mod raft_network;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result};
use moorline::{CertHash, NetCredential, Node, NodeConfig, Target};
use moorline_interop::{ANY_PORT, LIMIT, within};
use openraft::storage::Adaptor;
use openraft::{Config, Raft, RaftMetrics, SnapshotPolicy};
use openraft_memstore::{ClientRequest, MemStore, TypeConfig};
use raft_network::{Member, Network, PROTOCOL};

/// Lines of code that a cluster needs beside openraft and moorline.
const GLUE_LINES_MAX: usize = 150;

const MEMBERS: u64 = 3;

/// One member of the cluster.
struct Running {
    raft: Raft<TypeConfig>,
    store: Arc<MemStore>,
    node: Node,
}

/// Members that know each other, and do nothing yet.
async fn cluster() -> Result<BTreeMap<u64, Running>> {
    let own = |id| NetCredential::generate_self_signed(&[&format!("member-{id}")], &[]);
    let credentials: Vec<_> = (0..MEMBERS).map(own).collect::<Result<_, _>>()?;
    let identities: Vec<CertHash> = credentials.iter().map(NetCredential::identity).collect();
    let (mut nodes, mut targets) = (Vec::new(), BTreeMap::new());
    for (id, credential) in (0..).zip(credentials) {
        let identity = credential.identity();
        let others = identities.iter().filter(|other| **other != identity);
        let credential = others.fold(credential, |it, other| it.trust_hash(*other));
        let node = within(LIMIT, "a node", Node::spawn(NodeConfig::new(credential))).await?;
        // Before anybody can come.
        let begun = node.accept(PROTOCOL);
        let address = within(LIMIT, "a listener", node.listen(ANY_PORT)).await?;
        targets.insert(id, Target::from(address).expect(identity));
        nodes.push((node, begun));
    }
    let config = Config {
        heartbeat_interval: 100,
        election_timeout_min: 500,
        election_timeout_max: 1_000,
        snapshot_policy: SnapshotPolicy::Never,
        snapshot_max_chunk_size: 64 << 10,
        max_in_snapshot_log_to_keep: 0,
        ..Config::default()
    };
    let (config, mut running) = (Arc::new(config.validate()?), BTreeMap::new());
    for (id, (node, begun)) in (0..).zip(nodes) {
        let raft = OnceLock::new();
        let member = Arc::new(Member { node: node.clone(), targets: targets.clone(), raft });
        let store = MemStore::new_async().await;
        let (log, machine) = Adaptor::new(Arc::clone(&store));
        let network = Network(Arc::clone(&member));
        let raft = Raft::new(id, Arc::clone(&config), network, log, machine).await?;
        // Nobody has called it yet.
        let _ = member.raft.set(raft.clone());
        tokio::spawn(member.serve(begun));
        running.insert(id, Running { raft, store, node });
    }
    Ok(running)
}

/// Tells which entry of the log it is.
async fn write(raft: &Raft<TypeConfig>, number: u64) -> Result<u64> {
    let client = format!("client-{}", number % 50);
    let status = format!("{number} {}", "x".repeat(4_000));
    let request = ClientRequest { client, serial: number, status };
    Ok(within(LIMIT, "a write", raft.client_write(request)).await?.log_id.index)
}

/// Waits until a member knows this.
async fn knows(
    raft: &Raft<TypeConfig>,
    what: &str,
    holds: impl Fn(&Metrics) -> bool + Send,
) -> Result<Metrics> {
    Ok(within(LIMIT, what, raft.wait(Some(LIMIT)).metrics(holds, what)).await?)
}

type Metrics = RaftMetrics<u64, ()>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_raft_replicates_over_sessions_sends_snapshots_on_bulk_and_outlives_its_leader()
-> Result<()> {
    let mut members = cluster().await?;
    let all: BTreeSet<u64> = members.keys().copied().collect();
    let leader = members[&0].raft.clone();
    let first: BTreeSet<u64> = [0, 1].into();
    within(LIMIT, "a cluster of two", leader.initialize(first)).await?;
    let elected = knows(&leader, "a leader", |it| it.current_leader.is_some()).await?;
    let elected = elected.current_leader.context("no leader")?;
    let leader = members[&elected].raft.clone();
    for number in 0..200 {
        write(&leader, number).await?;
    }

    // The third one comes when what was written is in the snapshot alone: of several chunks.
    leader.trigger().snapshot().await?;
    let taken = knows(&leader, "a snapshot", |it| it.snapshot.is_some()).await?;
    let taken = taken.snapshot.context("no snapshot")?;
    leader.trigger().purge_log(taken.index).await?;
    knows(&leader, "the log to be cut", |it| it.purged == Some(taken)).await?;
    within(LIMIT, "a learner", leader.add_learner(2, (), true)).await?;
    within(LIMIT, "a cluster of three", leader.change_membership(all, false)).await?;
    // Its log begins where that ends: it has the rest by nothing else.
    let by_snapshot = |it: &Metrics| it.snapshot.is_some_and(|it| it.index >= taken.index);
    knows(&members[&2].raft, "a snapshot at the third", by_snapshot).await?;

    // Its leader gone, the others go on.
    let Running { raft, node, .. } = members.remove(&elected).context("the leader")?;
    within(LIMIT, "the end of the leader", raft.shutdown()).await?;
    drop((leader, raft));
    let _ = within(LIMIT, "the end of its node", node.shutdown(Duration::from_millis(1))).await;
    let next = members.values().next().context("one is left")?.raft.clone();
    let other = move |it: &Metrics| it.current_leader.is_some_and(|it| it != elected);
    let next = knows(&next, "another leader", other).await?.current_leader.context("no leader")?;
    let mut last = 0;
    for number in 200..250 {
        last = write(&members[&next].raft, number).await?;
    }
    for member in members.values() {
        let has_all = |it: &Metrics| it.last_applied.is_some_and(|it| it.index >= last);
        knows(&member.raft, "all that was written", has_all).await?;
    }
    let mut states = Vec::new();
    for member in members.values() {
        states.push(member.store.get_state_machine().await.client_status);
    }
    assert!(states.windows(2).all(|pair| pair[0] == pair[1]), "all have the same");
    assert_eq!(states[0].len(), 50);
    for (_, Running { raft, node, .. }) in members {
        within(LIMIT, "the end of a member", raft.shutdown()).await?;
        let _ = within(LIMIT, "the end of a node", node.shutdown(Duration::from_millis(1))).await;
    }
    Ok(())
}

#[test]
fn the_network_of_a_cluster_is_a_page_or_two_without_ids_and_deadlines_of_its_own() {
    let glue = include_str!("raft_network/mod.rs");
    let is_code = |line: &&str| !line.trim().is_empty() && !line.trim().starts_with("//");
    let lines = glue.lines().filter(is_code).count();
    assert!(lines <= GLUE_LINES_MAX, "{lines} lines");
    for word in ["timeout(", "Instant", "oneshot", "HashMap", "request_id"] {
        assert!(!glue.contains(word), "{word}: that is what sessions are for");
    }
}
