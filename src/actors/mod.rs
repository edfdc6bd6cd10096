//! The actors: who supervises whom, and how a frame gets past them.
//!
//! ```text
//! Supervisor ............ owns the MsQuic registration; restart policy; ordered shutdown
//! ├── ListenerActor ..... one per bound address; admission; spawns inbound connections
//! ├── ConnectorActor .... one per dial target; single-flight dial, backoff; spawns outbound ones
//! ├── ConnectionActor ... one per connection; owns its streams, deadlines, close
//! └── PeerActor ......... one per session that is driven by message; holds it, and owns nothing
//! ```
//!
//! A connection is spawned by the listener or connector that made it and linked to the
//! supervisor: what made it may fail, and the connection lives on.
//!
//! Invariants: no actor has a name; `handle` never waits for the network, a permit or another
//! actor; native handles are released by `Drop`, because a killed actor runs no `post_stop`.

pub(crate) mod adapters;
mod arrivals;
pub(crate) mod arrived_peer;
mod callers;
mod child;
mod cluster;
mod connection;
pub(crate) mod connector;
mod establish;
pub(crate) mod events;
pub(crate) mod frame_batch;
pub(crate) mod frame_io;
pub(crate) mod handle;
pub(crate) mod listener;
pub(crate) mod message;
pub(crate) mod node;
mod peer_actor;
pub(crate) mod peer_batch;
mod peer_children;
pub(crate) mod peers;
mod readers;
mod redial;
mod refusal_log;
pub(crate) mod sending;
mod shared;
pub(crate) mod stats;
pub(crate) mod supervisor;
pub(crate) mod target;
mod tasks;
mod telling;
mod waiting;
pub(crate) mod watching;

#[cfg(test)]
mod connection_tests;
#[cfg(test)]
mod supervision_tests;
