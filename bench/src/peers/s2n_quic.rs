//! s2n-quic over s2n-tls, its windows as wide as those of msquic-async.

use std::array;
use std::collections::VecDeque;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::Bytes;
use s2n_quic::client::Connect;
use s2n_quic::provider::limits::Limits;
use s2n_quic::provider::tls::s2n_tls::callbacks::VerifyHostNameCallback;
use s2n_quic::provider::tls::s2n_tls::{Client as ClientTls, Server as ServerTls};
use s2n_quic::stream::{BidirectionalStream, ReceiveStream, SendStream};
use s2n_quic::{Client, Connection, Server};
use tokio::sync::Mutex;

use crate::certificates::{ALPN, Certificates, End, SERVER_NAME};
use crate::frames::{ByteReader, ByteWriter, FrameCutter};
use crate::peer::{Link, Peer, Place};

/// Receive windows of a stream and of its connection, wide enough never to be what limits.
const STREAM_WINDOW_BYTES: u64 = 16 << 20;
const CONNECTION_WINDOW_BYTES: u64 = 64 << 20;

/// What a stream holds until it is acknowledged; by itself it would be 512 KiB, half a large frame.
const SEND_BUFFER_BYTES: u32 = 4 << 20;

/// Chunks that are taken from the connection under one lock: a chunk is what one packet carried.
const CHUNKS: usize = 64;

pub(crate) struct S2nQuic {
    /// Whoever accepts has it for itself.
    server: Mutex<Server>,
    address: SocketAddr,
    client: Client,
}

impl Peer for S2nQuic {
    type Incoming = Connection;
    type Writer = Writer;
    type Reader = Reader;
    type Connection = Owned;

    /// All share the sockets of the two endpoints.
    fn files_per_connection() -> usize {
        0
    }

    async fn start(certificates: &Certificates, place: &Place) -> Result<Self> {
        let authority = certificates.authority_file();
        let server = ServerTls::builder()
            .with_application_protocols([ALPN])?
            .with_certificate(
                certificates.certificate_file(End::Server).as_path(),
                certificates.key_file(End::Server).as_path(),
            )?
            .with_empty_trust_store()?
            .with_trusted_certificate(authority.as_path())?
            .with_client_authentication()?
            .with_verify_host_name_callback(AnyName)?
            .build()?;
        let client = ClientTls::builder()
            .with_application_protocols([ALPN])?
            .with_empty_trust_store()?
            .with_certificate(authority.as_path())?
            .with_client_identity(
                certificates.certificate_file(End::Client).as_path(),
                certificates.key_file(End::Client).as_path(),
            )?
            .build()?;
        let (server, client) = (
            Server::builder()
                .with_tls(server)?
                .with_io(place.any_port())?
                .with_limits(limits()?)?
                .start(),
            Client::builder()
                .with_tls(client)?
                .with_io(place.any_port())?
                .with_limits(limits()?)?
                .start(),
        );
        let server = server?;
        let address = server.local_addr()?;
        Ok(Self { server: Mutex::new(server), address, client: client? })
    }

    fn address(&self) -> Result<SocketAddr> {
        Ok(self.address)
    }

    async fn connect(&self, address: SocketAddr) -> Result<Link<Self>> {
        let dial = Connect::new(address).with_server_name(SERVER_NAME);
        let mut connection = Owned(self.client.connect(dial).await?);
        let stream = connection.0.open_bidirectional_stream().await?;
        Ok(link(connection, stream))
    }

    async fn accept(&self) -> Result<Connection> {
        self.server.lock().await.accept().await.context("the endpoint is closed")
    }

    async fn establish(incoming: Connection) -> Result<Link<Self>> {
        let mut connection = Owned(incoming);
        let stream = connection.0.accept_bidirectional_stream().await?;
        Ok(link(connection, stream.context("the connection has ended")?))
    }
}

/// s2n-tls would ask a client's certificate for the name of a host, which clients have none of.
struct AnyName;

impl VerifyHostNameCallback for AnyName {
    fn verify_host_name(&self, _: &str) -> bool {
        true
    }
}

fn limits() -> Result<Limits> {
    Ok(Limits::new()
        .with_data_window(CONNECTION_WINDOW_BYTES)?
        .with_bidirectional_local_data_window(STREAM_WINDOW_BYTES)?
        .with_bidirectional_remote_data_window(STREAM_WINDOW_BYTES)?
        .with_max_send_buffer_size(SEND_BUFFER_BYTES)?)
}

fn link(connection: Owned, stream: BidirectionalStream) -> Link<S2nQuic> {
    let (arriving, stream) = stream.split();
    Link::new(Writer { stream }, Reader { stream: arriving, chunks: VecDeque::new() }, connection)
}

/// Its drop tells the other end at once.
pub(crate) struct Owned(Connection);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.close(0_u32.into());
    }
}

/// s2n-quic bounds what it holds, and waits for room.
pub(crate) struct Writer {
    stream: SendStream,
}

impl ByteWriter for Writer {
    async fn write(&mut self, first: Bytes, second: Bytes) -> Result<()> {
        Ok(self.stream.send_vectored(&mut [first, second]).await?)
    }
}

pub(crate) struct Reader {
    stream: ReceiveStream,
    chunks: VecDeque<Bytes>,
}

impl ByteReader for Reader {
    async fn read(&mut self, frames: &mut FrameCutter) -> Result<bool> {
        if self.chunks.is_empty() {
            let mut chunks: [Bytes; CHUNKS] = array::from_fn(|_| Bytes::new());
            let (count, open) = self.stream.receive_vectored(&mut chunks).await?;
            if count == 0 && !open {
                return Ok(false);
            }
            self.chunks.extend(chunks.into_iter().take(count));
        }
        if let Some(chunk) = self.chunks.pop_front() {
            frames.push_owned(chunk);
        }
        Ok(true)
    }
}
