//! The network of an openraft cluster: its calls are requests of sessions, and openraft's deadlines theirs.
//!
//! Where a link breaks, a call goes on over the next one until its time is over; where a peer has started
//! anew its session has ended, and the next call opens another one.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use moorline::{Incoming, Lane, Node, Peer, PeerError, Peers, RequestError, Target};
use openraft::error::{
    Infallible, InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Unreachable,
};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{AnyError, Raft};
use openraft_memstore::{MemNodeId, TypeConfig};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// What members speak.
pub(crate) const PROTOCOL: &str = "raft/1";

/// What one member asks another one.
#[derive(Debug, Serialize, Deserialize)]
enum Call {
    Vote(VoteRequest<MemNodeId>),
    Append(AppendEntriesRequest<TypeConfig>),
    Snapshot(InstallSnapshotRequest<TypeConfig>),
}

impl Call {
    /// Elections do not wait for entries, and neither of them for snapshots.
    fn lane(&self) -> Lane {
        match self {
            Self::Vote(_) => Lane::Control,
            Self::Append(_) => Lane::Data,
            Self::Snapshot(_) => Lane::Bulk,
        }
    }
}

/// A member, and how it reaches the others: with each it has one session, whoever of both asked for it.
pub(crate) struct Member {
    pub(crate) node: Node,
    pub(crate) targets: BTreeMap<MemNodeId, Target>,
    pub(crate) raft: OnceLock<Raft<TypeConfig>>,
}

impl Member {
    /// Answers all who begin a session, for as long as the node lives.
    pub(crate) async fn serve(self: Arc<Self>, mut begun: Peers) {
        while let Some(peer) = begun.next().await {
            self.answer(peer);
        }
    }

    async fn open(&self, to: MemNodeId) -> Result<Peer, PeerError> {
        let peer = self.node.peer(self.targets[&to].clone(), PROTOCOL).await?;
        self.answer(peer.clone());
        Ok(peer)
    }

    fn answer(&self, peer: Peer) {
        if let Some(raft) = self.raft.get() {
            tokio::spawn(answer_all(peer, raft.clone()));
        }
    }
}

async fn answer_all(member: Peer, raft: Raft<TypeConfig>) {
    while let Ok(incoming) = member.recv().await {
        let Incoming::Request(mut request) = incoming else { continue };
        let raft = raft.clone();
        tokio::spawn(async move {
            let answer = match serde_json::from_slice(&request.take_frame()) {
                Ok(Call::Vote(call)) => serde_json::to_vec(&raft.vote(call).await),
                Ok(Call::Append(call)) => serde_json::to_vec(&raft.append_entries(call).await),
                Ok(Call::Snapshot(call)) => serde_json::to_vec(&raft.install_snapshot(call).await),
                Err(error) => Err(error),
            };
            if let Ok(answer) = answer {
                // Nobody waits where that fails; a request without an answer is told to its caller.
                let _ = request.reply(answer).await;
            }
        });
    }
}

/// What openraft makes its calls with.
pub(crate) struct Network(pub(crate) Arc<Member>);

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, to: MemNodeId, (): &()) -> Link {
        Link { member: Arc::clone(&self.0), to, peer: None }
    }
}

/// Calls to one member.
pub(crate) struct Link {
    member: Arc<Member>,
    to: MemNodeId,
    peer: Option<Peer>,
}

/// What openraft says of a call that did not come to an answer, or to a good one.
type CallError<E> = RPCError<MemNodeId, (), RaftError<MemNodeId, E>>;

impl Link {
    async fn call<R: DeserializeOwned, E: std::error::Error + DeserializeOwned>(
        &mut self,
        call: Call,
        option: RPCOption,
    ) -> Result<R, CallError<E>> {
        let peer = match self.peer.take() {
            Some(peer) => peer,
            None => self.member.open(self.to).await.map_err(|error| away(&error))?,
        };
        let frame = serde_json::to_vec(&call).map_err(|error| failed(&error))?;
        let asked = peer.request_on(call.lane(), frame, option.hard_ttl()).await;
        if !matches!(asked, Err(RequestError::SessionLost | RequestError::NotSent)) {
            self.peer = Some(peer);
        }
        let answer = asked.map_err(|error| away(&error))?;
        let answer: Result<R, RaftError<MemNodeId, E>> =
            serde_json::from_slice(&answer).map_err(|error| failed(&error))?;
        answer.map_err(|error| RPCError::RemoteError(RemoteError::new(self.to, error)))
    }
}

fn away<E: std::error::Error>(why: &(impl std::error::Error + 'static)) -> CallError<E> {
    RPCError::Unreachable(Unreachable::new(why))
}

fn failed<E: std::error::Error>(error: &serde_json::Error) -> CallError<E> {
    RPCError::Network(NetworkError::from(AnyError::new(error)))
}

impl RaftNetwork<TypeConfig> for Link {
    async fn vote(
        &mut self,
        call: VoteRequest<MemNodeId>,
        option: RPCOption,
    ) -> Result<VoteResponse<MemNodeId>, CallError<Infallible>> {
        self.call(Call::Vote(call), option).await
    }

    async fn append_entries(
        &mut self,
        call: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<MemNodeId>, CallError<Infallible>> {
        self.call(Call::Append(call), option).await
    }

    async fn install_snapshot(
        &mut self,
        call: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<MemNodeId>, CallError<InstallSnapshotError>> {
        self.call(Call::Snapshot(call), option).await
    }
}
