//! The identity of a data folder: the identity file, and the lock that keeps a second process out.
//!
//! A node that has acknowledged anything must never return with less than it had: not with an empty
//! folder under its old id, not with an old copy of its folder, not as two processes at once. Three
//! checks prevent this, and each covers what the others cannot.
//!
//! - *The place.* The file records when the file system created it and the vote file ([`Births`]).
//!   The files of a copy were created at another time. A copy is accepted only if the node had
//!   stopped cleanly when it was made: then it holds all promises.
//! - *The count.* The log counts the promises that the folder has made ([`Promises`]), and the file
//!   records the count. A folder with fewer promises than its identity file records was assembled
//!   from files of different times.
//! - *The peers.* The folder has a random uuid and a boot number that is raised and durable before
//!   anything else happens. Each call and answer of a node carries both, the promises it was opened
//!   with and those it has made since ([`Start`]), and each promise that counts towards a majority
//!   carries its number. Peers remember them ([`Seen`]), exchange them, and refuse a start that was
//!   opened with fewer.
//!
//! New starts and the retirement of a folder are durable before they take effect. Promises of other
//! nodes are remembered at once and written every few seconds ([`Identity::keep`]), so that
//! acknowledging an entry costs no write of this file.

mod judge;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use fs4::fs_std::FileExt;
use parking_lot::{Mutex, RwLock};

pub use self::judge::{Seen, StaleFolder, Start};
use super::disk::Disk;
use super::envelope::{self, Body, Kind, NEVER_RELEASED};
use super::error::REPLACE_NODE;
use super::log::{Fatal, PromiseCounter, Promises};
use super::{StorageError, Uuid};
use crate::codec::{DecodeError, Encoding, Reader};

const FILE: &str = "identity";

/// The name of the new file until it replaces the present one.
const BESIDE: &str = "identity.tmp";

const KIND: Kind = Kind { magic: *b"KWIDENT\n", version: 4 };

/// The contents of the identity file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// The node's id in the membership.
    pub node: u64,
    /// The folder's own random number.
    pub uuid: Uuid,
    /// The number of times the node has started on this folder.
    pub boot: u64,
    /// The cluster, once known.
    pub cluster: Option<Uuid>,
    /// Whether the node has ever been part of the cluster (may have voted or acknowledged).
    pub joined: bool,
    /// The initial members.
    pub members: BTreeMap<u64, Uuid>,
    /// The latest known start of each peer.
    pub seen: BTreeMap<Uuid, Seen>,
    /// The reason why the folder must never be used again, if it is retired.
    pub retired: Option<String>,
    /// The number of promises the folder had made when this was written, or later.
    pub promised: Promises,
    /// Whether the node has stopped cleanly, after its last promise.
    pub stopped: bool,
    /// The creation times of the files.
    pub births: Births,
    /// The digest of the state that the folder begins with, if it was restored from a backup.
    pub restored: Option<Uuid>,
}

/// The creation times of files that a copy has to create anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Births {
    /// The identity file itself, which is created anew at each change.
    pub identity: Option<u128>,
    /// The vote file, which is created once.
    pub vote: Option<u128>,
}

impl Body for Facts {
    fn put(&self, out: &mut Vec<u8>) {
        let Self { node, uuid, boot, cluster, joined, members, .. } = self;
        let Self { seen, retired, promised, stopped, births, restored, .. } = self;
        node.put(out);
        uuid.put(out);
        boot.put(out);
        cluster.put(out);
        joined.put(out);
        members.put(out);
        seen.put(out);
        retired.put(out);
        promised.put(out);
        stopped.put(out);
        births.identity.put(out);
        births.vote.put(out);
        restored.put(out);
    }

    fn read(version: u32, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if version < 3 {
            return Err(NEVER_RELEASED);
        }
        Ok(Self {
            node: reader.u64()?,
            uuid: Uuid::read(reader)?,
            boot: reader.u64()?,
            cluster: Option::read(reader)?,
            joined: bool::read(reader)?,
            members: BTreeMap::read(reader)?,
            seen: BTreeMap::read(reader)?,
            retired: Option::read(reader)?,
            promised: Promises::read(reader)?,
            stopped: bool::read(reader)?,
            births: Births { identity: Option::read(reader)?, vote: Option::read(reader)? },
            restored: if version < 4 { None } else { Option::read(reader)? },
        })
    }
}

/// The exclusive lock on a data folder, held until dropped.
#[derive(Debug)]
pub struct FolderLock {
    /// The system holds the lock while the file is open, and at most until the process ends.
    file: File,
    path: PathBuf,
}

/// The identity of the folder; clones share it.
#[derive(Clone)]
pub struct Identity {
    inner: Arc<Inner>,
}

struct Inner {
    disk: Arc<dyn Disk>,
    run: Uuid,
    fatal: OnceLock<Fatal>,
    /// The contents of the file. Readers clone the pointer and never wait for the disk.
    facts: RwLock<Arc<Facts>>,
    /// The latest start of each peer, durable or not.
    seen: Mutex<BTreeMap<Uuid, Seen>>,
    /// Held while the file is written. It contains the error of the write that failed, if one has.
    writer: Mutex<Option<Arc<StorageError>>>,
    /// The promises that the folder was opened with, and the counter of those it makes.
    promises: OnceLock<(Promises, PromiseCounter)>,
}

impl FolderLock {
    /// Acquires the lock, creating the folder if need be.
    ///
    /// # Errors
    /// [`StorageError::Locked`] when another process holds it.
    pub fn acquire(folder: &Path) -> Result<Self, StorageError> {
        let name = || folder.display().to_string();
        fs::create_dir_all(folder).map_err(StorageError::io("create", name()))?;
        let path = folder.join("LOCK");
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(StorageError::io("open", path.display().to_string()))?;
        match file.try_lock_exclusive() {
            Ok(true) => Ok(Self { file, path }),
            Ok(false) => Err(StorageError::Locked { folder: name() }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(StorageError::Locked { folder: name() })
            }
            Err(error) => Err(StorageError::io("lock", path.display().to_string())(error)),
        }
    }
}

impl FolderLock {
    /// Whether the folder is still the one that was locked. If it was removed or replaced, what this
    /// process writes is in files without a name, and gone when it ends.
    ///
    /// # Errors
    /// When the file system does not answer the question.
    pub fn is_in_place(&self) -> io::Result<bool> {
        let named = match fs::metadata(&self.path) {
            Ok(named) => named,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let locked = self.file.metadata()?;
        Ok((named.dev(), named.ino()) == (locked.dev(), locked.ino()))
    }

    /// The data folder.
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }
}

impl Identity {
    /// Opens the folder of node `node`, or initialises an empty one. The boot number is raised and
    /// durable when this returns. Call it after [`FolderLock::acquire`] and before anything else is
    /// opened, and [`Identity::attach`] as soon as the log is open.
    ///
    /// # Errors
    /// When the folder belongs to another node, lacks a required file, or is a copy.
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
            check_place(&*disk, &facts)?;
        }
        facts.boot += 1;
        facts.stopped = false;
        store(&*disk, &mut facts)?;
        let inner = Inner {
            disk,
            run: Uuid::random(),
            fatal: OnceLock::new(),
            seen: Mutex::new(facts.seen.clone()),
            facts: RwLock::new(Arc::new(facts)),
            writer: Mutex::new(None),
            promises: OnceLock::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Registers `fatal`, which is called when the file cannot be written: the node must not go on.
    pub fn on_failure(&self, fatal: Fatal) {
        // The first registration wins: there is one node in a folder.
        let _ = self.inner.fatal.set(fatal);
    }

    /// Attaches the counter of the log's promises.
    ///
    /// # Errors
    /// [`StorageError::OldFiles`] when the log has made fewer promises than the identity records.
    pub fn attach(&self, counter: PromiseCounter) -> Result<(), StorageError> {
        let (found, known) = (counter.get(), self.facts().promised);
        if !found.cover(known) {
            return Err(StorageError::OldFiles { found, known });
        }
        // The first counter wins: there is one log in a folder.
        let _ = self.inner.promises.set((found, counter));
        Ok(())
    }

    /// The contents of the file.
    pub fn facts(&self) -> Arc<Facts> {
        self.inner.facts.read().clone()
    }

    /// The random number of this run.
    pub fn run(&self) -> Uuid {
        self.inner.run
    }

    /// The start that this node reports in each call and answer.
    pub fn start(&self) -> Start {
        let facts = self.facts();
        let (found, promised) = match self.inner.promises.get() {
            Some((found, counter)) => (*found, counter.get()),
            None => Default::default(),
        };
        Start { uuid: facts.uuid, boot: facts.boot, run: self.run(), found, promised }
    }

    /// Records the cluster and its initial members; durable when this returns. Nothing is written
    /// if they are recorded already.
    ///
    /// # Errors
    /// [`StorageError::WrongCluster`] when another one is recorded already.
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

    /// Records that the node takes part from now on. It is called when log and vote file exist, and
    /// before the first vote or acknowledgement. From then on a folder without them is refused.
    /// Durable when this returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_joined(&self) -> Result<(), StorageError> {
        self.change(|facts| {
            facts.joined = true;
            Ok(())
        })
    }

    /// Records that the folder must never be used again, because a peer has found that it is an old
    /// copy. Otherwise, starting it often enough would raise its boot number past the one the peers
    /// remember. Durable when this returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn retire(&self, reason: &str) -> Result<(), StorageError> {
        self.change(|facts| {
            facts.retired.get_or_insert_with(|| reason.to_owned());
            Ok(())
        })
    }

    /// Judges a peer's start without a write. Returns `None` if the start is new and must be
    /// recorded by [`Identity::observe`]. The peer's promises are remembered.
    pub fn knows(&self, start: &Start) -> Option<Result<(), StaleFolder>> {
        let mut seen = self.inner.seen.lock();
        match judge::judge(seen.get(&start.uuid), start) {
            Err(stale) => Some(Err(stale)),
            Ok(Some(known)) => {
                seen.insert(start.uuid, known);
                drop(seen);
                let durable = self.facts();
                durable.seen.get(&start.uuid).is_some_and(|seen| seen.is(start)).then_some(Ok(()))
            }
            Ok(None) => None,
        }
    }

    /// Judges and records a peer's start; durable when this returns. It writes only when the start
    /// is new. It is only for members, because every uuid passed in is remembered.
    ///
    /// # Errors
    /// When it cannot be written. The inner error means that the peer must be refused.
    pub fn observe(&self, start: &Start) -> Result<Result<(), StaleFolder>, StorageError> {
        let mut writer = self.inner.writer.lock();
        // It may have been recorded while this call waited for the writer lock.
        if let Some(verdict) = self.knows(start) {
            return Ok(verdict);
        }
        let mut facts = self.current();
        let next = Seen::next(facts.seen.get(&start.uuid), start);
        facts.seen.insert(start.uuid, next);
        self.write(&mut writer, facts)?;
        // Other calls may have added to it meanwhile.
        let mut seen = self.inner.seen.lock();
        let next = Seen::next(seen.get(&start.uuid), start);
        seen.insert(start.uuid, next);
        Ok(Ok(()))
    }

    /// Remembers the promises of a peer's run. Returns `false` if another run of the peer is known:
    /// the folder may have been restored from a copy since, and the promise must not be counted.
    #[must_use]
    pub fn heard(&self, peer: Uuid, run: Uuid, promised: Promises) -> bool {
        let mut seen = self.inner.seen.lock();
        let Some(seen) = seen.get_mut(&peer).filter(|seen| seen.run == run) else {
            return false;
        };
        seen.promised = seen.promised.max_with(promised);
        true
    }

    /// Records that a peer lacks an entry it has acknowledged: none of its starts is accepted any
    /// more. Returns `false` if nothing is recorded, because the peer is unknown.
    pub fn condemn(&self, peer: Uuid) -> bool {
        let mut seen = self.inner.seen.lock();
        seen.get_mut(&peer).map(|seen| seen.lacks = true).is_some()
    }

    /// The known starts of all members, to be sent to the others.
    pub fn remembered(&self) -> BTreeMap<Uuid, Seen> {
        self.inner.seen.lock().clone()
    }

    /// Merges the starts of other nodes that a member knows.
    ///
    /// # Errors
    /// When its knowledge of this folder shows that the folder is an old copy.
    pub fn learn(&self, told: &BTreeMap<Uuid, Seen>) -> Result<(), StaleFolder> {
        let facts = self.facts();
        let mut seen = self.inner.seen.lock();
        for (uuid, told) in told {
            if *uuid == facts.uuid {
                judge::judge(Some(told), &self.start())?;
            } else if facts.members.values().any(|member| member == uuid) {
                let known = seen.entry(*uuid).or_insert(*told);
                *known = known.merge(told);
            }
        }
        Ok(())
    }

    /// Writes the promises made and received since the last write, if there are any; durable when
    /// this returns. On a full disk nothing changes and the call may be retried: no promise waits
    /// for this write, and a node whose log has room in its segment must not end for it.
    ///
    /// # Errors
    /// When it cannot be written. After any error other than [`StorageError::is_full_disk`] the
    /// file is not written again.
    pub fn keep(&self) -> Result<(), StorageError> {
        let mut writer = self.inner.writer.lock();
        let mut facts = self.current();
        if facts == *self.facts() {
            return Ok(());
        }
        match self.prepare(writer.as_ref(), &mut facts) {
            Err(error) if error.is_full_disk() => Err(error),
            prepared => self.replace(&mut writer, facts, prepared),
        }
    }

    /// Records that the node has stopped cleanly: the log is closed and nothing is promised any
    /// more. Durable when this returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn close(&self) -> Result<(), StorageError> {
        self.change(|facts| {
            facts.stopped = true;
            Ok(())
        })
    }

    /// Writes the file if `change`, or what peers have reported, changes the facts. Changes take
    /// effect only once they are durable.
    fn change(
        &self,
        change: impl FnOnce(&mut Facts) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let mut writer = self.inner.writer.lock();
        let mut changed = self.current();
        change(&mut changed)?;
        if changed == *self.facts() { Ok(()) } else { self.write(&mut writer, changed) }
    }

    /// The facts as they would be written now.
    fn current(&self) -> Facts {
        let mut facts = Facts::clone(&self.facts());
        facts.seen.clone_from(&self.inner.seen.lock());
        facts.promised = facts.promised.max_with(self.start().promised);
        facts
    }

    /// Replaces the file. After a write that fails, the file is not written again.
    fn write(
        &self,
        failed: &mut Option<Arc<StorageError>>,
        mut facts: Facts,
    ) -> Result<(), StorageError> {
        let prepared = self.prepare(failed.as_ref(), &mut facts);
        self.replace(failed, facts, prepared)
    }

    fn prepare(
        &self,
        failed: Option<&Arc<StorageError>>,
        facts: &mut Facts,
    ) -> Result<(), StorageError> {
        match failed {
            Some(error) => Err(StorageError::Failed(error.clone())),
            None => prepare(&*self.inner.disk, facts),
        }
    }

    /// Renames the prepared file over the present one, if it could be prepared.
    fn replace(
        &self,
        failed: &mut Option<Arc<StorageError>>,
        facts: Facts,
        prepared: Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        if let Err(error) = prepared.and_then(|()| replace(&*self.inner.disk)) {
            if let StorageError::Failed(_) = error {
                return Err(error);
            }
            let error = failed.insert(Arc::new(error));
            if let Some(fatal) = self.inner.fatal.get() {
                fatal(error);
            }
            return Err(StorageError::Failed(error.clone()));
        }
        *self.inner.facts.write() = Arc::new(facts);
        Ok(())
    }
}

/// Reads the identity file; `None` if there is none.
///
/// # Errors
/// When it cannot be read, or is not what was written.
pub fn load(disk: &dyn Disk) -> Result<Option<Facts>, StorageError> {
    if !disk.exists(FILE).map_err(StorageError::io("look for", FILE))? {
        return Ok(None);
    }
    let bytes = super::disk::read_all(disk, FILE).map_err(StorageError::io("read", FILE))?;
    Ok(Some(envelope::unseal(KIND, &bytes, FILE, 0)?.0))
}

/// Replaces the file as [`super::disk::replace`] does, and records the new file's own creation time
/// in it.
fn store(disk: &dyn Disk, facts: &mut Facts) -> Result<(), StorageError> {
    prepare(disk, facts)?;
    replace(disk)
}

/// Writes the new file beside the present one.
fn prepare(disk: &dyn Disk, facts: &mut Facts) -> Result<(), StorageError> {
    let write = |facts: &mut Facts| {
        let file = disk.create(BESIDE)?;
        facts.births = Births { identity: disk.born(BESIDE)?, vote: vote_birth(disk)? };
        file.write_at(&envelope::seal(KIND, &*facts), 0)?;
        file.sync_all()
    };
    write(facts).map_err(StorageError::io("write", BESIDE))
}

/// Renames the new file over the present one.
fn replace(disk: &dyn Disk) -> Result<(), StorageError> {
    let replaced = disk.rename(BESIDE, FILE).and_then(|()| disk.sync_dir(""));
    replaced.map_err(StorageError::io("replace", FILE))
}

fn vote_birth(disk: &dyn Disk) -> io::Result<Option<u128>> {
    if disk.exists("vote")? { disk.born("vote") } else { Ok(None) }
}

/// Creates the identity of a folder that has none, if it holds no data of a node.
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
        promised: Promises::default(),
        stopped: false,
        births: Births::default(),
        restored: None,
    })
}

/// Makes the identity of a folder that begins with a restored state of this digest, durably. The
/// state is written after it: a folder that has the one without the other does not start.
///
/// # Errors
/// When the folder holds anything of a node, or cannot be written.
pub fn plant(disk: &dyn Disk, node: u64, restored: Uuid) -> Result<(), StorageError> {
    if load(disk)?.is_some() {
        return Err(StorageError::Misuse("the folder is that of a node already".to_owned()));
    }
    let mut facts = Facts { restored: Some(restored), ..new_facts(disk, node)? };
    store(disk, &mut facts)
}

/// Checks that a node that has taken part has a log and a vote: without them it would forget what
/// it promised.
fn check_complete(disk: &dyn Disk) -> Result<(), StorageError> {
    for file in ["log/manifest", "vote"] {
        if !disk.exists(file).map_err(StorageError::io("look for", file))? {
            return Err(missing(file, "the node has taken part in its cluster"));
        }
    }
    Ok(())
}

/// Checks that the folder is not a copy, whose files were created later than the originals. A copy
/// made while the node ran, or after it was killed, may lack promises, and nobody can know which.
fn check_place(disk: &dyn Disk, facts: &Facts) -> Result<(), StorageError> {
    if facts.stopped {
        return Ok(());
    }
    let born = |file: &'static str| disk.born(file).map_err(StorageError::io("look at", file));
    let told = facts.births;
    for (file, told, found) in
        [(FILE, told.identity, born(FILE)?), ("vote", told.vote, born("vote")?)]
    {
        if told.is_some() && found.is_some() && told != found {
            return Err(StorageError::Copied { file: file.to_owned() });
        }
    }
    Ok(())
}

fn missing(file: &str, because: &'static str) -> StorageError {
    StorageError::Missing { file: file.to_owned(), because, advice: REPLACE_NODE }
}

#[cfg(test)]
mod tests;
