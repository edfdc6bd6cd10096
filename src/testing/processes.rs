//! Members of a cluster as processes of their own, with a bad network between them.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use super::conditions::Conditions;
use super::mesh::Mesh;
use super::ports::free_port;
use super::proxy::{ChaosProxy, ProxyError};

/// A program started several times, with a [`ChaosProxy`] between each two processes for each direction
/// of dialling: killed by SIGKILL, paused by SIGSTOP, and started again on the same port.
///
/// When it is dropped all processes are killed, and waited for.
///
/// # Examples
///
/// ```no_run
/// use moorline::testing::ProcessCluster;
///
/// let mut cluster = ProcessCluster::start("target/debug/my-server", 3, 7, |place, command| {
///     command.arg("--listen").arg(place.listen.to_string());
///     for peer in place.others() {
///         command.arg("--peer").arg(peer.to_string());
///     }
/// })?;
/// cluster.kill(1)?;
/// cluster.restart(1)?;
/// cluster.pause(2)?;
/// cluster.resume(2)?;
/// # Ok::<(), moorline::testing::ProcessClusterError>(())
/// ```
pub struct ProcessCluster {
    program: PathBuf,
    places: Vec<Place>,
    children: Vec<Option<Child>>,
    mesh: Mesh,
    arrange: Box<Arrange>,
    descriptors_max: Option<u32>,
}

/// What is told to a process at its start.
type Arrange = dyn Fn(&Place, &mut Command) + Send;

/// Where a member is, and over which addresses it reaches the others.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Place {
    /// The member's number, from 0.
    pub member: usize,
    /// Where it has to listen.
    pub listen: SocketAddr,
    /// What it dials to reach each member over their link; none for itself.
    pub peers: Vec<Option<SocketAddr>>,
}

impl Place {
    /// What it dials to reach the others, in the order of their numbers.
    pub fn others(&self) -> impl Iterator<Item = SocketAddr> {
        self.peers.iter().copied().flatten()
    }
}

/// A cluster of processes that cannot do what it is asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessClusterError {
    /// A link could not be made.
    #[error("no link between two members")]
    Proxy(#[from] ProxyError),
    /// The program did not start.
    #[error("member {member} does not start: {}", program.display())]
    Start {
        /// Its number.
        member: usize,
        /// What was to run.
        program: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A signal did not reach the process.
    #[error("no {signal} for member {member}")]
    Signal {
        /// Its number.
        member: usize,
        /// The signal.
        signal: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

impl ProcessCluster {
    /// Starts `members` processes of `program`. `arrange` adds arguments and whatever else is needed to
    /// the command of each, at its start and at each restart; input and output are nobody's unless
    /// it says so.
    ///
    /// # Errors
    ///
    /// [`ProcessClusterError`] says what could not be had.
    pub fn start(
        program: impl AsRef<Path>,
        members: usize,
        seed: u64,
        arrange: impl Fn(&Place, &mut Command) + Send + 'static,
    ) -> Result<Self, ProcessClusterError> {
        let addresses: Vec<_> = (0..members).map(|_| free_port()).collect();
        let mesh = Mesh::start(&addresses, seed)?;
        let place = |member: usize| {
            let peer = |to: usize| (to != member).then(|| mesh.link(member, to).address());
            let peers = (0..members).map(peer).collect();
            Place { member, listen: addresses[member], peers }
        };
        let places = (0..members).map(place).collect();
        let children = (0..members).map(|_| None).collect();
        let program = program.as_ref().to_owned();
        let arrange = Box::new(arrange);
        let mut cluster = Self { program, places, children, mesh, arrange, descriptors_max: None };
        for member in 0..members {
            cluster.spawn(member)?;
        }
        Ok(cluster)
    }

    fn spawn(&mut self, member: usize) -> Result<(), ProcessClusterError> {
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        (self.arrange)(&self.places[member], &mut command);
        let program = self.program.clone();
        let child = command.spawn();
        let child =
            child.map_err(|source| ProcessClusterError::Start { member, program, source })?;
        self.children[member] = Some(child);
        Ok(())
    }

    /// The program, or a shell that becomes the program once it has lowered its limit.
    fn command(&self) -> Command {
        let Some(descriptors) = self.descriptors_max else { return Command::new(&self.program) };
        let mut shell = Command::new("sh");
        let words = ["-c", "ulimit -n \"$0\" && exec \"$@\"", &descriptors.to_string()];
        shell.args(words.map(OsString::from)).arg(&self.program);
        shell
    }

    /// How many descriptors each process may have that is started from here on.
    pub fn limit_descriptors(&mut self, descriptors_max: u32) {
        self.descriptors_max = Some(descriptors_max);
    }

    /// Where a member is.
    ///
    /// # Panics
    ///
    /// If there is no such member.
    #[must_use]
    pub fn place(&self, member: usize) -> &Place {
        &self.places[member]
    }

    /// A member's process; none when it was killed.
    ///
    /// # Panics
    ///
    /// If there is no such member.
    pub fn process(&mut self, member: usize) -> Option<&mut Child> {
        self.children[member].as_mut()
    }

    /// The link that `from` dials `to` over.
    ///
    /// Cuts of the proxy itself ([`ChaosProxy::cut`]) hold until the cluster next cuts or heals something.
    ///
    /// # Panics
    ///
    /// If there is no such member, or both are the same.
    #[must_use]
    pub fn link(&self, from: usize, to: usize) -> &ChaosProxy {
        self.mesh.link(from, to)
    }

    /// Sets the same conditions on all links, both ways.
    pub fn set_all(&self, conditions: Conditions) {
        self.mesh.set_all(conditions);
    }

    /// Loses everything between the two groups from here on, beside what is lost already.
    pub fn partition(&self, group: &[usize], others: &[usize]) {
        self.mesh.partition(group, others);
    }

    /// Loses what `from` says to `to` from here on, whoever of them dialled.
    pub fn cut_one_way(&self, from: usize, to: usize) {
        self.mesh.cut_one_way(from, to);
    }

    /// Undoes every partition.
    pub fn heal(&self) {
        self.mesh.heal();
    }

    /// Ends a member by SIGKILL, and waits until it is gone; none if it was killed already.
    ///
    /// # Errors
    ///
    /// [`ProcessClusterError::Signal`] if the system does not let it be killed.
    ///
    /// # Panics
    ///
    /// If there is no such member.
    pub fn kill(&mut self, member: usize) -> Result<Option<ExitStatus>, ProcessClusterError> {
        let Some(mut child) = self.children[member].take() else { return Ok(None) };
        let killed = child.kill().and_then(|()| child.wait());
        let signal = "SIGKILL";
        killed.map(Some).map_err(|source| ProcessClusterError::Signal { member, signal, source })
    }

    /// Starts a member again, killed before or not, with the same place.
    ///
    /// # Errors
    ///
    /// [`ProcessClusterError`] says what could not be had.
    ///
    /// # Panics
    ///
    /// If there is no such member.
    pub fn restart(&mut self, member: usize) -> Result<(), ProcessClusterError> {
        self.kill(member)?;
        self.spawn(member)
    }

    /// Stops a member by SIGSTOP: it is there, and does nothing.
    ///
    /// # Errors
    ///
    /// [`ProcessClusterError::Signal`] if it was killed, or the system does not let it be stopped.
    ///
    /// # Panics
    ///
    /// If there is no such member.
    pub fn pause(&self, member: usize) -> Result<(), ProcessClusterError> {
        self.signal(member, "SIGSTOP")
    }

    /// Lets a member go on, by SIGCONT.
    ///
    /// # Errors
    ///
    /// As for [`pause`](Self::pause).
    ///
    /// # Panics
    ///
    /// If there is no such member.
    pub fn resume(&self, member: usize) -> Result<(), ProcessClusterError> {
        self.signal(member, "SIGCONT")
    }

    fn signal(&self, member: usize, signal: &'static str) -> Result<(), ProcessClusterError> {
        let error = |source| ProcessClusterError::Signal { member, signal, source };
        let child = self.children[member].as_ref();
        let child = child.ok_or_else(|| error(io::ErrorKind::NotFound.into()))?;
        // `kill` is part of every shell, where the program of this name may be missing.
        let mut shell = Command::new("sh");
        shell.args(["-c", "kill -s \"$0\" \"$1\"", signal.trim_start_matches("SIG")]);
        let status = shell.arg(child.id().to_string()).stderr(Stdio::null()).status();
        match status.map_err(error)? {
            status if status.success() => Ok(()),
            status => Err(error(io::Error::other(format!("kill ended with {status}")))),
        }
    }
}

impl Drop for ProcessCluster {
    fn drop(&mut self) {
        for member in 0..self.children.len() {
            // What cannot be killed has ended, or is not ours to end.
            drop(self.kill(member));
        }
    }
}

impl std::fmt::Debug for ProcessCluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { program, places, children, descriptors_max, mesh: _, arrange: _ } = self;
        f.debug_struct("ProcessCluster")
            .field("program", program)
            .field("places", places)
            .field("children", children)
            .field("descriptors_max", descriptors_max)
            .finish_non_exhaustive()
    }
}
