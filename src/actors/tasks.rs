//! How the actors answer, end, and own their tasks.

use std::sync::Mutex;

use ractor::RpcReplyPort;

use crate::lock::lock;

/// What a supervisor is told of a child that drained its mailbox and stopped ([`finish`]).
pub(crate) const DRAINED: &str = "Drained";

/// Stops an actor whose work is done. What is in its mailbox is still handled, and a message that
/// comes later goes back to its sender: nobody's question is lost.
pub(crate) fn finish<M: ractor::Message>(actor: &ractor::ActorRef<M>) {
    // It fails for an actor that has stopped: then there is nothing to do.
    drop(actor.drain());
}

/// A task that ends with its owner.
#[derive(Debug)]
pub(crate) struct OwnedTask(tokio::task::JoinHandle<()>);

impl OwnedTask {
    pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task))
    }
}

impl Drop for OwnedTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Does something if a task ends in another way than it should: by a panic, or with its runtime. Somebody
/// may wait for what it was to say.
pub(crate) struct Unfinished<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Unfinished<F> {
    pub(crate) fn then(tell: F) -> Self {
        Self(Some(tell))
    }

    /// The task has said what it was to say.
    pub(crate) fn done(mut self) {
        self.0 = None;
    }
}

impl<F: FnOnce()> Drop for Unfinished<F> {
    fn drop(&mut self) {
        if let Some(tell) = self.0.take() {
            tell();
        }
    }
}

/// Answers a caller who may have given up.
pub(super) fn answer<T>(reply: RpcReplyPort<T>, value: T) {
    drop(reply.send(value));
}

/// As [`answer`], for one of several who may be first.
pub(super) fn answer_once<T>(reply: &Mutex<Option<RpcReplyPort<T>>>, value: T) {
    let reply = lock(reply).take();
    if let Some(reply) = reply {
        answer(reply, value);
    }
}
