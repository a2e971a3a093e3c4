//! Snapshot files: the whole replicated state as of one entry, with checksums.
//!
//! A file is written under a temporary name, synced, renamed, and the folder synced, before it is
//! announced; older files are removed only after that. So whenever the log is purged up to a
//! snapshot, that snapshot is on the disk. The same bytes are sent to followers, which verify the
//! whole file before they use it.
//!
//! A damaged snapshot always stops the node, even one that the log could do without: it is unknown
//! whether the disk that damaged it left the rest intact. The error message says what is safe to
//! do.
//!
//! The file format is described in `file`.

mod file;

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

pub use self::file::BodyReader;
use self::file::{BodyWriter, Scan, Sink};
use super::disk::{Disk, DiskFile};
use super::envelope::{Body, NEVER_RELEASED};
use super::error::REPLACE_NODE;
use super::{LogId, StorageError, Uuid};
use crate::codec::{DecodeError, Encoding, Reader, put_bytes};

pub(super) const FOLDER: &str = "snapshots";

/// The meta data of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotMeta {
    /// The cluster whose state it is.
    pub cluster: Option<Uuid>,
    /// The last entry applied to the state.
    pub last: Option<LogId>,
    /// The membership as of that entry, encoded by the caller.
    pub membership: Vec<u8>,
    /// The entry that set the membership.
    pub membership_log: Option<LogId>,
    /// The state's feature level.
    pub feature_level: u32,
    /// The size of the state in bytes. It is stored at the end of the file, and set by
    /// [`Snapshots::write`].
    pub body_bytes: u64,
}

impl Body for SnapshotMeta {
    fn put(&self, out: &mut Vec<u8>) {
        let Self { cluster, last, membership, membership_log, feature_level, body_bytes: _ } = self;
        cluster.put(out);
        last.put(out);
        put_bytes(out, membership);
        membership_log.put(out);
        feature_level.put(out);
    }

    fn read(version: u32, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if version < 3 {
            return Err(NEVER_RELEASED);
        }
        Ok(Self {
            cluster: Option::read(reader)?,
            last: Option::read(reader)?,
            membership: reader.bytes()?.to_vec(),
            membership_log: Option::read(reader)?,
            feature_level: reader.u32()?,
            body_bytes: 0,
        })
    }
}

/// A complete, durable snapshot file. It stays readable while this value exists, even after a newer
/// snapshot has replaced it.
#[derive(Clone)]
pub struct StoredSnapshot {
    /// The snapshot's meta data.
    pub meta: SnapshotMeta,
    /// The file's path, relative to the data folder. It also serves as a name that no other
    /// snapshot on this node ever has.
    pub file: String,
    /// The file's length.
    pub file_bytes: u64,
    open: Arc<dyn DiskFile>,
}

/// The snapshot files of a data folder; clones share them.
#[derive(Clone)]
pub struct Snapshots {
    disk: Arc<dyn Disk>,
    state: Arc<Mutex<State>>,
}

struct State {
    latest: Option<StoredSnapshot>,
    /// The number of the next file.
    next: u64,
}

impl State {
    fn take_number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }
}

/// Receives a snapshot file from another node, piece by piece. If it is dropped unfinished, the
/// temporary file is removed.
pub struct SnapshotReceiver {
    snapshots: Snapshots,
    draft: Draft,
}

/// A complete, durable snapshot file from another node that is not in use until it is kept. If it
/// is dropped, the file is removed.
pub struct VerifiedSnapshot {
    snapshots: Snapshots,
    draft: Draft,
    /// The snapshot's meta data.
    pub meta: SnapshotMeta,
}

/// A file that is not a snapshot yet.
struct Draft {
    disk: Arc<dyn Disk>,
    path: String,
    file: Arc<dyn DiskFile>,
    len: u64,
    kept: bool,
}

impl Snapshots {
    /// Opens the snapshots of a data folder, and verifies the newest one. `purged` is the last
    /// entry that was purged from the log.
    ///
    /// # Errors
    /// When the newest snapshot is damaged, or the log needs one that does not exist.
    pub fn open(disk: Arc<dyn Disk>, purged: Option<LogId>) -> Result<Self, StorageError> {
        disk.create_dir(FOLDER).map_err(StorageError::io("create", FOLDER))?;
        // A name created by a process that was killed before the sync is used from now on, so it
        // must be durable.
        disk.sync_dir(FOLDER).map_err(StorageError::io("sync", FOLDER))?;
        let found = list(&*disk)?;
        let latest = match found.files.last() {
            Some(File { path, .. }) => {
                Some(load(&*disk, path).map_err(|error| advise(error, purged))?)
            }
            None => None,
        };
        let covered = latest.as_ref().and_then(|latest| latest.meta.last);
        if covered.map(|last| last.index) < purged.map(|purged| purged.index) {
            return Err(StorageError::Missing {
                file: format!("{FOLDER}/ (a snapshot up to entry {})", purged.unwrap_or_default()),
                because: "the log was purged up to there",
                advice: REPLACE_NODE,
            });
        }
        let (_, older) = found.files.split_last().map_or((None, &[][..]), |(l, o)| (Some(l), o));
        for path in older.iter().map(|file| &file.path).chain(&found.drafts) {
            disk.remove(path).map_err(StorageError::io("remove", path))?;
        }
        let next = found.files.iter().map(|file| file.number + 1).max().unwrap_or(0);
        Ok(Self { disk, state: Arc::new(Mutex::new(State { latest, next })) })
    }

    /// The newest snapshot.
    pub fn latest(&self) -> Option<StoredSnapshot> {
        self.state().latest.clone()
    }

    /// Writes a snapshot of this state; see [`Snapshots::write`].
    ///
    /// # Errors
    /// When it cannot be written. The previous snapshot is unchanged.
    pub fn save(&self, meta: SnapshotMeta, body: &[u8]) -> Result<StoredSnapshot, StorageError> {
        self.write(meta, |out| out.write_all(body))
    }

    /// Writes a snapshot of the state that `encode` writes piece by piece; durable when this
    /// returns. Older ones are then removed. If a newer one has arrived from the leader in the
    /// meantime, it is kept and returned instead.
    ///
    /// # Errors
    /// When it cannot be written. The previous snapshot is unchanged.
    pub fn write(
        &self,
        mut meta: SnapshotMeta,
        encode: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<StoredSnapshot, StorageError> {
        let mut writer = BodyWriter::begin(self.draft()?, &meta)?;
        encode(&mut writer).map_err(|error| writer.unwritable(error))?;
        let (draft, body_bytes) = writer.end()?;
        draft.sync()?;
        meta.body_bytes = body_bytes;
        self.keep(draft, meta)
    }

    /// The free space on the disk; `None` if it is unknown.
    ///
    /// # Errors
    /// Any error of the operating system.
    pub fn free_bytes(&self) -> Result<Option<u64>, StorageError> {
        self.disk.free_bytes().map_err(StorageError::io("look at the room on", FOLDER))
    }

    /// Reads and verifies the state in a snapshot.
    ///
    /// # Errors
    /// When the contents of the file are not what was written.
    pub fn body(&self, snapshot: &StoredSnapshot) -> Result<Vec<u8>, StorageError> {
        read_body(snapshot)
    }

    /// Passes the state in a snapshot to `read`, and verifies it as it is read.
    ///
    /// # Errors
    /// When the contents of the file are not what was written, or `read` cannot use them.
    pub fn read<T>(
        &self,
        snapshot: &StoredSnapshot,
        read: impl FnOnce(&mut BodyReader<'_>) -> io::Result<T>,
    ) -> Result<T, StorageError> {
        let mut reader = BodyReader::open(&*snapshot.open, &snapshot.file)?;
        let made = read(&mut reader).map_err(|error| file::unreadable(&snapshot.file, error))?;
        reader.finish()?;
        Ok(made)
    }

    /// A piece of the raw snapshot file, to send to another node; empty at the end of the file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn piece(
        &self,
        snapshot: &StoredSnapshot,
        offset: u64,
        max_bytes: usize,
    ) -> Result<Bytes, StorageError> {
        let left = snapshot.file_bytes.saturating_sub(offset);
        let mut bytes = vec![0; max_bytes.min(usize::try_from(left).unwrap_or(max_bytes))];
        let io = StorageError::io("read", &snapshot.file);
        let read = snapshot.open.read_at(&mut bytes, offset).map_err(io)?;
        if read < bytes.len() {
            let what = "it is shorter than it was";
            return Err(StorageError::damaged(&snapshot.file, offset + read as u64, what));
        }
        Ok(Bytes::from(bytes))
    }

    /// Begins to receive a snapshot file that another node sends with [`Snapshots::piece`].
    ///
    /// # Errors
    /// When the temporary file cannot be created.
    pub fn receive(&self) -> Result<SnapshotReceiver, StorageError> {
        Ok(SnapshotReceiver { snapshots: self.clone(), draft: self.draft()? })
    }

    fn draft(&self) -> Result<Draft, StorageError> {
        let number = self.state().take_number();
        let path = format!("{FOLDER}/{number:010}.tmp");
        let file = self.disk.create(&path).map_err(StorageError::io("create", &path))?;
        Ok(Draft { disk: self.disk.clone(), path, file, len: 0, kept: false })
    }

    /// Makes a complete and durable draft the newest snapshot, unless there is a newer one.
    fn keep(&self, mut draft: Draft, meta: SnapshotMeta) -> Result<StoredSnapshot, StorageError> {
        let last = meta.last.unwrap_or_default();
        // The lock is held while the files change, so that of two concurrent snapshots the newer
        // one stays.
        let mut state = self.state();
        if let Some(latest) = &state.latest
            && latest.meta.last > meta.last
        {
            return Ok(latest.clone());
        }
        // The final name takes a new number: a snapshot may have been begun after this draft and
        // kept before it, with a higher number.
        let number = state.take_number();
        let file = format!("{FOLDER}/snapshot-{number:010}-{}-{}", last.index, last.term);
        self.disk.rename(&draft.path, &file).map_err(StorageError::io("rename", &draft.path))?;
        draft.kept = true;
        self.disk.sync_dir(FOLDER).map_err(StorageError::io("sync", FOLDER))?;
        let open = draft.file.clone();
        let stored = StoredSnapshot { meta, file, file_bytes: draft.len, open };
        if let Some(older) = state.latest.replace(stored.clone())
            && let Err(error) = self.disk.remove(&older.file)
        {
            // The newer snapshot is used either way; the next start removes the older one.
            tracing::warn!(file = older.file, %error, "could not remove an older snapshot");
        }
        Ok(stored)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SnapshotReceiver {
    /// The number of bytes received: the offset of the next piece.
    pub fn received(&self) -> u64 {
        self.draft.len
    }

    /// Writes the next piece.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), StorageError> {
        self.draft.append(piece)
    }

    /// Verifies the whole file while `read` builds a value from its body, and makes its bytes
    /// durable. The file is not a snapshot of this node yet.
    ///
    /// # Errors
    /// When it is damaged, of another cluster, not usable by `read`, or cannot be made durable.
    /// Nothing has changed then.
    pub fn verify<T>(
        self,
        cluster: Option<Uuid>,
        read: impl FnOnce(&mut BodyReader<'_>) -> io::Result<T>,
    ) -> Result<(VerifiedSnapshot, T), StorageError> {
        let Self { snapshots, draft } = self;
        let mut reader = BodyReader::open(&*draft.file, &draft.path)?;
        if let (Some(wanted), Some(found)) = (cluster, reader.meta().cluster)
            && wanted != found
        {
            return Err(StorageError::WrongCluster { found, wanted });
        }
        let made = read(&mut reader).map_err(|error| file::unreadable(&draft.path, error))?;
        let meta = reader.finish()?;
        draft.sync()?;
        Ok((VerifiedSnapshot { snapshots, draft, meta }, made))
    }

    /// Verifies the whole file and makes it the newest snapshot, durably; older ones are removed.
    /// If a newer one has arrived in the meantime, it is kept and returned instead.
    ///
    /// # Errors
    /// When it is damaged, of another cluster, or cannot be made durable. Nothing has changed then.
    pub fn finish(self, cluster: Option<Uuid>) -> Result<StoredSnapshot, StorageError> {
        self.verify(cluster, |_| Ok(()))?.0.keep()
    }
}

impl VerifiedSnapshot {
    /// Makes it the newest snapshot, durably; older ones are removed. If a newer one has arrived in
    /// the meantime, it is kept and returned instead.
    ///
    /// # Errors
    /// When it cannot be made durable under its name.
    pub fn keep(self) -> Result<StoredSnapshot, StorageError> {
        self.snapshots.keep(self.draft, self.meta)
    }
}

impl Sink for Draft {
    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        Draft::append(self, bytes)
    }

    fn unencodable(&self, error: io::Error) -> StorageError {
        StorageError::io("encode", &self.path)(error)
    }
}

impl Draft {
    /// Makes the bytes durable.
    fn sync(&self) -> Result<(), StorageError> {
        self.file.sync_all().map_err(StorageError::io("sync", &self.path))
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        let io = StorageError::io("write", &self.path);
        self.file.write_at(bytes, self.len).map_err(io)?;
        self.len += bytes.len() as u64;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // A file that is left behind is removed when the folder is opened again.
        if !self.kept && self.disk.remove(&self.path).is_err() {
            tracing::warn!(file = %self.path, "could not remove an unfinished snapshot");
        }
    }
}

impl PartialEq for StoredSnapshot {
    fn eq(&self, other: &Self) -> bool {
        self.file == other.file && self.meta == other.meta
    }
}

impl fmt::Debug for StoredSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredSnapshot")
            .field("file", &self.file)
            .field("meta", &self.meta)
            .finish_non_exhaustive()
    }
}

/// The name of a complete snapshot.
#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct File {
    /// The last entry it covers: of two snapshots, the one that covers more is newer.
    index: u64,
    /// Of two that cover the same, the one with the larger number is newer.
    number: u64,
    pub(super) path: String,
}

/// The files in the folder.
pub(super) struct Listing {
    /// Complete snapshots, oldest first.
    pub(super) files: Vec<File>,
    /// Unfinished ones.
    pub(super) drafts: Vec<String>,
}

pub(super) fn list(disk: &dyn Disk) -> Result<Listing, StorageError> {
    let names = disk.list(FOLDER).map_err(StorageError::io("list", FOLDER))?;
    let mut listing = Listing { files: Vec::new(), drafts: Vec::new() };
    for name in names {
        let path = format!("{FOLDER}/{name}");
        let mut numbers =
            name.strip_prefix("snapshot-").into_iter().flat_map(|rest| rest.split('-'));
        let mut number = || numbers.next().and_then(|number| number.parse().ok());
        if let (Some(number), Some(index)) = (number(), number()) {
            listing.files.push(File { index, number, path });
        } else if name.strip_suffix(".tmp").is_some() {
            listing.drafts.push(path);
        }
    }
    listing.files.sort();
    Ok(listing)
}

/// Opens a snapshot and verifies the whole file.
pub(super) fn load(disk: &dyn Disk, path: &str) -> Result<StoredSnapshot, StorageError> {
    let open = disk.open(path).map_err(StorageError::io("open", path))?;
    let (meta, file_bytes) = file::verify(&*open, path)?;
    Ok(StoredSnapshot { meta, file: path.to_owned(), file_bytes, open })
}

/// Reads and verifies the state in a snapshot.
pub(super) fn read_body(snapshot: &StoredSnapshot) -> Result<Vec<u8>, StorageError> {
    let mut body = Vec::with_capacity(usize::try_from(snapshot.meta.body_bytes).unwrap_or(0));
    let mut scan = Scan::begin(&*snapshot.open, &snapshot.file)?;
    while let Some(chunk) = scan.next()? {
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The bytes of a snapshot file that is passed on as they are made, and is no file here.
struct Passed<P> {
    pass: P,
}

impl<P: FnMut(&[u8]) -> io::Result<()>> Sink for Passed<P> {
    fn append(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        (self.pass)(bytes).map_err(StorageError::io("pass on", "a snapshot"))
    }

    fn unencodable(&self, error: io::Error) -> StorageError {
        StorageError::io("encode", "a snapshot")(error)
    }
}

/// Passes the bytes of a snapshot file to `pass`, part by part, with the state that `encode` writes.
///
/// # Errors
/// Those of `pass` and `encode`.
pub fn write_to(
    meta: &SnapshotMeta,
    pass: impl FnMut(&[u8]) -> io::Result<()>,
    encode: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), StorageError> {
    let mut writer = BodyWriter::begin(Passed { pass }, meta)?;
    encode(&mut writer).map_err(|error| writer.unwritable(error))?;
    writer.end().map(|_| ())
}

/// Verifies a snapshot file that is in no folder of a node, while `read` builds a value from its
/// state. Returns its meta data, too.
///
/// # Errors
/// When its contents are not what was written, or `read` cannot use them.
pub fn read_from<T>(
    disk: &dyn Disk,
    path: &str,
    read: impl FnOnce(&mut BodyReader<'_>) -> io::Result<T>,
) -> Result<(SnapshotMeta, T), StorageError> {
    let open = disk.open(path).map_err(StorageError::io("open", path))?;
    let mut reader = BodyReader::open(&*open, path)?;
    let made = read(&mut reader).map_err(|error| file::unreadable(path, error))?;
    Ok((reader.finish()?, made))
}

/// A folder that was restored from a backup has not the state that it begins with.
pub(crate) fn restored_state_missing() -> StorageError {
    StorageError::Missing {
        file: format!("{FOLDER}/ (the restored state)"),
        because: "the folder was restored from a backup",
        advice: REPLACE_NODE,
    }
}

/// Adds advice about a damaged snapshot, which depends on what else exists.
fn advise(error: StorageError, purged: Option<LogId>) -> StorageError {
    match (error, purged) {
        (StorageError::Damaged { file, offset, what, .. }, None) => {
            let advice = "the log still has every entry: check the disk, then remove this file \
                          and start again";
            StorageError::Damaged { file, offset, what, advice }
        }
        (error, _) => error,
    }
}

#[cfg(test)]
mod tests;
