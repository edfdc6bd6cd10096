//! Names to addresses, beside every runtime.
//!
//! The system's own resolver is asked (`getaddrinfo`), because people expect `/etc/hosts` and
//! `nsswitch.conf` to count. It blocks, with a dead name server for half a minute, and cannot be
//! cancelled. On a runtime's blocking pool it would hold the end of the runtime so long; here it has
//! threads of its own, which nobody waits for.
//!
//! ```text
//! look_up ──> a look-up of the name is running? ──yes──> shares its result
//!                 │ no
//!                 └─> a thread is free? ──yes──> it asks the system, then takes the next name
//!                         └──no──> queued
//! ```
//!
//! Invariants: at most [`THREADS_MAX`] threads, at most [`NAMES_MAX`] names; a name that nobody waits
//! for any more is not asked for; every look-up that began is answered, also by a thread that
//! panics; the system is asked without a lock.

use std::collections::{HashMap, VecDeque};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, OnceLock};

use tokio::sync::oneshot;
use tracing::debug;

use crate::lock::lock;

/// Threads that ask the system at once. Each may be stuck for as long as a dead name server takes,
/// and names that do not need one (of `/etc/hosts`) wait behind them.
const THREADS_MAX: usize = 16;

/// Names that are asked for or wait, and callers that wait for one name.
const NAMES_MAX: usize = 1024;

/// Bytes of such a thread's stack: the modules of `nsswitch.conf` run on it.
const STACK_BYTES: usize = 512 << 10;

/// The addresses of a name with their zones; the port is the caller's.
type Found = Result<Vec<SocketAddr>, String>;

type Ask = dyn Fn(&str) -> Found + Send + Sync;

/// See the module.
pub(super) struct Resolver {
    state: Mutex<State>,
    ask: Box<Ask>,
}

#[derive(Default)]
struct State {
    threads: usize,
    /// Who waits for each name that is asked for or queued.
    waiting: HashMap<String, Vec<oneshot::Sender<Found>>>,
    queue: VecDeque<String>,
}

impl Resolver {
    /// The one of this process.
    pub(super) fn system() -> Arc<Self> {
        static SYSTEM: OnceLock<Arc<Resolver>> = OnceLock::new();
        let ask = |host: &str| match (host, 0).to_socket_addrs() {
            Ok(found) => Ok(found.collect()),
            Err(cause) => Err(cause.to_string()),
        };
        Arc::clone(SYSTEM.get_or_init(|| Self::new(ask)))
    }

    pub(super) fn new(ask: impl Fn(&str) -> Found + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), ask: Box::new(ask) })
    }

    /// The addresses of `host`, in the order in which the system would have them tried; never none.
    ///
    /// # Cancel safety
    ///
    /// Cancelled, a look-up that has begun goes on, for those who ask next.
    pub(super) async fn look_up(self: &Arc<Self>, host: &str, port: u16) -> Found {
        let answer = self.enter(host)?;
        // The sender is dropped unused only if its thread could not be started.
        let found =
            answer.await.unwrap_or_else(|_| Err("no thread could ask for it".to_owned()))?;
        if found.is_empty() {
            return Err("it has no address".to_owned());
        }
        let with_port = |mut address: SocketAddr| {
            address.set_port(port);
            address
        };
        Ok(found.into_iter().map(with_port).collect())
    }

    fn enter(self: &Arc<Self>, host: &str) -> Result<oneshot::Receiver<Found>, String> {
        let full = || Err("too many names are being looked up".to_owned());
        let (sender, answer) = oneshot::channel();
        let mut state = lock(&self.state);
        if let Some(waiting) = state.waiting.get_mut(host) {
            waiting.retain(|caller| !caller.is_closed());
            if waiting.len() >= NAMES_MAX {
                return full();
            }
            waiting.push(sender);
            return Ok(answer);
        }
        if state.waiting.len() >= NAMES_MAX {
            state.forget_the_unwanted();
            if state.waiting.len() >= NAMES_MAX {
                return full();
            }
        }
        state.waiting.insert(host.to_owned(), vec![sender]);
        state.queue.push_back(host.to_owned());
        if state.threads < THREADS_MAX {
            state.threads += 1;
            drop(state);
            self.start_thread();
        }
        Ok(answer)
    }

    fn start_thread(self: &Arc<Self>) {
        let worker = Worker::new(self);
        let thread = std::thread::Builder::new();
        let thread = thread.name("moorline-resolve".to_owned()).stack_size(STACK_BYTES);
        // The worker that does not run is dropped: it takes the thread back, and the names that no
        // other thread would take.
        if let Err(cause) = thread.spawn(move || worker.run()) {
            debug!(%cause, "no thread to look names up with");
        }
    }
}

impl State {
    /// Names in the queue that nobody waits for any more.
    fn forget_the_unwanted(&mut self) {
        let waiting = &mut self.waiting;
        self.queue.retain(|name| {
            let wanted = waiting.get(name).is_some_and(|all| all.iter().any(|c| !c.is_closed()));
            if !wanted {
                waiting.remove(name);
            }
            wanted
        });
    }

    /// The next name that somebody waits for. Without one a thread leaves: under the same lock, so
    /// that whoever comes next starts another.
    fn next_or_leave(&mut self) -> Option<String> {
        while let Some(name) = self.queue.pop_front() {
            if self.waiting.get(&name).is_some_and(|all| all.iter().any(|c| !c.is_closed())) {
                return Some(name);
            }
            self.waiting.remove(&name);
        }
        self.threads -= 1;
        None
    }
}

/// A thread that looks names up until there are none.
struct Worker {
    resolver: Arc<Resolver>,
    /// It runs; one that never did is dropped by who wanted to start it.
    began: bool,
    /// It is counted.
    counted: bool,
    /// The one it is at.
    name: Option<String>,
}

impl Worker {
    /// Counted already.
    fn new(resolver: &Arc<Resolver>) -> Self {
        Self { resolver: Arc::clone(resolver), began: false, counted: true, name: None }
    }

    fn run(mut self) {
        self.began = true;
        loop {
            let next = lock(&self.resolver.state).next_or_leave();
            let Some(name) = next else {
                self.counted = false;
                return;
            };
            self.name = Some(name.clone());
            let found = (self.resolver.ask)(&name);
            self.answer(&found);
        }
    }

    fn answer(&mut self, found: &Found) {
        let Some(name) = self.name.take() else { return };
        let waiting = lock(&self.resolver.state).waiting.remove(&name);
        for caller in waiting.into_iter().flatten() {
            // Who has gone needs no answer.
            drop(caller.send(found.clone()));
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.counted {
            return;
        }
        // It panicked, or could not be started.
        self.answer(&Err("looking it up failed".to_owned()));
        let mut state = lock(&self.resolver.state);
        if self.began && !state.queue.is_empty() {
            // Its place goes to another one.
            drop(state);
            self.resolver.start_thread();
            return;
        }
        state.threads -= 1;
        if state.threads > 0 {
            return;
        }
        let names = std::mem::take(&mut state.queue);
        let unanswered: Vec<_> = names.iter().filter_map(|n| state.waiting.remove(n)).collect();
        drop(state);
        drop(unanswered);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    async fn within<R>(what: &str, future: impl Future<Output = R>) -> R {
        tokio::time::timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("{what}: too long"))
    }

    fn one() -> Found {
        Ok(vec![([127, 0, 0, 1], 0).into()])
    }

    /// A resolver that answers when it is told to: once for each word through the channel.
    fn stuck() -> (Arc<Resolver>, mpsc::Sender<()>, Arc<AtomicUsize>) {
        let (answer, answers) = mpsc::channel();
        let (answers, asked) = (Mutex::new(answers), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&asked);
        let resolver = Resolver::new(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            lock(&answers).recv_timeout(LIMIT).map_err(|cause| cause.to_string())?;
            one()
        });
        (resolver, answer, asked)
    }

    async fn until(what: &str, holds: impl Fn() -> bool) {
        within(what, async {
            while !holds() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    fn look_up(
        resolver: &Arc<Resolver>,
        host: impl Into<String>,
    ) -> tokio::task::JoinHandle<Found> {
        let (resolver, host) = (Arc::clone(resolver), host.into());
        tokio::spawn(async move { resolver.look_up(&host, 4433).await })
    }

    #[test]
    fn a_look_up_that_is_stuck_does_not_hold_the_end_of_its_runtime() {
        let (resolver, answer, asked) = stuck();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            look_up(&resolver, "dead.test");
            until("it is asked for", || asked.load(Ordering::SeqCst) == 1).await;
        });
        let begun = Instant::now();
        drop(runtime);
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        answer.send(()).unwrap();
    }

    #[tokio::test]
    async fn calls_for_one_name_share_one_look_up() {
        let (resolver, answer, asked) = stuck();
        let calls: Vec<_> = (0..50).map(|_| look_up(&resolver, "host.test")).collect();
        let waits = || lock(&resolver.state).waiting.get("host.test").map(Vec::len) == Some(50);
        until("all wait", waits).await;
        answer.send(()).unwrap();
        for call in calls {
            let found = within("an answer", call).await.unwrap();
            assert_eq!(found, Ok(vec![([127, 0, 0, 1], 4433).into()]));
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        until("the thread leaves", || lock(&resolver.state).threads == 0).await;
        assert!(lock(&resolver.state).waiting.is_empty());
    }

    #[tokio::test]
    async fn threads_and_names_are_bounded_and_names_that_nobody_wants_are_not_asked_for() {
        let (resolver, answer, asked) = stuck();
        let calls: Vec<_> =
            (0..NAMES_MAX).map(|n| look_up(&resolver, format!("{n}.test"))).collect();
        until("all wait", || lock(&resolver.state).waiting.len() == NAMES_MAX).await;
        until("threads are busy", || asked.load(Ordering::SeqCst) == THREADS_MAX).await;
        let error = within("a refusal", look_up(&resolver, "more.test")).await.unwrap();
        assert_eq!(error, Err("too many names are being looked up".to_owned()));
        // Callers that are gone give their place back.
        for call in &calls {
            call.abort();
        }
        for call in calls {
            within("its end", call).await.unwrap_err();
        }
        let late = look_up(&resolver, "more.test");
        let queued = || lock(&resolver.state).waiting.contains_key("more.test");
        until("it is queued", queued).await;
        assert_eq!(lock(&resolver.state).threads, THREADS_MAX);
        for _ in 0..=THREADS_MAX {
            answer.send(()).unwrap();
        }
        within("an answer", late).await.unwrap().unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), THREADS_MAX + 1, "those that were wanted");
        until("the threads leave", || lock(&resolver.state).threads == 0).await;
    }

    #[tokio::test]
    async fn callers_of_one_name_are_bounded_and_who_is_gone_gives_the_place_back() {
        let (resolver, answer, _) = stuck();
        let waiting: Vec<_> = (0..NAMES_MAX).map(|_| resolver.enter("one.test")).collect();
        assert!(resolver.enter("one.test").is_err());
        drop(waiting);
        let living = resolver.enter("one.test").expect("a place");
        answer.send(()).unwrap();
        assert_eq!(within("an answer", living).await.unwrap(), one());
    }

    #[tokio::test]
    async fn a_look_up_that_panics_is_answered_and_the_next_name_is_asked_for() {
        let resolver = Resolver::new(|host| {
            assert_ne!(host, "bad.test", "asked to by a test");
            if host == "none.test" { Ok(Vec::new()) } else { one() }
        });
        let calls = ["bad.test", "good.test", "none.test"].map(|host| look_up(&resolver, host));
        let mut found = Vec::new();
        for call in calls {
            found.push(within("an answer", call).await.unwrap());
        }
        assert_eq!(found[0], Err("looking it up failed".to_owned()));
        assert!(found[1].is_ok());
        assert_eq!(found[2], Err("it has no address".to_owned()));
        until("the threads leave", || lock(&resolver.state).threads == 0).await;
    }

    #[tokio::test]
    async fn a_thread_that_cannot_be_started_leaves_nobody_waiting() {
        let resolver = Resolver::new(|_| one());
        let answer = {
            let (sender, answer) = oneshot::channel();
            let mut state = lock(&resolver.state);
            state.waiting.insert("host.test".to_owned(), vec![sender]);
            state.queue.push_back("host.test".to_owned());
            state.threads = 1;
            answer
        };
        // What `start_thread` does with the worker then.
        drop(Worker::new(&resolver));
        assert!(within("the end", answer).await.is_err());
        assert_eq!(lock(&resolver.state).threads, 0);
        within("the next one", resolver.look_up("host.test", 1)).await.unwrap();
    }
}
