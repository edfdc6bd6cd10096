//! moorline's end of a test: a transport or a node, under one credential.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use moorline::{
    AcceptError, ConnectError, ConnectionHandle, DEFAULT_ALPN, Events, MsQuicListener,
    MsQuicNetConnection, MsQuicTransport, NetCredential, Node, NodeConfig, NodeEvent, RecvError,
};

use crate::{ANY_PORT, LIMIT, MoorlineEnd, PeerCertificate, within};

/// moorline without actors: listeners and connections of one transport.
#[derive(Debug)]
pub struct Moorline {
    /// Who it is, and whom it trusts.
    pub credential: NetCredential,
    transport: MsQuicTransport,
}

impl Moorline {
    /// With a certificate of its own, and trust in `peer` alone.
    ///
    /// # Errors
    ///
    /// If no certificate can be made.
    pub fn trusting(peer: &PeerCertificate) -> Result<Self> {
        let credential = NetCredential::generate_self_signed(&["localhost"], &[])?;
        let credential = credential.trust_hash(peer.identity());
        Ok(Self { credential, transport: MsQuicTransport::new() })
    }

    /// The transport itself.
    #[must_use]
    pub fn transport(&self) -> &MsQuicTransport {
        &self.transport
    }

    /// Listens on a free port.
    ///
    /// # Errors
    ///
    /// If it cannot.
    pub async fn listen(&self) -> Result<MsQuicListener> {
        let alpns = [DEFAULT_ALPN];
        Ok(self.transport.create_listener(ANY_PORT, &alpns, self.credential.clone()).await?)
    }

    /// Dials `address`.
    ///
    /// # Errors
    ///
    /// As moorline says.
    pub async fn connect(&self, address: SocketAddr) -> Result<MsQuicNetConnection, ConnectError> {
        let dial = self.transport.connect(address, &[DEFAULT_ALPN], self.credential.clone());
        within(LIMIT, "moorline dials", dial).await
    }

    /// Everything made by it was dropped: nothing of it is left in MsQuic.
    ///
    /// # Errors
    ///
    /// If a handle is left open.
    pub async fn ends(self) -> Result<()> {
        let registration = self.transport.registration()?;
        ensure!(registration.wait_idle(LIMIT).await, "handles of moorline's are left open");
        Ok(())
    }
}

/// The next connection that `listener` takes.
///
/// # Errors
///
/// As moorline says.
pub async fn accept(listener: &MsQuicListener) -> Result<MsQuicNetConnection, AcceptError> {
    let request = within(LIMIT, "moorline is dialled", listener.accept()).await?;
    within(LIMIT, "moorline accepts", request.accept()).await
}

/// The next frame of `connection`.
///
/// # Errors
///
/// As moorline says.
pub async fn recv(connection: &MsQuicNetConnection) -> Result<Bytes, RecvError> {
    within(LIMIT, "moorline receives", connection.recv()).await.map(|(frame, _)| frame)
}

/// A node with a certificate of its own, and trust in `peer` alone.
///
/// # Errors
///
/// If it cannot start.
pub async fn node_trusting(peer: &PeerCertificate) -> Result<(Node, NetCredential)> {
    let credential = Moorline::trusting(peer)?.credential;
    let node = within(LIMIT, "a node starts", Node::spawn(NodeConfig::new(credential.clone())));
    Ok((node.await?, credential))
}

/// The next connection of a node, in whatever direction.
///
/// # Errors
///
/// If somebody is refused, or the node ends.
pub async fn connected(events: &mut Events) -> Result<ConnectionHandle> {
    loop {
        let event = within(LIMIT, "the node has a connection", events.next()).await;
        match event.context("the node has ended")? {
            NodeEvent::Connected(handle) => return Ok(handle),
            NodeEvent::Refused { error, .. } => return Err(error.into()),
            NodeEvent::Lagged(lost) => bail!("{lost} events are lost"),
            _ => {}
        }
    }
}

/// Ends a node in order, up to the last handle of MsQuic's.
///
/// # Errors
///
/// If it does not end within the limit.
pub async fn end(node: Node) -> Result<()> {
    Ok(within(LIMIT, "the node ends", node.close(LIMIT)).await?)
}

impl MoorlineEnd for MsQuicNetConnection {
    async fn send(&self, frame: Bytes) -> Result<()> {
        Ok(self.send_acked(frame).await?)
    }

    async fn recv(&self) -> Result<Bytes> {
        Ok(Self::recv(self).await?.0)
    }
}

impl MoorlineEnd for ConnectionHandle {
    async fn send(&self, frame: Bytes) -> Result<()> {
        Ok(Self::send(self, frame).await?)
    }

    async fn recv(&self) -> Result<Bytes> {
        Ok(Self::recv(self).await?)
    }
}
