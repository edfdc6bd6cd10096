//! The transport's shape, for code that is generic over it; errors are only for printing.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::{MsQuicListener, MsQuicNetConnection, MsQuicNetIncomingRequest, MsQuicTransport};
use crate::error::{CloseCode, CloseReason};
use crate::identity::{CertHash, NetCredential};

/// Opens listeners and connections.
pub trait NetTransport: Send + Sync {
    /// What listens.
    type Listener: NetListener<Connection = Self::Connection>;
    /// What is opened.
    type Connection: NetConnection;

    /// Listens on `address`.
    fn create_listener(
        &self,
        address: SocketAddr,
        alpns: &[&str],
        credential: NetCredential,
    ) -> impl Future<Output = anyhow::Result<Self::Listener>> + Send;

    /// Connects to `remote`.
    fn connect(
        &self,
        remote: SocketAddr,
        alpns: &[&str],
        credential: NetCredential,
    ) -> impl Future<Output = anyhow::Result<Self::Connection>> + Send;
}

/// Takes connections.
pub trait NetListener: Send + Sync {
    /// What is asked for.
    type Request: NetIncomingRequest<Connection = Self::Connection>;
    /// What it becomes.
    type Connection: NetConnection;

    /// The bound address.
    fn local_addr(&self) -> SocketAddr;

    /// The next request, before its handshake is judged.
    fn accept(&self) -> impl Future<Output = anyhow::Result<Self::Request>> + Send;
}

/// A connection that a peer asks for.
pub trait NetIncomingRequest: Send {
    /// What it becomes.
    type Connection: NetConnection;

    /// Where it comes from.
    fn remote_addr(&self) -> SocketAddr;

    /// Waits for the handshake.
    fn accept(self) -> impl Future<Output = anyhow::Result<Self::Connection>> + Send;

    /// Refuses it.
    fn refuse(self, code: CloseCode);
}

/// An established connection.
pub trait NetConnection: Send + Sync {
    /// The address of the peer's end.
    fn remote_addr(&self) -> SocketAddr;

    /// Who the peer is.
    fn remote_identity(&self) -> CertHash;

    /// Hands one frame over.
    fn send(&self, frame: &[u8]) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// The next frame, and the time from its first byte to its last.
    fn recv(&self) -> impl Future<Output = anyhow::Result<(Bytes, Duration)>> + Send;

    /// Drains and closes.
    fn close(&self, code: CloseCode) -> impl Future<Output = CloseReason> + Send;
}

impl NetTransport for MsQuicTransport {
    type Listener = MsQuicListener;
    type Connection = MsQuicNetConnection;

    async fn create_listener(
        &self,
        address: SocketAddr,
        alpns: &[&str],
        credential: NetCredential,
    ) -> anyhow::Result<MsQuicListener> {
        Ok(Self::create_listener(self, address, alpns, credential).await?)
    }

    async fn connect(
        &self,
        remote: SocketAddr,
        alpns: &[&str],
        credential: NetCredential,
    ) -> anyhow::Result<MsQuicNetConnection> {
        Ok(Self::connect(self, remote, alpns, credential).await?)
    }
}

impl NetListener for MsQuicListener {
    type Request = MsQuicNetIncomingRequest;
    type Connection = MsQuicNetConnection;

    fn local_addr(&self) -> SocketAddr {
        Self::local_addr(self)
    }

    async fn accept(&self) -> anyhow::Result<MsQuicNetIncomingRequest> {
        Ok(Self::accept(self).await?)
    }
}

impl NetIncomingRequest for MsQuicNetIncomingRequest {
    type Connection = MsQuicNetConnection;

    fn remote_addr(&self) -> SocketAddr {
        Self::remote_addr(self)
    }

    async fn accept(self) -> anyhow::Result<MsQuicNetConnection> {
        Ok(Self::accept(self).await?)
    }

    fn refuse(self, code: CloseCode) {
        Self::refuse(self, code);
    }
}

impl NetConnection for MsQuicNetConnection {
    fn remote_addr(&self) -> SocketAddr {
        Self::remote_addr(self)
    }

    fn remote_identity(&self) -> CertHash {
        Self::remote_identity(self)
    }

    async fn send(&self, frame: &[u8]) -> anyhow::Result<()> {
        Ok(Self::send(self, frame).await?)
    }

    async fn recv(&self) -> anyhow::Result<(Bytes, Duration)> {
        Ok(Self::recv(self).await?)
    }

    async fn close(&self, code: CloseCode) -> CloseReason {
        Self::close(self, code).await
    }
}
