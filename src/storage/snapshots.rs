//! Snapshot files.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Disk, LogId, StorageError, Uuid};

/// What a snapshot is of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SnapshotMeta {
    /// The cluster whose state it is.
    pub cluster: Option<Uuid>,
    /// The last entry that the state has seen.
    pub last: Option<LogId>,
    /// The membership as of that entry, encoded by the caller.
    pub membership: Vec<u8>,
    /// The entry that set the membership.
    pub membership_log: Option<LogId>,
    /// The state's feature level.
    pub feature_level: u32,
    /// How many bytes the state has.
    pub body_bytes: u64,
}

/// A complete, durable snapshot file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredSnapshot {
    /// What it is of.
    pub meta: SnapshotMeta,
    /// Its file, relative to the data folder; also a name for it that no other snapshot ever has.
    pub file: String,
    /// The file's length.
    pub file_bytes: u64,
}

/// The snapshot files of a data folder.
#[derive(Clone)]
pub struct Snapshots {}

/// Receives a snapshot file from another node, piece by piece.
pub struct SnapshotReceiver {}

#[expect(clippy::todo)]
impl Snapshots {
    /// Opens the snapshots of a data folder. `purged` is the last entry that the log lacks.
    ///
    /// # Errors
    /// When a snapshot is damaged, or the log needs one that is not there.
    pub fn open(disk: Arc<dyn Disk>, purged: Option<LogId>) -> Result<Self, StorageError> {
        let _ = (disk, purged);
        todo!()
    }

    /// The newest snapshot.
    pub fn latest(&self) -> Option<StoredSnapshot> {
        todo!()
    }

    /// Writes a snapshot; durable when it returns. Older ones are removed then.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, meta: SnapshotMeta, body: &[u8]) -> Result<StoredSnapshot, StorageError> {
        let _ = (meta, body);
        todo!()
    }

    /// Reads the state in a snapshot, checked.
    ///
    /// # Errors
    /// When the file does not hold what was written.
    pub fn body(&self, snapshot: &StoredSnapshot) -> Result<Vec<u8>, StorageError> {
        let _ = snapshot;
        todo!()
    }

    /// A piece of the snapshot's file as it is, to send to another node; empty at its end.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn piece(
        &self,
        snapshot: &StoredSnapshot,
        offset: u64,
        max_bytes: usize,
    ) -> Result<Bytes, StorageError> {
        let _ = (snapshot, offset, max_bytes);
        todo!()
    }

    /// Begins to receive a snapshot file that another node sends with [`Snapshots::piece`].
    ///
    /// # Errors
    /// When the temporary file cannot be made.
    pub fn receive(&self) -> Result<SnapshotReceiver, StorageError> {
        todo!()
    }
}

#[expect(clippy::todo)]
impl SnapshotReceiver {
    /// How many bytes have come: where the next piece belongs.
    pub fn received(&self) -> u64 {
        todo!()
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), StorageError> {
        let _ = piece;
        todo!()
    }

    /// Verifies the whole file and makes it the newest snapshot, durably; older ones are removed.
    ///
    /// # Errors
    /// When it is damaged, of another cluster, or cannot be made durable. Nothing has changed then.
    pub fn finish(self, cluster: Option<Uuid>) -> Result<StoredSnapshot, StorageError> {
        let _ = cluster;
        todo!()
    }
}
