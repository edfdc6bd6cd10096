//! What a node tells, in which order, and to whom: subscribers, and actors by message alone.

mod common;

use std::time::Duration;

use common::{
    LIMIT, Pair, connected, disconnected, friends, loopback, node, node_with, quick, until, within,
    within_limit,
};
use moorline::ractor::concurrency::oneshot;
use moorline::ractor::{Actor, ActorProcessingErr, ActorRef, Message, RpcReplyPort};
use moorline::{
    CloseCode, CloseReason, ConnectionHandle, ConnectionMessage, Credit, EventBatch, Lane, Node,
    NodeEvent, Redial, SendError, SupervisorMessage, Target,
};
use tokio::sync::mpsc;

/// Asks an actor, with a limit.
async fn ask<M: Message, R>(
    what: &str,
    actor: &ActorRef<M>,
    message: impl FnOnce(RpcReplyPort<R>) -> M,
) -> R {
    let (sender, answer) = oneshot();
    assert!(actor.cast(message(sender.into())).is_ok(), "{what}: it lives");
    within(what, answer).await.expect("it answers")
}

async fn close<const N: usize>(nodes: [Node; N]) {
    for node in nodes {
        within("the end of a node", node.close(LIMIT)).await.expect("an orderly end");
    }
}

// ---- the order ---------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_connection_is_told_when_every_outcome_is_final_and_before_its_successor() {
    const ROUNDS: usize = 20;
    let pair = Pair::with(quick, quick).await;
    let mut events = pair.client.subscribe();
    let mut last = pair.at_client.clone();
    for round in 0..ROUNDS {
        let loads = (0..3).map(|_| {
            let handle = last.clone();
            tokio::spawn(async move { while handle.send(vec![7; 20_000]).await.is_ok() {} })
        });
        let loads: Vec<_> = loads.collect();
        until("it is under load", || last.stats().sent.accepted > 50).await;
        last.actor().kill();
        // The very next events: of the end, when all is known, and then of the next connection.
        let first = within("an event", events.next()).await.expect("the node lives");
        let sent = last.stats().sent;
        let NodeEvent::Disconnected { epoch, reason, .. } = first else { panic!("{first:?}") };
        assert_eq!((epoch, reason.code()), (last.epoch(), Some(CloseCode::ACTOR_FAILED)));
        let known = sent.completed + sent.not_sent + sent.maybe_sent;
        assert_eq!(sent.accepted, known, "{round}: {sent:?}");
        let second = within("an event", events.next()).await.expect("the node lives");
        let NodeEvent::Connected(next) = second else { panic!("{second:?}") };
        assert!(next.epoch() > last.epoch());
        for load in loads {
            within("a sender", load).await.expect("no panic");
        }
        last = next;
    }
    drop(last);
    pair.end().await;
}

#[tokio::test]
async fn the_last_events_of_a_node_that_is_dropped_are_told() {
    let pair = Pair::new().await;
    let mut events = pair.client.subscribe();
    let epoch = pair.at_client.epoch();
    drop(pair.client);
    let reason = disconnected(&mut events, epoch).await;
    assert_eq!(reason, CloseReason::Local { code: CloseCode::GOING_AWAY });
    assert!(within("the end", events.next()).await.is_none());
    close([pair.server]).await;
}

// ---- handles -----------------------------------------------------------------------------------

#[tokio::test]
#[allow(clippy::mutable_key_type, reason = "what is compared never changes")]
async fn handles_of_one_thing_are_equal_and_those_of_two_are_not() {
    let pair = Pair::new().await;
    let other =
        within("connecting", pair.client.connect(Target::from(pair.address).redial(Redial::Never)));
    let other = other.await.expect("accepted");
    let mut connections = std::collections::HashSet::from([pair.at_client.clone(), other.clone()]);
    assert!(!connections.insert(pair.at_client.clone()));
    assert!(connections.insert(pair.at_server.clone()), "the other end is another one");
    assert_eq!(connections.len(), 3);
    let nodes = std::collections::HashSet::from([pair.client.clone(), pair.server.clone()]);
    assert!(nodes.contains(&pair.client.clone()) && nodes.len() == 2);
    drop((other, connections, nodes));
    pair.end().await;
}

// ---- by message alone --------------------------------------------------------------------------

/// Passes on what it is told; the batches are dealt with when the test says so.
struct Subscriber;

impl Actor for Subscriber {
    type Msg = EventBatch;
    type State = mpsc::UnboundedSender<EventBatch>;
    type Arguments = mpsc::UnboundedSender<EventBatch>;

    async fn pre_start(
        &self,
        _myself: ActorRef<EventBatch>,
        told: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(told)
    }

    async fn handle(
        &self,
        _myself: ActorRef<EventBatch>,
        batch: EventBatch,
        told: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        Ok(told.send(batch)?)
    }
}

async fn subscriber() -> (ActorRef<EventBatch>, mpsc::UnboundedReceiver<EventBatch>) {
    let (sender, told) = mpsc::unbounded_channel();
    let (actor, _) = Actor::spawn(None, Subscriber, sender).await.expect("an actor");
    (actor, told)
}

async fn subscribe(node: &Node, actor: &ActorRef<EventBatch>) -> bool {
    let subscribe = |reply| SupervisorMessage::Subscribe {
        subscriber: actor.get_derived(),
        reply: Some(reply),
    };
    ask("a subscription", node.supervisor(), subscribe).await
}

#[tokio::test]
async fn an_actor_is_told_of_connections_and_their_ends_and_of_the_last_event() {
    let (a, b) = friends();
    let (server, client) = (node(a).await, node(b).await);
    let (actor, mut told) = subscriber().await;
    assert!(subscribe(&server, &actor).await);
    let address = within("listening", server.listen(loopback())).await.expect("a listener");
    let here = within("connecting", client.connect(address)).await.expect("accepted");
    let mut events = Vec::new();
    while events.len() < 2 {
        events.extend(within("events", told.recv()).await.expect("it lives").take_events());
    }
    assert!(matches!(&events[0], NodeEvent::Listening { address: at } if *at == address));
    let NodeEvent::Connected(there) = &events[1] else { panic!("{events:?}") };
    // While a batch is held no other comes; what happens meanwhile comes together.
    let application = CloseCode::application(0x200).expect("an application's code");
    within("the close", here.close(application)).await;
    let held = within("the end", told.recv()).await.expect("it lives");
    let ended = |event: &NodeEvent| {
        matches!(event, NodeEvent::Disconnected { epoch, reason, .. }
        if *epoch == there.epoch() && *reason == CloseReason::Peer { code: application })
    };
    assert!(held.events().len() == 1 && ended(&held.events()[0]), "{held:?}");
    let mut other = server.subscribe();
    for _ in 0..3 {
        let target = Target::from(address).redial(Redial::Never);
        drop(within("connecting", client.connect(target)).await.expect("accepted"));
        connected(&mut other).await;
    }
    assert!(told.try_recv().is_err(), "one batch at a time");
    drop(held);
    let batch = within("the rest", told.recv()).await.expect("it lives");
    assert_eq!(batch.events().len(), 3, "{batch:?}");
    drop(batch);
    drop((here, events, other));
    close([client, server]).await;
    loop {
        let batch = within("the last batch", told.recv()).await.expect("it lives");
        if batch.is_last() {
            break assert!(batch.events().is_empty());
        }
    }
    actor.stop(None);
}

#[tokio::test]
async fn subscribers_are_bounded_and_one_that_ends_gives_its_place_back() {
    let node = node(common::stranger()).await;
    let mut actors = Vec::new();
    for _ in 0..64 {
        let (actor, _told) = subscriber().await;
        assert!(subscribe(&node, &actor).await);
        actors.push(actor);
    }
    let (one_more, _told) = subscriber().await;
    assert!(!subscribe(&node, &one_more).await, "nothing grows without a limit");
    let gone = actors.pop().expect("one");
    gone.stop(None);
    within("its end", gone.wait(None)).await.expect("no limit");
    assert!(subscribe(&node, &one_more).await, "without an event meanwhile");
    close([node]).await;
    actors.iter().chain([&one_more]).for_each(|actor| actor.stop(None));
}

#[tokio::test]
async fn a_node_tells_its_peers_and_connections_by_message() {
    let pair = Pair::new().await;
    let supervisor = pair.client.supervisor();
    let peer = pair.server.identity();
    let found: Option<ConnectionHandle> =
        ask("a peer", supervisor, |reply| SupervisorMessage::Peer { peer, reply }).await;
    assert_eq!(found, Some(pair.at_client.clone()));
    let nobody = pair.client.identity();
    let none = |reply| SupervisorMessage::Peer { peer: nobody, reply };
    assert_eq!(ask("nobody", supervisor, none).await, None);
    let target = Target::from(pair.address).redial(Redial::Never);
    let newest = within("connecting", pair.client.connect(target)).await.expect("accepted");
    let peers = ask("the peers", supervisor, |reply| SupervisorMessage::Peers { reply }).await;
    assert_eq!(peers, std::slice::from_ref(&newest));
    let all = |reply| SupervisorMessage::Connections { reply };
    assert_eq!(ask("all", supervisor, all).await, [pair.at_client.clone(), newest.clone()]);
    drop((found, newest, peers));
    pair.end().await;
}

async fn reserve(
    connection: &ConnectionHandle,
    (lane, length): (Lane, usize),
) -> Result<Credit, SendError> {
    let message = |reply| ConnectionMessage::Reserve { lane, frames: 1, length, reply };
    ask("a credit", &connection.actor(), message).await
}

#[tokio::test]
async fn a_credit_is_had_by_message_and_waits_beside_the_actor_until_there_is_room() {
    let room = 128 << 10;
    let pair = Pair::with(|_| (), |config| config.limits.lane_bytes_max = room).await;
    let here = &pair.at_client;
    let credit = reserve(here, (Lane::Control, 5)).await.expect("room");
    assert_eq!((credit.lane(), credit.length()), (Lane::Control, 5));
    let send =
        |reply| ConnectionMessage::Send { frame: "hello".into(), credit, reply: Some(reply) };
    ask("the outcome", &here.actor(), send).await.expect("acknowledged");
    assert_eq!(within("a frame", pair.at_server.recv()).await.expect("a frame"), "hello");
    let all = reserve(here, (Lane::Data, room - 4 - 128)).await.expect("room");
    let (sender, mut answer) = oneshot();
    let (lane, reply) = (Lane::Data, sender.into());
    let message = ConnectionMessage::Reserve { lane, frames: 1, length: 1, reply };
    here.actor().cast(message).expect("it lives");
    // The actor answers others meanwhile.
    let stats = |reply| ConnectionMessage::Stats { reply };
    assert_eq!(ask("the numbers", &here.actor(), stats).await.sent.accepted, 1);
    assert!(answer.try_recv().is_err(), "there is no room");
    drop(all);
    within("the credit", answer).await.expect("it answers").expect("room");
    let too_large = reserve(here, (Lane::Control, 1 << 20)).await;
    assert!(matches!(too_large, Err(SendError::TooLarge { .. })), "{too_large:?}");
    pair.end().await;
}

#[tokio::test]
async fn who_asked_for_credit_and_went_leaves_the_place_and_the_room_to_the_living() {
    let room = 128 << 10;
    let pair = Pair::with(|_| (), |config| config.limits.lane_bytes_max = room).await;
    let here = &pair.at_client;
    let all = reserve(here, (Lane::Data, room - 4 - 128)).await.expect("room");
    let ask_for = |length| {
        let (sender, answer) = oneshot();
        let (lane, reply) = (Lane::Data, sender.into());
        let message = ConnectionMessage::Reserve { lane, frames: 1, length, reply };
        here.actor().cast(message).expect("it lives");
        answer
    };
    // The first one wants all of the room, the others fill the places.
    for _ in 0..2000 {
        drop(ask_for(room - 4 - 128));
    }
    let mut living = Vec::new();
    let refused = loop {
        let mut answer = ask_for(1);
        // The actor has seen it when it has answered this.
        let stats = |reply| ConnectionMessage::Stats { reply };
        ask("the numbers", &here.actor(), stats).await;
        match answer.try_recv() {
            Ok(refused) => break refused,
            Err(_) => living.push(answer),
        }
    };
    assert!(matches!(refused, Err(SendError::Full { .. })), "{refused:?}");
    // One of them may be served while the others wait.
    assert!((1024..=1025).contains(&living.len()), "{}", living.len());
    drop(all);
    for answer in living {
        within("a credit", answer).await.expect("it answers").expect("room");
    }
    // One that has gone and wanted more than there is keeps nobody from what there is.
    let half = reserve(here, (Lane::Data, room / 2)).await.expect("room");
    let gone = ask_for(room - 4 - 128);
    for _ in 0..3 {
        // It is waited for when the actor, and what it began, have had their turns.
        let stats = |reply| ConnectionMessage::Stats { reply };
        ask("the numbers", &here.actor(), stats).await;
    }
    drop(gone);
    let soon = Duration::from_secs(5);
    let credit = within_limit(soon, "a credit", ask_for(1)).await.expect("it answers");
    drop((credit.expect("room"), half));
    pair.end().await;
}

#[tokio::test]
async fn credit_that_does_not_come_in_time_is_told_so() {
    let limit = Duration::from_millis(300);
    let pair = Pair::with(
        |_| (),
        |config| {
            config.limits.lane_bytes_max = 128 << 10;
            config.limits.stream_op_timeout = limit;
        },
    )
    .await;
    let all = reserve(&pair.at_client, (Lane::Data, (128 << 10) - 4 - 128)).await.expect("room");
    for late in credits_at_once(&pair.at_client, 3).await {
        assert!(
            matches!(late, Err(SendError::TimedOut { after, .. }) if after == limit),
            "{late:?}"
        );
    }
    drop(all);
    pair.end().await;
}

/// So many credits asked for at once.
async fn credits_at_once(
    connection: &ConnectionHandle,
    count: usize,
) -> Vec<Result<Credit, SendError>> {
    let asked: Vec<_> = (0..count)
        .map(|_| {
            let connection = connection.clone();
            tokio::spawn(async move { reserve(&connection, (Lane::Data, 1)).await })
        })
        .collect();
    let mut answers = Vec::new();
    for one in asked {
        answers.push(within("an answer", one).await.expect("no panic"));
    }
    answers
}

#[tokio::test]
async fn watchers_that_have_given_up_leave_their_places_to_the_living() {
    let pair = Pair::new().await;
    let watch = || {
        let (sender, answer) = oneshot();
        let message = ConnectionMessage::WatchClose { reply: sender.into() };
        pair.at_client.actor().cast(message).expect("it lives");
        answer
    };
    for _ in 0..2000 {
        drop(watch());
    }
    let living: Vec<_> = (0..1024).map(|_| watch()).collect();
    within("one too many", watch()).await.expect_err("its port is dropped");
    let reason = within("the close", pair.at_client.close(CloseCode::NORMAL)).await;
    for answer in living {
        assert_eq!(within("the reason", answer).await.expect("it answers"), reason);
    }
    pair.end().await;
}

#[tokio::test]
async fn a_subscriber_that_lags_is_told_how_many_events_it_missed() {
    let client = node_with(common::stranger(), |config| {
        quick(config);
        config.backoff.initial = Duration::from_millis(1);
    })
    .await;
    let mut slow = client.subscribe();
    for _ in 0..1100 {
        let target = common::closed_port().redial(Redial::Never);
        within("a dial", client.connect(target)).await.expect_err("nobody is there");
    }
    let first = within("an event", slow.next()).await.expect("the node lives");
    assert!(matches!(first, NodeEvent::Lagged(76)), "{first:?}");
    close([client]).await;
}
