//! msquic-async, with moorline's certificate trusted by a file.
//!
//! The crate passes no certificate on, so it cannot pin a hash: MsQuic itself checks the peer's
//! certificate against the file. It hands an inbound connection over before the handshake is done;
//! a stream of moorline's on it proves that it is.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, Bytes};
use moorline::{DEFAULT_ALPN, NetCredential};
use msquic_async::msquic::{
    BufferRef, CertificateFile, Configuration, Credential, CredentialConfig, CredentialFlags,
    Registration, RegistrationConfig, Settings,
};
use msquic_async::{Connection, Listener, ReadStream, StreamType, WriteStream};
use tempfile::TempDir;

use crate::{ANY_PORT, FrameReader, Incoming, LIMIT, Outgoing, PeerCertificate, within};

/// Silence after which the peer gives a connection up, in milliseconds: far above moorline's own.
const IDLE_MS: u64 = 60_000;

/// Streams that moorline may open.
const STREAMS_MAX: u16 = 4;

/// Both roles of a peer. Everything made by it must be dropped before it: MsQuic waits for the
/// last handle when the registration is closed.
pub struct MsQuicAsyncPeer {
    // In this order: the registration outlives what was made in it.
    listener: Listener,
    client: Configuration,
    registration: Registration,
}

impl MsQuicAsyncPeer {
    /// A peer that listens, takes only `moorline` and shows `certificate`, if there is one, where
    /// it dials.
    ///
    /// # Errors
    ///
    /// If MsQuic takes one of the certificates for unusable, or cannot listen.
    pub fn start(
        server_certificate: &PeerCertificate,
        client_certificate: Option<&PeerCertificate>,
        moorline: &NetCredential,
    ) -> Result<Self> {
        let files = TempDir::new()?;
        let trusted = file(files.path(), "trusted.pem", &moorline.certificate_pem())?;
        let server_files = credential(files.path(), "server", server_certificate)?;
        let registration = Registration::new(&RegistrationConfig::new())?;
        let server = open(&registration)?;
        server.load_credential(
            &CredentialConfig::new()
                .set_credential_flags(CredentialFlags::REQUIRE_CLIENT_AUTHENTICATION)
                .set_credential(server_files)
                .set_ca_certificate_file(trusted.clone()),
        )?;
        let client = open(&registration)?;
        let mut config = CredentialConfig::new_client().set_ca_certificate_file(trusted);
        if let Some(certificate) = client_certificate {
            config = config.set_credential(credential(files.path(), "client", certificate)?);
        }
        client.load_credential(&config)?;
        let listener = Listener::new(&registration, server)?;
        listener.start(&[BufferRef::from(DEFAULT_ALPN)], Some(ANY_PORT))?;
        Ok(Self { listener, client, registration })
    }

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Dials `address`.
    ///
    /// # Errors
    ///
    /// If the handshake fails on this side. A refusal of this side's certificate shows later.
    pub async fn dial(&self, address: SocketAddr) -> Result<MsQuicAsyncLink> {
        let connection = Connection::new(&self.registration)?;
        let host = address.ip().to_string();
        let start = connection.start(&self.client, &host, address.port());
        within(LIMIT, "msquic-async dials", start).await?;
        Ok(MsQuicAsyncLink::new(connection))
    }

    /// The next connection that somebody asks for, before its handshake is done.
    ///
    /// # Errors
    ///
    /// If the listener is stopped.
    pub async fn accept(&self) -> Result<MsQuicAsyncLink> {
        let connection = within(LIMIT, "msquic-async is dialled", self.listener.accept()).await?;
        Ok(MsQuicAsyncLink::new(connection))
    }
}

fn open(registration: &Registration) -> Result<Configuration> {
    let settings = Settings::new().set_IdleTimeoutMs(IDLE_MS).set_PeerUnidiStreamCount(STREAMS_MAX);
    let alpn = [BufferRef::from(DEFAULT_ALPN)];
    Ok(Configuration::open(registration, &alpn, Some(&settings))?)
}

fn credential(folder: &Path, name: &str, certificate: &PeerCertificate) -> Result<Credential> {
    let key = file(folder, &format!("{name}.key"), &certificate.key_pem())?;
    let certificate = file(folder, &format!("{name}.crt"), &certificate.certificate_pem())?;
    Ok(Credential::CertificateFile(CertificateFile::new(key, certificate)))
}

fn file(folder: &Path, name: &str, text: &str) -> Result<String> {
    let path = folder.join(name);
    std::fs::write(&path, text)?;
    path.into_os_string().into_string().ok().context("the temporary folder is not UTF-8")
}

/// A connection of msquic-async's, with a stream in each direction that is opened when it is first
/// used.
pub struct MsQuicAsyncLink {
    /// The stream of this end.
    pub out: MsQuicAsyncOut,
    /// The frames on moorline's first stream.
    pub frames: FrameReader<MsQuicAsyncIn>,
    connection: Connection,
}

impl MsQuicAsyncLink {
    fn new(connection: Connection) -> Self {
        let out = MsQuicAsyncOut { connection: connection.clone(), stream: None };
        let incoming = MsQuicAsyncIn { connection: connection.clone(), stream: None };
        Self { out, frames: FrameReader::new(incoming), connection }
    }

    /// Waits until moorline has ended the connection; why, as msquic-async sees it.
    ///
    /// # Errors
    ///
    /// If moorline opened a bidirectional stream, which it never does.
    pub async fn closed(&self) -> Result<msquic_async::StreamStartError> {
        let stream = self.connection.accept_inbound_stream();
        match within(LIMIT, "msquic-async learns of the close", stream).await {
            Ok(_) => bail!("moorline opened a bidirectional stream"),
            Err(error) => Ok(error),
        }
    }

    /// Closes the connection with `code`, and waits until that is done.
    pub async fn close(self, code: u64) {
        let shutdown = poll_fn(|context| self.connection.poll_shutdown(context, code));
        // An error says that moorline was first.
        let _ = within(LIMIT, "msquic-async closes", shutdown).await;
    }
}

/// The sending stream of a [`MsQuicAsyncLink`].
pub struct MsQuicAsyncOut {
    stream: Option<WriteStream>,
    connection: Connection,
}

impl MsQuicAsyncOut {
    async fn stream(&mut self) -> Result<&mut WriteStream> {
        match &mut self.stream {
            Some(stream) => Ok(stream),
            none => {
                let open = self.connection.open_outbound_stream(StreamType::Unidirectional, false);
                let (_, stream) = open.await?.split();
                Ok(none.insert(stream.context("a stream of this end cannot be written to")?))
            }
        }
    }
}

impl Outgoing for MsQuicAsyncOut {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let written = self.stream().await?.write_chunk(&bytes, false).await?;
        ensure!(written == bytes.len(), "{written} of {} bytes were taken", bytes.len());
        Ok(())
    }

    async fn finish(&mut self) -> Result<()> {
        let stream = self.stream().await?;
        Ok(poll_fn(|context| stream.poll_finish_write(context)).await?)
    }
}

/// The receiving stream of a [`MsQuicAsyncLink`].
pub struct MsQuicAsyncIn {
    stream: Option<ReadStream>,
    connection: Connection,
}

impl Incoming for MsQuicAsyncIn {
    async fn read(&mut self) -> Result<Option<Bytes>> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(self.connection.accept_inbound_uni_stream().await?),
        };
        let chunk = stream.read_chunk().await?;
        // Copied: the chunk is MsQuic's own memory, and its drop opens the window again.
        Ok(chunk.map(|mut chunk| chunk.copy_to_bytes(chunk.remaining())))
    }
}
