//! What a node tells about its cluster: the words of `GET /v1/cluster`.
//!
//! Plain data, read by people and by tools. Nothing here decides anything: the values are what one
//! node knew at one moment, and another node may know more.

use serde::{Deserialize, Serialize};

/// One node's view of its cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The id of the node that answers.
    pub id: u64,
    /// The random number of its data folder, 32 hexadecimal digits.
    pub uuid: String,
    /// The cluster's id, 32 hexadecimal digits; `None` until the cluster has been formed.
    pub cluster_id: Option<String>,
    /// How often this data folder has been started.
    pub boot: u64,
    /// What the node is doing.
    pub phase: NodePhase,
    /// Whether it takes part in elections or only learns; `leader`, `follower`, `candidate`,
    /// `learner` or `shutdown`.
    pub role: String,
    /// The leader it believes in.
    pub leader: Option<u64>,
    /// The term it is in.
    pub term: u64,
    /// The node it voted for in this term.
    pub voted_for: Option<u64>,
    /// The last entry of its log.
    pub last_log: Option<u64>,
    /// The last entry it knows to be committed.
    pub committed: Option<u64>,
    /// The last entry that its state contains.
    pub applied: Option<u64>,
    /// The last entry of its newest snapshot.
    pub snapshot: Option<u64>,
    /// The last entry that its log no longer has.
    pub purged: Option<u64>,
    /// The version of the state's rules that every member supports.
    pub feature_level: u32,
    /// The members it knows, in the order of their ids.
    pub members: Vec<MemberStatus>,
}

/// What a node is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodePhase {
    /// It waits until every initial member has reported an empty folder.
    Forming,
    /// It has started and does not know yet that its state is as new as before the start.
    Recovering,
    /// It answers requests, or passes them on to the leader.
    Ready,
    /// It is shutting down and admits nothing new.
    Stopping,
    /// It has stopped; the log says why.
    Stopped,
}

/// A member as one node knows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its id, never used for another data folder.
    pub id: u64,
    /// The random number of its data folder; `None` while the cluster is being formed.
    pub uuid: Option<String>,
    /// Where its peers reach it.
    pub peer_addr: String,
    /// Where clients reach it, if it has said so.
    pub client_addr: Option<String>,
    /// Whether it counts for majorities.
    pub voter: bool,
    /// The last entry it is known to have; told by the leader only.
    pub matched: Option<u64>,
    /// How many entries it is behind the leader's log; told by the leader only.
    pub lag: Option<u64>,
}
