//! A connection driven by messages alone: `cargo run --example messages`.
//!
//! The actor `App` owns a node. It asks the node's supervisor for a connection and its events, asks
//! the connection's actor for a credit and hands it a frame, is given what the peer echoes, and ends
//! everything in order.

use std::time::Duration;

use moorline::ractor::{Actor, ActorProcessingErr, ActorRef};
use moorline::{
    CloseCode, ConnectionMessage, EventBatch, FrameBatch, Lane, NetCredential, Node, NodeConfig,
    NodeEvent, SupervisorMessage, Target,
};

const GRACE: Duration = Duration::from_secs(5);

struct App;

struct State {
    node: Node,
    connection: ActorRef<ConnectionMessage>,
}

/// What it is told.
enum Told {
    Frames(FrameBatch),
    Events(EventBatch),
}

impl From<FrameBatch> for Told {
    fn from(batch: FrameBatch) -> Self {
        Self::Frames(batch)
    }
}

impl TryFrom<Told> for FrameBatch {
    type Error = ();

    fn try_from(told: Told) -> Result<Self, ()> {
        match told {
            Told::Frames(batch) => Ok(batch),
            Told::Events(_) => Err(()),
        }
    }
}

impl From<EventBatch> for Told {
    fn from(batch: EventBatch) -> Self {
        Self::Events(batch)
    }
}

impl TryFrom<Told> for EventBatch {
    type Error = ();

    fn try_from(told: Told) -> Result<Self, ()> {
        match told {
            Told::Events(batch) => Ok(batch),
            Told::Frames(_) => Err(()),
        }
    }
}

impl Actor for App {
    type Msg = Told;
    type State = State;
    type Arguments = (NetCredential, Target);

    async fn pre_start(
        &self,
        myself: ActorRef<Told>,
        (credential, target): Self::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        // This runs in the task of the spawner, which wants to wait; `handle` should not.
        let node = Node::spawn(NodeConfig::new(credential)).await?;
        let supervisor = node.supervisor();
        let subscriber = myself.get_derived();
        supervisor.cast(SupervisorMessage::Subscribe { subscriber, reply: None })?;
        let connect = |reply| SupervisorMessage::Connect { target, reply };
        let handle = supervisor.call(connect, None).await?.success_or("no node")??;
        let connection = handle.actor();
        let subscriber = myself.get_derived();
        connection.cast(ConnectionMessage::Subscribe { subscriber, reply: None })?;
        // The credit is room in the connection's lane: what waits in a mailbox is bounded by it.
        let lane = Lane::Data;
        let reserve = |reply| ConnectionMessage::Reserve { lane, frames: 1, length: 5, reply };
        let credit = connection.call(reserve, None).await?.success_or("no connection")??;
        let frame = "hello".into();
        connection.cast(ConnectionMessage::Send { frame, credit, reply: None })?;
        Ok(State { node, connection })
    }

    /// The peer's window opens again when a batch of frames is dropped; the next events come when
    /// those before them are.
    async fn handle(
        &self,
        myself: ActorRef<Told>,
        told: Told,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let batch = match told {
            Told::Frames(batch) => batch,
            Told::Events(batch) => {
                println!("events: {:?}", batch.events());
                return Ok(());
            }
        };
        println!("echoed: {:?}", batch.frames());
        let close =
            |reply| ConnectionMessage::Close { code: CloseCode::NORMAL, reply: Some(reply) };
        let reason = state.connection.call(close, None).await?.success_or("no connection")?;
        println!("{reason}");
        let shutdown = |reply| SupervisorMessage::Shutdown { grace: GRACE, reply };
        state.node.supervisor().call(shutdown, None).await?.success_or("no node")?;
        myself.stop(None);
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let here = NetCredential::generate_self_signed(&["here"], &[])?;
    let there = NetCredential::generate_self_signed(&["there"], &[])?;
    let identity = there.identity();
    let peer = Node::spawn(NodeConfig::new(there.trust_hash(here.identity()))).await?;
    let target = Target::from(peer.listen("127.0.0.1:0".parse()?).await?).expect(identity);
    let mut events = peer.subscribe();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            let NodeEvent::Connected(connection) = event else { continue };
            while let Ok(frame) = connection.recv().await {
                let _ = connection.send(frame).await;
            }
        }
    });
    let (_, app) = Actor::spawn(None, App, (here, target)).await?;
    app.await?;
    Ok(peer.close(GRACE).await?)
}
