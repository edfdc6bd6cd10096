//! A connection driven by messages alone: `cargo run --example messages`.
//!
//! The actor `App` owns a node. It asks the node's supervisor for a connection, hands a frame to
//! the connection's actor, is given what the peer echoes, and ends everything in order.

use std::time::Duration;

use moorline::{
    CloseCode, ConnectionMessage, FrameBatch, NetCredential, Node, NodeConfig, NodeEvent,
    SupervisorMessage, Target,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};

const GRACE: Duration = Duration::from_secs(5);

struct App;

struct State {
    node: Node,
    connection: ActorRef<ConnectionMessage>,
}

impl Actor for App {
    /// An actor that is told more has an enum here, with `From<FrameBatch>` and back.
    type Msg = FrameBatch;
    type State = State;
    type Arguments = (NetCredential, Target);

    async fn pre_start(
        &self,
        myself: ActorRef<FrameBatch>,
        (credential, target): Self::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        // This runs in the task of the spawner, which wants to wait; `handle` should not.
        let node = Node::spawn(NodeConfig::new(credential)).await?;
        let connect = |reply| SupervisorMessage::Connect { target, reply };
        let handle = node.supervisor().call(connect, None).await?.success_or("no node")??;
        let connection = handle.actor().clone();
        let subscriber = myself.get_derived();
        connection.cast(ConnectionMessage::Subscribe { subscriber, reply: None })?;
        // The credit is room in the connection's lane: what waits in a mailbox is bounded by it.
        let (frame, credit) = ("hello".into(), handle.reserve(5).await?);
        connection.cast(ConnectionMessage::Send { frame, credit, reply: None })?;
        Ok(State { node, connection })
    }

    /// The peer's window opens again when the batch is dropped.
    async fn handle(
        &self,
        myself: ActorRef<FrameBatch>,
        batch: FrameBatch,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        println!("echoed: {:?}", batch.frames());
        let close =
            |reply| ConnectionMessage::Close { code: CloseCode::NORMAL, reply: Some(reply) };
        let reason = state.connection.call(close, None).await?.success_or("no connection")?;
        println!("{reason}");
        state.node.shutdown(GRACE).await?;
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
