//! Faults that a test plants in this library: a panic, a stalled handler, a send that fails, no memory, an
//! end that comes late, a session that breaks its promise.
//!
//! Without the feature `testing` none is ever planted, and what asks for one is nothing at all.

macro_rules! failpoints {
    ($($(#[$docs:meta])* $point:ident => $name:literal,)*) => {
        /// A place in the library at which a panic or a stall can be planted.
        ///
        /// Its text is the actor or the handle of MsQuic and, behind a dot, what it does:
        /// `connection.handle`, `stream-callback.receive`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        #[cfg_attr(
            not(feature = "testing"),
            allow(unreachable_pub, reason = "public where it can be planted")
        )]
        pub enum Failpoint {
            $($(#[$docs])* $point,)*
        }

        #[cfg(any(test, feature = "testing"))]
        impl Failpoint {
            /// All there are.
            pub const ALL: &[Self] = &[$(Self::$point),*];

            /// Its text.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)*
                }
            }
        }
    };
}

failpoints! {
    /// The node's actor starts: a panic is an error of `Node::spawn`.
    SupervisorPreStart => "supervisor.pre_start",
    /// It handles a message.
    SupervisorHandle => "supervisor.handle",
    /// It has stopped in order.
    SupervisorPostStop => "supervisor.post_stop",
    /// The actor of a bound address starts, or is started again.
    ListenerPreStart => "listener.pre_start",
    /// It handles a message.
    ListenerHandle => "listener.handle",
    /// It has stopped in order.
    ListenerPostStop => "listener.post_stop",
    /// The actor of a dial target starts, or is started again.
    ConnectorPreStart => "connector.pre_start",
    /// It handles a message.
    ConnectorHandle => "connector.handle",
    /// It has stopped in order.
    ConnectorPostStop => "connector.post_stop",
    /// The actor of a connection starts.
    ConnectionPreStart => "connection.pre_start",
    /// It handles a message.
    ConnectionHandle => "connection.handle",
    /// It has stopped in order.
    ConnectionPostStop => "connection.post_stop",
    /// The actor of a session starts, or is started again.
    PeerPreStart => "peer.pre_start",
    /// It handles a message.
    PeerHandle => "peer.handle",
    /// It has stopped in order.
    PeerPostStop => "peer.post_stop",
    /// MsQuic has a connection for a listener (NEW_CONNECTION).
    ListenerCallbackNew => "listener-callback.new",
    /// A listener has stopped (STOP_COMPLETE).
    ListenerCallbackComplete => "listener-callback.complete",
    /// A handshake is done (CONNECTED).
    ConnectionCallbackConnected => "connection-callback.connected",
    /// The peer opened a stream (PEER_STREAM_STARTED).
    ConnectionCallbackStream => "connection-callback.stream",
    /// The peer or the transport ended the connection (SHUTDOWN_INITIATED).
    ConnectionCallbackClosing => "connection-callback.closing",
    /// Nothing more comes of the connection (SHUTDOWN_COMPLETE).
    ConnectionCallbackComplete => "connection-callback.complete",
    /// Bytes came (RECEIVE).
    StreamCallbackReceive => "stream-callback.receive",
    /// What was sent is acknowledged or given up (SEND_COMPLETE).
    StreamCallbackSent => "stream-callback.sent",
    /// Nothing more comes of the stream (SHUTDOWN_COMPLETE).
    StreamCallbackComplete => "stream-callback.complete",
}

#[cfg(not(any(test, feature = "testing")))]
mod absent;
#[cfg(any(test, feature = "testing"))]
mod flows;
#[cfg(any(test, feature = "testing"))]
mod planted;

#[cfg(not(any(test, feature = "testing")))]
pub(crate) use self::absent::{
    complete_is_late, flow_fault, in_actor, in_callback, no_memory, send_fails,
};
#[cfg(any(test, feature = "testing"))]
pub(crate) use self::flows::flow_fault;
#[cfg(any(test, feature = "testing"))]
pub(crate) use self::planted::{complete_is_late, in_actor, in_callback, no_memory, send_fails};

#[cfg(any(test, feature = "testing"))]
pub use self::flows::PlantedFlowFault;
#[cfg(any(test, feature = "testing"))]
pub use self::planted::{Failure, Plan, Planted, UnknownFailpoint};
