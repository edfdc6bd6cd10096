//! Sessions over connections: what `session` decides is done here.

pub(crate) mod core;
mod cut;
pub(crate) mod error;
pub(crate) mod handle;
mod in_flow;
mod kept;
mod link;
mod out_flow;
pub(crate) mod sessions;
#[cfg(test)]
mod tests;
