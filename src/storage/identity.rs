//! Whose data folder it is.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Disk, StorageError, Uuid};

/// What the identity file holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Facts {
    /// The node's id in the membership.
    pub node: u64,
    /// The folder's own random number.
    pub uuid: Uuid,
    /// How many times the node has started on this folder.
    pub boot: u64,
    /// The cluster, once known.
    pub cluster: Option<Uuid>,
    /// Whether the node has ever been part of the cluster (may have voted or acknowledged).
    pub joined: bool,
    /// The initial members.
    pub members: BTreeMap<u64, Uuid>,
    /// The latest start of each peer that was heard of.
    pub seen: BTreeMap<Uuid, Seen>,
}

/// The latest start of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// Its boot number.
    pub boot: u64,
    /// The random number of that run.
    pub run: Uuid,
}

/// A peer's folder is an old copy, or two processes run on copies of one folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "node uuid {uuid} started with boot number {boot} (run {run}), but boot number {seen} was \
     already seen from another run: its data folder is an old copy or is used twice"
)]
pub struct StaleBoot {
    /// The peer.
    pub uuid: Uuid,
    /// The boot number it gave.
    pub boot: u64,
    /// The run it gave.
    pub run: Uuid,
    /// The highest boot number seen before.
    pub seen: u64,
}

/// The exclusive lock on a data folder, held until dropped.
#[derive(Debug)]
pub struct FolderLock {}

/// The identity of the folder; clones share it.
#[derive(Clone)]
pub struct Identity {}

#[expect(clippy::todo)]
impl FolderLock {
    /// Takes the lock, creating the folder if need be.
    ///
    /// # Errors
    /// [`StorageError::Locked`] when another process has it.
    pub fn acquire(folder: &Path) -> Result<Self, StorageError> {
        let _ = folder;
        todo!()
    }
}

#[expect(clippy::todo)]
impl Identity {
    /// Opens the folder of node `node`, or makes an empty folder one. The boot number is raised
    /// and durable when it returns.
    ///
    /// # Errors
    /// When the folder is another node's, or lacks something it must have.
    pub fn open(disk: Arc<dyn Disk>, node: u64) -> Result<Self, StorageError> {
        let _ = (disk, node);
        todo!()
    }

    /// What the file holds now.
    pub fn facts(&self) -> Facts {
        todo!()
    }

    /// The random number of this run.
    pub fn run(&self) -> Uuid {
        todo!()
    }

    /// Notes the cluster and its initial members; durable when it returns.
    ///
    /// # Errors
    /// [`StorageError::WrongCluster`] when another one is noted already.
    pub fn set_cluster(
        &self,
        cluster: Uuid,
        members: BTreeMap<u64, Uuid>,
    ) -> Result<(), StorageError> {
        let _ = (cluster, members);
        todo!()
    }

    /// Notes that the node takes part from now on (before its first vote or acknowledgement);
    /// durable when it returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_joined(&self) -> Result<(), StorageError> {
        todo!()
    }

    /// Checks and notes a peer's start; durable when it returns, and a write only when it is new.
    ///
    /// # Errors
    /// When it cannot be written. The inner error: the peer must be refused.
    pub fn observe(
        &self,
        peer: Uuid,
        boot: u64,
        run: Uuid,
    ) -> Result<Result<(), StaleBoot>, StorageError> {
        let _ = (peer, boot, run);
        todo!()
    }
}
