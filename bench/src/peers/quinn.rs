//! quinn over rustls, its transport settings left as they are.

use std::array;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, Endpoint, Incoming, RecvStream, SendStream, ServerConfig};

use crate::certificates::{Certificates, SERVER_NAME};
use crate::frames::{ByteReader, ByteWriter, FrameCutter};
use crate::peer::{Link, Peer, Place};

/// Chunks that are taken from the connection under one lock: a chunk is what one packet carried.
const CHUNKS: usize = 64;

pub(crate) struct Quinn {
    server: Endpoint,
    client: Endpoint,
}

impl Peer for Quinn {
    type Incoming = Incoming;
    type Writer = Writer;
    type Reader = Reader;
    type Connection = Connection;

    /// All share the sockets of the two endpoints.
    fn files_per_connection() -> usize {
        0
    }

    async fn start(certificates: &Certificates, place: &Place) -> Result<Self> {
        let server = QuicServerConfig::try_from(certificates.rustls_server()?)?;
        let server =
            Endpoint::server(ServerConfig::with_crypto(Arc::new(server)), place.any_port())?;
        let tls = QuicClientConfig::try_from(certificates.rustls_client()?)?;
        let mut client = Endpoint::client(place.any_port())?;
        client.set_default_client_config(ClientConfig::new(Arc::new(tls)));
        Ok(Self { server, client })
    }

    fn address(&self) -> Result<SocketAddr> {
        Ok(self.server.local_addr()?)
    }

    async fn connect(&self, address: SocketAddr) -> Result<Link<Self>> {
        let connection = self.client.connect(address, SERVER_NAME)?.await?;
        let streams = connection.open_bi().await?;
        Ok(link(connection, streams))
    }

    async fn accept(&self) -> Result<Incoming> {
        self.server.accept().await.context("the endpoint is closed")
    }

    async fn establish(incoming: Incoming) -> Result<Link<Self>> {
        let connection = incoming.await?;
        let streams = connection.accept_bi().await?;
        Ok(link(connection, streams))
    }
}

fn link(connection: Connection, (stream, arriving): (SendStream, RecvStream)) -> Link<Quinn> {
    Link::new(Writer { stream }, Reader { stream: arriving, chunks: VecDeque::new() }, connection)
}

/// quinn bounds what it holds, and waits for room.
pub(crate) struct Writer {
    stream: SendStream,
}

impl ByteWriter for Writer {
    async fn write(&mut self, first: Bytes, second: Bytes) -> Result<()> {
        Ok(self.stream.write_all_chunks(&mut [first, second]).await?)
    }
}

pub(crate) struct Reader {
    stream: RecvStream,
    chunks: VecDeque<Bytes>,
}

impl ByteReader for Reader {
    async fn read(&mut self, frames: &mut FrameCutter) -> Result<bool> {
        if self.chunks.is_empty() {
            let mut chunks: [Bytes; CHUNKS] = array::from_fn(|_| Bytes::new());
            let Some(count) = self.stream.read_chunks(&mut chunks).await? else {
                return Ok(false);
            };
            self.chunks.extend(chunks.into_iter().take(count));
        }
        if let Some(chunk) = self.chunks.pop_front() {
            frames.push_owned(chunk);
        }
        Ok(true)
    }
}
