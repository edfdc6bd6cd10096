//! Gives jobs to workers, and takes back what those had that died.
//!
//! A job that a worker has stays its job as long as its session lives, over as many connections as that takes.
//! A session ends when its worker has started anew, or does not come back: another one gets the job then.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moorline::{CertHash, Node, NodeEvent, Peer};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

/// What coordinator and workers speak.
pub(crate) const PROTOCOL: &str = "jobs/1";

/// Jobs that a worker has at once.
const AT_ONCE: usize = 2;

/// A worker that lives and does not answer for so long does not do its job.
const TIME: Duration = Duration::from_secs(3600);

/// What the coordinator learns of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// It has a connection.
    Came(CertHash),
    /// It has none, or has died.
    Lost(CertHash),
}

/// See the module. It goes on until it is dropped.
pub(crate) struct Coordinator {
    queue: Arc<Queue>,
    _tasks: JoinSet<()>,
}

impl Coordinator {
    /// Of all workers that come to `node`; `tell` gets the news.
    pub(crate) fn start(node: &Node, tell: impl Fn(News) + Send + 'static) -> Self {
        let (queue, mut tasks) = (Arc::new(Queue::new()), JoinSet::new());
        let (mut workers, given) = (node.accept(PROTOCOL), Arc::clone(&queue));
        tasks.spawn(async move {
            let mut serving = JoinSet::new();
            while let Some(worker) = workers.next().await {
                for _ in 0..AT_ONCE {
                    serving.spawn(serve(worker.clone(), Arc::clone(&given)));
                }
                while serving.try_join_next().is_some() {}
            }
        });
        let mut events = node.subscribe();
        tasks.spawn(async move {
            while let Some(event) = events.next().await {
                match event {
                    NodeEvent::PeerUp { peer, .. } => tell(News::Came(peer)),
                    NodeEvent::PeerDown { peer, .. } | NodeEvent::PeerEnded { peer, .. } => {
                        tell(News::Lost(peer));
                    }
                    _ => {}
                }
            }
        });
        Self { queue, _tasks: tasks }
    }

    /// Its jobs.
    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }
}

/// Gives a worker one job after the other, until its session is over.
async fn serve(worker: Peer, queue: Arc<Queue>) {
    loop {
        let job = tokio::select! {
            job = queue.take() => job,
            // A worker says nothing by itself; it is over.
            _ = worker.recv() => return,
        };
        match worker.request(job.to_be_bytes().to_vec(), TIME).await {
            Ok(_) => queue.done(job),
            Err(_) => queue.put(job),
        }
    }
}

/// Jobs that nobody has, and those that are not done.
pub(crate) struct Queue {
    waiting: Mutex<VecDeque<u64>>,
    /// A permit for each that waits.
    ready: Semaphore,
    open: Mutex<BTreeSet<u64>>,
    closed: Notify,
}

impl Queue {
    fn new() -> Self {
        let ready = Semaphore::new(0);
        Self { waiting: Mutex::default(), ready, open: Mutex::default(), closed: Notify::new() }
    }

    /// Somebody has to do it.
    pub(crate) fn put(&self, job: u64) {
        lock(&self.open).insert(job);
        lock(&self.waiting).push_back(job);
        self.ready.add_permits(1);
    }

    async fn take(&self) -> u64 {
        loop {
            // It is never closed.
            if let Ok(permit) = self.ready.acquire().await {
                permit.forget();
            }
            if let Some(job) = lock(&self.waiting).pop_front() {
                return job;
            }
        }
    }

    fn done(&self, job: u64) {
        lock(&self.open).remove(&job);
        self.closed.notify_waiters();
    }

    /// Jobs that are not done.
    pub(crate) fn open(&self) -> usize {
        lock(&self.open).len()
    }

    /// Waits until all that were put are done.
    pub(crate) async fn all_done(&self) {
        loop {
            let closed = self.closed.notified();
            tokio::pin!(closed);
            closed.as_mut().enable();
            if self.open() == 0 {
                return;
            }
            closed.await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
