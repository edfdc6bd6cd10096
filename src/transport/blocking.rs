//! Calls that block, beside every runtime.
//!
//! A runtime's own pool panics where the system has no thread for it, and whoever waits for the call
//! is told nothing. Here it is an error. Threads come with the calls and leave when there are none:
//! they hold no runtime's end.
//!
//! Invariants: at most [`THREADS_MAX`] threads; a call that was handed over runs, or its caller is told
//! why not, also by a call that panics; calls run without a lock.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock};

use tokio::sync::oneshot;

use crate::lock::lock;

/// Threads at once. A call waits for a worker of the library, for some milliseconds where it is busy,
/// or derives and parses keys.
const THREADS_MAX: usize = 16;

/// Why a call did not return.
#[derive(Debug, Clone)]
pub(super) enum NotRun {
    /// The system has no thread for it.
    NoThread(Arc<io::Error>),
    /// It panicked.
    Panicked,
}

/// Runs a call, or is told that nobody will.
type Call = Box<dyn FnOnce(Result<(), Arc<io::Error>>) + Send>;

type Start = dyn Fn(Box<dyn FnOnce() + Send>) -> io::Result<()> + Send + Sync;

/// See the module.
pub(super) struct Threads {
    state: Mutex<State>,
    start: Box<Start>,
}

#[derive(Default)]
struct State {
    threads: usize,
    queue: VecDeque<Call>,
}

/// Runs `call` on a thread of this process's own.
///
/// # Cancel safety
///
/// Cancelled, a call that waits or has begun runs to its end.
pub(super) async fn run<R: Send + 'static>(
    call: impl FnOnce() -> R + Send + 'static,
) -> Result<R, NotRun> {
    static THREADS: OnceLock<Arc<Threads>> = OnceLock::new();
    let start = |work: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new().name("moorline-call".to_owned()).spawn(work).map(drop)
    };
    Arc::clone(THREADS.get_or_init(|| Threads::new(start))).run(call).await
}

impl Threads {
    fn new(
        start: impl Fn(Box<dyn FnOnce() + Send>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), start: Box::new(start) })
    }

    async fn run<R: Send + 'static>(
        self: Arc<Self>,
        call: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, NotRun> {
        let (sender, answer) = oneshot::channel();
        self.hand_over(Box::new(move |thread| {
            let result = thread.map(|()| call()).map_err(NotRun::NoThread);
            // Who has gone needs no answer.
            drop(sender.send(result));
        }));
        // The sender is dropped unused by a panic alone.
        answer.await.unwrap_or(Err(NotRun::Panicked))
    }

    fn hand_over(self: &Arc<Self>, call: Call) {
        let mut state = lock(&self.state);
        state.queue.push_back(call);
        if state.threads >= THREADS_MAX {
            return;
        }
        state.threads += 1;
        drop(state);
        let this = Arc::clone(self);
        let Err(cause) = (self.start)(Box::new(move || this.work())) else { return };
        let mut state = lock(&self.state);
        state.threads -= 1;
        if state.threads > 0 {
            // One of the others takes it.
            return;
        }
        let calls = std::mem::take(&mut state.queue);
        drop(state);
        let cause = Arc::new(cause);
        calls.into_iter().for_each(|call| call(Err(Arc::clone(&cause))));
    }

    fn work(&self) {
        while let Some(call) = self.next_or_leave() {
            // What was told to the panic hook is all that there is to tell.
            drop(catch_unwind(AssertUnwindSafe(|| call(Ok(())))));
        }
    }

    /// Without a next one a thread leaves: under the same lock, so that whoever comes next starts
    /// another.
    fn next_or_leave(&self) -> Option<Call> {
        let mut state = lock(&self.state);
        let next = state.queue.pop_front();
        state.threads -= usize::from(next.is_none());
        next
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    async fn within<R>(what: &str, future: impl Future<Output = R>) -> R {
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, future).await.unwrap_or_else(|_| panic!("{what}: too long"))
    }

    /// Starts so many threads and no more.
    fn threads(count: usize) -> Arc<Threads> {
        let left = AtomicUsize::new(count);
        Threads::new(move |work| {
            let take = |left: usize| left.checked_sub(1);
            left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)
                .map_err(|_| io::Error::from(io::ErrorKind::WouldBlock))?;
            std::thread::Builder::new().spawn(work).map(drop)
        })
    }

    #[tokio::test]
    async fn without_a_thread_a_call_is_an_error_and_the_next_one_is_tried() {
        let none = threads(0);
        for _ in 0..2 {
            let called = within("an answer", Arc::clone(&none).run(|| 1)).await;
            assert!(matches!(called, Err(NotRun::NoThread(_))), "{called:?}");
        }
        assert_eq!(lock(&none.state).threads, 0);
        assert_eq!(within("an answer", threads(1).run(|| 1)).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_call_waits_for_the_thread_of_another_where_there_is_no_second() {
        let one = threads(1);
        let (go, gone) = mpsc::channel();
        let first = tokio::spawn(Arc::clone(&one).run(move || gone.recv().unwrap()));
        let began = async {
            while lock(&one.state).threads == 0 || !lock(&one.state).queue.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        within("the first begins", began).await;
        let second = tokio::spawn(Arc::clone(&one).run(|| 2));
        let queued = async {
            while lock(&one.state).queue.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        within("the second waits", queued).await;
        go.send(1).unwrap();
        assert_eq!(within("the first", first).await.unwrap().unwrap(), 1);
        assert_eq!(within("the second", second).await.unwrap().unwrap(), 2);
    }

    #[tokio::test]
    async fn a_call_that_panics_is_told_and_its_thread_takes_the_next() {
        let one = threads(1);
        let (go, gone) = mpsc::channel();
        let first = tokio::spawn(Arc::clone(&one).run(move || {
            gone.recv().unwrap();
            panic!("asked to by a test");
        }));
        let second = tokio::spawn(Arc::clone(&one).run(|| 2));
        let both = async {
            while lock(&one.state).queue.len() != 1 {
                tokio::task::yield_now().await;
            }
        };
        within("both are there", both).await;
        go.send(()).unwrap();
        let first = within("the first", first).await.unwrap();
        assert!(matches!(first, Err::<(), _>(NotRun::Panicked)), "{first:?}");
        assert_eq!(within("the second", second).await.unwrap().unwrap(), 2);
    }
}
