//! Questions and answers between two processes' nodes: `cargo run --example requests`.
//!
//! The server answers each question in a task of its own, in whatever order; the client asks sixty-four at
//! once over one connection. One question is given up, and its handler is told.

use std::time::Duration;

use moorline::{CloseCode, Incoming, NetCredential, Node, NodeConfig, Peer, Request, Target};
use tokio::task::JoinSet;

const PROTOCOL: &str = "squares/1";
const TIME: Duration = Duration::from_secs(5);

/// Answers until the session is over.
async fn serve(peer: Peer) {
    let mut handlers = JoinSet::new();
    while let Ok(incoming) = peer.recv().await {
        match incoming {
            Incoming::Request(request) => drop(handlers.spawn(handle(request))),
            Incoming::Message(frame) => println!("a message: {frame:?}"),
        }
    }
}

async fn handle(request: Request) {
    let Some(number) = request.frame().first_chunk().map(|bytes| u64::from_be_bytes(*bytes)) else {
        // Dropped without an answer: who asked is told `RequestError::NoReply`.
        return;
    };
    if number == 0 {
        // Something that takes too long, until nobody waits for it.
        request.cancelled().await;
        return println!("nobody waits for 0 any more");
    }
    let square = (number * number).to_be_bytes().to_vec();
    // It fails when the session is over: nobody waits then.
    drop(request.reply(square).await);
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = NetCredential::generate_self_signed(&["client"], &[])?;
    let server = NetCredential::generate_self_signed(&["server"], &[])?;
    let identity = server.identity();
    let server = Node::spawn(NodeConfig::new(server.trust_hash(client.identity()))).await?;
    let client = Node::spawn(NodeConfig::new(client.trust_hash(identity))).await?;

    let mut peers = server.accept(PROTOCOL);
    let address = server.listen("127.0.0.1:0".parse()?).await?;
    tokio::spawn(async move {
        while let Some(peer) = peers.next().await {
            tokio::spawn(serve(peer));
        }
    });

    let peer = client.peer(Target::from(address).expect(identity), PROTOCOL).await?;
    let mut asked = JoinSet::new();
    for number in 1..=64_u64 {
        let peer = peer.clone();
        asked.spawn(async move {
            let answer = peer.request(number.to_be_bytes().to_vec(), TIME).await;
            (number, answer)
        });
    }
    while let Some(answered) = asked.join_next().await {
        let (number, answer) = answered?;
        assert_eq!(answer?, (number * number).to_be_bytes().to_vec());
    }
    println!("64 answers");
    let given_up = peer.request(0_u64.to_be_bytes().to_vec(), Duration::from_millis(200)).await;
    let error = given_up.expect_err("nobody answers 0");
    println!("{error}; its handler may have run: {}", error.may_have_run());
    println!("closed: {}", peer.close(CloseCode::NORMAL).await);
    drop(peer);
    client.close(TIME).await?;
    Ok(server.close(TIME).await?)
}

#[test]
fn it_runs_to_its_end() {
    main().expect("an orderly end");
}
