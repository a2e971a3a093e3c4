//! The checkpoint: a copy of the replicated state kept in sled, so that a restart need not replay
//! everything. It is accepted whole or discarded.
//!
//! Apply submits its changes *as of an index* and goes on. One thread writes them later, each time
//! as one atomic batch together with the meta data: the entry it is as of, the number of records,
//! and a 128-bit sum over them. It writes only changes whose entry the local log has synced. So the
//! contents of sled after a crash are either the state as of some entry, or do not match the sum;
//! then the folder is deleted and filled again from snapshot and log. None of sled's known failures
//! (a tail lost silently, a panic at open, a file that fails every open) can do more harm than
//! that.
//!
//! This is the one part of storage that may fail without stopping the node: when sled fails while
//! running, the checkpoint is abandoned until the next start.

mod store;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use self::store::Store;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::store::Values;
use self::writer::{Many, Refill};
use super::{Log, LogId, StorageError, Uuid};

/// The longest time that [`Checkpoint::submit`] waits for the writer when the backlog is full. Long
/// enough that the writer, not the memory, sets the pace; short enough that apply never stalls.
const SUBMIT_WAIT: Duration = Duration::from_millis(50);

/// The number of changes in a batch, if they arrive in smaller portions. Until a batch is done,
/// sled keeps every version of every page it touches, some 8 KiB for each change.
const BATCH: usize = 1024;

/// The largest size of key and value that sled keeps in its pages. Larger records go to separate
/// files, which sled syncs and recovers badly.
pub(crate) const MAX_RECORD_BYTES: usize = 7 << 10;

/// The time that sled may take to open before the start is abandoned: it is known to deadlock.
const OPEN_TIMEOUT: Duration = Duration::from_secs(120);

/// The checkpoint's meta data.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CheckpointMeta {
    /// The last entry applied to it.
    pub applied: LogId,
    /// The membership as of that entry, encoded by the caller.
    pub membership: Vec<u8>,
    /// The state's own scalars, encoded by the caller.
    pub state: Vec<u8>,
}

/// A changed record: its key, and its value unless it was removed.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// Changed records.
pub type Records = Vec<Change>;

/// The checkpoint's options.
#[derive(Clone, Debug)]
pub struct CheckpointOptions {
    /// Its folder; nothing else may be in it.
    pub folder: PathBuf,
    /// The node whose state it is.
    pub node: Uuid,
    /// The size of sled's cache in bytes by its own count, which leaves out most of what a cached
    /// page costs: the process grows by several times as much. Uncached data comes from the page
    /// cache of the system.
    pub cache_bytes: u64,
    /// The number of changed records that may wait before `submit` waits, too.
    pub max_waiting: usize,
    /// The time for which changes are collected before they are written. A longer interval means
    /// that a restart may have to replay more, but that records which come and go within it are
    /// never written.
    pub interval: Duration,
    /// The idle time after which sled is closed, so that an idle node writes nothing. The next
    /// change opens it again, which takes a quarter of a second for 100,000 records and, when sled
    /// opens, some writing; so it is not closed after every short pause.
    pub park_after: Duration,
}

impl CheckpointOptions {
    /// The usual options.
    pub fn new(folder: impl Into<PathBuf>, node: Uuid) -> Self {
        Self {
            folder: folder.into(),
            node,
            cache_bytes: 2 << 20,
            max_waiting: 32 << 10,
            interval: Duration::from_millis(500),
            park_after: Duration::from_secs(30),
        }
    }
}

/// The result of opening the checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Opened<S> {
    /// It is intact and belongs to the log and the snapshot.
    Accepted(CheckpointMeta, S),
    /// There was none.
    Empty,
    /// There was one, and it was discarded, for this reason (for the program's log).
    Discarded(String),
}

/// A handle on the checkpoint; clones share it. When the last one is dropped, waiting changes are
/// written, if the log has synced them, and sled is closed.
#[derive(Clone)]
pub struct Checkpoint {
    owner: Arc<Owner>,
}

struct Owner {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    options: CheckpointOptions,
    waiting: Mutex<Waiting>,
    /// The writer waits here for work.
    work: Condvar,
    /// Others wait here for the writer.
    progress: Condvar,
}

/// Changes that are written as one batch.
struct Group {
    /// The checkpoint's meta data after the batch.
    meta: CheckpointMeta,
    /// The new values of the records; a later change of a record replaces an earlier one.
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

#[derive(Default)]
struct Waiting {
    /// The waiting batches, in order.
    groups: VecDeque<Group>,
    /// The number of changes in them.
    changes: usize,
    /// A refill, which is written before the groups.
    refill: Option<Refill>,
    /// A long list of changes, which is written before the groups.
    many: Option<Many>,
    /// Whether the writer has taken work that it has not finished.
    writing: bool,
    /// Whether a flush waits, so that the writer must not delay.
    hurry: bool,
    closing: bool,
    failed: Option<String>,
}

/// Checks that a checkpoint belongs to the log and the snapshot beside it: it must not be older
/// than the snapshot (entries between may be gone), nor ahead of the log (they may never be
/// committed), and it must be as of an entry that one of them has.
///
/// # Errors
/// The reason why it does not.
pub fn judge(applied: LogId, snapshot: Option<LogId>, log: &Log) -> Result<(), String> {
    let last = log.state().last;
    if snapshot.is_some_and(|snapshot| snapshot.index > applied.index) {
        return Err(format!("it is as of entry {applied}, older than the snapshot"));
    }
    if snapshot == Some(applied) || log.id_at(applied.index) == Some(applied) {
        return Ok(());
    }
    match last {
        Some(last) if last.index >= applied.index => {
            Err(format!("it is as of entry {applied}, but the log has another entry there"))
        }
        _ => Err(format!("it is as of entry {applied}, which the log does not have")),
    }
}

/// Reads a copy of a checkpoint. Returns its meta data and the result of `load`, if the records
/// match their totals.
pub(super) fn look<S: Send + 'static>(
    copy: &Path,
    load: impl FnOnce(&CheckpointMeta, &mut dyn Iterator<Item = (Bytes, Bytes)>) -> Result<S, String>
    + Send
    + 'static,
) -> Result<(store::StoredMeta, S), String> {
    let copy = copy.to_owned();
    let builder = thread::Builder::new().name(store::THREAD.to_owned());
    let looked = builder.spawn(move || store::look(&copy, load));
    let looked = looked.map_err(|error| error.to_string())?;
    looked.join().unwrap_or_else(|_| Err("it cannot be looked at".to_owned()))
}

impl Checkpoint {
    /// Opens the checkpoint. If it may be used (see [`judge`]), `load` builds the state from all
    /// its records; the result is dropped unless count and sum match. Otherwise the folder is
    /// deleted and a new database is begun.
    ///
    /// After anything but [`Opened::Accepted`] the caller calls [`Checkpoint::refill`] once it has
    /// a state, unless it submits everything since the very first entry.
    ///
    /// # Errors
    /// When the folder can neither be used nor removed.
    pub fn open<S: Send + 'static>(
        options: CheckpointOptions,
        log: &Log,
        snapshot: Option<LogId>,
        load: impl FnOnce(
            &CheckpointMeta,
            &mut dyn Iterator<Item = (Bytes, Bytes)>,
        ) -> Result<S, String>
        + Send
        + 'static,
    ) -> Result<(Self, Opened<S>), StorageError> {
        let shared = Arc::new(Shared {
            options,
            waiting: Mutex::new(Waiting::default()),
            work: Condvar::new(),
            progress: Condvar::new(),
        });
        let judge = {
            let log = log.clone();
            move |applied| judge(applied, snapshot, &log)
        };
        let (report, reported) = mpsc::sync_channel(1);
        let (theirs, watch) = (shared.clone(), log.watch());
        let run = move || match Store::open_or_discard(&theirs.options, judge, load) {
            Ok((store, opened)) => {
                // The receiver is gone if opening took too long: then nothing must be written.
                if report.send(Ok(opened)).is_ok() {
                    writer::run(&theirs, &watch, store);
                }
            }
            Err(error) => drop(report.send(Err(error))),
        };
        let thread = thread::Builder::new().name(store::THREAD.to_owned()).spawn(run);
        let thread = thread.map_err(StorageError::io("start the thread of", "checkpoint"))?;
        let opened = match reported.recv_timeout(OPEN_TIMEOUT) {
            Ok(opened) => opened?,
            Err(_) => {
                return Err(StorageError::Checkpoint(
                    "it does not open; remove the folder `checkpoint` and start again".to_owned(),
                ));
            }
        };
        Ok((Self { owner: Arc::new(Owner { shared, thread: Some(thread) }) }, opened))
    }

    /// Submits the changes since the last call, as of `meta.applied`. Returns at once, or after at
    /// most 50 ms if the writer is far behind.
    ///
    /// # Errors
    /// [`StorageError::Checkpoint`] once sled has failed: the node can go on without.
    pub fn submit(&self, meta: CheckpointMeta, changes: Records) -> Result<(), StorageError> {
        let shared = &self.owner.shared;
        let limit = shared.options.max_waiting;
        let full = |waiting: &mut Waiting| waiting.changes >= limit && waiting.failed.is_none();
        let waited = shared.progress.wait_timeout_while(shared.lock(), SUBMIT_WAIT, full);
        let mut waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
        waiting.check()?;
        waiting.add(meta, changes, limit);
        shared.work.notify_all();
        Ok(())
    }

    /// Replaces everything, as after installing a snapshot or after replaying from an empty state.
    /// The writer consumes `records` one by one; later submissions are applied on top.
    ///
    /// # Errors
    /// [`StorageError::Checkpoint`] once sled has failed: the node can go on without.
    pub fn refill(
        &self,
        meta: CheckpointMeta,
        records: impl Iterator<Item = (Vec<u8>, Vec<u8>)> + Send + 'static,
    ) -> Result<(), StorageError> {
        let shared = &self.owner.shared;
        let mut waiting = shared.lock();
        waiting.check()?;
        waiting.clear();
        waiting.refill = Some(Refill { meta, records: Box::new(records) });
        shared.work.notify_all();
        Ok(())
    }

    /// Does the same as [`Checkpoint::submit`] for more changes than one batch should hold: the
    /// writer consumes them one by one and writes several batches. Until all are written, the
    /// checkpoint is not valid. Blocks until everything submitted before is written.
    ///
    /// # Errors
    /// [`StorageError::Checkpoint`] once sled has failed: the node can go on without.
    pub fn submit_many(
        &self,
        meta: CheckpointMeta,
        changes: impl Iterator<Item = Change> + Send + 'static,
    ) -> Result<(), StorageError> {
        self.flush()?;
        let shared = &self.owner.shared;
        let mut waiting = shared.lock();
        waiting.check()?;
        waiting.many = Some(Many { meta, changes: Box::new(changes) });
        shared.work.notify_all();
        Ok(())
    }

    /// Blocks until everything submitted is written; for tests and for a clean shutdown.
    ///
    /// # Errors
    /// [`StorageError::Checkpoint`] once sled has failed.
    pub fn flush(&self) -> Result<(), StorageError> {
        let shared = &self.owner.shared;
        let mut waiting = shared.lock();
        while waiting.has_work() || waiting.writing {
            waiting.check()?;
            waiting.hurry = true;
            shared.work.notify_all();
            waiting = shared.progress.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        waiting.check()
    }

    /// The number of changed records that wait to be written.
    pub fn waiting(&self) -> usize {
        self.owner.shared.lock().changes
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_all();
        if let Some(thread) = self.thread.take() {
            // The writer catches panics; there is nothing left to report.
            drop(thread.join());
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // No code panics between the two halves of a change.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Adds changes to the newest group, or to a new one if that is large enough. Past the limit
    /// they are added to the newest in any case: then a record that changes again costs no more
    /// memory.
    fn add(&mut self, meta: CheckpointMeta, changes: Records, limit: usize) {
        let full = self.changes >= limit;
        let fits = |group: &Group| full || group.changes.len() + changes.len() <= BATCH;
        let mut group = match self.groups.pop_back() {
            Some(group) if fits(&group) => {
                self.changes -= group.changes.len();
                group
            }
            other => {
                self.groups.extend(other);
                Group { meta: meta.clone(), changes: BTreeMap::new() }
            }
        };
        group.meta = meta;
        group.changes.extend(changes);
        self.changes += group.changes.len();
        self.groups.push_back(group);
    }

    fn clear(&mut self) {
        self.groups.clear();
        self.changes = 0;
        self.refill = None;
        self.many = None;
    }

    fn has_work(&self) -> bool {
        !self.groups.is_empty() || self.refill.is_some() || self.many.is_some()
    }

    fn check(&self) -> Result<(), StorageError> {
        match &self.failed {
            Some(reason) => Err(StorageError::Checkpoint(reason.clone())),
            None => Ok(()),
        }
    }
}
