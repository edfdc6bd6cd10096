//! A bad network for the tests of a program that embeds this crate, and what tells whether it did well.
//!
//! Behind the Cargo feature `testing`; switch it on for tests alone:
//!
//! ```toml
//! [dev-dependencies]
//! moorline = { path = "moorline", features = ["testing"] }
//! ```
//!
//! - [`ChaosProxy`]: a link that loses, delays, reorders, doubles, damages, bounds or swallows datagrams, as it
//!   is told or as a [`Script`] says.
//! - [`Cluster`]: nodes in one process with such a link between each two, that are partitioned, killed,
//!   started again and paused; [`ProcessCluster`]: the same with processes.
//! - [`Ledger`]: numbers frames, and names those that were lost, came twice, out of order or damaged.
//! - [`failpoint`]: faults inside of this library: a panic, a stalled handler, a send that fails.

mod cluster;
mod conditions;
mod counters;
mod fault;
mod held;
mod ledger;
mod mesh;
mod path;
mod ports;
#[cfg(unix)]
mod processes;
mod proxy;
mod ranges;
mod rng;
mod script;
mod script_text;
mod share;
mod stamp;
mod text;

pub mod failpoint;

pub use cluster::{Cluster, ClusterError};
pub use conditions::{Conditions, GilbertElliott, Loss, RateLimit, Towards};
pub use counters::Counters;
pub use fault::Fault;
pub use held::HELD_BYTES_MAX;
pub use ledger::{Examples, FlowReport, Ledger, LedgerReport, LedgerSender};
#[cfg(unix)]
pub use processes::{Place, ProcessCluster, ProcessClusterError};
pub use proxy::{ChaosProxy, ProxyError};
pub use ranges::Ranges;
pub use script::{Script, ScriptEvent};
pub use script_text::ScriptError;
pub use share::{ParseShareError, Share};
pub use stamp::{STAMP_BYTES, Stamp, StampError};
