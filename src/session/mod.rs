//! Sessions: what two incarnations have under one protocol, however many connections it takes.
//!
//! Pure: no clock, no socket, no lock, no actor. Time and randomness are arguments, what is to be
//! done comes back as values.
//!
//! | file | what |
//! |---|---|
//! | `message.rs`, `fields.rs` | what the session stream carries, and its encoding |
//! | `frame_head.rs` | heads of streams and of frames |
//! | `flow.rs` | names and counters of flows |
//! | `flow_out.rs` | the ledger of what was accepted: taken ≤ received ≤ submitted ≤ accepted |
//! | `flow_violation.rs` | what a peer must not do on a flow |
//! | `flow_in.rs` | what came: numbers, credit, what presses to be told |
//! | `telling.rs` | when the peer is told what was taken, where nothing presses |
//! | `requests.rs` | requests of this side, until their one end |
//! | `handling.rs` | requests of the peer, until their one reply |
//! | `election.rs` | which link a session has |
//! | `tombstones.rs`, `incarnations.rs` | what is remembered of sessions and incarnations that ended |
//! | `rate.rs` | what a session stream may bring in a second |
//! | `away.rs` | peers that are not to be dialled for a while |
//! | `effect.rs` | what the table is told, and what it wants to be done |
//! | `table.rs` | all sessions of a node: links, Hello, ends |
//!
//! A flow's stream may come before the Attach of its connection, since streams overtake each other: it
//! waits, unread, until the session has that connection with that generation; of a connection that a
//! session has left nothing is taken.
//!
//! A session's flows are with whoever moves frames, under locks of their own: the table asks for
//! their counters ([`effect::Counters`]) where a message carries them.

mod away;
pub(crate) mod effect;
mod election;
mod fields;
pub(crate) mod flow;
pub(crate) mod flow_fault;
pub(crate) mod flow_in;
pub(crate) mod flow_out;
mod flow_violation;
pub(crate) mod frame_head;
pub(crate) mod handling;
mod incarnations;
pub(crate) mod message;
pub(crate) mod rate;
pub(crate) mod requests;
pub(crate) mod table;
pub(crate) mod telling;
#[cfg(test)]
mod tests;
mod tombstones;
