//! The status and the metrics of a node and its cluster.
//!
//! [`ClusterStatus`] is the answer to `GET /v1/cluster`; [`NodeFigures`] are the values for
//! `/metrics`. Both are plain data that the node fills in at the moment of the request.

use serde::{Deserialize, Serialize};

/// The present role of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[derive(utoipa::ToSchema)]
pub enum NodeRole {
    /// It leads: it stamps and orders all requests.
    Leader,
    /// It follows a leader.
    Follower,
    /// It requests the votes of the others.
    Candidate,
    /// It follows without a vote.
    Learner,
    /// It is shutting down, or not started.
    Stopped,
}

/// The cluster as one node sees it, at the moment of the request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ClusterStatus {
    /// The cluster's random id, in hexadecimal; absent until the first boot is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// The id of the node that answers.
    pub id: u64,
    /// The random name of its data folder, in hexadecimal.
    pub uuid: String,
    /// The version of its program.
    pub version: String,
    /// The feature level of its program.
    #[serde(default)]
    pub supported_level: u32,
    /// The feature level of the cluster, as of the last entry that its state contains. The leader
    /// raises it when the programs of all members support a higher one.
    #[serde(default)]
    pub feature_level: u32,
    /// Its present role.
    pub role: NodeRole,
    /// The reason why it cannot serve requests now; absent when it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_ready: Option<String>,
    /// The node it believes to be the leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<u64>,
    /// The client address of that node, as a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_address: Option<String>,
    /// The term it is in.
    pub term: u64,
    /// The node it voted for in that term.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vote: Option<u64>,
    /// The last entry in its log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_log_index: Option<u64>,
    /// The last entry it knows to be on the disks of a majority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed_index: Option<u64>,
    /// The last entry its state contains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_index: Option<u64>,
    /// The last entry its newest snapshot contains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_index: Option<u64>,
    /// The last entry its log no longer contains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purged_index: Option<u64>,
    /// The cluster's members, by id.
    pub members: Vec<MemberStatus>,
    /// The differences between this node's configuration and others', in words; absent if there are
    /// none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<String>,
}

/// One member of the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MemberStatus {
    /// Its id.
    pub id: u64,
    /// The random name of its data folder, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// The address at which its peers reach it.
    pub peer_address: String,
    /// The address at which clients reach it, as a URL, if it announces one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_address: Option<String>,
    /// Whether it has a vote.
    pub voter: bool,
    /// Only from the leader: the last entry this member is known to have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matched_index: Option<u64>,
    /// Only from the leader: the number of entries it is behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<u64>,
    /// Only from the leader: the time since it last acknowledged anything, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_acknowledged_ms: Option<u64>,
}

/// The values of a node for `/metrics`.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct NodeFigures {
    /// Unexpired grants.
    pub locks_held: u64,
    /// Records, expired ones included.
    pub records: u64,
    /// Grants that ended by expiry, since the cluster began.
    pub expiries: u64,
    /// Records removed by their time_to_live, since the cluster began.
    pub removals: u64,
    /// Request lanes remembered.
    pub lanes: u64,
    /// Request lanes that were forgotten within a minute of their last use, because there were too
    /// many, since the cluster began.
    pub lanes_evicted_young: u64,
    /// The hold times of grants that ended by entries of this node since the process began, by the
    /// label of their end.
    pub held_seconds: Vec<(&'static str, HistogramFigures)>,
    /// Grants that their owners lost by entries of this node since the process began, by the label
    /// of the reason.
    pub locks_lost: Vec<(&'static str, u64)>,
    /// Places in queues.
    pub places: u64,
    /// The largest number of places that there may be.
    pub places_max: u64,
    /// Sessions that are open, and those whose end is not worked off yet.
    pub sessions: u64,
    /// The largest number of sessions that there may be.
    pub sessions_max: u64,
    /// The times for which places stood that ended by entries of this node since the process began,
    /// by the label of their end.
    pub wait_seconds: Vec<(&'static str, HistogramFigures)>,
    /// Sessions that ended by entries of this node since the process began, by the label of their
    /// end.
    pub sessions_ended: Vec<(&'static str, u64)>,
    /// The Raft term.
    pub term: u64,
    /// The node believed to be the leader.
    pub leader: Option<u64>,
    /// Whether this node leads.
    pub is_leader: bool,
    /// The last entry known to be on the disks of a majority.
    pub committed_index: Option<u64>,
    /// The last entry the state contains.
    pub applied_index: Option<u64>,
    /// The bytes of the log since the last snapshot, as far as they are applied.
    pub log_bytes: u64,
    /// Whether a snapshot is due that could not be written.
    pub snapshot_postponed: bool,
    /// Whether it can serve requests now.
    pub ready: bool,
    /// The time since its last contact with a majority, in seconds, as far as it knows.
    pub majority_silence_seconds: Option<f64>,
    /// The number of times it learned of another leader since the process began.
    pub leader_changes: u64,
    /// The other members, as a leader knows them; empty on others.
    pub peers: Vec<PeerFigures>,
    /// The free space for its data in bytes, if the system reports it.
    pub data_free_bytes: Option<u64>,
    /// Requests forwarded to the leader since the process began.
    pub forwarded: u64,
    /// The durations of the `fdatasync` calls of the log.
    pub fsync_seconds: Option<HistogramFigures>,
}

/// Another member, as the leader knows it.
#[derive(Clone, PartialEq, Debug)]
pub struct PeerFigures {
    /// Its id.
    pub id: u64,
    /// The number of entries it is behind.
    pub lag: Option<u64>,
    /// The time since it last acknowledged anything, in seconds.
    pub silence_seconds: Option<f64>,
}

/// A histogram that is kept elsewhere.
#[derive(Clone, PartialEq, Debug)]
pub struct HistogramFigures {
    /// The upper bounds in seconds, ascending, with the number of observations at or below each.
    pub buckets: Vec<(f64, u64)>,
    /// The sum of all observations, in seconds.
    pub sum: f64,
    /// The number of observations.
    pub count: u64,
}
