//! What the tests of this package share: peers that were written elsewhere, and frames to exchange
//! with them.
//!
//! ```text
//! exchange.rs .............. frames both ways between moorline and any foreign peer
//! ├── frames.rs ............ which frames, and a second reading of the wire format
//! ├── moorline_end.rs ..... moorline as a transport, and as a node
//! ├── certificate.rs ....... certificates that moorline did not make
//! ├── quinn_peer.rs ........ quinn over rustls, moorline pinned by its hash
//! ├── session_peer.rs ..... a connection of `moorline/1` over quinn
//! │   └── session_message.rs  what its session streams carry
//! └── msquic_async_peer.rs . msquic-async, moorline trusted by a file
//! ```
//!
//! Nothing here uses moorline's codec: a mistake in it would otherwise meet itself.

mod certificate;
mod exchange;
mod frames;
pub mod moorline_end;
pub mod msquic_async_peer;
pub mod quinn_peer;
pub mod session_message;
pub mod session_peer;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

pub use certificate::PeerCertificate;
pub use exchange::{MoorlineEnd, exchange};
pub use frames::{FrameReader, Incoming, Outgoing, encode, frame};

/// The longest wait of a test, far above what it takes on a busy machine: it ends only what hangs.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Any free port of the loopback interface.
pub const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The one way to wait.
///
/// # Panics
///
/// If `future` is not done within `limit`; says `what` was waited for.
pub async fn within<T>(limit: Duration, what: &str, future: impl IntoFuture<Output = T>) -> T {
    match tokio::time::timeout(limit, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {limit:?}"),
    }
}
