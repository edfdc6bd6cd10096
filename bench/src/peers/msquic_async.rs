//! msquic-async. MsQuic takes any amount of data at once, so what is on its way is bounded here.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};
use bytes::{Buf, Bytes};
use msquic_async::msquic::{
    BufferRef, CertificateFile, Configuration, Credential, CredentialConfig, CredentialFlags,
    Registration, RegistrationConfig, Settings,
};
use msquic_async::{Connection, Listener, ReadStream, Stream, StreamType, WriteStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::certificates::{ALPN, Certificates, End};
use crate::frames::{ByteReader, ByteWriter, FrameCutter};
use crate::peer::{Link, Peer, Place};

/// Bytes that MsQuic holds for one stream at most: enough to fill its window on loopback.
const IN_FLIGHT_BYTES_MAX: u32 = 4 << 20;

/// Receive windows of a stream and of its connection, wide enough never to be what limits.
const STREAM_WINDOW_BYTES: u32 = 16 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;

/// Silence after which a connection ends, in milliseconds: longer than idle pairs are measured.
const IDLE_MS: u64 = 120_000;

pub(crate) struct MsQuicAsync {
    // In this order: the registration outlives what was made in it.
    listener: Listener,
    client: Configuration,
    registration: Registration,
}

impl Peer for MsQuicAsync {
    type Incoming = Connection;
    type Writer = Writer;
    type Reader = Reader;
    type Connection = Owned;

    /// A dialling end has a socket and an event queue for each core.
    fn files_per_connection() -> usize {
        2 * thread::available_parallelism().map_or(1, usize::from)
    }

    async fn start(certificates: &Certificates, place: &Place) -> Result<Self> {
        let registration = Registration::new(&RegistrationConfig::new())?;
        let server = open(&registration)?;
        server.load_credential(
            &CredentialConfig::new()
                .set_credential_flags(CredentialFlags::REQUIRE_CLIENT_AUTHENTICATION)
                .set_credential(credential(certificates, End::Server)?)
                .set_ca_certificate_file(text(certificates.authority_file())?),
        )?;
        let client = open(&registration)?;
        client.load_credential(
            &CredentialConfig::new_client()
                .set_credential(credential(certificates, End::Client)?)
                .set_ca_certificate_file(text(certificates.authority_file())?),
        )?;
        let listener = Listener::new(&registration, server)?;
        listener.start(&[BufferRef::from(ALPN)], Some(place.any_port()))?;
        Ok(Self { listener, client, registration })
    }

    fn address(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    async fn connect(&self, address: SocketAddr) -> Result<Link<Self>> {
        let connection = Owned(Connection::new(&self.registration)?);
        let host = address.ip().to_string();
        connection.0.start(&self.client, &host, address.port()).await?;
        let stream = connection.0.open_outbound_stream(StreamType::Bidirectional, false).await?;
        link(connection, stream)
    }

    async fn accept(&self) -> Result<Connection> {
        Ok(self.listener.accept().await?)
    }

    async fn establish(incoming: Connection) -> Result<Link<Self>> {
        let connection = Owned(incoming);
        let stream = connection.0.accept_inbound_stream().await?;
        link(connection, stream)
    }
}

fn open(registration: &Registration) -> Result<Configuration> {
    let settings = Settings::new()
        .set_IdleTimeoutMs(IDLE_MS)
        .set_PeerBidiStreamCount(1)
        .set_StreamMultiReceiveEnabled()
        .set_StreamRecvWindowDefault(STREAM_WINDOW_BYTES)
        .set_ConnFlowControlWindow(CONNECTION_WINDOW_BYTES);
    Ok(Configuration::open(registration, &[BufferRef::from(ALPN)], Some(&settings))?)
}

fn credential(certificates: &Certificates, end: End) -> Result<Credential> {
    let key = text(certificates.key_file(end))?;
    let certificate = text(certificates.certificate_file(end))?;
    Ok(Credential::CertificateFile(CertificateFile::new(key, certificate)))
}

fn text(path: PathBuf) -> Result<String> {
    path.into_os_string().into_string().ok().context("the folder's name is not UTF-8")
}

fn link(connection: Owned, stream: Stream) -> Result<Link<MsQuicAsync>> {
    let (Some(reader), Some(writer)) = stream.split() else {
        anyhow::bail!("the stream goes one way only");
    };
    let credit = Arc::new(Semaphore::new(IN_FLIGHT_BYTES_MAX as usize));
    Ok(Link::new(Writer { stream: writer, credit }, Reader { stream: reader }, connection))
}

/// Its drop tells the other end: the library by itself ends a connection silently.
pub(crate) struct Owned(Connection);

impl Drop for Owned {
    fn drop(&mut self) {
        // An error says that the other end was first.
        let _ = self.0.shutdown(0);
    }
}

pub(crate) struct Writer {
    stream: WriteStream,
    credit: Arc<Semaphore>,
}

impl Writer {
    /// `bytes`, with credit that comes back when MsQuic lets go of them.
    async fn charged(&self, bytes: Bytes) -> Result<Bytes> {
        let cost = u32::try_from(bytes.len())?.min(IN_FLIGHT_BYTES_MAX);
        let credit = Arc::clone(&self.credit).acquire_many_owned(cost).await?;
        Ok(Bytes::from_owner(Charged { bytes, _credit: credit }))
    }
}

impl ByteWriter for Writer {
    async fn write(&mut self, first: Bytes, second: Bytes) -> Result<()> {
        let first = self.charged(first).await?;
        if second.is_empty() {
            self.stream.write_chunk(&first, false).await?;
        } else {
            let both = [first, self.charged(second).await?];
            self.stream.write_chunks(&both, false).await?;
        }
        Ok(())
    }
}

struct Charged {
    bytes: Bytes,
    _credit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

pub(crate) struct Reader {
    stream: ReadStream,
}

impl ByteReader for Reader {
    async fn read(&mut self, frames: &mut FrameCutter) -> Result<bool> {
        let Some(mut arrived) = self.stream.read_chunk().await? else { return Ok(false) };
        // Copied: it is MsQuic's own memory, and its drop opens the window again.
        while arrived.has_remaining() {
            let piece = arrived.chunk();
            frames.gathered().extend_from_slice(piece);
            let length = piece.len();
            arrived.advance(length);
        }
        Ok(true)
    }
}
