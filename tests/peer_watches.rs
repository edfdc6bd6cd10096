//! What happens to a peer, as events of the node and as messages to an actor that watches it.

mod common;

use std::time::Duration;

use common::sessions::Pair;
use common::{friends, loopback, node, node_with, quick, within};
use moorline::testing::ChaosProxy;
use moorline::{CloseCode, Events, NodeEvent, PeerChange, PeerEnded, PeerNews, Side, Target};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::mpsc;

const PROTOCOL: &str = "orders/1";
const TIME: Duration = Duration::from_secs(15);

/// Passes on what it is told; held by the test, each word keeps the next one back.
struct Watcher;

impl Actor for Watcher {
    type Msg = PeerNews;
    type State = mpsc::UnboundedSender<PeerNews>;
    type Arguments = mpsc::UnboundedSender<PeerNews>;

    async fn pre_start(
        &self,
        _myself: ActorRef<PeerNews>,
        news: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(news)
    }

    async fn handle(
        &self,
        _myself: ActorRef<PeerNews>,
        message: PeerNews,
        news: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        Ok(news.send(message)?)
    }
}

type News = mpsc::UnboundedReceiver<PeerNews>;

async fn watcher() -> (ActorRef<PeerNews>, News) {
    let (sender, news) = mpsc::unbounded_channel();
    let (watcher, _) = Actor::spawn(None, Watcher, sender).await.expect("an actor");
    (watcher, news)
}

async fn next(news: &mut News) -> PeerChange {
    within("news", news.recv()).await.expect("the actor lives").change().clone()
}

fn is_down(change: &PeerChange) -> bool {
    matches!(change, PeerChange::Down { .. })
}

/// The next event about a peer.
async fn of_peer(events: &mut Events) -> NodeEvent {
    within("an event of a peer", async {
        loop {
            let event = events.next().await.expect("the node lives");
            if let NodeEvent::PeerUp { .. }
            | NodeEvent::PeerDown { .. }
            | NodeEvent::PeerRestarted { .. }
            | NodeEvent::PeerEnded { .. } = &event
            {
                return event;
            }
        }
    })
    .await
}

/// The next event about a peer that is no return: that it came may be told behind a subscription.
async fn no_return(events: &mut Events) -> NodeEvent {
    loop {
        let event = of_peer(events).await;
        if !matches!(event, NodeEvent::PeerUp { .. }) {
            return event;
        }
    }
}

#[tokio::test]
async fn a_watch_says_at_once_whether_the_peer_is_up_or_down_and_then_what_changes() {
    let pair = Pair::new(PROTOCOL).await;
    let (first, mut news) = watcher().await;
    assert!(pair.at_client.watch(first.get_derived()));
    assert_eq!(next(&mut news).await, PeerChange::Up);
    pair.link.cut();
    let PeerChange::Down { reason, side } = next(&mut news).await else { panic!("a loss") };
    assert!(reason.is_some(), "the connection had a reason to end");
    assert_eq!(side, None, "nobody ended it: it timed out");
    let (second, mut later) = watcher().await;
    assert!(pair.at_client.watch(second.get_derived()));
    let said = next(&mut later).await;
    assert_eq!(said, PeerChange::Down { reason, side }, "it is down, and says so at once");
    pair.link.mend();
    assert_eq!(next(&mut news).await, PeerChange::Up);
    assert_eq!(next(&mut later).await, PeerChange::Up);
    pair.at_client.unwatch(second.get_id());
    assert_eq!(pair.at_client.close(CloseCode::NORMAL).await, PeerEnded::Closed);
    assert!(is_down(&next(&mut news).await));
    assert_eq!(next(&mut news).await, PeerChange::Ended { reason: PeerEnded::Closed });
    assert!(later.is_empty(), "that watch was ended");
    pair.end().await;
}

#[tokio::test]
async fn who_is_slow_is_told_the_last_loss_and_return_and_never_two_of_a_kind() {
    let pair = Pair::new(PROTOCOL).await;
    let (slow, mut news) = watcher().await;
    assert!(pair.at_client.watch(slow.get_derived()));
    let held = within("news", news.recv()).await.expect("the first word");
    assert_eq!(*held.change(), PeerChange::Up);
    // While it holds that word its peer goes and comes back twice.
    let mut events = pair.client.subscribe();
    for _ in 0..2 {
        pair.link.cut();
        assert!(matches!(no_return(&mut events).await, NodeEvent::PeerDown { .. }));
        pair.link.mend();
        assert!(matches!(of_peer(&mut events).await, NodeEvent::PeerUp { .. }));
    }
    assert!(news.is_empty(), "one word is on its way at a time");
    drop(held);
    assert!(is_down(&next(&mut news).await));
    assert_eq!(next(&mut news).await, PeerChange::Up);
    drop(pair.begun);
    pair.server.close(TIME).await.ok();
    assert!(is_down(&next(&mut news).await), "and goes on with what comes next");
    drop((pair.at_client, pair.at_server));
    within("the client's end", pair.client.close(TIME)).await.expect("an orderly end");
}

#[tokio::test]
async fn a_loss_says_which_side_ended_the_connection() {
    let pair = Pair::new(PROTOCOL).await;
    let mut at_client = pair.client.subscribe();
    let mut at_server = pair.server.subscribe();
    // The server's application lets go of it, once it has its connection.
    within("its connection", pair.at_server.connected()).await.expect("it comes");
    drop(pair.at_server);
    let NodeEvent::PeerDown { peer, protocol, reason, side } = no_return(&mut at_server).await
    else {
        panic!("a loss")
    };
    assert_eq!((peer, protocol.as_str()), (pair.client.identity(), PROTOCOL));
    assert_eq!(side, Some(Side::Local), "{reason:?}");
    let NodeEvent::PeerDown { reason, side, .. } = no_return(&mut at_client).await else {
        panic!("a loss")
    };
    assert_eq!(side, Some(Side::Peer), "{reason:?}");
    for events in [&mut at_client, &mut at_server] {
        let event = of_peer(events).await;
        assert!(matches!(event, NodeEvent::PeerEnded { .. }), "{event:?}");
    }
    drop((pair.at_client, pair.begun));
    within("the client's end", pair.client.close(TIME)).await.expect("an orderly end");
    within("the server's end", pair.server.close(TIME)).await.expect("an orderly end");
}

#[tokio::test]
async fn a_peer_that_starts_anew_is_told_before_the_end_of_its_session() {
    let (a, b) = friends();
    let server = node(a.clone()).await;
    let client = node_with(b, quick).await;
    let mut begun = server.accept(PROTOCOL);
    let address = within("listening", server.listen(loopback())).await.expect("a listener");
    let relay = ChaosProxy::start(address, 1).expect("a proxy");
    let target = Target::from(relay.address()).expect(server.identity());
    let peer = within("a peer", client.peer(target, PROTOCOL)).await.expect("a peer");
    let at_server = within("its other end", begun.next()).await.expect("it came");
    let (actor, mut news) = watcher().await;
    assert!(peer.watch(actor.get_derived()));
    assert_eq!(next(&mut news).await, PeerChange::Up);
    let mut events = client.subscribe();
    // What dies says nothing: nothing comes through any more.
    relay.cut();
    assert!(is_down(&next(&mut news).await));
    drop((at_server, begun));
    within("the first start's end", server.close(TIME)).await.expect("an orderly end");
    let again = node(a).await;
    let begun = again.accept(PROTOCOL);
    within("listening", again.listen(address)).await.expect("its port is free");
    relay.mend();
    let ended = PeerEnded::PeerRestarted;
    assert_eq!(next(&mut news).await, PeerChange::Restarted);
    assert_eq!(next(&mut news).await, PeerChange::Ended { reason: ended.clone() });
    assert!(matches!(no_return(&mut events).await, NodeEvent::PeerDown { .. }));
    assert!(matches!(of_peer(&mut events).await, NodeEvent::PeerRestarted { .. }));
    let NodeEvent::PeerEnded { reason, .. } = of_peer(&mut events).await else { panic!("the end") };
    assert_eq!(reason, ended);
    drop((peer, begun));
    for node in [client, again] {
        within("the end of a node", node.close(TIME)).await.expect("an orderly end");
    }
}

#[tokio::test]
async fn a_watch_ends_with_its_actor_and_another_one_of_it_takes_its_place() {
    let pair = Pair::new(PROTOCOL).await;
    let (first, mut news) = watcher().await;
    assert!(pair.at_client.watch(first.get_derived()));
    assert_eq!(next(&mut news).await, PeerChange::Up);
    assert!(pair.at_client.watch(first.get_derived()), "in the place of the other");
    assert_eq!(next(&mut news).await, PeerChange::Up);
    let mut others = Vec::new();
    for _ in 1..64 {
        let (other, news) = watcher().await;
        assert!(pair.at_client.watch(other.get_derived()));
        others.push((other, news));
    }
    let (late, mut told) = watcher().await;
    assert!(!pair.at_client.watch(late.get_derived()), "as many watch as may");
    let (gone, mut of_gone) = others.pop().expect("sixty-three");
    gone.stop(None);
    within("its end", gone.wait(None)).await.expect("it ends");
    within("its place", async {
        while !pair.at_client.watch(late.get_derived()) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(next(&mut told).await, PeerChange::Up);
    let _ = of_gone.recv().await;
    pair.end().await;
}
