//! What a peer offers to the workloads.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::certificates::Certificates;
use crate::frames::{ByteReader, ByteWriter, FrameReader, FrameWriter};
use crate::wait::{STEP_TIME_MAX, within};

/// Where a peer is.
#[derive(Debug)]
pub(crate) struct Place {
    /// Of the interface that it listens on.
    pub(crate) address: Ipv4Addr,
    /// Congestion control, of peers that leave it to the kernel; its own default where there is none.
    pub(crate) congestion: Option<String>,
}

impl Place {
    /// Where both ends are one process, or a proxy is between them.
    pub(crate) const LOOPBACK: Self = Self { address: Ipv4Addr::LOCALHOST, congestion: None };

    /// Any free port there.
    pub(crate) fn any_port(&self) -> SocketAddr {
        (self.address, 0).into()
    }
}

/// Links that have arrived and were not asked for yet.
const ARRIVALS_MAX: usize = 64;

/// What both ends say first: a stream opens with its first bytes, and an answer proves that the
/// server took the client's certificate.
const HELLO: Bytes = Bytes::from_static(b"h");

/// A transport, both roles of it: it listens, and it dials.
pub(crate) trait Peer: Sized + Send + Sync + 'static {
    /// A connection that somebody asked for, before its handshake.
    type Incoming: Send + 'static;
    type Writer: ByteWriter;
    type Reader: ByteReader;
    /// Keeps a connection up while it is held, and ends it in a way that the other end sees.
    type Connection: Send + 'static;

    /// Open files of one connection, both ends of it.
    fn files_per_connection() -> usize;

    /// Listens on a port of its own.
    fn start(
        certificates: &Certificates,
        place: &Place,
    ) -> impl Future<Output = Result<Self>> + Send;

    fn address(&self) -> Result<SocketAddr>;

    /// Dials: the whole handshake, and a stream.
    fn connect(&self, address: SocketAddr) -> impl Future<Output = Result<Link<Self>>> + Send;

    /// The next one that dials.
    fn accept(&self) -> impl Future<Output = Result<Self::Incoming>> + Send;

    /// The other half of [`Self::connect`].
    fn establish(incoming: Self::Incoming) -> impl Future<Output = Result<Link<Self>>> + Send;
}

/// One end of a connection. It is dropped to close it: streams first.
pub(crate) struct Link<P: Peer> {
    pub(crate) sender: FrameWriter<P::Writer>,
    pub(crate) receiver: FrameReader<P::Reader>,
    _connection: P::Connection,
}

impl<P: Peer> Link<P> {
    pub(crate) fn new(writer: P::Writer, reader: P::Reader, connection: P::Connection) -> Self {
        Self {
            sender: FrameWriter::new(writer),
            receiver: FrameReader::new(reader),
            _connection: connection,
        }
    }

    /// For who sends and receives at once. The connection ends when its part is dropped.
    pub(crate) fn split(self) -> (FrameWriter<P::Writer>, FrameReader<P::Reader>, P::Connection) {
        (self.sender, self.receiver, self._connection)
    }
}

/// Dials, with one frame each way.
pub(crate) async fn connect<P: Peer>(peer: &P, address: SocketAddr) -> Result<Link<P>> {
    within(STEP_TIME_MAX, "a connection", async {
        let mut link = peer.connect(address).await?;
        link.sender.send(&HELLO).await?;
        link.receiver.expect().await?;
        Ok(link)
    })
    .await?
}

/// Every connection that `peer` takes, after one frame each way.
pub(crate) fn arrivals<P: Peer>(peer: &'static P) -> mpsc::Receiver<Link<P>> {
    let (arrivals, receiver) = mpsc::channel(ARRIVALS_MAX);
    tokio::spawn(async move {
        loop {
            let incoming = match peer.accept().await {
                Ok(incoming) => incoming,
                Err(error) => return eprintln!("no more connections are taken: {error:#}"),
            };
            let arrivals = arrivals.clone();
            tokio::spawn(async move {
                let establishing = within(STEP_TIME_MAX, "an arrival", establish(incoming));
                match establishing.await.and_then(|link| link) {
                    // Nobody asks any more where this fails.
                    Ok(link) => drop(arrivals.send(link).await),
                    Err(error) => eprintln!("a connection was not taken: {error:#}"),
                }
            });
        }
    });
    receiver
}

async fn establish<P: Peer>(incoming: P::Incoming) -> Result<Link<P>> {
    let mut link = P::establish(incoming).await?;
    link.receiver.expect().await?;
    link.sender.send(&HELLO).await?;
    Ok(link)
}

/// Both ends of a connection within this process.
pub(crate) async fn pair<P: Peer>(
    peer: &P,
    arrivals: &mut mpsc::Receiver<Link<P>>,
) -> Result<(Link<P>, Link<P>)> {
    let near = connect(peer, peer.address()?).await?;
    let far = within(STEP_TIME_MAX, "the connection to arrive", arrivals.recv()).await?;
    Ok((near, far.context("no connection is taken any more")?))
}
