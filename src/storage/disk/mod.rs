//! The files of a data folder, as the log, the snapshots and the identity see them.
//!
//! Paths are relative to the data folder, with `/` between parts. The trait says what is durable
//! when each call returns, and promises nothing more: [`MemDisk`] forgets everything else when it
//! crashes, so code that passes its tests relies on nothing more either.

mod mem;
mod real;

use std::io;
use std::sync::Arc;

pub use mem::{Fault, FaultyCall, MemDisk, Unsynced};
pub use real::RealDisk;

/// A folder of files.
///
/// A *name* (that a file exists under it) and the file's *bytes* become durable separately: the
/// bytes by [`DiskFile::sync_data`] or [`DiskFile::sync_all`], the name by [`Disk::sync_dir`].
pub trait Disk: Send + Sync + 'static {
    /// Opens an existing file to read and write.
    ///
    /// # Errors
    /// `NotFound` if there is none, and whatever the system says.
    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Creates an empty file, cutting an existing one to nothing. Neither name nor bytes are
    /// durable.
    ///
    /// # Errors
    /// Whatever the system says.
    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives a file another name, replacing a file of that name. After a crash one of the two is
    /// found under the name, never neither. Durable only after [`Disk::sync_dir`] of both folders.
    ///
    /// # Errors
    /// Whatever the system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a name. Durable only after [`Disk::sync_dir`]; until then a crash may bring the
    /// file back, with all, some or none of its bytes.
    ///
    /// # Errors
    /// `NotFound` if there is none, and whatever the system says.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// The names in a folder, sorted; folders too. A folder that does not exist has none.
    ///
    /// # Errors
    /// Whatever the system says.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;

    /// Creates a folder unless it exists. Its name is durable when this returns.
    ///
    /// # Errors
    /// Whatever the system says.
    fn create_dir(&self, folder: &str) -> io::Result<()>;

    /// Makes the names in a folder durable: creations, renames, removals. `""` is the data folder.
    ///
    /// # Errors
    /// Whatever the system says. What is durable then is unknown.
    fn sync_dir(&self, folder: &str) -> io::Result<()>;

    /// When the file system made the file, in nanoseconds: a number that a copy of the file does
    /// not have, compared and never reckoned with. `None` where the file system does not tell.
    ///
    /// # Errors
    /// `NotFound` if there is none, and whatever the system says.
    fn born(&self, path: &str) -> io::Result<Option<u128>> {
        let _ = path;
        Ok(None)
    }

    /// How many bytes can still be written, as the system tells; `None` if nothing tells.
    ///
    /// # Errors
    /// Whatever the system says.
    fn free_bytes(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }

    /// Whether there is a file of this name.
    ///
    /// # Errors
    /// Whatever the system says.
    fn exists(&self, path: &str) -> io::Result<bool> {
        let (folder, name) = split(path);
        Ok(self.list(folder)?.iter().any(|found| found == name))
    }
}

/// An open file. Renaming or removing its name does not close it.
pub trait DiskFile: Send + Sync {
    /// Fills `buffer` from `offset` on as far as the file goes; says how many bytes that was.
    ///
    /// # Errors
    /// Whatever the system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`, growing the file if need be. Nothing of it is durable;
    /// after a crash each sector may hold the old or the new bytes.
    ///
    /// # Errors
    /// Whatever the system says; some of the bytes may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// The file's length in bytes.
    ///
    /// # Errors
    /// Whatever the system says.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// Whatever the system says.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts the file, or grows it with zeros. Durable after [`DiskFile::sync_all`].
    ///
    /// # Errors
    /// Whatever the system says.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// All bytes written before it are durable when this returns, and the length they need.
    ///
    /// # Errors
    /// Whatever the system says. What is durable then is unknown, and a second call that succeeds
    /// proves nothing.
    fn sync_data(&self) -> io::Result<()>;

    /// As [`DiskFile::sync_data`], and all of the file's metadata.
    ///
    /// # Errors
    /// As [`DiskFile::sync_data`].
    fn sync_all(&self) -> io::Result<()>;
}

/// Reads a whole file.
///
/// # Errors
/// Whatever the system says.
pub fn read_all(disk: &dyn Disk, path: &str) -> io::Result<Vec<u8>> {
    let file = disk.open(path)?;
    let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Replaces a small file so that a crash leaves either the old or the new one, whole: written
/// beside it, synced, renamed over it, folder synced. Durable when it returns.
///
/// # Errors
/// Whatever the system says; either file may be found afterwards.
pub fn replace(disk: &dyn Disk, path: &str, bytes: &[u8]) -> io::Result<()> {
    let beside = format!("{path}.tmp");
    let file = disk.create(&beside)?;
    file.write_at(bytes, 0)?;
    file.sync_all()?;
    disk.rename(&beside, path)?;
    disk.sync_dir(split(path).0)
}

/// Folder and name of a path.
pub(crate) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}
