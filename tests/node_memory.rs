//! What strangers leave behind in the memory of a node that runs as a command.

mod command;
mod common;

use std::net::SocketAddr;

use moorline::{DEFAULT_ALPN, MsQuicTransport, NetCredential};
use tokio::task::JoinSet;

use command::Scratch;
use common::{stranger, until, within};

/// At once: enough that some are summed up.
const STRANGERS: usize = 150;

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

/// How much that is hangs on how many there were at once, and so on the machine: what is held is that it
/// is done, once a burst of refusals is over.
#[tokio::test]
async fn the_memory_that_many_refused_strangers_took_is_given_back() {
    let scratch = Scratch::new();
    scratch.keygen("node", &[]);
    let peer = stranger().insecure_accept_any();
    let node = scratch.run("node", &["--trust", &peer.identity().to_string()]);
    let address = node.address.parse().expect("an address");
    // From an address that is known as many come as there are places.
    let transport = MsQuicTransport::new();
    let connection = transport.connect(address, &[DEFAULT_ALPN], peer);
    let connection = within("a peer", connection).await.expect("it is trusted");
    within("its acceptance", connection.send_acked("it stands")).await.expect("acknowledged");
    drop(connection);
    strangers(address, &stranger().insecure_accept_any()).await;
    let said = |line: String| line.contains("freed memory is given back");
    until("it is given back", || node.stderr.try_iter().any(said)).await;
}
