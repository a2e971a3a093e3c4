//! The Raft log and the vote.

use std::sync::Arc;
use std::time::Duration;

use super::{Disk, LogEntry, LogId, StorageError, Vote};

/// Called once, in the order of the calls, when what was asked for is durable or has failed.
pub type Done = Box<dyn FnOnce(Result<(), Arc<StorageError>>) + Send>;

/// Called when a write or sync has failed; the program ends the process here.
pub type Fatal = Arc<dyn Fn(&StorageError) + Send + Sync>;

/// Who does the log's writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Drive {
    /// A thread of the log's own.
    #[default]
    Thread,
    /// The caller, before each call returns: for tests that sweep over every write.
    Inline,
    /// Whoever calls [`Log::drive`]: for a simulation that decides when the disk is done.
    Manual,
}

/// How the log is kept.
#[derive(Clone)]
pub struct LogOptions {
    /// The size of a segment file in bytes.
    pub segment_bytes: u64,
    /// How many bytes of recent payloads are kept in memory.
    pub cache_bytes: usize,
    /// Called when a write or sync has failed.
    pub fatal: Fatal,
    /// Who writes.
    pub drive: Drive,
    /// Where the numbers that tell segments apart begin; `None` is a random place.
    pub seed: Option<u64>,
}

/// What was found when the log was opened.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recovered {
    /// The vote, if one was ever saved.
    pub vote: Option<Vote>,
    /// The last commit hint that reached the disk; never past the last entry.
    pub committed: Option<LogId>,
    /// The last entry that was purged.
    pub purged: Option<LogId>,
    /// The last entry; the purged one, if there is none after it.
    pub last: Option<LogId>,
    /// What was repaired, for the program's log.
    pub warnings: Vec<String>,
}

/// Where the log begins and ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogState {
    /// The last entry that was purged.
    pub purged: Option<LogId>,
    /// The last entry; the purged one, if there is none after it.
    pub last: Option<LogId>,
}

/// What syncing costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SyncStats {
    /// How many times the log waited for the disk.
    pub count: u64,
    /// How long in all.
    pub total: Duration,
    /// How long the last time.
    pub last: Duration,
}

/// A handle on the log; clones share it.
#[derive(Clone)]
pub struct Log {}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 16 << 20,
            cache_bytes: 16 << 20,
            fatal: Arc::new(|_| {}),
            drive: Drive::Thread,
            seed: None,
        }
    }
}

#[expect(clippy::todo)]
impl Log {
    /// Opens the log of a data folder, creating an empty one.
    ///
    /// # Errors
    /// When the log cannot be used as it is.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: LogOptions,
    ) -> Result<(Self, Recovered), StorageError> {
        let _ = (disk, options);
        todo!()
    }

    /// Appends entries that continue the log. They can be read when this returns; `done` is called
    /// once they are durable.
    pub fn append(
        &self,
        entries: Vec<LogEntry>,
        done: impl FnOnce(Result<(), Arc<StorageError>>) + Send + 'static,
    ) {
        let _ = (entries, done);
        todo!()
    }

    /// The entries from `from` up to, not including, `to`; those of them that there are.
    ///
    /// # Errors
    /// When an entry cannot be read as it was written.
    pub fn read(&self, from: u64, to: u64) -> Result<Vec<LogEntry>, StorageError> {
        let _ = (from, to);
        todo!()
    }

    /// The id of an entry that the log holds, or of the last purged one.
    pub fn id_at(&self, index: u64) -> Option<LogId> {
        let _ = index;
        todo!()
    }

    /// Saves the vote, after all that was appended before.
    pub fn save_vote(
        &self,
        vote: Vote,
        done: impl FnOnce(Result<(), Arc<StorageError>>) + Send + 'static,
    ) {
        let _ = (vote, done);
        todo!()
    }

    /// The vote saved last, durable or not.
    pub fn vote(&self) -> Option<Vote> {
        todo!()
    }

    /// Notes what is committed: it travels with the next batch and costs no write of its own.
    pub fn save_committed(&self, id: Option<LogId>) {
        let _ = id;
        todo!()
    }

    /// What was noted last.
    pub fn committed(&self) -> Option<LogId> {
        todo!()
    }

    /// Removes every entry after `last`; `None` removes all.
    pub fn truncate_after(
        &self,
        last: Option<LogId>,
        done: impl FnOnce(Result<(), Arc<StorageError>>) + Send + 'static,
    ) {
        let _ = (last, done);
        todo!()
    }

    /// Removes every entry up to and including `through`, which may lie past the last one.
    pub fn purge(
        &self,
        through: LogId,
        done: impl FnOnce(Result<(), Arc<StorageError>>) + Send + 'static,
    ) {
        let _ = (through, done);
        todo!()
    }

    /// Where the log begins and ends now, durable or not.
    pub fn state(&self) -> LogState {
        todo!()
    }

    /// The last entry that is durable.
    pub fn synced(&self) -> Option<LogId> {
        todo!()
    }

    /// Blocks until the entry at `index` is durable. `false`: the log was closed or failed first.
    pub fn wait_synced(&self, index: u64) -> bool {
        let _ = index;
        todo!()
    }

    /// What syncing has cost so far.
    pub fn sync_stats(&self) -> SyncStats {
        todo!()
    }

    /// Under [`Drive::Manual`]: does what waits. Says whether there was anything.
    pub fn drive(&self) -> bool {
        todo!()
    }

    /// Does what waits, then ends the writer. Called for the last handle when it is dropped.
    pub fn close(&self) {
        todo!()
    }
}
