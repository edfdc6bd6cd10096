//! Worker processes, and what they say to have taken.
#![allow(dead_code, reason = "the test of the example asks for more than the example")]

use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use moorline::{CertHash, NetCredential, Node, NodeConfig};

use super::worker::Orders;

/// A job in the hands of a worker; times are those since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Take {
    pub(crate) job: u64,
    pub(crate) worker: usize,
    /// Which of the worker's processes it was.
    pub(crate) start: usize,
    pub(crate) at: Duration,
}

/// Each worker's processes, one after the other.
pub(crate) struct Fleet {
    credentials: Vec<NetCredential>,
    command: Box<dyn Fn(usize) -> Command + Send>,
    running: Vec<Option<Child>>,
    /// When each process of each worker was killed.
    killed: Vec<Vec<Option<Duration>>>,
    takes: Arc<Mutex<Vec<Take>>>,
}

impl Fleet {
    /// Of workers that do not run yet, with a node for their coordinator and where it listens. `command`
    /// becomes one of them.
    pub(crate) async fn prepare(
        workers: usize,
        command: impl Fn(usize) -> Command + Send + 'static,
    ) -> Result<(Self, Node, SocketAddr), Box<dyn std::error::Error>> {
        let own = |name: &str| NetCredential::generate_self_signed(&[name], &[]);
        let credentials: Vec<_> = (0..workers)
            .map(|worker| own(&format!("worker-{worker}")))
            .collect::<Result<_, _>>()?;
        let all = credentials.iter().map(NetCredential::identity);
        let node =
            Node::spawn(NodeConfig::new(all.fold(own("coordinator")?, NetCredential::trust_hash)));
        let node = node.await?;
        let address = node.listen(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let fleet = Self {
            credentials,
            command: Box::new(command),
            running: (0..workers).map(|_| None).collect(),
            killed: vec![Vec::new(); workers],
            takes: Arc::default(),
        };
        Ok((fleet, node, address))
    }

    /// Who a worker is.
    pub(crate) fn identity(&self, worker: usize) -> CertHash {
        self.credentials[worker].identity()
    }

    /// Starts a worker's next process.
    pub(crate) fn start(
        &mut self,
        worker: usize,
        to: SocketAddr,
        identity: CertHash,
    ) -> io::Result<()> {
        let mut command = (self.command)(worker);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        if let Some(input) = &mut process.stdin {
            let orders = Orders::to_text(to, identity, &self.credentials[worker]);
            input.write_all(orders.as_bytes())?;
        }
        let start = self.killed[worker].len();
        self.killed[worker].push(None);
        if let Some(output) = process.stdout.take() {
            let takes = Arc::clone(&self.takes);
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if let Some((job, at)) = taken(&line) {
                        let take = Take { job, worker, start, at };
                        takes.lock().unwrap_or_else(PoisonError::into_inner).push(take);
                    }
                }
            });
        }
        self.running[worker] = Some(process);
        Ok(())
    }

    /// Kills a worker's process, if it has one.
    pub(crate) fn kill(&mut self, worker: usize) -> io::Result<()> {
        if let Some(mut process) = self.running[worker].take() {
            if let Some(last) = self.killed[worker].last_mut() {
                *last = Some(now());
            }
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// Whether a worker has a process.
    pub(crate) fn runs(&self, worker: usize) -> bool {
        self.running[worker].is_some()
    }

    /// When this process of the worker was killed.
    pub(crate) fn killed(&self, worker: usize, start: usize) -> Option<Duration> {
        self.killed[worker][start]
    }

    /// All that was taken.
    pub(crate) fn takes(&self) -> Vec<Take> {
        self.takes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for worker in 0..self.running.len() {
            // What cannot be killed has ended.
            let _ = self.kill(worker);
        }
    }
}

/// Since the epoch: the processes have no other clock in common.
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn taken(line: &str) -> Option<(u64, Duration)> {
    // Whatever runs the worker may have begun the line.
    let mut words = line.split_once("took ")?.1.split(' ');
    let job = words.next()?.parse().ok()?;
    Some((job, Duration::from_micros(words.next()?.trim().parse().ok()?)))
}
