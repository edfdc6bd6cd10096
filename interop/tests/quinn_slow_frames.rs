//! Peers of quinn's that send their frames byte by byte, beside one that works: on plain connections, where nothing
//! but time tells who is slow from who has stopped.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use moorline::{
    CloseCode, ConnectionHandle, Events, NetCredential, Node, NodeConfig, NodeEvent, Target,
};
use moorline_interop::moorline_end::end;
use moorline_interop::quinn_peer::{QuinnLink, Settings, application_code, dialler};
use moorline_interop::{ANY_PORT, LIMIT, Outgoing, PeerCertificate, encode, frame, within};
use quinn::Endpoint;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Of each kind.
const SLOW_PEERS: usize = 20;

/// What a peer must send each second inside a frame, and how long it may be below that.
const BYTES_A_SECOND_MIN: usize = 300;
const FRAME_TIME: Duration = Duration::from_secs(2);

/// Between two writes of a slow peer.
const TICK: Duration = Duration::from_millis(50);

/// Longer than the frame time, even for those who are just fast enough.
const SLOW_FRAME_BYTES: usize = 3_000;

/// A node, peers of quinn's under one certificate, and somebody else whom the node trusts.
struct Scene {
    node: Node,
    events: Events,
    address: SocketAddr,
    endpoint: Endpoint,
    friend: Node,
}

impl Scene {
    async fn new() -> Result<Self> {
        let certificate = PeerCertificate::generate()?;
        let credential = NetCredential::generate_self_signed(&["localhost"], &[])?;
        let friend = NetCredential::generate_self_signed(&["localhost"], &[])?;
        let friend = friend.trust_hash(credential.identity());
        let credential =
            credential.trust_hash(friend.identity()).trust_hash(certificate.identity());
        let mut config = NodeConfig::new(credential);
        config.limits.connections_per_peer_max = 2 * SLOW_PEERS;
        config.limits.frame_time_max = FRAME_TIME;
        config.limits.frame_rate_min = BYTES_A_SECOND_MIN;
        let node = within(LIMIT, "a node starts", Node::spawn(config)).await?;
        let events = node.subscribe();
        let address = within(LIMIT, "the node listens", node.listen(ANY_PORT)).await?;
        let endpoint = dialler(&Settings::new(&certificate, node.identity()))?;
        let friend = Node::spawn(NodeConfig::new(friend));
        let friend = within(LIMIT, "the friend's node starts", friend).await?;
        Ok(Self { node, events, address, endpoint, friend })
    }

    /// A connection of the friend's, from both ends.
    async fn friends(&mut self) -> Result<[ConnectionHandle; 2]> {
        let target = Target::from(self.address).expect(self.node.identity());
        let dialled = within(LIMIT, "the friend dials", self.friend.connect(target)).await?;
        Ok([dialled, self.accepted().await?])
    }

    /// The node's end of the next connection.
    async fn accepted(&mut self) -> Result<ConnectionHandle> {
        loop {
            let event = within(LIMIT, "the node has a connection", self.events.next()).await;
            match event.context("the node has ended")? {
                NodeEvent::Connected(handle) => return Ok(handle),
                NodeEvent::Refused { error, .. } => return Err(error.into()),
                NodeEvent::Lagged(lost) => bail!("{lost} events are lost"),
                _ => {}
            }
        }
    }
}

/// Sends one frame, so many bytes at each tick, until it is sent or nobody takes any more.
async fn trickle(link: &mut QuinnLink, payload: &[u8], bytes: usize) {
    let mut rest = encode(payload);
    let mut ticks = tokio::time::interval(TICK);
    while !rest.is_empty() {
        ticks.tick().await;
        let part = rest.split_to(bytes.min(rest.len()));
        if link.out.write(part).await.is_err() {
            return;
        }
    }
}

/// Sends frames each way until it is told to stop; how many, and how long the slowest took to be acknowledged.
async fn work(
    [one, other]: [ConnectionHandle; 2],
    over: watch::Receiver<bool>,
) -> Result<(u64, Duration)> {
    let (mut frames, mut slowest) = (0, Duration::ZERO);
    while !*over.borrow() {
        for (from, to) in [(&one, &other), (&other, &one)] {
            let (payload, began) = (frame(frames as usize, 10_000), Instant::now());
            within(LIMIT, "an acknowledgement", from.send_acked(payload.clone())).await?;
            assert_eq!(within(LIMIT, "a frame", to.recv()).await?, payload);
            slowest = slowest.max(began.elapsed());
            frames += 1;
        }
    }
    assert_eq!((one.close_reason(), other.close_reason()), (None, None));
    Ok((frames, slowest))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_trickle_their_frames_are_told_apart_by_their_rate_and_hold_up_nobody()
-> Result<()> {
    let mut scene = Scene::new().await?;
    let (tell, over) = watch::channel(false);
    let working = tokio::spawn(work(scene.friends().await?, over));

    let mut trickling = JoinSet::new();
    let payload = frame(1, SLOW_FRAME_BYTES);
    for number in 0..2 * SLOW_PEERS {
        let mut link = QuinnLink::dial(&scene.endpoint, scene.address).await?;
        let at_node = scene.accepted().await?;
        // A byte at each tick is far below what is asked for, and twenty are somewhat more.
        let is_too_slow = number % 2 == 0;
        let payload = payload.clone();
        trickling.spawn(async move {
            let began = Instant::now();
            trickle(&mut link, &payload, if is_too_slow { 1 } else { 20 }).await;
            let frame: Option<Bytes> = if is_too_slow {
                let code = application_code(&link.closed().await);
                assert_eq!(code, Some(CloseCode::FRAME_TIMEOUT.value()));
                at_node.recv().await.ok()
            } else {
                within(LIMIT, "the frame", at_node.recv()).await.ok()
            };
            let took = began.elapsed();
            assert!(took >= FRAME_TIME, "nobody else had so much time: {took:?}");
            (
                is_too_slow,
                frame.is_some_and(|frame| frame == payload),
                at_node.close_reason().is_some(),
            )
        });
    }
    while let Some(trickled) = within(LIMIT, "a slow peer", trickling.join_next()).await {
        let (is_too_slow, has_come, is_over) = trickled?;
        assert_eq!((has_come, is_over), (!is_too_slow, is_too_slow));
    }
    assert_eq!(scene.node.stats().limits.frame_time_max, SLOW_PEERS as u64);

    tell.send_replace(true);
    let (frames, slowest) = within(LIMIT, "who works", working).await??;
    println!("{frames} frames meanwhile, the slowest in {slowest:?}");
    assert!(frames > 100 && slowest < Duration::from_secs(1), "{frames} frames, {slowest:?}");
    drop(scene.endpoint);
    end(scene.friend).await?;
    end(scene.node).await
}
