//! moorline
mod config;
mod error;
mod frame;
mod identity;
mod registry;
mod restart;
mod transport;
pub use config::*;
pub use error::*;
pub use frame::*;
pub use identity::*;
pub use restart::{BackoffSettings, RestartPolicy, InvalidRestartSetting};
pub use transport::*;
