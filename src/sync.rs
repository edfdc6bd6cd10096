//! What threads wait and wake by in the lanes and for readers: the package `loom/` puts its own types
//! in their place and plays every order of their steps.

#[cfg(not(moorline_loom))]
pub(crate) use self::real::*;
#[cfg(moorline_loom)]
pub(crate) use crate::played::*;

#[cfg(not(moorline_loom))]
mod real {
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
    pub(crate) use std::sync::{Mutex, MutexGuard};

    pub(crate) use tokio::sync::Notify;
}
