//! How models play, and poll.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::transport::plant_by_name;

/// Times that a thread is stopped before it wants to, in one order. Two find every fault that is
/// planted; the more there are the longer it takes.
const PREEMPTIONS_MAX: usize = 3;

/// Names a fault that is there while a model plays.
const PLANTED: &str = "MOORLINE_PLANTED";

/// Plays `model` in every order of its threads' steps.
pub(crate) fn play(model: impl Fn() + Sync + Send + 'static) {
    if let Ok(name) = std::env::var(PLANTED) {
        plant_by_name(&name);
    }
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS_MAX);
    builder.check(model);
}

/// Polls once, with a waker that wakes nobody.
pub(crate) fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}
