//! Whose data folder it is: the identity file, and the lock that keeps a second process out.
//!
//! A node that has acknowledged anything may never come back with less than it had: not with an
//! empty folder under its old id, not with an old copy of its folder, not twice at once. What can
//! be known here, this module refuses: a folder of another node or cluster, a folder that has lost
//! files. What only others can know, it lets them know: the folder has a random uuid, and a boot
//! number that is raised and durable before anything else happens; every node remembers the
//! highest boot number it has seen of each peer.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fs4::fs_std::FileExt;
use serde::{Deserialize, Serialize};

use super::disk::{self, Disk};
use super::envelope::{self, Kind};
use super::error::REPLACE_NODE;
use super::{StorageError, Uuid};
use crate::planted::{self, Bug};

const FILE: &str = "identity";
const KIND: Kind = Kind { magic: *b"KWIDENT\n", version: 1 };

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
    /// Why the folder must never be used again, if so.
    pub retired: Option<String>,
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
pub struct FolderLock {
    /// The system holds the lock as long as the file is open, and no longer than the process runs.
    _file: File,
}

/// The identity of the folder; clones share it.
#[derive(Clone)]
pub struct Identity {
    disk: Arc<dyn Disk>,
    run: Uuid,
    facts: Arc<Mutex<Facts>>,
}

impl FolderLock {
    /// Takes the lock, creating the folder if need be.
    ///
    /// # Errors
    /// [`StorageError::Locked`] when another process has it.
    pub fn acquire(folder: &Path) -> Result<Self, StorageError> {
        let name = || folder.display().to_string();
        fs::create_dir_all(folder).map_err(StorageError::io("create", name()))?;
        let path = folder.join("LOCK");
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(StorageError::io("open", path.display().to_string()))?;
        match file.try_lock_exclusive() {
            Ok(true) => Ok(Self { _file: file }),
            Ok(false) => Err(StorageError::Locked { folder: name() }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(StorageError::Locked { folder: name() })
            }
            Err(error) => Err(StorageError::io("lock", path.display().to_string())(error)),
        }
    }
}

impl Identity {
    /// Opens the folder of node `node`, or makes an empty folder one. The boot number is raised
    /// and durable when it returns. Call it after [`FolderLock::acquire`] and before anything else
    /// is opened.
    ///
    /// # Errors
    /// When the folder is another node's, or lacks something it must have.
    pub fn open(disk: Arc<dyn Disk>, node: u64) -> Result<Self, StorageError> {
        let mut facts = match load(&*disk)? {
            Some(facts) if facts.node != node => {
                return Err(StorageError::WrongNode { found: facts.node, wanted: node });
            }
            Some(facts) => facts,
            None => new_facts(&*disk, node)?,
        };
        if let Some(reason) = facts.retired {
            return Err(StorageError::Retired { reason });
        }
        if facts.joined {
            check_complete(&*disk)?;
        }
        facts.boot += 1;
        store(&*disk, &facts)?;
        Ok(Self { disk, run: Uuid::random(), facts: Arc::new(Mutex::new(facts)) })
    }

    /// What the file holds now.
    pub fn facts(&self) -> Facts {
        self.lock().clone()
    }

    /// The random number of this run.
    pub fn run(&self) -> Uuid {
        self.run
    }

    /// Notes the cluster and its initial members; durable when it returns. Nothing is written if
    /// they are noted already.
    ///
    /// # Errors
    /// [`StorageError::WrongCluster`] when another one is noted already.
    pub fn set_cluster(
        &self,
        cluster: Uuid,
        members: BTreeMap<u64, Uuid>,
    ) -> Result<(), StorageError> {
        self.change(|facts| match facts.cluster {
            Some(found) if found != cluster => {
                Err(StorageError::WrongCluster { found, wanted: cluster })
            }
            _ => {
                facts.cluster = Some(cluster);
                facts.members = members;
                Ok(())
            }
        })
    }

    /// Notes that the node takes part from now on: to be called when log and vote file exist, and
    /// before the first vote or acknowledgement. From then on a folder without them is refused.
    /// Durable when it returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_joined(&self) -> Result<(), StorageError> {
        self.change(|facts| {
            facts.joined = true;
            Ok(())
        })
    }

    /// Notes that the folder must never be used again, because a peer has found that it is an old
    /// copy. Without that, starting it often enough would raise its boot number past the one the
    /// peers remember. Durable when it returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn retire(&self, reason: &str) -> Result<(), StorageError> {
        self.change(|facts| {
            facts.retired.get_or_insert_with(|| reason.to_owned());
            Ok(())
        })
    }

    /// Checks and notes a peer's start; durable when it returns, and a write only when it is new.
    /// Only for members: each uuid ever given is remembered.
    ///
    /// # Errors
    /// When it cannot be written. The inner error: the peer must be refused.
    pub fn observe(
        &self,
        peer: Uuid,
        boot: u64,
        run: Uuid,
    ) -> Result<Result<(), StaleBoot>, StorageError> {
        let mut verdict = Ok(());
        self.change(|facts| {
            match facts.seen.get(&peer) {
                Some(seen) if *seen == (Seen { boot, run }) => {}
                Some(seen) if seen.boot >= boot && !planted::active(Bug::BootNumberIgnored) => {
                    verdict = Err(StaleBoot { uuid: peer, boot, run, seen: seen.boot });
                }
                _ => {
                    facts.seen.insert(peer, Seen { boot, run });
                }
            }
            Ok(())
        })?;
        Ok(verdict)
    }

    /// Changes the file if `change` changes the facts. They count only once they are durable.
    fn change(
        &self,
        change: impl FnOnce(&mut Facts) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let mut facts = self.lock();
        let mut changed = facts.clone();
        change(&mut changed)?;
        if changed != *facts {
            store(&*self.disk, &changed)?;
            *facts = changed;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the identity file; `None` if there is none.
pub(super) fn load(disk: &dyn Disk) -> Result<Option<Facts>, StorageError> {
    if !disk.exists(FILE).map_err(StorageError::io("look for", FILE))? {
        return Ok(None);
    }
    let bytes = disk::read_all(disk, FILE).map_err(StorageError::io("read", FILE))?;
    Ok(Some(envelope::unseal(KIND, &bytes, FILE, 0)?.0))
}

fn store(disk: &dyn Disk, facts: &Facts) -> Result<(), StorageError> {
    disk::replace(disk, FILE, &envelope::seal(KIND, facts))
        .map_err(StorageError::io("replace", FILE))
}

/// The identity of a folder that has none, if it holds nothing of ours.
fn new_facts(disk: &dyn Disk, node: u64) -> Result<Facts, StorageError> {
    for folder in ["log", "snapshots", "checkpoint"] {
        if !disk.list(folder).map_err(StorageError::io("list", folder))?.is_empty() {
            return Err(missing(FILE, "the folder holds the data of a node"));
        }
    }
    if disk.exists("vote").map_err(StorageError::io("look for", "vote"))? {
        return Err(missing(FILE, "the folder holds the vote of a node"));
    }
    Ok(Facts {
        node,
        uuid: Uuid::random(),
        boot: 0,
        cluster: None,
        joined: false,
        members: BTreeMap::new(),
        seen: BTreeMap::new(),
        retired: None,
    })
}

/// A node that has taken part has a log and a vote: without them it would forget what it promised.
fn check_complete(disk: &dyn Disk) -> Result<(), StorageError> {
    for file in ["log/manifest", "vote"] {
        if !disk.exists(file).map_err(StorageError::io("look for", file))? {
            return Err(missing(file, "the node has taken part in its cluster"));
        }
    }
    Ok(())
}

fn missing(file: &str, because: &'static str) -> StorageError {
    StorageError::Missing { file: file.to_owned(), because, advice: REPLACE_NODE }
}

#[cfg(test)]
mod tests;
