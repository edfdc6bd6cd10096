//! Beside ractor's features `cluster` and `async-trait`, as ractor_cluster switches them on.
#![cfg(feature = "cluster")]

mod common;

use common::{Pair, connected, within};
use moorline::{ConnectionMessage, FrameBatch, SupervisorMessage, Target};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::{mpsc, oneshot};

/// An application's actor, which is given frames.
struct App;

#[cfg_attr(feature = "async-trait", ractor::async_trait)]
impl Actor for App {
    type Msg = FrameBatch;
    type State = mpsc::UnboundedSender<FrameBatch>;
    type Arguments = mpsc::UnboundedSender<FrameBatch>;

    async fn pre_start(
        &self,
        _myself: ActorRef<FrameBatch>,
        given: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(given)
    }

    async fn handle(
        &self,
        _myself: ActorRef<FrameBatch>,
        batch: FrameBatch,
        given: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        Ok(given.send(batch)?)
    }
}

async fn ask<M: ractor::Message, R>(
    actor: &ActorRef<M>,
    message: impl FnOnce(RpcReplyPort<R>) -> M,
) -> R {
    let (reply, answer) = oneshot::channel();
    assert!(actor.cast(message(reply.into())).is_ok(), "the actor lives");
    within("an answer", answer).await.expect("it is answered")
}

#[tokio::test]
async fn a_connection_is_driven_by_messages_beside_a_cluster() {
    let pair = Pair::new().await;
    let mut events = pair.server.subscribe();
    let (given, mut batches) = mpsc::unbounded_channel();
    let (app, _) = Actor::spawn(None, App, given).await.expect("an actor");
    let subscriber = app.get_derived();
    let subscribed = |reply| ConnectionMessage::Subscribe { subscriber, reply: Some(reply) };
    assert!(ask(&pair.at_server.actor(), subscribed).await, "a subscription");

    let credit = within("a credit", pair.at_client.reserve(5)).await.expect("a credit");
    let send =
        |reply| ConnectionMessage::Send { frame: "hello".into(), credit, reply: Some(reply) };
    ask(&pair.at_client.actor(), send).await.expect("acknowledged");
    let batch = within("a batch", batches.recv()).await.expect("a batch");
    assert_eq!(batch.frames(), ["hello"]);

    let target = Target::from(pair.address).expect(pair.server.identity());
    let connect = |reply| SupervisorMessage::Connect { target, reply };
    let other = ask(pair.client.supervisor(), connect).await.expect("a connection");
    assert!(other.epoch() == pair.at_client.epoch() || connected(&mut events).await.epoch() > 0);
    drop((batch, other));
    app.stop(None);
    pair.end().await;
}

/// A message from another node of a cluster would be bytes that nobody here has judged.
#[tokio::test]
async fn no_actor_of_a_node_can_be_reached_from_the_cluster() {
    let pair = Pair::new().await;
    for actor in [
        pair.server.supervisor().get_cell(),
        pair.client.supervisor().get_cell(),
        pair.at_server.actor().get_cell(),
        pair.at_client.actor().get_cell(),
    ] {
        assert!(!actor.supports_remoting());
        assert_eq!(actor.get_name(), None);
    }
    pair.end().await;
}
