//! The file interface of a data folder that the log, the snapshots and the identity use.
//!
//! Paths are relative to the data folder, with `/` between parts. The trait says what is durable
//! when each call returns, and promises nothing more: [`MemDisk`] loses everything else when it
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
    /// `NotFound` if there is none, and any error of the operating system.
    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Creates an empty file, truncating an existing one. Neither name nor bytes are durable.
    ///
    /// # Errors
    /// Any error of the operating system.
    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Renames a file, replacing a file of that name. After a crash one of the two is found under
    /// the name, never neither. Durable only after [`Disk::sync_dir`] of both folders.
    ///
    /// # Errors
    /// Any error of the operating system.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a name. Durable only after [`Disk::sync_dir`]; until then a crash may bring the
    /// file back, with all, some or none of its bytes.
    ///
    /// # Errors
    /// `NotFound` if there is none, and any error of the operating system.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// The names in a folder, sorted; folders too. A folder that does not exist has none.
    ///
    /// # Errors
    /// Any error of the operating system.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;

    /// Creates a folder unless it exists. Its name is durable when this returns.
    ///
    /// # Errors
    /// Any error of the operating system.
    fn create_dir(&self, folder: &str) -> io::Result<()>;

    /// Makes the names in a folder durable: creations, renames, removals. `""` is the data folder.
    ///
    /// # Errors
    /// Any error of the operating system. What is durable then is unknown.
    fn sync_dir(&self, folder: &str) -> io::Result<()>;

    /// The creation time of the file in nanoseconds: a number that a copy of the file does not
    /// share, used only for comparison. `None` where the file system does not record it.
    ///
    /// # Errors
    /// `NotFound` if there is none, and any error of the operating system.
    fn born(&self, path: &str) -> io::Result<Option<u128>> {
        let _ = path;
        Ok(None)
    }

    /// The free space in bytes, as the operating system reports it; `None` if it is unknown.
    ///
    /// # Errors
    /// Any error of the operating system.
    fn free_bytes(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }

    /// Whether there is a file of this name.
    ///
    /// # Errors
    /// Any error of the operating system.
    fn exists(&self, path: &str) -> io::Result<bool> {
        let (folder, name) = split(path);
        Ok(self.list(folder)?.iter().any(|found| found == name))
    }
}

/// An open file. Renaming or removing its name does not close it.
pub trait DiskFile: Send + Sync {
    /// Fills `buffer` from `offset` on as far as the file goes. Returns the number of bytes read.
    ///
    /// # Errors
    /// Any error of the operating system.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`, growing the file if need be. Nothing of it is durable;
    /// after a crash each sector may hold the old or the new bytes.
    ///
    /// # Errors
    /// Any error of the operating system; some of the bytes may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// The file's length in bytes.
    ///
    /// # Errors
    /// Any error of the operating system.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// Any error of the operating system.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Truncates the file, or grows it with zeros. Durable after [`DiskFile::sync_all`].
    ///
    /// # Errors
    /// Any error of the operating system.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes all bytes written before it durable, and the length they need.
    ///
    /// # Errors
    /// Any error of the operating system. What is durable then is unknown, and a second call that
    /// succeeds proves nothing.
    fn sync_data(&self) -> io::Result<()>;

    /// Does the same as [`DiskFile::sync_data`], and makes all of the file's metadata durable.
    ///
    /// # Errors
    /// As [`DiskFile::sync_data`].
    fn sync_all(&self) -> io::Result<()>;
}

/// Reads a whole file.
///
/// # Errors
/// Any error of the operating system.
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
/// Any error of the operating system; either file may be found afterwards.
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
