//! What the actors of a node can be asked by anybody.

pub(crate) mod connection;
pub(crate) mod supervisor;
