//! MsQuic's C table behind safe types: all `unsafe` of the crate is in this folder.
//!
//! ```text
//! Registration ── Configuration
//!      ├── ListenerSlot ──── callbacks ──> Arc<impl ListenerCallbacks>
//!      └── ConnectionSlot ── callbacks ──> Arc<impl ConnectionCallbacks>
//!               └── StreamSlot ─ callbacks ─> Arc<impl StreamCallbacks>
//! ```
//!
//! A slot holds a raw handle behind a lock. The lock is taken for calls that only queue work for
//! MsQuic's worker, never across one that waits for it. The context of a handle is one strong
//! count that MsQuic owns.
//!
//! Invariants: a handle is closed exactly once, inside its own last callback; before that its slot
//! is emptied, so no call reaches a closed handle; the context is released after Close returned;
//! no panic crosses into C.
#![allow(unsafe_code, reason = "this folder is the boundary to the C library")]

mod allocator;
mod configuration;
mod connection;
mod connection_settings;
mod environment;
mod execution;
mod exit_guard;
mod listener;
mod listeners;
mod quic_settings;
mod raw;
mod registration;
mod reset;
mod retry;
#[cfg(test)]
pub(super) mod scripted;
#[cfg(target_os = "linux")]
mod socket_filter;
mod sockets;
mod stream;
mod version;

pub use allocator::release_freed_memory;
pub(super) use configuration::{Configuration, Role};
pub(super) use connection::{ConnectionCallbacks, ConnectionSlot, Place, RawStatistics};
pub use environment::{skip_system_certificates, unskip_system_certificates};
pub(crate) use execution::poll_when_idle;
pub use exit_guard::exit_at_once;
pub(super) use listener::{ListenerCallbacks, ListenerSlot, NewConnection};
pub(super) use quic_settings::QuicSettings;
pub(super) use raw::{CLOSED, status};
pub(super) use registration::Registration;
pub(super) use reset::set_reset_key;
pub(super) use retry::retry_from;
pub(super) use sockets::{
    Dialled, Stage, guard_dialled, guard_listening, listens_on, next_descriptor, wildcard_ports,
};
pub(super) use stream::{PeerStream, Received, SendRequest, Shutdown, StreamCallbacks, StreamSlot};
pub(super) use version::library_version;
pub use version::msquic_is_debug_build;
