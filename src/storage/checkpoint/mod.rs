//! The checkpoint: a copy of the replicated state kept in sled, so that a restart need not replay
//! everything. It is accepted whole or discarded.
//!
//! It has no thread and no queue: the caller decides when to write, and writes the changes between
//! two entries, together with the meta data: the entry it is as of, the number of records, and a
//! 128-bit sum over them. It writes only changes whose entry the local log has synced. So the
//! contents of sled after a crash are either the state as of some entry, or do not match the sum;
//! then the folder is deleted and filled again from snapshot and log. None of sled's known failures
//! (a tail lost silently, a panic at open, a file that fails every open) can do more harm than
//! that.
//!
//! This is the one part of storage that may fail without stopping the node: when sled fails while
//! running, the checkpoint is removed, and begun again at the next start.

mod store;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;

pub use self::store::Values;
pub(super) use self::store::look;
use self::store::{Parked, Store, guarded};
use super::log::SyncWatch;
use super::{Log, LogId, StorageError, Uuid};
use crate::codec::{DecodeError, Encoding, Reader, put_bytes};

/// The number of changes that are written as one atomic batch. A longer list is written in several,
/// because sled keeps every version of every page that a batch touches, some 8 KiB for each change;
/// a crash in the middle discards the checkpoint.
pub(crate) const BATCH: usize = 1024;

/// The largest size of key and value that sled keeps in its pages. Larger records go to separate
/// files, which sled syncs and recovers badly.
pub(crate) const MAX_RECORD_BYTES: usize = 7 << 10;

/// The time that sled may take to open before the start is abandoned: it is known to deadlock.
const OPEN_TIMEOUT: Duration = Duration::from_secs(120);

/// The checkpoint's meta data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckpointMeta {
    /// The last entry applied to it.
    pub applied: LogId,
    /// The membership as of that entry, encoded by the caller.
    pub membership: Vec<u8>,
    /// The state's own scalars, encoded by the caller.
    pub state: Vec<u8>,
}

impl Encoding for CheckpointMeta {
    fn put(&self, out: &mut Vec<u8>) {
        let Self { applied, membership, state } = self;
        applied.put(out);
        put_bytes(out, membership);
        put_bytes(out, state);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            applied: LogId::read(reader)?,
            membership: reader.bytes()?.to_vec(),
            state: reader.bytes()?.to_vec(),
        })
    }
}

/// A changed record: its key, and its value unless it was removed.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// The place of a checkpoint.
#[derive(Clone, Debug)]
pub struct CheckpointOptions {
    /// Its folder; nothing else may be in it.
    pub folder: PathBuf,
    /// The node whose state it is.
    pub node: Uuid,
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

/// The checkpoint. Its calls block; when it is dropped, sled is closed.
pub struct Checkpoint {
    options: CheckpointOptions,
    log: SyncWatch,
    database: Database,
}

enum Database {
    Open(Store),
    Parked(Parked),
    /// Sled has failed.
    Failed,
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

impl Checkpoint {
    /// Opens the checkpoint. If it may be used (see [`judge`]), `load` builds the state from all
    /// its records; the result is dropped unless count and sum match. Otherwise the folder is
    /// deleted and a new database is begun.
    ///
    /// After anything but [`Opened::Accepted`] the caller calls [`Checkpoint::fill`] once it has
    /// a state, unless it writes everything since the very first entry.
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
        let (place, judged) = (options.clone(), log.clone());
        let (report, reported) = mpsc::sync_channel(1);
        // On a thread of its own, which is left behind if sled never returns.
        let open = move || {
            let judge = |applied| judge(applied, snapshot, &judged);
            // The receiver is gone if opening took too long; then the database is closed.
            let _ = report.send(Store::open_or_discard(&place, judge, load));
        };
        let thread = thread::Builder::new().name("keyward-checkpoint-open".to_owned());
        thread.spawn(open).map_err(StorageError::io("start the thread of", "checkpoint"))?;
        let (store, opened) = reported.recv_timeout(OPEN_TIMEOUT).map_err(|_| {
            StorageError::Checkpoint(
                "it does not open; remove the folder `checkpoint` and start again".to_owned(),
            )
        })??;
        Ok((Self { options, log: log.watch(), database: Database::Open(store) }, opened))
    }

    /// Writes the changes between the entry of the last call and `meta.applied`, each record once.
    /// Up to [`BATCH`] changes are written at once, more in several steps, between which the
    /// checkpoint is not valid. First blocks until the log has synced the entry; if it never will,
    /// because it was closed or has failed, nothing is written.
    ///
    /// # Errors
    /// [`StorageError::Checkpoint`] if sled fails, now and at every later call: the node can go on
    /// without.
    pub fn write(
        &mut self,
        meta: &CheckpointMeta,
        changes: impl Iterator<Item = Change>,
    ) -> Result<(), StorageError> {
        // A checkpoint ahead of the log would be as of an entry that the log may lose.
        if !self.log.wait_synced(meta.applied.index) {
            return Ok(());
        }
        self.step(|options, database| {
            let mut store = database.store(options)?;
            store.write(meta, changes)?;
            Ok(Database::Open(store))
        })
    }

    /// Replaces everything, as after installing a snapshot or after replaying from an empty state.
    /// Until all is written, the checkpoint is not valid.
    ///
    /// # Errors
    /// As [`Checkpoint::write`].
    pub fn fill(
        &mut self,
        meta: &CheckpointMeta,
        records: impl Iterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<(), StorageError> {
        self.step(|options, database| {
            database.close()?;
            let mut store = Store::create(options)?;
            store.fill(meta, records)?;
            Ok(Database::Open(store))
        })
    }

    /// Closes sled, so that an idle node writes nothing: an open one goes on rewriting and syncing
    /// its file for minutes, and keeps its cache. The next change opens it again, which takes a
    /// quarter of a second for 100,000 records.
    ///
    /// # Errors
    /// As [`Checkpoint::write`].
    pub fn park(&mut self) -> Result<(), StorageError> {
        self.step(|options, database| Ok(Database::Parked(database.store(options)?.park()?)))
    }

    /// Takes one step with the database. If it fails, the checkpoint is removed.
    fn step(
        &mut self,
        step: impl FnOnce(&CheckpointOptions, Database) -> Result<Database, String>,
    ) -> Result<(), StorageError> {
        let database = std::mem::replace(&mut self.database, Database::Failed);
        let result = guarded(|| step(&self.options, database));
        let reason = match result {
            Ok(database) => {
                self.database = database;
                return Ok(());
            }
            Err(reason) => reason,
        };
        store::remove(&self.options.folder).unwrap_or_else(|error| {
            tracing::error!(%error, "the failed checkpoint cannot be removed");
        });
        Err(StorageError::Checkpoint(reason))
    }
}

impl Database {
    fn store(self, options: &CheckpointOptions) -> Result<Store, String> {
        match self {
            Self::Open(store) => Ok(store),
            Self::Parked(parked) => parked.resume(options),
            Self::Failed => Err("it has failed before".to_owned()),
        }
    }

    fn close(self) -> Result<(), String> {
        match self {
            Self::Open(store) => store.close(),
            Self::Parked(_) => Ok(()),
            Self::Failed => Err("it has failed before".to_owned()),
        }
    }
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        let database = std::mem::replace(&mut self.database, Database::Failed);
        if matches!(database, Database::Failed) {
            return;
        }
        // Closing sled writes what it still holds, and may fail in its own ways.
        if let Err(reason) = guarded(|| database.close()) {
            tracing::warn!(%reason, "the checkpoint did not close cleanly");
        }
    }
}
