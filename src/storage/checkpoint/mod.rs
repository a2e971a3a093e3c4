//! The replicated state kept in sled, so that a restart need not replay everything: a copy that is
//! accepted whole or thrown away.
//!
//! Apply hands over what changed, *as of an index*, and goes on; one thread writes it behind, each
//! time as one atomic batch together with the meta data: which entry it is as of, how many records
//! there are, and a 128-bit sum over them. It writes only what the local log has synced. So
//! whatever sled comes back with after a crash is the state as of some entry, or it does not add
//! up, and then the folder is deleted and filled again from snapshot and log. None of sled's
//! known failures (a tail lost in silence, a panic at open, a file that fails every open) can do
//! more harm than that.
//!
//! This is the one part of storage that may fail without stopping the node: when sled fails while
//! running, the checkpoint is given up until the next start.

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

/// How long [`Checkpoint::submit`] waits for the writer when too much waits for it. Long enough
/// that the writer, not the memory, sets the pace; short enough that apply never stands still.
const SUBMIT_WAIT: Duration = Duration::from_millis(50);

/// How many changes are written as one batch, if they come in smaller portions. Until a batch is
/// done, sled keeps every version of every page it touches, some 8 KiB for each change.
const BATCH: usize = 1024;

/// The most bytes of key and value that sled keeps in its pages; what is larger goes to a file of
/// its own, which it syncs and recovers badly.
pub(crate) const MAX_RECORD_BYTES: usize = 7 << 10;

/// How long sled may take to open before the start is given up: it is known to deadlock.
const OPEN_TIMEOUT: Duration = Duration::from_secs(120);

/// What the checkpoint says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CheckpointMeta {
    /// The last entry whose effects it has.
    pub applied: LogId,
    /// The membership as of that entry, encoded by the caller.
    pub membership: Vec<u8>,
    /// The state's own scalars, encoded by the caller.
    pub state: Vec<u8>,
}

/// A changed record: key, and value unless it was removed.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// Changed records.
pub type Records = Vec<Change>;

/// How the checkpoint is kept.
#[derive(Clone, Debug)]
pub struct CheckpointOptions {
    /// Its folder; nothing else may be in it.
    pub folder: PathBuf,
    /// The node whose state it is.
    pub node: Uuid,
    /// How many bytes sled may cache, by its own count, which leaves out most of what a cached page
    /// costs: the process grows by several times as much. What is not cached comes from the page
    /// cache of the system.
    pub cache_bytes: u64,
    /// How many changed records may wait before `submit` waits, too.
    pub max_waiting: usize,
    /// How long changes are gathered before they are written: what a restart may have to replay,
    /// against records that come and go in between and then are never written.
    pub interval: Duration,
    /// How long nothing may change before sled is closed, so that an idle node writes nothing. The
    /// next change opens it again, which takes a quarter of a second for 100,000 records and, when
    /// sled opens, some writing: not after every short pause.
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

/// What was found when it was opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Opened<S> {
    /// It is whole and plausible.
    Accepted(CheckpointMeta, S),
    /// There was none.
    Empty,
    /// There was one, and it was thrown away; why, for the program's log.
    Discarded(String),
}

/// A handle on the checkpoint; clones share it. When the last one is dropped, what waits is
/// written, if the log has it, and sled is closed.
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

/// What is written as one batch.
struct Group {
    /// What the checkpoint is then.
    meta: CheckpointMeta,
    /// What the records are to become; a later change of a record replaces an earlier one.
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

#[derive(Default)]
struct Waiting {
    /// What is to be written, in this order.
    groups: VecDeque<Group>,
    /// How many changes are in them.
    changes: usize,
    /// Replaces everything, before the changes.
    refill: Option<Refill>,
    /// Comes before the groups.
    many: Option<Many>,
    /// Whether the writer has taken something that it has not written yet.
    writing: bool,
    /// Somebody wants what waits to be written now.
    hurry: bool,
    closing: bool,
    failed: Option<String>,
}

/// Whether a checkpoint belongs to the log and the snapshot beside it: it must not be older than
/// the snapshot (entries between may be gone), nor ahead of the log (they may never be committed),
/// and it must be as of an entry that one of them has.
///
/// # Errors
/// The reason why not.
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

/// Looks at a copy of a checkpoint: what it says of itself, and what `load` makes of its records,
/// if they add up.
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
    /// its records; what it returns is dropped unless count and sum match. Otherwise the folder is
    /// deleted and begun anew.
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
                // Nobody listens any more if opening took too long: then nothing is to be written.
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

    /// Hands over what changed since the last call, as of `meta.applied`. Returns at once, or
    /// after at most 50 ms if the writer is far behind.
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
    /// `records` are taken one by one by the writer; what is submitted afterwards comes on top.
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

    /// As [`Checkpoint::submit`] for more than one batch should hold: taken one by one by the
    /// writer, and written in several batches. Until all are, the checkpoint counts for nothing.
    /// Waits for what was handed over before.
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

    /// Blocks until all that was handed over is written; for tests and for a clean end.
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

    /// How many changed records wait to be written.
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
        // Nothing panics between two halves of a change.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Adds changes to the newest group, or as a new one if that has enough. Past the limit they
    /// are added in any case: then a record that changes again costs no more memory.
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
