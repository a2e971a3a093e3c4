//! The types consensus is configured with, and what the rest of the adaptor calls them.
//!
//! A log entry's data stays in its encoded form from the leader's proposal to the disk, over the
//! wire and to the follower's disk: it is encoded once, and decoded where it is applied.

use std::fmt;

use bytes::Bytes;
use openraft::raft::responder::Responder;
use openraft::type_config::alias;
use openraft::vote::leader_id_std;
use openraft::{EntryPayload, OptionalSend, RaftTypeConfig};

use crate::lock::Decision;
use crate::storage::{self, Uuid};

#[cfg(not(feature = "simulation"))]
use openraft_rt_tokio::TokioRuntime as Runtime;

#[cfg(feature = "simulation")]
use crate::sim::runtime::Runtime;

/// The types that openraft is given. Standard Raft: at most one leader per term, so that an entry's
/// term names its leader and a stamp's term can be checked against it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct TypeConfig;

impl RaftTypeConfig for TypeConfig {
    type D = Data;
    type R = Applied;
    type NodeId = u64;
    type Node = MemberNode;
    type Term = u64;
    type LeaderId = leader_id_std::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = Payload;
    type Entry =
        openraft::Entry<<Self::LeaderId as openraft::vote::RaftLeaderId>::Committed, Payload>;
    type AsyncRuntime = Runtime;
    type Responder<T>
        = Callback<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type LogId = alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = alias::VoteOf<TypeConfig>;
pub(crate) type Entry = alias::EntryOf<TypeConfig>;
pub(crate) type Payload = EntryPayload<Data, u64, MemberNode>;
pub(crate) type Membership = openraft::Membership<u64, MemberNode>;
pub(crate) type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;

/// The data of a normal entry: an encoded payload of [`crate::raft::codec`], tag and version
/// included, exactly as it stands in the log.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Data(Bytes);

impl Data {
    /// From a payload that the codec made or has checked.
    pub(crate) fn from_payload(payload: Bytes) -> Self {
        Self(payload)
    }

    /// The payload as it stands in the log.
    pub(crate) fn payload(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// What applying an entry gave: one decision per command of its proposal, in their order; none for
/// blank and membership entries.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Applied {
    /// The decisions.
    pub(crate) decisions: Vec<Decision>,
}

/// Called with what has come of a write, where that is known first: after an entry was applied, in
/// the task that applies. Dropped uncalled if openraft ends before.
pub(crate) struct Callback<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Callback<T> {
    pub(crate) fn new(callback: impl FnOnce(T) + Send + 'static) -> Self {
        Self(Box::new(callback))
    }
}

impl<T: OptionalSend + 'static> Responder<TypeConfig, T> for Callback<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

/// A member as the log names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct MemberNode {
    /// The random number of its data folder: a member that lost its folder is another member.
    pub(crate) uuid: Uuid,
    /// Where its peers reach it.
    pub(crate) peer_addr: String,
    /// Where clients reach it, if it has said so.
    pub(crate) client_addr: Option<String>,
}

/// openraft's own tests of a storage ask for it.
#[cfg(test)]
impl Default for MemberNode {
    fn default() -> Self {
        Self { uuid: Uuid(0), peer_addr: String::new(), client_addr: None }
    }
}

impl fmt::Display for MemberNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.uuid, self.peer_addr)
    }
}

/// An entry's name as openraft has it.
pub(crate) fn raft_log_id(id: storage::LogId) -> LogId {
    LogId::new(leader_id_std::CommittedLeaderId::new(id.term), id.index)
}

/// An entry's name as the storage has it.
pub(crate) fn stored_log_id(id: &LogId) -> storage::LogId {
    storage::LogId { term: id.committed_leader_id().term, index: id.index() }
}

/// A vote as openraft has it.
pub(crate) fn raft_vote(vote: storage::Vote) -> Vote {
    if vote.committed {
        Vote::new_committed(vote.term, vote.node)
    } else {
        Vote::new(vote.term, vote.node)
    }
}

/// A vote as the storage has it.
pub(crate) fn stored_vote(vote: &Vote) -> storage::Vote {
    storage::Vote {
        term: vote.leader_id.term,
        node: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}
