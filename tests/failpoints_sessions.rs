//! What sessions promise while actors and callbacks of their connections fail: nothing is lost, nothing comes
//! twice, and the actor that a session is driven by is no part of it.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::messages::call;
use common::sessions::Pair;
use common::{event, quick, until, within};
use moorline::testing::Ledger;
use moorline::testing::failpoint::{Failpoint, Failure, Planted};
use moorline::{
    CloseCode, Incoming, Lane, Node, NodeEvent, PeerEnded, PeerMessage, SupervisorMessage,
};
use tokio::task::JoinSet;

const PROTOCOL: &str = "failures/1";

/// What a handler stalls for; others must be done before it is over, on a busy machine too.
const WHILE: Duration = Duration::from_secs(5);

/// Between two frames of one sender.
const PACE: Duration = Duration::from_millis(1);

/// Sends on all lanes, both ways, until that is over, and takes what comes.
fn load(pair: &Pair, ledger: &Ledger, over: &Arc<AtomicBool>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for (name, peer) in [("client", &pair.at_client), ("server", &pair.at_server)] {
        for lane in Lane::ALL {
            let (sender, peer, over) = (ledger.sender(name), peer.clone(), Arc::clone(over));
            tasks.spawn(async move {
                let mut ticks = tokio::time::interval(PACE);
                while !over.load(Ordering::Relaxed) {
                    ticks.tick().await;
                    let frame = sender.frame(lane, 500);
                    within("room", peer.send_on(lane, frame)).await.expect("accepted");
                }
            });
        }
        let (peer, ledger) = (peer.clone(), ledger.clone());
        tasks.spawn(async move {
            while let Ok(Incoming::Message(frame)) = peer.recv().await {
                ledger.receive(&frame).expect("no frame is damaged");
            }
        });
    }
    tasks
}

fn once(failure: Failure, skip: u64, node: &Node) -> Planted {
    failure.plan().at(node.identity()).skip(skip).times(1).plant()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_outlives_whatever_fails_of_its_connections() {
    let panics = [
        Failpoint::ConnectionPreStart,
        Failpoint::ConnectionPostStop,
        Failpoint::ListenerCallbackNew,
        Failpoint::ConnectionCallbackConnected,
        Failpoint::ConnectionCallbackStream,
        Failpoint::ConnectionCallbackClosing,
        Failpoint::ConnectionCallbackComplete,
        Failpoint::StreamCallbackComplete,
    ];
    let pair = Pair::with(PROTOCOL, quick).await;
    let (ledger, over) = (Ledger::new(), Arc::new(AtomicBool::new(false)));
    let mut tasks = load(&pair, &ledger, &over);
    for (round, node) in [&pair.server, &pair.client].into_iter().cycle().take(4).enumerate() {
        let other = if round % 2 == 0 { &pair.client } else { &pair.server };
        // Streams begin with the next connection: without memory for them it ends as well.
        let (no_memory, received) =
            (once(Failure::NoMemory, 0, node), Failpoint::StreamCallbackReceive);
        let ends = once(Failure::Panic(received), 5, other);
        within("the end of a connection", ends.strikes(1)).await;
        within("no memory", no_memory.strikes(1)).await;
        // These end the connection while frames are on it.
        for failure in [
            Failure::Panic(Failpoint::StreamCallbackReceive),
            Failure::Panic(Failpoint::StreamCallbackSent),
            Failure::SendFails,
        ] {
            let planted = once(failure, 20 + round as u64, node);
            within(&format!("{failure:?}"), planted.strikes(1)).await;
        }
        // And these come with its end, or with the next one.
        for point in panics {
            let only_server = point == Failpoint::ListenerCallbackNew;
            let planted =
                once(Failure::Panic(point), 0, if only_server { &pair.server } else { node });
            let received = Failure::Panic(Failpoint::StreamCallbackReceive);
            let ends = once(received, 5, other);
            within("the end of a connection", ends.strikes(1)).await;
            within(point.name(), planted.strikes(1)).await;
        }
    }
    over.store(true, Ordering::Relaxed);
    let sent = || {
        let flows = ledger.report().flows;
        flows.iter().all(|flow| flow.lost.is_empty())
    };
    for _ in 0..2 * Lane::ALL.len() {
        within("a sender's end", async {
            while tasks.len() > 2 {
                tasks.join_next().await.expect("some are left").expect("no panic");
            }
        })
        .await;
    }
    until("all to come", sent).await;
    let report = ledger.report();
    assert!(report.is_clean(), "{report}");
    assert!(ledger.received() > 1_000, "{report}");
    let closed = within("the close", pair.at_client.close(CloseCode::NORMAL)).await;
    assert_eq!(closed, PeerEnded::Closed);
    pair.end().await;
}

#[tokio::test]
async fn the_actor_of_a_session_is_no_part_of_it() {
    let pair = Pair::with(PROTOCOL, quick).await;
    let mut events = pair.client.subscribe();
    let ask = |reply| SupervisorMessage::PeerActor { peer: pair.at_client.clone(), reply };

    // It does not start: who asked is told, and the next one has it.
    let planted = once(Failure::Panic(Failpoint::PeerPreStart), 0, &pair.client);
    let supervisor = pair.client.supervisor().clone();
    let asked = supervisor.call(ask, None);
    let refused = within("an answer", asked).await.expect("the node lives");
    assert!(!refused.is_success());
    assert_eq!(planted.struck(), 1);
    let actor = call("the actor", &supervisor, ask).await;

    // It fails, and does not start again at first: there is one in the end.
    let starts = once(Failure::Panic(Failpoint::PeerPreStart), 0, &pair.client);
    let fails = once(Failure::Panic(Failpoint::PeerHandle), 0, &pair.client);
    actor.cast(PeerMessage::Unsubscribe { reply: None }).expect("it lives");
    within("the failure", fails.strikes(1)).await;
    within("the start that fails", starts.strikes(1)).await;
    let restarted =
        |event: &NodeEvent| matches!(event, NodeEvent::PeerActorRestarted { .. }).then_some(());
    event(&mut events, "its restart", &mut Vec::new(), restarted).await;
    let actor = call("the actor", &supervisor, ask).await;

    // It stalls: frames of others go on.
    let stalls = once(Failure::Stall(Failpoint::PeerHandle, WHILE), 0, &pair.client);
    let began = Instant::now();
    let asking = call("an answer", &actor, |reply| PeerMessage::Deliveries { reply });
    let meanwhile = async {
        within("the failure", stalls.strikes(1)).await;
        within("a send", pair.at_client.send("meanwhile")).await.expect("accepted");
        within("a frame", pair.at_server.recv()).await.expect("it goes on");
        assert!(began.elapsed() < WHILE, "it waited");
    };
    tokio::join!(asking, meanwhile);
    assert!(began.elapsed() >= WHILE);

    // It fails when it is left: the session goes on.
    let planted = once(Failure::Panic(Failpoint::PeerPostStop), 0, &pair.client);
    actor.cast(PeerMessage::Leave).expect("it lives");
    within("the failure", planted.strikes(1)).await;
    within("a send", pair.at_client.send("still there")).await.expect("accepted");
    let taken = within("a frame", pair.at_server.recv()).await;
    assert!(matches!(&taken, Ok(Incoming::Message(frame)) if frame == "still there"), "{taken:?}");
    let actor = call("another actor", &supervisor, ask).await;
    let (code, reading) = (CloseCode::NORMAL, pair.at_server.recv());
    let closing = call("the end", &actor, |reply| PeerMessage::Close { code, reply: Some(reply) });
    let (ended, read) = tokio::join!(closing, reading);
    assert_eq!(ended, PeerEnded::Closed);
    read.expect_err("it is over");
    pair.end().await;
}
