//! One member of a cluster: answers requests while it leads.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::api::{ClusterStatus, NodeFigures, NodeRole};
use crate::clock::{Clock, OffsetClock};
use crate::error::Error;
use crate::service::LockService;
use crate::types::{
    CheckResponse, ListRequest, ListResponse, LockOptions, LockRequest, LockResponse, ReadOptions,
    TableDefaults, TableInfo, TableOptions, UnlockOptions, UnlockRequest, UnlockResponse,
};

/// How fast a cluster notices a dead leader, against how much delay it tolerates in a living one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Profile {
    /// A new leader within about two seconds; no election under load on two busy cores.
    #[default]
    Stable,
    /// A new leader within about half a second, for quiet machines and for tests.
    Fast,
}

/// An initial member of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Where its peers reach it, `host:port`.
    pub peer_addr: String,
}

/// How a node is started.
#[derive(Clone)]
pub struct NodeConfig {
    /// This node's id.
    pub id: u64,
    /// The initial members, this node among them; the same on all of them.
    pub members: BTreeMap<u64, Member>,
    /// Where clients reach this node, such as `http://10.0.0.1:7420`.
    pub client_addr: Option<String>,
    /// The folder with the log, the vote, snapshots, the checkpoint and the identity.
    pub data_dir: PathBuf,
    /// How fast a dead leader is noticed.
    pub profile: Profile,
    /// By how much the rate of a clock may be off, in parts per million.
    pub rho_ppm: u32,
    /// A snapshot is written after this many log entries.
    pub snapshot_every: u64,
    /// So many entries that a snapshot has are kept in the log for followers that are behind.
    pub log_kept: u64,
    /// So many requests may be waiting for the log at once; more are refused as `Unavailable`.
    pub max_requests: usize,
    /// The clock that [`Node::debug_advance`] moves; for tests alone.
    pub debug_clock: Option<OffsetClock>,
}

impl NodeConfig {
    /// A configuration with the defaults.
    pub fn new(id: u64, members: BTreeMap<u64, Member>, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            id,
            members,
            client_addr: None,
            data_dir: data_dir.into(),
            profile: Profile::default(),
            rho_ppm: 10_000,
            snapshot_every: 50_000,
            log_kept: 10_000,
            max_requests: 4096,
            debug_clock: None,
        }
    }
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is wrong.
    #[error("{0}")]
    Config(String),
}

/// A member of a cluster. Clones are handles to the same node.
#[derive(Clone)]
pub struct Node {
    config: Arc<NodeConfig>,
}

impl Node {
    /// Opens the data folder and starts. The cluster forms in the background: peers must be able
    /// to reach this node's peer listener from now on, see [`Node::wait_ready`].
    ///
    /// # Errors
    /// The folder is another node's, damaged or in use; the configuration is wrong.
    pub async fn start(config: NodeConfig, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let _ = clock;
        Ok(Self { config: Arc::new(config) })
    }

    /// What this node knows about its cluster.
    pub fn status(&self) -> ClusterStatus {
        ClusterStatus {
            cluster_id: None,
            id: self.config.id,
            uuid: String::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            role: NodeRole::Stopped,
            not_ready: Some("not built yet".to_owned()),
            leader: None,
            leader_address: None,
            term: 0,
            vote: None,
            last_log_index: None,
            committed_index: None,
            applied_index: None,
            snapshot_index: None,
            purged_index: None,
            members: Vec::new(),
        }
    }

    /// Numbers for `/metrics`.
    pub fn figures(&self) -> NodeFigures {
        NodeFigures::default()
    }

    /// Whether the cluster has formed and this node has caught up with what was committed before
    /// it was started.
    pub fn is_ready(&self) -> bool {
        false
    }

    /// Waits for [`Node::is_ready`].
    pub async fn wait_ready(&self) {
        std::future::pending().await
    }

    /// Waits until the node has stopped by itself, and says why: the process must end then.
    pub async fn stopped(&self) -> String {
        std::future::pending().await
    }

    /// Admits nothing new, hands the leadership over if it has it, and stops.
    pub async fn shutdown(&self) {}

    /// Moves the cluster clock on by at least `by`; only on a node that was started with
    /// a `debug_clock` and leads.
    ///
    /// # Errors
    /// `Unavailable`, `Unknown`; `BadRequest` without a `debug_clock`.
    pub async fn debug_advance(&self, by: Duration) -> Result<(), Error> {
        let _ = by;
        Err(not_yet())
    }
}

fn not_yet() -> Error {
    Error::unavailable("not built yet")
}

impl LockService for Node {
    async fn lock(&self, _: LockRequest, _: LockOptions) -> Result<LockResponse, Error> {
        Err(not_yet())
    }

    async fn unlock(&self, _: UnlockRequest, _: UnlockOptions) -> Result<UnlockResponse, Error> {
        Err(not_yet())
    }

    async fn check(&self, _: String, _: ReadOptions) -> Result<CheckResponse, Error> {
        Err(not_yet())
    }

    async fn list(&self, _: ListRequest, _: ReadOptions) -> Result<ListResponse, Error> {
        Err(not_yet())
    }

    async fn tables(&self, _: ReadOptions) -> Result<Vec<TableInfo>, Error> {
        Err(not_yet())
    }

    async fn configure_table(&self, _: TableDefaults, _: TableOptions) -> Result<(), Error> {
        Err(not_yet())
    }

    async fn delete_table(&self, _: TableOptions) -> Result<(), Error> {
        Err(not_yet())
    }
}
