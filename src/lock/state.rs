//! The lock machine.

use crate::lock::{Changes, ClusterTime, Decision, Proposal};
use crate::types::{ListRequest, LockRecord, TableInfo};

/// The highest feature level this program knows.
pub const FEATURE_LEVEL: u32 = 1;

/// Every lock, table and lane, and the cluster clock.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct State {
    clock: ClusterTime,
}

/// How much there is, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Records, expired ones included.
    pub records: u64,
    /// Grants that are not expired.
    pub unexpired: u64,
    /// Grants that have expired since the cluster began.
    pub expiries: u64,
    /// Records that were removed because their time_to_live had passed.
    pub removals: u64,
    /// Lanes that are remembered.
    pub lanes: u64,
    /// Tables that have defaults or records.
    pub tables: u64,
}

impl State {
    /// The state before the first entry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies the proposal of the entry at `index`, whose own term is `entry_term`: one decision
    /// per command, in their order. Total: whatever the commands say, it never panics.
    pub fn apply(&mut self, entry_term: u64, index: u64, proposal: &Proposal) -> Vec<Decision> {
        let _ = (entry_term, index, proposal);
        Vec::new()
    }

    /// The cluster clock `C`.
    pub fn clock(&self) -> ClusterTime {
        self.clock
    }

    /// The earliest expiry or removal that is not worked off yet.
    pub fn next_deadline(&self) -> Option<ClusterTime> {
        None
    }

    /// Whether any grant is not expired, so that the leader must keep the clock going.
    pub fn has_unexpired(&self) -> bool {
        false
    }

    /// The level of commands that may be proposed. A node whose [`FEATURE_LEVEL`] is lower must
    /// stop: it cannot know what such commands mean.
    pub fn feature_level(&self) -> u32 {
        1
    }

    /// The record of a lock, judged by `C`; `None` if there is none or its time_to_live passed.
    pub fn check(&self, table: &str, signature: &str) -> Option<LockRecord> {
        let _ = (table, signature);
        None
    }

    /// A page of a table in byte order, and what to pass as `after` for the next one.
    pub fn list(&self, table: &str, request: &ListRequest) -> (Vec<LockRecord>, Option<String>) {
        let _ = (table, request);
        (Vec::new(), None)
    }

    /// The tables that have defaults or records, in byte order.
    pub fn tables(&self) -> Vec<TableInfo> {
        Vec::new()
    }

    /// How much there is.
    pub fn counts(&self) -> Counts {
        Counts::default()
    }

    /// Begins or ends to remember which records change, for [`State::take_changes`]. It begins
    /// with nothing remembered; a clone never tracks.
    pub fn track_changes(&mut self, on: bool) {
        let _ = on;
    }

    /// What changed since the last take, as of now. Empty but for the meta bytes if changes are
    /// not tracked.
    pub fn take_changes(&mut self) -> Changes {
        Changes::default()
    }
}
