//! The replicated state kept in sled, so that a restart need not replay everything.

use std::path::PathBuf;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Log, LogId, StorageError, Uuid};

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

/// Changed records: key, and value unless it was removed.
pub type Records = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// How the checkpoint is kept.
#[derive(Clone, Debug)]
pub struct CheckpointOptions {
    /// Its folder; nothing else may be in it.
    pub folder: PathBuf,
    /// The node whose state it is.
    pub node: Uuid,
    /// How many bytes sled may cache.
    pub cache_bytes: u64,
    /// How many changed records may wait before `submit` blocks.
    pub max_waiting: usize,
}

/// What was found when it was opened.
#[derive(Debug)]
pub enum Opened<S> {
    /// It is whole and plausible.
    Accepted(CheckpointMeta, S),
    /// There was none.
    Empty,
    /// There was one, and it was thrown away.
    Discarded(String),
}

/// A handle on the checkpoint; clones share it.
#[derive(Clone)]
pub struct Checkpoint {}

/// What says whether a checkpoint belongs to the log and snapshot beside it.
pub struct Facts<'a> {
    /// The newest snapshot's last entry.
    pub snapshot: Option<LogId>,
    /// The log.
    pub log: &'a Log,
}

#[expect(clippy::todo)]
impl Facts<'_> {
    /// Whether a checkpoint with that last entry may be used; the reason if not.
    ///
    /// # Errors
    /// The reason.
    pub fn judge(&self, applied: LogId) -> Result<(), String> {
        let _ = applied;
        todo!()
    }
}

#[expect(clippy::todo)]
impl Checkpoint {
    /// Opens the checkpoint. `load` builds the state from the records; what it returns is dropped
    /// unless count and sum match.
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
        let _ = (options, log, snapshot, load);
        todo!()
    }

    /// Hands over what changed since the last call, as of `meta.applied`.
    ///
    /// # Errors
    /// When the writer has ended.
    pub fn submit(&self, meta: CheckpointMeta, changes: Records) -> Result<(), StorageError> {
        let _ = (meta, changes);
        todo!()
    }

    /// Replaces everything, as after installing a snapshot or replaying from an empty state.
    ///
    /// # Errors
    /// When the writer has ended.
    pub fn refill(
        &self,
        meta: CheckpointMeta,
        records: impl Iterator<Item = (Vec<u8>, Vec<u8>)> + Send + 'static,
    ) -> Result<(), StorageError> {
        let _ = (meta, records);
        todo!()
    }

    /// Blocks until all that was handed over is written; for tests and for a clean end.
    ///
    /// # Errors
    /// When the writer has ended.
    pub fn flush(&self) -> Result<(), StorageError> {
        todo!()
    }
}
