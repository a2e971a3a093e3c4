//! Snapshot scheduling and log retention.
//!
//! Both depend on bytes as well as on entries: an entry has one command or hundreds, and the time
//! of a restart depends on the log's bytes. A snapshot is due when the log since the last one is
//! twice as large as that one: so writing snapshots costs about half as much as writing the log,
//! whatever the state's size.
//!
//! Replicas apply the same entries at nearly the same moment. They must not write their snapshots
//! at the same moment, too, or a majority would be busy with it: so each has a different threshold.
//!
//! A snapshot needs disk space beside the last one. If there is too little, none is begun: the log
//! still has everything, and the remaining space is left to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::raft::member::Member;
use crate::raft::types::LogId;
use crate::storage::snapshots::StoredSnapshot;
use crate::storage::{Log, Snapshots, StorageError};

/// The log size below which no snapshot is due by bytes: that much is read again in a second.
const MIN_BYTES: u64 = 64 << 20;

/// The size of the log at which a snapshot is due, as a multiple of the last snapshot.
const TIMES: u64 = 2;

/// The free space required, as a multiple of the last snapshot: for the next one, larger by then,
/// and for the log meanwhile.
const FREE_TIMES: u64 = 2;

/// The bytes of log kept after a snapshot covers them (or as much as the snapshot's size, if
/// larger), so that a follower slightly behind can catch up from the log: for those further behind
/// the snapshot is better.
const KEPT_BYTES: u64 = 64 << 20;

/// The shortest interval between two checks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The pause after a snapshot was begun. A second request does no harm.
const BEGUN: Duration = Duration::from_secs(1);

/// The pause after a snapshot that could not be written.
const RETRY: Duration = Duration::from_secs(10);

/// A replica's snapshot thresholds, which differ among replicas that all apply the same entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Thresholds {
    /// The number of entries after which the replica of the lowest rank writes one.
    pub(crate) entries: u64,
    /// This member's rank, counted from 0.
    pub(crate) rank: u64,
    /// The number of members.
    pub(crate) members: u64,
}

/// The size of the log since the last snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Since {
    entries: u64,
    bytes: u64,
    /// The size of that snapshot.
    snapshot_bytes: u64,
}

impl Thresholds {
    fn reached(self, since: Since) -> bool {
        let bytes = MIN_BYTES.max(since.snapshot_bytes.saturating_mul(TIMES));
        since.entries >= self.own(self.entries) || since.bytes > self.own(bytes)
    }

    /// The replica's own threshold: up to half as much again as that of the lowest rank. Since the
    /// periods differ, replicas whose snapshots once coincided diverge again.
    fn own(self, lowest: u64) -> u64 {
        let more = u128::from(lowest) * u128::from(self.rank) / u128::from(2 * self.members.max(1));
        lowest.saturating_add(u64::try_from(more).unwrap_or(u64::MAX))
    }
}

/// The state shared by the state machine and the snapshot scheduler.
#[derive(Default)]
pub(crate) struct Compaction {
    /// Notified after entries were applied or a snapshot was installed.
    bell: Notify,
    /// The index after the last applied entry.
    next: AtomicU64,
    /// Whether the last snapshot could not be written.
    failed: AtomicBool,
    /// Whether a snapshot is due and cannot be written.
    postponed: AtomicBool,
}

impl Compaction {
    /// Records the last applied entry.
    pub(crate) fn applied(&self, last: Option<&LogId>) {
        self.next.store(last.map_or(0, |last| last.index() + 1), Ordering::Relaxed);
        self.bell.notify_one();
    }

    fn last_applied(&self) -> Option<u64> {
        self.next.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Records the result of writing a snapshot.
    pub(crate) fn written(&self, error: Option<&StorageError>) {
        self.failed.store(error.is_some(), Ordering::Relaxed);
        match error {
            Some(error) => self.postpone(&error.to_string()),
            None => self.postponed.store(false, Ordering::Relaxed),
        }
    }

    /// Whether a snapshot is due that cannot be written: the log grows until it can.
    pub(crate) fn is_postponed(&self) -> bool {
        self.postponed.load(Ordering::Relaxed)
    }

    /// Logs once why there is none.
    fn postpone(&self, reason: &str) {
        if !self.postponed.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                reason,
                "a snapshot is due and is put off; the log grows until there is room for one"
            );
        }
    }
}

/// Schedules snapshots and purges until the node ends.
pub(crate) async fn keep(member: Arc<Member>) {
    let compaction = &member.replica.compaction;
    let mut purging = None;
    loop {
        compaction.bell.notified().await;
        purge(&member, &mut purging).await;
        let rest = look(&member).await;
        tokio::time::sleep(rest).await;
        if rest != LOOK_EVERY {
            // A due snapshot must be checked again even if nothing more is applied.
            compaction.bell.notify_one();
        }
    }
}

/// Purges log entries that need not be kept beside the snapshot; `asked` is the last request.
async fn purge(member: &Member, asked: &mut Option<u64>) {
    let Some(latest) = member.snapshots.latest() else { return };
    let Some(last) = latest.meta.last else { return };
    // openraft learns of a snapshot a moment after it is on the disk.
    let known = member.metrics_ref(|metrics| metrics.snapshot.as_ref().map(LogId::index));
    if known < Some(last.index) {
        return;
    }
    let through = member.log.before_bytes(last.index, KEPT_BYTES.max(latest.file_bytes));
    if through > *asked {
        *asked = through;
        // openraft waits until these entries are not being sent to any follower. An error means
        // that openraft has stopped, and there is nothing to do.
        let _ = member.raft.trigger().purge_log(through.unwrap_or_default()).await;
    }
}

/// Requests a snapshot if it is due. Returns the pause before the next check.
async fn look(member: &Member) -> Duration {
    let compaction = &member.replica.compaction;
    let Some(applied) = compaction.last_applied() else { return LOOK_EVERY };
    let latest = member.snapshots.latest();
    if !member.thresholds.reached(since(&member.log, latest.as_ref(), applied)) {
        compaction.postponed.store(false, Ordering::Relaxed);
        return LOOK_EVERY;
    }
    if compaction.failed.swap(false, Ordering::Relaxed) {
        return RETRY;
    }
    if let Some(reason) = lacks_room(&member.snapshots, latest.as_ref()) {
        compaction.postpone(&reason);
        return RETRY;
    }
    // An error means that openraft has stopped, and there is nothing to do.
    let _ = member.raft.trigger().snapshot().await;
    BEGUN
}

/// The size in bytes of the applied log since the last snapshot.
pub(crate) fn log_bytes(member: &Member) -> u64 {
    let Some(applied) = member.replica.compaction.last_applied() else { return 0 };
    since(&member.log, member.snapshots.latest().as_ref(), applied).bytes
}

fn since(log: &Log, latest: Option<&StoredSnapshot>, applied: u64) -> Since {
    let last = latest.and_then(|latest| latest.meta.last).map(|last| last.index);
    let entries = match last {
        Some(last) => applied.saturating_sub(last),
        None => applied.saturating_add(1),
    };
    let bytes = log.bytes_between(last, applied);
    Since { entries, bytes, snapshot_bytes: latest.map_or(0, |latest| latest.file_bytes) }
}

/// The reason why there is no room for a snapshot, if there is none.
fn lacks_room(snapshots: &Snapshots, latest: Option<&StoredSnapshot>) -> Option<String> {
    let needed = latest?.file_bytes.saturating_mul(FREE_TIMES);
    match snapshots.free_bytes() {
        Ok(Some(free)) if free < needed => {
            Some(format!("the disk has {free} bytes left, a snapshot wants {needed}"))
        }
        // If the free space is unknown, a snapshot is tried: one that fails does no harm.
        Ok(_) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemDisk;
    use crate::storage::snapshots::SnapshotMeta;

    const SIZE: u64 = 100 << 20;

    fn of(rank: u64) -> Thresholds {
        Thresholds { entries: 600, rank, members: 3 }
    }

    #[test]
    fn one_is_due_by_entries_or_by_bytes() {
        let due = |entries, bytes, snapshot_bytes| {
            of(0).reached(Since { entries, bytes, snapshot_bytes })
        };
        assert!(!due(599, MIN_BYTES, 0));
        assert!(due(600, 0, 0));
        assert!(due(1, MIN_BYTES + 1, 0));
        assert!(!due(599, 2 * SIZE, SIZE), "not before the log is twice as large");
        assert!(due(1, 2 * SIZE + 1, SIZE));
    }

    #[test]
    fn no_two_replicas_are_due_at_the_same_entry() {
        let first = |rank| {
            let due =
                |entries: &u64| of(rank).reached(Since { entries: *entries, ..Since::default() });
            (0..10_000).find(due)
        };
        assert_eq!([0, 1, 2].map(first), [Some(600), Some(700), Some(800)]);
        let bytes = |rank| of(rank).own(2 * SIZE);
        assert!(bytes(0) < bytes(1) && bytes(1) < bytes(2));
        assert_eq!(of(2).own(u64::MAX), u64::MAX);
    }

    #[test]
    fn a_snapshot_wants_room_for_two_of_its_kind() {
        let disk = MemDisk::new(1);
        let snapshots = Snapshots::open(Arc::new(disk.clone()), None).unwrap();
        disk.set_free_bytes(Some(0));
        assert_eq!(lacks_room(&snapshots, None), None, "nothing tells how large it will be");
        let meta = SnapshotMeta {
            cluster: None,
            last: None,
            membership: Vec::new(),
            membership_log: None,
            feature_level: 1,
            body_bytes: 0,
        };
        let latest = snapshots.save(meta, &[7; 1000]).unwrap();
        let lacks = |free| {
            disk.set_free_bytes(free);
            lacks_room(&snapshots, Some(&latest)).is_some()
        };
        let needed = 2 * latest.file_bytes;
        assert!(lacks(Some(needed - 1)) && !lacks(Some(needed)) && !lacks(None));
    }
}
