//! How openraft is set up, and why it is not left as it comes.

use std::time::Duration;

use openraft::{Config, ConfigError, SnapshotPolicy};

/// The times of an election.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Timing {
    /// A leader says this often that it is there.
    pub(crate) heartbeat: Duration,
    /// A follower asks for votes between this long…
    pub(crate) election_min: Duration,
    /// …and this long after the leader's lease, which is as long as this, has run out. Each member
    /// has its own, so that they do not ask at the same moment.
    pub(crate) election_max: Duration,
}

/// What a node chooses itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Settings {
    pub(crate) timing: Timing,
    /// A snapshot after this many entries; see [`super::compaction`].
    pub(crate) snapshot_every: u64,
    /// Entries that a snapshot has and the log keeps.
    pub(crate) log_kept: u64,
}

/// At most this many entries go to a follower at once.
pub(crate) const SEND_ENTRIES: usize = 512;

/// A snapshot must have reached a follower within this long: a million locks are some 200 MiB.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(120);

/// openraft's configuration.
pub(crate) fn raft_config(settings: Settings) -> Result<Config, ConfigError> {
    let Settings { timing, snapshot_every, log_kept } = settings;
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let election_max = millis(timing.election_max);
    Config {
        cluster_name: "keyward".to_owned(),
        heartbeat_interval: millis(timing.heartbeat),
        election_timeout_min: millis(timing.election_min),
        election_timeout_max: election_max,
        // A restarted leader must win an election: it may not go on with a state that is older
        // than what its term has acknowledged, and stamps of its old base would be stamps of the
        // new one's term.
        enable_leader_restore: Some(false),
        // A node that was cut off comes back without ending the leader's term.
        enable_pre_vote: Some(true),
        // A leader that hears from no majority falls silent in between, so that followers that
        // hear only it can elect another. The shortest interval that openraft allows.
        quorum_loss_probe_interval: Some(2 * election_max),
        // The log's bytes count, too, which openraft does not know.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: log_kept,
        // A new member is one that follows when it is no further behind than the log may be long.
        replication_lag_threshold: snapshot_every.saturating_mul(2).saturating_add(log_kept),
        // Purging takes a manifest write, so it is not done entry by entry.
        purge_batch_size: log_kept.clamp(1, 1024),
        install_snapshot_timeout: millis(SNAPSHOT_TIMEOUT),
        // Entries hold many commands each, and a read from the log is bounded in bytes besides.
        max_payload_entries: SEND_ENTRIES as u64,
        // Requests are admitted by a semaphore of our own, long before these are full: they bound
        // what a mistake of ours could pile up.
        api_channel_size: Some(8192),
        notification_channel_size: Some(8192),
        state_machine_channel_size: Some(1024),
        // A member that cannot be connected to is tried again soon, then once a second.
        backoff: "50ms 100ms 200ms ..1s".to_owned(),
        ..Config::default()
    }
    .validate()
}
