//! Sessions over connections: performs what [`session`](crate::session) decides.
//!
//! ```text
//! handle.rs ....... a peer as applications hold it, and requests in its hands
//! sessions.rs ..... all sessions of a node: the table, dials, links
//! core.rs ......... one session: its flows, requests both ways, the link it has
//! ├── out_flow.rs ... one flow out: the ledger, its room, its stream
//! │   └── kept.rs ... frames that are encoded once and sent as often as it takes
//! └── in_flow.rs .... one flow in: what waits for the application
//!     └── cut.rs .... frames out of bytes
//! link.rs ......... a connection that carries a session: its session streams, whose frames come
//! delivery.rs, error.rs ... what became of frames, and what can go wrong
//! ```
//!
//! Locks, from the outer to the inner: the table, a flow, requests. The table is never asked under a
//! flow's lock; what follows from a change is done outside all of them.

pub(crate) mod core;
mod cut;
pub(crate) mod delivery;
pub(crate) mod error;
pub(crate) mod handle;
mod in_flow;
mod kept;
mod link;
mod out_flow;
pub(crate) mod sessions;
#[cfg(test)]
mod tests;
