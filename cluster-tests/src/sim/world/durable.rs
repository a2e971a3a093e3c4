//! The entries that would be left if the power of every machine were cut now.
//!
//! A leader may commit an entry only when a majority has synced it. Whether it has is not taken
//! from any node's word, nor from the log's own: the disks are copied, what was not synced is taken
//! off the copies, and the files on them are opened as a start would open them.

use std::collections::BTreeMap;
use std::sync::Arc;

use keyward::storage::disk::Unsynced;
use keyward::storage::log::Drive;
use keyward::storage::{Log, LogId, LogOptions, MemDisk, Snapshots};

use super::disk::MachineDisk;
use super::network::MachineId;

/// The disks of all nodes.
pub(crate) struct Disks(pub(crate) BTreeMap<MachineId, Arc<MachineDisk>>);

impl Disks {
    /// Checks that an entry that a node has applied is durable on a majority.
    ///
    /// # Errors
    /// If it is on fewer disks; the message names them.
    pub(crate) fn have(&self, entry: LogId) -> Result<(), String> {
        let holds = |(_, disk): &(_, &Arc<MachineDisk>)| holds(&disk.bytes, entry);
        let on: Vec<MachineId> = self.0.iter().filter(holds).map(|(id, _)| *id).collect();
        if on.len() > self.0.len() / 2 {
            return Ok(());
        }
        Err(format!(
            "entry {entry} was applied, and is durable on no majority, but on {on:?} alone"
        ))
    }
}

/// Whether a power cut now leaves the entry on this disk, in the log or in a snapshot that covers it.
fn holds(disk: &MemDisk, entry: LogId) -> bool {
    let left = disk.fork();
    left.heal();
    left.crash(Unsynced::Lost);
    let disk = Arc::new(left);
    // A seed of its own: this must not draw from the run's.
    let options = LogOptions { drive: Drive::Manual, seed: Some(0), ..LogOptions::default() };
    let Ok((log, recovered)) = Log::open(disk.clone(), options) else { return false };
    if log.id_at(entry.index) == Some(entry) {
        return true;
    }
    let Ok(snapshots) = Snapshots::open(disk, recovered.purged) else { return false };
    let covered = snapshots.latest().and_then(|snapshot| snapshot.meta.last);
    covered.is_some_and(|last| last.index >= entry.index)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use keyward::storage::snapshots::SnapshotMeta;
    use keyward::storage::{LogEntry, Vote};

    use super::*;

    fn id(index: u64) -> LogId {
        LogId { term: 1, index }
    }

    fn log(disk: &MachineDisk) -> Log {
        let options = LogOptions { drive: Drive::Manual, seed: Some(1), ..LogOptions::default() };
        let (log, _) = Log::open(Arc::new(disk.bytes.clone()), options).expect("the disk is good");
        log
    }

    fn append(log: &Log, indexes: std::ops::RangeInclusive<u64>) {
        let entry = |index| LogEntry { id: id(index), payload: Bytes::from_static(b"entry") };
        log.append(indexes.map(entry).collect(), |_| {});
    }

    #[test]
    fn only_what_a_majority_has_synced_is_durable() {
        let disks = [1, 2, 3].map(|number| (number, MachineDisk::new(number, "disk")));
        let logs = disks.each_ref().map(|(_, disk)| log(disk));
        let disks = Disks(disks.into());
        for log in &logs {
            append(log, 0..=3);
        }
        assert!(logs[0].drive());
        let missing = disks.have(id(3)).expect_err("two have not written it");
        assert!(missing.contains("[1] alone"), "{missing}");
        assert!(logs[2].drive());
        disks.have(id(3)).expect("two of three have");
        disks.have(LogId { term: 2, index: 3 }).expect_err("it is another entry");
        disks.have(id(4)).expect_err("nobody has it");
    }

    #[test]
    fn a_snapshot_covers_entries_that_the_log_has_no_more() {
        let disk = MachineDisk::new(1, "disk");
        let log = log(&disk);
        append(&log, 0..=9);
        log.save_vote(Vote { term: 1, node: 1, committed: true }, |_| {});
        log.drive();
        let disks = Disks([(1, disk.clone())].into());
        let snapshots = Snapshots::open(Arc::new(disk.bytes.clone()), None).expect("it is empty");
        let meta = SnapshotMeta {
            cluster: None,
            last: Some(id(7)),
            membership: Vec::new(),
            membership_log: None,
            feature_level: 1,
            body_bytes: 0,
        };
        snapshots.save(meta, b"state").expect("the disk is good");
        log.purge(id(7), |_| {});
        log.drive();
        for index in [0, 7, 8, 9] {
            disks.have(id(index)).expect("it is in the snapshot or in the log");
        }
        disks.have(id(10)).expect_err("it was never written");
    }
}
