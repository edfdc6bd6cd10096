//! What the actors of a node can be asked.

pub(crate) mod connection;
pub(super) mod connector;
pub(crate) mod peer;
pub(crate) mod supervisor;
