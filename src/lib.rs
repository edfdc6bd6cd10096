//! Supervised, mutually authenticated QUIC connections between peers, as actors.

mod actors;
mod config;
mod error;
mod frame;
mod identity;
mod registry;
mod restart;
mod transport;

pub use actors::connection::{ConnectionMessage, FrameBatch};
pub use actors::events::{Events, NodeEvent};
pub use actors::handle::{ConnectionHandle, ConnectionStats, Credit};
pub use actors::node::Node;
pub use actors::supervisor::SupervisorMessage;
pub use actors::target::{Redial, Target};
pub use config::{ConfigError, DEFAULT_ALPN, Limits, NodeConfig, STREAM_OP_TIMEOUT};
pub use error::{
    AcceptError, CertificateAlert, CertificateRefused, CloseCode, CloseReason, ConnectError,
    ErrorKind, LibraryError, ListenError, NodeError, Outcome, RecvError, SendError, Side,
    StreamError,
};
pub use frame::{FrameDecoder, FrameTooLarge, HEADER_BYTES, Piece, Position, Run};
pub use identity::{
    CERTIFICATE_BYTES_MAX, CertHash, CredentialError, KeyPrefixes, NetCredential, Origin,
    ParseHexError, Refusal, SIGNATURES_EXAMINED_MAX, SignerKey, SigningKey, Trust, key_prefixes,
};
pub use restart::{BackoffSettings, InvalidRestartSetting, RestartPolicy};
pub use transport::{
    Direction, LINKAGE, LibraryVersion, MsQuicListener, MsQuicNetConnection,
    MsQuicNetIncomingRequest, MsQuicTransport, NetConnection, NetIncomingRequest, NetListener,
    NetTransport, OutcomeCounts, ReadStream, RegistrationWrapper, RemoteAddr, SendStream,
    StreamPool, read_message_from_stream, resolve_bad_certificate, skip_system_certificates,
    write_buffer_to_stream,
};

/// The version of the MsQuic library in this process.
#[must_use]
pub fn msquic_version() -> LibraryVersion {
    LibraryVersion::linked()
}
