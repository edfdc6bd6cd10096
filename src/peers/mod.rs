//! Sessions over connections: performs what [`session`](crate::session) decides.
//!
//! ```text
//! handle.rs ....... a peer as applications hold it
//! ├── handle/sending.rs, handle/receiving.rs, handle/asking.rs .. what it can do
//! └── handle/request.rs .. requests in the hands of their handlers
//! adapters.rs ..... a peer as a Sink and a Stream
//! service.rs ...... a peer as a service of tower; behind a feature
//! credit.rs ....... room that is kept for the frames of one message
//! admit.rs ........ what an application is asked before a peer begins a session
//! sessions.rs ..... all sessions of a node: the table, links
//! └── sessions/ ..... who begins one, dials (spacing.rs), what is due, the node's end
//! core.rs ......... one session: its flows, requests both ways, the link it has
//! ├── flows.rs ...... the flows of a session, each made when it is used
//! ├── out_flow.rs ... one flow out: the ledger, its room, its stream
//! │   └── kept.rs ... frames that are encoded once and sent as often as it takes
//! ├── in_flow.rs .... one flow in: what waits for the application
//! │   └── cut.rs .... frames out of bytes
//! ├── teller.rs ..... who tells the peer what was taken
//! ├── by_message.rs . what actors asked of it, which outlives the actor that was asked
//! └── status.rs ..... whether it has a connection, for those who watch it
//! room.rs ......... what all of them may hold together
//! link.rs ......... a connection that carries a session: its session streams, whose frames come
//! delivery.rs, error.rs ... what became of frames, and what can go wrong
//! ```
//!
//! Locks, from the outer to the inner: the table, the making of a flow, a flow, requests. The table is
//! never asked under a flow's lock; what follows from a change is done outside all of them.

pub(crate) mod adapters;
pub(crate) mod admit;
pub(crate) mod by_message;
pub(crate) mod core;
pub(crate) mod credit;
mod cut;
pub(crate) mod delivery;
pub(crate) mod error;
mod flows;
pub(crate) mod handle;
mod in_flow;
mod kept;
mod link;
pub(crate) mod out_flow;
pub(crate) mod room;
#[cfg(feature = "tower")]
pub(crate) mod service;
pub(crate) mod sessions;
mod spacing;
pub(crate) mod status;
mod teller;
#[cfg(test)]
mod tests;
