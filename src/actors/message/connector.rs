//! What a connector is told.

use crate::actors::callers::Caller;
use crate::actors::handle::ConnectionHandle;
use crate::error::{CloseReason, ConnectError};
use crate::transport::MsQuicNetConnection;

/// What a connector tells itself, or is told by the supervisor.
#[derive(Debug)]
pub(crate) enum ConnectorMessage {
    /// Tell the connection, now or when it stands.
    Connect(Caller),
    /// A caller has gone: perhaps nobody waits any more.
    CallerGone,
    Dialled {
        generation: u64,
        result: Result<MsQuicNetConnection, ConnectError>,
    },
    Over {
        epoch: u64,
        reason: CloseReason,
    },
    /// The wait is over.
    Due {
        generation: u64,
    },
    /// The peer has come by itself.
    Arrived(ConnectionHandle),
    Stop,
    #[cfg(test)]
    Panic,
}
