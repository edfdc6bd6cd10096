//! A session driven by messages alone: `cargo run --example peer_actor`.
//!
//! Two actors, each with the supervisor of a node and nothing else. `Server` accepts peers and answers what
//! they ask; `Client` opens one, watches it, sends, asks and closes. Where an actor of theirs fails the
//! session does not notice: what it had not taken comes to the next one.

use std::time::Duration;

use moorline::ractor::{Actor, ActorProcessingErr, ActorRef};
use moorline::{
    ArrivedPeer, CloseCode, Incoming, Lane, NetCredential, Node, NodeConfig, PeerBatch, PeerChange,
    PeerMessage, PeerNews, RequestError, SupervisorMessage, Target,
};

const PROTOCOL: &str = "greetings/1";
const TIME: Duration = Duration::from_secs(5);

/// A message that one variant of an actor's messages holds.
macro_rules! told {
    ($actor:ident: $($message:ty as $kind:ident),*) => {$(
        impl From<$message> for $actor {
            fn from(message: $message) -> Self {
                Self::$kind(message)
            }
        }

        impl TryFrom<$actor> for $message {
            type Error = ();

            fn try_from(told: $actor) -> Result<Self, ()> {
                match told {
                    $actor::$kind(message) => Ok(message),
                    _ => Err(()),
                }
            }
        }
    )*};
}

enum ToServer {
    Peer(ArrivedPeer),
    Frames(PeerBatch),
}

told!(ToServer: ArrivedPeer as Peer, PeerBatch as Frames);

struct Server;

impl Actor for Server {
    type Msg = ToServer;
    type State = ();
    type Arguments = ActorRef<SupervisorMessage>;

    async fn pre_start(
        &self,
        myself: ActorRef<ToServer>,
        node: ActorRef<SupervisorMessage>,
    ) -> Result<(), ActorProcessingErr> {
        let (protocol, acceptor) = (PROTOCOL.to_owned(), myself.get_derived());
        Ok(node.cast(SupervisorMessage::AcceptPeers { protocol, acceptor, reply: None })?)
    }

    async fn handle(
        &self,
        myself: ActorRef<ToServer>,
        told: ToServer,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        match told {
            ToServer::Peer(arrived) => {
                println!("server: {} came", arrived.identity().short());
                let subscriber = myself.get_derived();
                arrived.take().cast(PeerMessage::Subscribe { subscriber, reply: None })?;
            }
            // A frame is taken when the iterator gives it: what is left comes again.
            ToServer::Frames(mut batch) => {
                for incoming in &mut batch {
                    match incoming {
                        Incoming::Message(frame) => println!("server: got {frame:?}"),
                        // Any task or actor may answer it; a handler does not wait.
                        Incoming::Request(request) => {
                            tokio::spawn(async move { request.reply("to you too").await });
                        }
                    }
                }
                if let Some(ended) = batch.ended() {
                    println!("server: {ended}");
                }
            }
        }
        Ok(())
    }
}

enum ToClient {
    News(PeerNews),
    Answer(Result<bytes::Bytes, RequestError>),
}

told!(ToClient: PeerNews as News);

struct Client;

impl Actor for Client {
    type Msg = ToClient;
    type State = ActorRef<PeerMessage>;
    type Arguments = (ActorRef<SupervisorMessage>, Target);

    async fn pre_start(
        &self,
        myself: ActorRef<ToClient>,
        (node, target): Self::Arguments,
    ) -> Result<ActorRef<PeerMessage>, ActorProcessingErr> {
        // This runs in the task of the spawner, which wants to wait; `handle` should not.
        let protocol = PROTOCOL.to_owned();
        let open = |reply| SupervisorMessage::OpenPeer { target, protocol, reply };
        let peer = node.call(open, None).await?.success_or("no node")??;
        let watcher = myself.get_derived();
        peer.cast(PeerMessage::Watch { watcher, reply: None })?;
        // The credit is room that the session keeps: what waits in a mailbox is bounded by it.
        let (lane, frames, length) = (Lane::Data, 1, 5);
        let reserve = |reply| PeerMessage::Reserve { lane, frames, length, reply };
        let credit = peer.call(reserve, None).await?.success_or("no peer")??;
        let frame = "hello".into();
        peer.cast(PeerMessage::Send { frame, credit, reply: None })?;
        let (reply, answer) = tokio::sync::oneshot::channel();
        let frame = "how are you?".into();
        peer.cast(PeerMessage::Request { lane, frame, time: TIME, reply: reply.into() })?;
        tokio::spawn(async move {
            if let Ok(answer) = answer.await {
                drop(myself.cast(ToClient::Answer(answer)));
            }
        });
        Ok(peer)
    }

    async fn handle(
        &self,
        myself: ActorRef<ToClient>,
        told: ToClient,
        peer: &mut ActorRef<PeerMessage>,
    ) -> Result<(), ActorProcessingErr> {
        match told {
            ToClient::Answer(answer) => {
                println!("client: answered {answer:?}");
                peer.cast(PeerMessage::Close { code: CloseCode::NORMAL, reply: None })?;
            }
            ToClient::News(news) => {
                println!("client: {:?}", news.change());
                if let PeerChange::Ended { .. } = news.change() {
                    myself.stop(None);
                }
            }
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let here = NetCredential::generate_self_signed(&["here"], &[])?;
    let there = NetCredential::generate_self_signed(&["there"], &[])?;
    let identity = there.identity();
    let there = Node::spawn(NodeConfig::new(there.trust_hash(here.identity()))).await?;
    let here = Node::spawn(NodeConfig::new(here.trust_hash(identity))).await?;
    let target = Target::from(there.listen("127.0.0.1:0".parse()?).await?).expect(identity);

    let (server, serving) = Actor::spawn(None, Server, there.supervisor().clone()).await?;
    let (_, client) = Actor::spawn(None, Client, (here.supervisor().clone(), target)).await?;
    client.await?;
    server.stop(None);
    serving.await?;
    here.close(TIME).await?;
    Ok(there.close(TIME).await?)
}

#[test]
fn it_runs_to_its_end() {
    main().expect("an orderly end");
}
