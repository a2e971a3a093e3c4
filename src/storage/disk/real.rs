//! The machine's own file system.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use super::{Disk, DiskFile};

/// A folder of the machine's file system.
///
/// It relies on what POSIX file systems on Linux keep: `rename` is atomic, `fsync` of a folder
/// makes its names durable, `fdatasync` the bytes and the length they need.
#[derive(Clone, Debug)]
pub struct RealDisk {
    root: PathBuf,
    read_only: bool,
}

impl RealDisk {
    /// Uses a folder, creating it if need be.
    ///
    /// # Errors
    /// Any error of the operating system.
    pub fn new(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        create_durably(&root)?;
        Ok(Self { root, read_only: false })
    }

    /// Opens a folder read-only: every call that would change it is refused.
    pub fn existing(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), read_only: true }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn may_change(&self) -> io::Result<()> {
        if self.read_only { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(()) }
    }

    fn at(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }
}

/// Creates a folder and its missing ancestors, and syncs their names: everything synced below a
/// folder is lost with it if a power cut takes the folder's own name.
fn create_durably(folder: &Path) -> io::Result<()> {
    let absolute = std::path::absolute(folder)?;
    let Some(parent) = absolute.parent() else { return Ok(()) };
    if !absolute.is_dir() {
        if !parent.is_dir() {
            create_durably(parent)?;
        }
        fs::create_dir_all(&absolute)?;
    }
    // The parent is synced even if the folder existed: an earlier start may have died right after
    // creating it.
    match File::open(parent).and_then(|parent| parent.sync_all()) {
        // A process that cannot read the parent folder did not create this one.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(!self.read_only);
        Ok(Arc::new(RealFile(options.open(self.at(path))?)))
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.may_change()?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        Ok(Arc::new(RealFile(options.open(self.at(path))?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.may_change()?;
        fs::rename(self.at(from), self.at(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.may_change()?;
        fs::remove_file(self.at(path))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.at(folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn create_dir(&self, folder: &str) -> io::Result<()> {
        self.may_change()?;
        let path = self.at(folder);
        if !path.is_dir() {
            fs::create_dir_all(&path)?;
        }
        // As in `create_durably`: also where the folder existed.
        File::open(path.parent().unwrap_or(&self.root))?.sync_all()
    }

    fn sync_dir(&self, folder: &str) -> io::Result<()> {
        File::open(self.at(folder))?.sync_all()
    }

    fn born(&self, path: &str) -> io::Result<Option<u128>> {
        // Not every file system records it.
        let Ok(born) = fs::metadata(self.at(path))?.created() else { return Ok(None) };
        // Btrfs loses it in a power cut (before Linux 6.17 and its backports): it is 0 then.
        let born = born.duration_since(UNIX_EPOCH).ok().map(|since| since.as_nanos());
        Ok(born.filter(|born| *born != 0))
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        let room = rustix::fs::statvfs(&self.root)?;
        // Excludes the space reserved for root.
        Ok(Some(room.f_bavail.saturating_mul(room.f_frsize)))
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        self.at(path).try_exists()
    }
}

struct RealFile(File);

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.0.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}
