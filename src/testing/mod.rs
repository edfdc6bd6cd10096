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

mod conditions;
mod counters;
mod fault;
mod held;
mod path;
mod proxy;
mod rng;
mod script;
mod script_text;
mod share;
mod text;

pub use conditions::{Conditions, GilbertElliott, Loss, RateLimit, Towards};
pub use counters::Counters;
pub use fault::Fault;
pub use held::HELD_BYTES_MAX;
pub use proxy::{ChaosProxy, ProxyError};
pub use script::{Script, ScriptEvent};
pub use script_text::ScriptError;
pub use share::{ParseShareError, Share};
