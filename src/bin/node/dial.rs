//! What `send` and `ping` share: an identity, whom to trust, and one connection.

use anyhow::{Context, Result, bail};
use moorline::{CertHash, ConnectionHandle, NetCredential, NodeConfig, Redial, Target};

use crate::app::App;
use crate::app::arguments::{DialArgs, TrustArgs};
use crate::app::exit::Usage;
use crate::app::output::remark;

/// What an identity that is made up is called. Nobody checks it: peers are known by their hash.
const EPHEMERAL_NAME: &str = "localhost";

/// Starts a node and connects it to the peer, once. `app` keeps the node.
pub(crate) async fn dial(
    app: &App,
    args: &DialArgs,
    adjust: impl FnOnce(&mut NodeConfig),
) -> Result<ConnectionHandle> {
    if args.expect.is_none() && args.trust.is_empty() {
        return Err(no_trust(&args.address.0).into());
    }
    let credential = trusting(own_credential(args)?, &args.trust);
    let mut config = NodeConfig::new(credential);
    if !args.alpn.is_empty() {
        config.alpns.clone_from(&args.alpn);
    }
    adjust(&mut config);
    let node = app.start(config).await?;
    // One connection of its own: a command that fails is better than one that tries for ever.
    let target = Target::from(args.address.0.clone()).redial(Redial::Never);
    let target = match args.expect {
        Some(hash) => target.expect(hash),
        None => target,
    };
    // The library bounds the handshake; a name that does not resolve is bounded by the resolver.
    tokio::select! {
        connection = node.connect(target) => Ok(connection?),
        () = app.stop.requested() => bail!("stopped before {} answered", args.address.0),
    }
}

/// Adds to `credential` everybody whom the arguments name.
pub(crate) fn trusting(credential: NetCredential, trust: &TrustArgs) -> NetCredential {
    let credential = trust.trust.iter().fold(credential, |own, hash| own.trust_hash(*hash));
    let credential = trust.trust_key.iter().fold(credential, |own, key| own.trust_key(*key));
    if trust.insecure_accept_any { credential.insecure_accept_any() } else { credential }
}

fn own_credential(args: &DialArgs) -> Result<NetCredential> {
    if let (Some(cert), Some(key)) = (&args.cert, &args.key) {
        return Ok(NetCredential::from_files(cert, key)?);
    }
    let credential = NetCredential::generate_self_signed(&[EPHEMERAL_NAME], &[])
        .context("cannot make up an identity")?;
    remark(ephemeral(&credential.identity()));
    Ok(credential)
}

fn ephemeral(identity: &CertHash) -> String {
    format!(
        "note: without --cert and --key this run is {identity}, made up for it; a peer that pins \
         identities will refuse it"
    )
}

fn no_trust(address: &str) -> Usage {
    Usage(format!(
        "nothing says who {address} must be: give --expect HASH (`moorline id` prints it from the \
         peer's certificate), --trust, --trust-key, or --insecure-accept-any"
    ))
}
