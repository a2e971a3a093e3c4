//! The configuration of a node.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::audit::Audit;
use crate::budget::DEFAULT_BUFFER_BYTES;
use crate::clock::{Clock, OffsetClock};
use crate::lock::FEATURE_LEVEL;
use crate::raft::config::{Settings, Timing};
use crate::raft::member::{Home, OpenError, Options};
use crate::storage::LogOptions;
use crate::tls::Tls;

/// A trade-off: how fast a cluster notices a dead leader, against how much delay it tolerates in a
/// living one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Profile {
    /// A new leader within about a second; when the leader's process ends, within some 0.1
    /// seconds. No election under load on two busy cores.
    #[default]
    Stable,
    /// A new leader within about half a second; when the leader's process ends, within some 0.1
    /// seconds. For quiet machines and for tests.
    Fast,
}

/// The time between the campaigns of two members: as long as a campaign takes, which is two rounds
/// and a sync of the vote at both ends. Half of it is in the lease, which a campaign waits out too.
const APART: Duration = Duration::from_millis(60);

/// The width of the range from which openraft draws each timeout; it may not be empty. The order of
/// the campaigns is not random: two members that draw alike would split the votes, and could do so
/// again.
const RANGE: Duration = Duration::from_millis(5);

impl Profile {
    /// The times of a member that campaigns after `before` others.
    fn timing(self, before: u32) -> Timing {
        let (heartbeat, lease) = match self {
            // The first follower waits out the leader's lease (0.31 s) and as long again: six lost
            // heartbeats in a row, and no append between them. When it knows that the leader's
            // process has ended, it waits for neither.
            Self::Stable => (100, 315),
            // The lease is 210 ms: eight lost heartbeats, but of a faster kind, which a machine with
            // nothing to spare may well lose.
            Self::Fast => (50, 210),
        };
        timing(Duration::from_millis(heartbeat), Duration::from_millis(lease), before)
    }
}

fn timing(heartbeat: Duration, lease: Duration, before: u32) -> Timing {
    let election_max = lease + APART / 2 * before;
    Timing { heartbeat, election_min: election_max.saturating_sub(RANGE), election_max }
}

/// An initial member of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// The address at which its peers reach it, `host:port`.
    pub peer_addr: String,
}

/// The configuration of a node.
#[derive(Clone)]
pub struct NodeConfig {
    /// This node's id.
    pub id: u64,
    /// The initial members, including this node; the same on all of them.
    pub members: BTreeMap<u64, Member>,
    /// The URL at which clients reach this node, such as `http://10.0.0.1:7420`.
    pub client_addr: Option<String>,
    /// The folder with the log, the vote, snapshots, the checkpoint and the identity.
    pub data_dir: PathBuf,
    /// The profile, which sets how fast a dead leader is noticed.
    pub profile: Profile,
    /// The largest drift of a clock, in parts per million; below half a million.
    pub rho_ppm: u32,
    /// The number of log entries after which a snapshot is written.
    pub snapshot_every: u64,
    /// Log entries kept after a snapshot covers them, so that a follower slightly behind can catch
    /// up from the log.
    pub log_kept: u64,
    /// The size of a log segment in bytes. Only tests, which need many segments, have a reason to
    /// set it.
    pub segment_bytes: u64,
    /// The length of the lease, in place of the profile's. Only tests, which check what does not
    /// wait for it, have a reason to set it.
    pub lease: Option<Duration>,
    /// The feature level of this program: its members announce it, and the leader raises the level of
    /// the cluster to the lowest of them. Only tests, which need a made-up one, have a reason to set
    /// it.
    pub feature_level: u32,
    /// The most requests that may wait for the log at once; more are refused as `Unavailable`.
    pub max_requests: usize,
    /// The bytes that large bodies and answers may take together; more are refused as `Unavailable`.
    pub buffer_bytes: usize,
    /// The audit that is written of what this node applies.
    pub audit: Option<Arc<Audit>>,
    /// The clock that [`super::Node::debug_advance`] moves; for tests alone. It must be the one
    /// the node is started with.
    pub debug_clock: Option<OffsetClock>,
    /// The TLS between members; without it they speak plain HTTP. The same on all of them.
    pub peer_tls: Option<Arc<Tls>>,
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
            // 1 %: a hundred times the drift of a crystal, so that a holder on a machine whose
            // clock is being slewed fast is covered too.
            rho_ppm: 10_000,
            // A restart replays at most this much beyond the checkpoint; at a few thousand entries
            // a second under load, a snapshot every ten seconds or so.
            snapshot_every: 50_000,
            // A follower that was away for a moment catches up from the log.
            log_kept: 10_000,
            segment_bytes: LogOptions::default().segment_bytes,
            lease: None,
            feature_level: FEATURE_LEVEL,
            // About twenty times the number that saturates two cores.
            max_requests: 4096,
            buffer_bytes: DEFAULT_BUFFER_BYTES,
            audit: None,
            debug_clock: None,
            peer_tls: None,
        }
    }

    pub(super) fn validate(&self) -> Result<(), StartError> {
        let wrong = |what: String| Err(StartError::Config(what));
        if !self.members.contains_key(&self.id) {
            return wrong(format!("node {} is not among the members", self.id));
        }
        if self.id == 0 || self.members.contains_key(&0) {
            return wrong("ids begin at 1".to_owned());
        }
        if self.rho_ppm >= 500_000 {
            return wrong(format!("rho is {} ppm; it must be below 500000", self.rho_ppm));
        }
        if self.snapshot_every == 0 || self.max_requests == 0 {
            return wrong("snapshot_every and max_requests must be at least 1".to_owned());
        }
        let plain = |addr: &str| addr.bytes().all(|byte| byte.is_ascii_graphic());
        if let Some(addr) = self.client_addr.as_ref().filter(|addr| !plain(addr)) {
            return wrong(format!("the client address {addr:?} is not one"));
        }
        for (id, member) in &self.members {
            if member.peer_addr.is_empty() || !plain(&member.peer_addr) {
                return wrong(format!(
                    "the address {:?} of node {id} is not one",
                    member.peer_addr
                ));
            }
        }
        Ok(())
    }

    fn timing(&self) -> Timing {
        let before = self.members.keys().filter(|id| **id < self.id).count();
        let before = u32::try_from(before).unwrap_or(u32::MAX);
        let Timing { heartbeat, .. } = self.profile.timing(before);
        match self.lease {
            Some(lease) => timing(heartbeat, lease, before),
            None => self.profile.timing(before),
        }
    }

    pub(crate) fn options(&self, clock: Arc<dyn Clock>) -> Options {
        Options {
            id: self.id,
            addrs: self.members.iter().map(|(id, m)| (*id, m.peer_addr.clone())).collect(),
            client_addr: self.client_addr.clone(),
            home: Home::Folder {
                path: self.data_dir.clone(),
                segment_bytes: self.segment_bytes,
                tls: self.peer_tls.clone(),
            },
            settings: Settings {
                timing: self.timing(),
                snapshot_every: self.snapshot_every,
                log_kept: self.log_kept,
            },
            rho_ppm: self.rho_ppm,
            level: self.feature_level,
            clock,
            observers: Vec::new(),
        }
    }
}

/// The reason why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is wrong.
    #[error("{0}")]
    Config(String),
    /// The data folder cannot be used; the text says which file and what to do.
    #[error("{}", with_sources(&**.0))]
    Folder(Box<dyn std::error::Error + Send + Sync>),
}

impl StartError {
    /// Whether a later start may succeed with the same settings and the same folder: the disk is full,
    /// or another process is still using the folder. Damage does not pass.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Config(_) => false,
            Self::Folder(error) => {
                error.downcast_ref::<OpenError>().is_some_and(OpenError::may_pass)
            }
        }
    }
}

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> Self {
        Self::Folder(Box::new(error))
    }
}

/// An error and its chain of sources, for a person.
fn with_sources(error: &(dyn std::error::Error + Send + Sync)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        // The text of a transparent error is that of its source.
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = error.source();
    }
    text
}
