//! The types that openraft is configured with, and our aliases for them.
//!
//! A log entry's data keeps its encoded form from the leader's proposal to the disk, over the wire
//! and to the follower's disk: it is encoded once, and decoded when it is applied.

use std::fmt;

use bytes::Bytes;
use openraft::raft::responder::Responder;
use openraft::type_config::alias;
use openraft::vote::leader_id_std;
use openraft::{EntryPayload, OptionalSend, RaftTypeConfig};

use crate::lock::Decision;
use crate::raft::runtime::Runtime;
use crate::storage::{self, Uuid};

/// The type parameters of openraft. Standard Raft: at most one leader per term, so that an entry's
/// term identifies its leader and a stamp's term can be checked against it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct TypeConfig;

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

/// The id of an entry: its term and index.
pub type LogId = alias::LogIdOf<TypeConfig>;
/// A vote.
pub type Vote = alias::VoteOf<TypeConfig>;
/// An entry of the log.
pub type Entry = alias::EntryOf<TypeConfig>;
/// The payload of an entry.
pub type Payload = EntryPayload<Data, u64, MemberNode>;
/// The voters, and all members.
pub type Membership = openraft::Membership<u64, MemberNode>;
/// A membership and the entry that it comes from.
pub type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
/// The last entry of a snapshot, and the membership there.
pub type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;

/// The data of a normal entry: an encoded payload of [`crate::raft::codec`], with tag and version,
/// exactly as it is in the log.
#[derive(Clone, PartialEq, Eq)]
pub struct Data(Bytes);

impl Data {
    /// Wraps a payload that the codec has produced or checked.
    pub fn from_payload(payload: Bytes) -> Self {
        Self(payload)
    }

    /// The payload as it is in the log.
    pub fn payload(&self) -> &Bytes {
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

/// The result of applying an entry: one decision per command of its proposal, in order; none for
/// blank and membership entries.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// The decisions.
    pub decisions: Vec<Decision>,
}

/// A callback for the result of a write. It is called as soon as the result is known: after the
/// entry was applied, in the applying task. It is dropped uncalled if openraft ends first.
pub struct Callback<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Callback<T> {
    /// Wraps a callback.
    pub fn new(callback: impl FnOnce(T) + Send + 'static) -> Self {
        Self(Box::new(callback))
    }
}

impl<T: OptionalSend + 'static> Responder<TypeConfig, T> for Callback<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

/// A member in the log's membership.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberNode {
    /// The uuid of its data folder: a member that lost its folder is another member.
    pub uuid: Uuid,
    /// Its address for peers.
    pub peer_addr: String,
    /// Its address for clients, if it has reported one.
    pub client_addr: Option<String>,
}

/// Required by openraft's own tests of a storage.
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

/// Converts an entry's id to openraft's type.
pub fn raft_log_id(id: storage::LogId) -> LogId {
    LogId::new(leader_id_std::CommittedLeaderId::new(id.term), id.index)
}

/// Converts an entry's id to the storage's type.
pub fn stored_log_id(id: &LogId) -> storage::LogId {
    storage::LogId { term: id.committed_leader_id().term, index: id.index() }
}

/// Converts a vote to openraft's type.
pub fn raft_vote(vote: storage::Vote) -> Vote {
    if vote.committed {
        Vote::new_committed(vote.term, vote.node)
    } else {
        Vote::new(vote.term, vote.node)
    }
}

/// Converts a vote to the storage's type.
pub fn stored_vote(vote: &Vote) -> storage::Vote {
    storage::Vote {
        term: vote.leader_id.term,
        node: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}
