//! The configuration of openraft, and the reasons for each setting that differs from the default.

use std::time::Duration;

use openraft::{Config, ConfigError, SnapshotPolicy};

/// The times of an election.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Timing {
    /// The interval of a leader's heartbeats.
    pub(crate) heartbeat: Duration,
    /// The shortest time after which a follower asks for votes…
    pub(crate) election_min: Duration,
    /// …and the longest, both counted from the end of the leader's lease, which is as long as this.
    /// Each member has its own, so that they do not ask at the same moment.
    pub(crate) election_max: Duration,
}

/// The settings that a node chooses itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Settings {
    pub(crate) timing: Timing,
    /// The number of entries after which a snapshot is due; see [`super::compaction`].
    pub(crate) snapshot_every: u64,
    /// The number of log entries kept after a snapshot covers them.
    pub(crate) log_kept: u64,
}

/// The most entries that are sent to a follower at once.
pub(crate) const SEND_ENTRIES: usize = 512;

/// The timeout for sending a snapshot to a follower: a million locks are some 200 MiB.
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
        // A restarted leader must win an election: it must not continue with a state that is older
        // than what its term has acknowledged, and stamps from its old base would count as stamps
        // of the same term as those from the new base.
        enable_leader_restore: Some(false),
        // A partitioned node returns without ending the leader's term.
        enable_pre_vote: Some(true),
        // A leader without a majority sends heartbeats only at this interval, so that followers
        // that hear only this leader can elect another. It is the shortest that openraft allows.
        quorum_loss_probe_interval: Some(2 * election_max),
        // Snapshots depend on the log's size in bytes, too, which openraft does not know.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: log_kept,
        // A new member counts as following when it lags by no more than the longest log.
        replication_lag_threshold: snapshot_every.saturating_mul(2).saturating_add(log_kept),
        // A purge rewrites the manifest, so it is not done entry by entry.
        purge_batch_size: log_kept.clamp(1, 1024),
        install_snapshot_timeout: millis(SNAPSHOT_TIMEOUT),
        // Entries hold many commands each, and a read from the log is also bounded in bytes.
        max_payload_entries: SEND_ENTRIES as u64,
        // Requests are limited by our own semaphore, long before these are full: these limits bound
        // the damage of a bug of ours.
        api_channel_size: Some(8192),
        notification_channel_size: Some(8192),
        state_machine_channel_size: Some(1024),
        // A member that cannot be reached is retried soon, then once a second.
        backoff: "50ms 100ms 200ms ..1s".to_owned(),
        ..Config::default()
    }
    .validate()
}
