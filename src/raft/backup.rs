//! Backups: a state as a file, and data folders of a new cluster that begin with such a state.
//!
//! A backup has the format of a snapshot, checksums included. A restored folder holds the state as a
//! snapshot of no entry, and its digest in the identity file. So the members of the new cluster find
//! each other as any members with new folders do (see [`super::bootstrap`]), and form a cluster only if
//! all begin with one state.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::EntryPayload;

use crate::lock::{NoTokensLeft, State};
use crate::raft::codec;
use crate::raft::state_machine::{decode, read_state, stored_meta, understood};
use crate::raft::types::SnapshotMeta;
use crate::storage::snapshots;
use crate::storage::{
    FolderLock, Log, LogId, LogOptions, RealDisk, Snapshots, StorageError, Uuid, identity,
};

/// The part of a file that is hashed or read at once.
const BUFFER_BYTES: usize = 1 << 20;

/// The state of a cluster as of one entry, from a backup or a data folder.
#[derive(Debug)]
pub struct Backup {
    /// The cluster, if it is known.
    pub cluster: Option<Uuid>,
    /// The last entry in the state.
    pub last: Option<LogId>,
    /// The last entry that is known to be committed; in a backup every one is.
    pub committed: Option<LogId>,
    /// The state.
    pub state: State,
}

/// The reason why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The backup or the data folder cannot be read.
    #[error("{path} cannot be used")]
    Source {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: StorageError,
    },
    /// The log of the data folder cannot be used.
    #[error("{path} cannot be used: {what}")]
    Log {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The new folder cannot be written.
    #[error("{path} cannot be written")]
    Target {
        /// The folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: StorageError,
    },
    /// There is something in the place of the new folder.
    #[error("{path} is not empty; name a folder that is, or that does not exist")]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// Too many tokens are used up.
    #[error(transparent)]
    Tokens(#[from] NoTokensLeft),
}

impl RestoreError {
    /// Whether what was read is not what was written.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Source { source: StorageError::Damaged { .. }, .. })
    }

    /// Whether a later try may succeed.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Source { source, .. } => matches!(source, StorageError::Locked { .. }),
            Self::Target { source, .. } => source.may_pass(),
            Self::Log { .. } | Self::Occupied { .. } | Self::Tokens(_) => false,
        }
    }
}

impl Backup {
    /// Reads a backup, and verifies it whole. `level` is the feature level of this program.
    ///
    /// # Errors
    /// When it is not a whole backup, or needs a newer program.
    pub fn read(path: &Path, level: u32) -> Result<Self, RestoreError> {
        let fail = |source| RestoreError::Source { path: path.to_owned(), source };
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let disk = RealDisk::existing(folder.unwrap_or(Path::new(".")));
        let read = snapshots::read_from(&disk, name, |body| {
            read_state(&mut io::BufReader::with_capacity(BUFFER_BYTES, body), level)
        });
        let (meta, state) = read.map_err(fail)?;
        Ok(Self { cluster: meta.cluster, last: meta.last, committed: meta.last, state })
    }

    /// Reads the state in the data folder of a node that has stopped: of its snapshot and of every
    /// entry of its log, whether it is known to be committed or not, for others may have
    /// acknowledged it.
    ///
    /// # Errors
    /// When a process uses the folder, or it is not whole.
    pub fn of_folder(folder: &Path, level: u32) -> Result<Self, RestoreError> {
        let fail = |source| RestoreError::Source { path: folder.to_owned(), source };
        let failed = |what: String| RestoreError::Log { path: folder.to_owned(), what };
        let reader = RealDisk::existing(folder);
        let facts = identity::load(&reader).map_err(fail)?;
        let facts = facts.ok_or_else(|| failed("it is no data folder of a node".to_owned()))?;
        let _lock = FolderLock::acquire(folder).map_err(fail)?;
        let disk = Arc::new(RealDisk::new(folder).map_err(|source| {
            fail(StorageError::io("open", folder.display().to_string())(source))
        })?);
        let (log, recovered) = Log::open(disk.clone(), LogOptions::default()).map_err(fail)?;
        let snapshots = Snapshots::open(disk, recovered.purged).map_err(fail)?;
        let latest = snapshots.latest();
        if facts.restored.is_some() && latest.is_none() {
            return Err(fail(snapshots::restored_state_missing()));
        }
        let (mut state, mut last) = match &latest {
            Some(stored) => {
                let state = snapshots.read(stored, |body| read_state(body, level)).map_err(fail)?;
                (state, stored.meta.last)
            }
            None => (State::new(), None),
        };
        let committed = log.committed().max(last);
        let end = log.state().last.map_or(0, |last| last.index + 1);
        let mut next = last.map_or(0, |last| last.index + 1);
        while next < end {
            let entries = log.read_some(next, end, BUFFER_BYTES).map_err(fail)?;
            if entries.first().is_none_or(|first| first.id.index != next) {
                return Err(failed(format!("entry {next} of the log is missing")));
            }
            for entry in entries {
                let index = entry.id.index;
                let payload = codec::decode_payload(&entry.payload)
                    .map_err(|error| failed(format!("entry {index} does not decode: {error}")))?;
                if let EntryPayload::Normal(data) = payload {
                    let term = entry.id.term;
                    let proposal =
                        decode(&data, index).map_err(|error| failed(error.to_string()))?;
                    understood(state.level_after(term, &proposal), level)
                        .map_err(|error| failed(error.to_string()))?;
                    state.apply_quietly(term, index, &proposal);
                    drop(state.take_deleted());
                }
                last = Some(entry.id);
                next = index + 1;
            }
        }
        log.close();
        Ok(Self { cluster: facts.cluster, last, committed, state })
    }
}

/// Makes the data folder of a member of a new cluster that begins with this state; see
/// [`State::restored`]. It is complete when it appears under its name. Returns the digest that all
/// members must have in common.
///
/// # Errors
/// When there is something in its place, or it cannot be written. Nothing has changed then.
pub fn restore(state: &State, folder: &Path, node: u64) -> Result<Uuid, RestoreError> {
    let fail = |source| RestoreError::Target { path: folder.to_owned(), source };
    let io = |action, path: &Path| {
        let name = path.display().to_string();
        move |source| fail(StorageError::io(action, name)(source))
    };
    match fs::read_dir(folder).map(|mut entries| entries.next().is_none()) {
        Ok(true) => {}
        Ok(false) => return Err(RestoreError::Occupied { path: folder.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io("read", folder)(error)),
    }
    let mut digest = Digest::default();
    state.encode_into(&mut digest).map_err(io("encode", folder))?;
    let digest = Uuid(digest.0.digest128());
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(io("create", parent))?;
    let beside = tempfile::Builder::new().prefix(".keyward-restore-").tempdir_in(parent);
    let beside = beside.map_err(io("create a folder in", parent))?;
    let disk = Arc::new(RealDisk::new(beside.path()).map_err(io("open", beside.path()))?);
    identity::plant(&*disk, node, digest).map_err(fail)?;
    let meta = stored_meta(&SnapshotMeta::default(), None, state.feature_level());
    let snapshots = Snapshots::open(disk, None).map_err(fail)?;
    snapshots.write(meta, |mut out| state.encode_into(&mut out)).map_err(fail)?;
    // An empty folder in its place is replaced.
    fs::rename(beside.path(), folder).map_err(io("rename", folder))?;
    drop(beside.keep());
    fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(io("sync", parent))?;
    Ok(digest)
}

/// Hashes what is written to it.
#[derive(Default)]
struct Digest(xxhash_rust::xxh3::Xxh3);

impl Write for Digest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
