//! Supervised, mutually authenticated QUIC connections between peers, as actors.
//!
//! A [`Node`] has an identity, listens and connects. What it gives out is a [`Peer`]: a session whose frames
//! and requests outlive connections. Below that is a [`ConnectionHandle`]: frames in, frames out, a known
//! end for every frame, and the real reason when it is over.
//! MsQuic carries the connections, ractor the actors that own them.
//!
//! # Start here
//!
//! - [`NetCredential`]: who you are and whom you trust. A peer is the SHA-256 of its certificate
//!   ([`CertHash`]); nobody is trusted unless you say so.
//! - [`Node`] gives [`listen`](Node::listen), [`connect`](Node::connect) (a [`Target`] says whom to
//!   expect and when to redial), [`subscribe`](Node::subscribe) to [`NodeEvent`]s,
//!   [`shutdown`](Node::shutdown); for sessions [`peer`](Node::peer) and [`accept`](Node::accept).
//! - [`Peer`] gives [`send`](Peer::send), [`request`](Peer::request), [`recv`](Peer::recv) (an
//!   [`Incoming`]: a message, or a [`Request`] to be answered), [`close`](Peer::close).
//! - [`ConnectionHandle`] gives [`send`](ConnectionHandle::send),
//!   [`send_acked`](ConnectionHandle::send_acked), [`recv`](ConnectionHandle::recv),
//!   [`recv_many`](ConnectionHandle::recv_many), [`close`](ConnectionHandle::close).
//! - [`SupervisorMessage`], [`PeerMessage`] and [`ConnectionMessage`]: the same by actor message.
//! - [`Limits`]: every bound and deadline, with unit and reason.
//! - [`MsQuicTransport`]: the transport alone, without actors.
//!
//! # Example
//!
//! A connection, without a session; the README begins with a [`Peer`].
//!
//! ```
//! use std::time::Duration;
//!
//! use moorline::{NetCredential, Node, NodeConfig, NodeEvent, Target};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (alice, bob) = (
//!     NetCredential::generate_self_signed(&["alice"], &[])?,
//!     NetCredential::generate_self_signed(&["bob"], &[])?,
//! );
//! let (alice_hash, bob_hash) = (alice.identity(), bob.identity());
//! let server = Node::spawn(NodeConfig::new(alice.trust_hash(bob_hash))).await?;
//! let client = Node::spawn(NodeConfig::new(bob.trust_hash(alice_hash))).await?;
//!
//! let mut events = server.subscribe();
//! let address = server.listen("127.0.0.1:0".parse()?).await?;
//! let peer = client.connect(Target::from(address)).await?;
//! peer.send_acked("hello").await?;
//! while let Some(event) = events.next().await {
//!     if let NodeEvent::Connected(connection) = event {
//!         assert_eq!(connection.recv().await?, "hello");
//!         break;
//!     }
//! }
//! client.close(Duration::from_secs(5)).await?;
//! server.close(Duration::from_secs(5)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Errors
//!
//! One enum per operation. The message is for people, `kind()` for programs ([`ErrorKind`]:
//! retry, never, unknown), and an error of a send hands the frame back wherever it is certain that
//! none of it was sent. Why a connection ended is a [`CloseReason`]; its first specific cause wins.
//!
//! # Debug builds
//!
//! A plain `cargo build` builds the bundled MsQuic without optimization: it moves about a third of the
//! bytes a second. A program that depends on this crate keeps its own debug build and has MsQuic
//! optimized with this in its Cargo.toml:
//!
//! ```toml
//! [profile.dev.package.msquic]
//! opt-level = 3
//! debug = false
//! ```
//!
//! The first node of a process logs a warning where the library is a debug build
//! ([`msquic_is_debug_build`]).
//!
//! # Cargo features
//!
//! - `bundled` (default): builds MsQuic and links it statically.
//! - `system`: links an installed libmsquic.so.2; use it with `default-features = false`, because
//!   the two exclude each other.
//! - `serde`: settings ([`Limits`], [`SessionLimits`], [`BackoffSettings`], [`RestartPolicy`], [`Latency`], [`Congestion`], [`Redial`],
//!   [`Lane`]) and the names of peers ([`CertHash`], [`SignerKey`]) can be read and written by serde.
//! - `cluster`, `async-trait`: needed where another crate of the program switches on ractor's features
//!   of these names (ractor_cluster does). Cargo builds ractor once for all, and both change what its
//!   actors and messages look like.
//! - `testing`: `moorline::testing`, a bad network, a cluster of nodes and a ledger of frames, for the tests
//!   of a program that embeds this crate.
//! - `tower`: `Peer::service`, requests to a peer as a `tower_service::Service`.
//! - `node` (default): the command `moorline` and what only it needs; an embedding program can leave
//!   it out.

#[cfg(not(any(feature = "bundled", feature = "system", docsrs, miri)))]
compile_error!(
    "moorline needs to know where its MsQuic comes from: switch on the Cargo feature `bundled` \
     (builds it and links it statically; on by default) or `system` (links an installed \
     libmsquic.so.2), and not both"
);

mod actors;
mod config;
mod error;
mod failpoint;
mod frame;
mod identity;
mod lock;
mod marks;
mod never;
mod registry;
mod restart;
// The table is ahead of the actors that will drive it.
mod peers;
#[cfg_attr(not(test), expect(dead_code, reason = "parts that applications cannot ask for yet"))]
mod session;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
mod transport;

pub use actors::adapters::{FrameSink, FrameStream};
pub use actors::arrived_peer::ArrivedPeer;
pub use actors::events::{EventBatch, Events, NodeEvent};
pub use actors::frame_batch::{FrameBatch, ReceivedFrame};
pub use actors::frame_io::FrameIo;
pub use actors::handle::ConnectionHandle;
pub use actors::message::connection::ConnectionMessage;
pub use actors::message::peer::PeerMessage;
pub use actors::message::supervisor::SupervisorMessage;
pub use actors::node::Node;
pub use actors::peer_batch::PeerBatch;
pub use actors::peers::Peers;
pub use actors::sending::credit::Credit;
pub use actors::stats::ConnectionStats;
pub use actors::target::{Redial, Target};
pub use actors::watching::PeerNews;
pub use config::{
    ConfigError, Congestion, DEFAULT_ALPN, Latency, Limits, NodeConfig, STREAM_OP_TIMEOUT,
    SessionLimits,
};
pub use error::{
    AcceptError, CertificateAlert, CertificateRefused, CloseCode, CloseReason, ConnectError,
    ErrorKind, InvalidAddress, LibraryError, ListenError, NodeError, Outcome, RecvError, SendError,
    SendManyError, Side, StreamError,
};
pub use frame::{FrameDecoder, FrameTooLarge, HEADER_BYTES, Piece, Position, Run};
pub use identity::{
    CERTIFICATE_BYTES_MAX, CHAIN_BYTES_MAX, CertHash, CredentialError, KeyPrefixes, NetCredential,
    Origin, ParseHexError, Refusal, SIGNATURES_EXAMINED_MAX, SignerKey, SigningKey, Trust,
    key_prefixes, read_certificate,
};
pub use peers::adapters::{PeerSink, PeerStream};
pub use peers::admit::Arriving;
pub use peers::credit::PeerCredit;
pub use peers::delivery::{Delivery, DeliveryCounts};
pub use peers::error::{PeerEnded, PeerError, PeerSendError, PeerSendManyError, RequestError};
pub use peers::handle::{Incoming, Peer, Receipt, Request};
#[cfg(feature = "tower")]
pub use peers::service::{AnswerFuture, PeerService};
pub use peers::status::PeerChange;
/// The actors' crate, in the version whose types are in this one's interface.
pub use ractor;
pub use restart::{BackoffSettings, InvalidRestartSetting, RestartPolicy};
pub use session::effect::Admission;
pub use transport::{
    AdmissionCounts, Direction, LINKAGE, Lane, LibraryVersion, LimitCounts, MsQuicListener,
    MsQuicNetConnection, MsQuicNetIncomingRequest, MsQuicTransport, NetConnection,
    NetIncomingRequest, NetListener, NetTransport, NoLane, NodeStats, OutcomeCounts, ReadStream,
    RegistrationWrapper, RemoteAddr, SendStream, StreamPool, WorstCaseMemory, exit_at_once,
    msquic_is_debug_build, read_message_from_stream, release_freed_memory, resolve_bad_certificate,
    skip_system_certificates, unskip_system_certificates, write_buffer_to_stream,
};

#[cfg(feature = "internals")]
#[doc(hidden)]
pub use transport::internals;

/// The version of the MsQuic library in this process.
#[must_use]
pub fn msquic_version() -> LibraryVersion {
    LibraryVersion::linked()
}

/// The README's example, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The same for the document on delivery.
#[cfg(doctest)]
#[doc = include_str!("../docs/delivery.md")]
struct DeliveryDocument;

/// The same for the document on testing.
#[cfg(all(doctest, feature = "testing"))]
#[doc = include_str!("../docs/testing.md")]
struct Testing;
