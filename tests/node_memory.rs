//! What strangers leave behind in the memory of a node that runs as a command.

mod command;
mod common;

use std::net::SocketAddr;

use moorline::{DEFAULT_ALPN, MsQuicTransport, NetCredential};
use tokio::task::JoinSet;

use command::Scratch;
use common::{stranger, until, within};

/// At once: each holds some 50 KiB until it is refused and forgotten.
const STRANGERS: usize = 150;
const ROUNDS: usize = 6;

fn resident(process: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it lives");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux has it");
    let kibibytes = line.split_whitespace().nth(1).expect("a number");
    kibibytes.parse::<usize>().expect("a number") * 1024
}

async fn strangers(address: SocketAddr, credential: &NetCredential) {
    let (transport, mut dials) = (MsQuicTransport::new(), JoinSet::new());
    for _ in 0..STRANGERS {
        let (transport, credential) = (transport.clone(), credential.clone());
        dials.spawn(async move {
            let dial = transport.connect(address, &[DEFAULT_ALPN], credential);
            if let Ok(connection) = within("a dial", dial).await {
                within("a refusal", connection.watch_close()).await;
            }
        });
    }
    while dials.join_next().await.is_some() {}
}

#[tokio::test]
async fn the_memory_that_many_refused_strangers_took_is_given_back() {
    let scratch = Scratch::new();
    scratch.keygen("node", &[]);
    let peer = stranger().insecure_accept_any();
    let node = scratch.run("node", &["--trust", &peer.identity().to_string()]);
    let address = node.address.parse().expect("an address");
    let credential = stranger().insecure_accept_any();
    let process = node.child.id();
    // From an address that is known as many come as there are places.
    let transport = MsQuicTransport::new();
    let connection = transport.connect(address, &[DEFAULT_ALPN], peer);
    let connection = within("a peer", connection).await.expect("it is trusted");
    within("its acceptance", connection.send_acked("it stands")).await.expect("acknowledged");
    drop(connection);
    let before = resident(process);
    for _ in 0..ROUNDS {
        strangers(address, &credential).await;
    }
    let grown = resident(process).saturating_sub(before);
    eprintln!("{} strangers: {} KiB", STRANGERS * ROUNDS, grown / 1024);
    until("half of it is given back", || resident(process) < before + grown / 2).await;
}
