//! TCP with tokio-rustls: what QUIC is measured against.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::{Buf, Bytes};
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::certificates::{Certificates, SERVER_NAME};
use crate::frames::{ByteReader, ByteWriter, FrameCutter};
use crate::peer::{Link, Peer, Place};

/// Taken from the allocator at once for what arrives.
const READ_BYTES: usize = 64 << 10;

pub(crate) struct TcpRustls {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    congestion: Option<String>,
}

impl Peer for TcpRustls {
    type Incoming = (TcpStream, TlsAcceptor);
    type Writer = Writer;
    type Reader = Reader;
    /// The halves of the stream hold it.
    type Connection = ();

    fn files_per_connection() -> usize {
        2
    }

    async fn start(certificates: &Certificates, place: &Place) -> Result<Self> {
        let listener = TcpListener::bind(place.any_port()).await?;
        // Those that it accepts inherit it.
        set_congestion(&listener, place.congestion.as_deref())?;
        Ok(Self {
            listener,
            acceptor: TlsAcceptor::from(Arc::new(certificates.rustls_server()?)),
            connector: TlsConnector::from(Arc::new(certificates.rustls_client()?)),
            congestion: place.congestion.clone(),
        })
    }

    fn address(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    async fn connect(&self, address: SocketAddr) -> Result<Link<Self>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        set_congestion(&stream, self.congestion.as_deref())?;
        let name = ServerName::try_from(SERVER_NAME)?;
        Ok(link(self.connector.connect(name, stream).await?.into()))
    }

    async fn accept(&self) -> Result<Self::Incoming> {
        let (stream, _) = self.listener.accept().await?;
        Ok((stream, self.acceptor.clone()))
    }

    async fn establish((stream, acceptor): Self::Incoming) -> Result<Link<Self>> {
        stream.set_nodelay(true)?;
        Ok(link(acceptor.accept(stream).await?.into()))
    }
}

fn set_congestion(socket: &impl AsFd, name: Option<&str>) -> Result<()> {
    let Some(name) = name else { return Ok(()) };
    let set = SockRef::from(socket).set_tcp_congestion(name.as_bytes());
    set.with_context(|| format!("the kernel has no congestion control {name:?} for this program"))
}

fn link(stream: TlsStream<TcpStream>) -> Link<TcpRustls> {
    let (reader, writer) = tokio::io::split(stream);
    Link::new(Writer { stream: writer }, Reader { stream: reader }, ())
}

pub(crate) struct Writer {
    stream: WriteHalf<TlsStream<TcpStream>>,
}

impl ByteWriter for Writer {
    async fn write(&mut self, first: Bytes, second: Bytes) -> Result<()> {
        self.stream.write_all_buf(&mut first.chain(second)).await?;
        Ok(self.stream.flush().await?)
    }
}

pub(crate) struct Reader {
    stream: ReadHalf<TlsStream<TcpStream>>,
}

impl ByteReader for Reader {
    async fn read(&mut self, frames: &mut FrameCutter) -> Result<bool> {
        let buffer = frames.gathered();
        // Never in the middle of a frame whose length is known: there is room for all of it.
        if buffer.capacity() == buffer.len() {
            buffer.reserve(READ_BYTES);
        }
        Ok(self.stream.read_buf(buffer).await? > 0)
    }
}
