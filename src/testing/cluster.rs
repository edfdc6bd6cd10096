//! Nodes in one process that trust each other, with a bad network between them.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::conditions::Conditions;
use super::mesh::Mesh;
use super::ports::free_port;
use super::proxy::{ChaosProxy, ProxyError};
use crate::actors::node::Node;
use crate::actors::target::Target;
use crate::config::NodeConfig;
use crate::error::{ListenError, NodeError};
use crate::identity::{CertHash, CredentialError, NetCredential};

/// What a killed node is given for its end: none of its frames would pass.
const KILL_GRACE: Duration = Duration::from_millis(1);

/// Nodes in one process that trust each other, each listening, with a [`ChaosProxy`] between each two for
/// each direction of dialling.
///
/// Members are numbered from 0. They only meet where they dial [`target`](Self::target); nobody is connected at
/// the start.
///
/// # Examples
///
/// ```
/// use moorline::testing::Cluster;
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut cluster = Cluster::start(3, 7).await?;
/// let at_0 = cluster.node(0).connect(cluster.target(0, 1)).await?;
/// cluster.partition(&[0], &[1, 2]);
/// // Both sides take the other one for gone when their deadline has passed.
/// let reason = at_0.closed().await;
/// assert_eq!(reason, moorline::CloseReason::TimedOut);
/// cluster.heal();
/// # drop(at_0);
/// cluster.close(std::time::Duration::from_secs(5)).await?;
/// # Ok(())
/// # }
/// ```
pub struct Cluster {
    members: Vec<Member>,
    mesh: Mesh,
    configure: Box<Configure>,
}

/// What is set in the configuration of a member.
type Configure = dyn Fn(usize, &mut NodeConfig) + Send + Sync;

#[derive(Debug)]
struct Member {
    credential: NetCredential,
    address: SocketAddr,
    node: Option<Node>,
}

/// A cluster that cannot do what it is asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// An identity could not be made.
    #[error("no identity for a member")]
    Credential(#[from] CredentialError),
    /// A link could not be made.
    #[error("no link between two members")]
    Proxy(#[from] ProxyError),
    /// A node did not start.
    #[error("member {member} does not start")]
    Start {
        /// Its number.
        member: usize,
        /// Why.
        source: NodeError,
    },
    /// A node did not listen.
    #[error("member {member} does not listen")]
    Listen {
        /// Its number.
        member: usize,
        /// Why.
        source: ListenError,
    },
    /// A node did not end: a clone of it is held by the test, for example.
    #[error("member {member} does not end")]
    End {
        /// Its number.
        member: usize,
        /// Why.
        source: NodeError,
    },
}

impl Cluster {
    /// Starts `members` nodes with the default configuration; `seed` decides what their links do.
    ///
    /// # Errors
    ///
    /// [`ClusterError`] says what could not be had.
    ///
    /// # Cancel safety
    ///
    /// Cancelled, nothing is left behind.
    pub async fn start(members: usize, seed: u64) -> Result<Self, ClusterError> {
        Self::start_with(members, seed, |_, _| ()).await
    }

    /// As [`start`](Self::start), with a configuration for each member, at its start and at each restart.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start).
    ///
    /// # Cancel safety
    ///
    /// Cancelled, nothing is left behind.
    pub async fn start_with(
        members: usize,
        seed: u64,
        configure: impl Fn(usize, &mut NodeConfig) + Send + Sync + 'static,
    ) -> Result<Self, ClusterError> {
        let own = |member: usize| {
            NetCredential::generate_self_signed(&[&format!("member-{member}")], &[])
        };
        let credentials = (0..members).map(own).collect::<Result<Vec<_>, _>>()?;
        let all: Vec<CertHash> = credentials.iter().map(NetCredential::identity).collect();
        let members: Vec<_> = credentials
            .into_iter()
            .map(|credential| {
                let own = credential.identity();
                let others = all.iter().filter(|other| **other != own);
                let credential = others.fold(credential, |it, other| it.trust_hash(*other));
                Member { credential, address: free_port(), node: None }
            })
            .collect();
        let addresses: Vec<_> = members.iter().map(|member| member.address).collect();
        let mesh = Mesh::start(&addresses, seed)?;
        let mut cluster = Self { members, mesh, configure: Box::new(configure) };
        for member in 0..cluster.members.len() {
            cluster.spawn(member).await?;
        }
        Ok(cluster)
    }

    async fn spawn(&mut self, member: usize) -> Result<(), ClusterError> {
        let Member { credential, address, .. } = &self.members[member];
        let mut config = NodeConfig::new(credential.clone());
        (self.configure)(member, &mut config);
        let started = Node::spawn(config).await;
        let node = started.map_err(|source| ClusterError::Start { member, source })?;
        let listening = node.listen(*address).await;
        listening.map_err(|source| ClusterError::Listen { member, source })?;
        self.members[member].node = Some(node);
        Ok(())
    }

    /// How many members there are.
    #[must_use]
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// A member's node.
    ///
    /// # Panics
    ///
    /// If there is no such member, or it was killed.
    #[must_use]
    pub fn node(&self, member: usize) -> &Node {
        let node = self.members[member].node.as_ref();
        node.unwrap_or_else(|| panic!("member {member} was killed"))
    }

    /// Who a member is.
    ///
    /// # Panics
    ///
    /// If there is no such member.
    #[must_use]
    pub fn identity(&self, member: usize) -> CertHash {
        self.members[member].credential.identity()
    }

    /// Where a member listens, past every link.
    ///
    /// # Panics
    ///
    /// If there is no such member.
    #[must_use]
    pub fn address(&self, member: usize) -> SocketAddr {
        self.members[member].address
    }

    /// What `from` dials to reach `to` over their link.
    ///
    /// # Panics
    ///
    /// If there is no such member, or both are the same.
    #[must_use]
    pub fn target(&self, from: usize, to: usize) -> Target {
        Target::from(self.link(from, to).address()).expect(self.identity(to))
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

    /// Undoes every partition; members that are paused or killed stay so.
    pub fn heal(&self) {
        self.mesh.heal();
    }

    /// Cuts a member off from all others, as if its process stood still: it goes on here, and nobody hears
    /// of it. [`ProcessCluster::pause`](super::ProcessCluster::pause) really stops one.
    pub fn pause(&self, member: usize) {
        self.mesh.silence(member, true);
    }

    /// Ends a [`pause`](Self::pause).
    pub fn resume(&self, member: usize) {
        self.mesh.silence(member, false);
    }

    /// Ends a member without a goodbye: what it says at its end is lost. Its port is free then.
    ///
    /// Nothing happens to one that was killed already.
    ///
    /// # Errors
    ///
    /// [`ClusterError::End`] if the test holds a clone of its node, or it does not end.
    ///
    /// # Cancel safety
    ///
    /// Cancelled, it is cut off and ends nevertheless.
    ///
    /// # Panics
    ///
    /// If there is no such member.
    pub async fn kill(&mut self, member: usize) -> Result<(), ClusterError> {
        self.mesh.silence(member, true);
        let Some(node) = self.members[member].node.take() else { return Ok(()) };
        ended(member, node.close(KILL_GRACE).await)
    }

    /// Starts a member again: killed before or not, with the same identity, on the same port, heard by all.
    ///
    /// # Errors
    ///
    /// [`ClusterError`] if the old node does not end, or the port was taken meanwhile.
    ///
    /// # Cancel safety
    ///
    /// Cancelled, the member is down, or runs and is heard by nobody: `restart` it again.
    ///
    /// # Panics
    ///
    /// If there is no such member.
    pub async fn restart(&mut self, member: usize) -> Result<&Node, ClusterError> {
        self.kill(member).await?;
        self.spawn(member).await?;
        self.mesh.silence(member, false);
        Ok(self.node(member))
    }

    /// Ends all members in order, each within `grace`, and then their links.
    ///
    /// # Errors
    ///
    /// The first [`ClusterError::End`]; the others are ended nevertheless.
    ///
    /// # Cancel safety
    ///
    /// Cancelled, all members that are left end at once.
    pub async fn close(mut self, grace: Duration) -> Result<(), ClusterError> {
        let mut result = Ok(());
        for member in 0..self.members.len() {
            let Some(node) = self.members[member].node.take() else { continue };
            let closed = node.close(grace).await;
            result = result.and(closed.map_err(|source| ClusterError::End { member, source }));
        }
        result
    }
}

/// Connections that had to be cut are what a kill is about.
fn ended(member: usize, closed: Result<(), NodeError>) -> Result<(), ClusterError> {
    match closed {
        Ok(()) | Err(NodeError::GraceExceeded { .. } | NodeError::Stopped) => Ok(()),
        Err(source) => Err(ClusterError::End { member, source }),
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { members, mesh, configure: _ } = self;
        f.debug_struct("Cluster").field("members", members).field("mesh", mesh).finish()
    }
}
