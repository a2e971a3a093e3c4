//! Segment files: filled with zeros, given to the log, taken back, reused.
//!
//! Overwriting bytes that exist changes no metadata, so one `fdatasync` is one disk write; that is
//! the purpose of the zeros. A reused file keeps its old bytes: the salt of the new use
//! distinguishes them from frames.

use std::sync::Arc;

use super::frame::{ALIGN, HEADER};
use super::index::Segment;
use super::manifest::{FOLDER, Manifest, segment_path};
use crate::storage::disk::Disk;
use crate::storage::{StorageError, mix};

/// The number of emptied files kept for reuse: one is being filled while a purge frees others; more
/// than a few would only take disk space.
const SPARES: usize = 2;
/// The number of zeros written at once.
const ZEROS: usize = 256 << 10;

/// Creates and recycles segment files.
pub(super) struct Segments {
    disk: Arc<dyn Disk>,
    segment_bytes: u64,
    seed: u64,
    spares: Vec<String>,
    next_spare: u64,
}

impl Segments {
    /// Scans the folder for files kept for reuse, and removes files that no manifest names, which a
    /// crash left between creating a file and naming it, or between no longer naming and removing
    /// it.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        manifest: &Manifest,
        segment_bytes: u64,
        seed: u64,
    ) -> Result<Self, StorageError> {
        let mut this = Self { disk, segment_bytes, seed, spares: Vec::new(), next_spare: 0 };
        let names = this.disk.list(FOLDER).map_err(StorageError::io("list", FOLDER))?;
        for name in names {
            let path = format!("{FOLDER}/{name}");
            let is_named = manifest.segments.iter().any(|segment| segment.path() == path);
            if let Some(number) = name.strip_prefix("spare-") {
                let number = number.parse::<u64>().unwrap_or(0);
                this.next_spare = this.next_spare.max(number + 1);
                this.keep_spare(path)?;
            } else if name.starts_with("segment-") && !is_named {
                this.remove(&path)?;
            }
        }
        Ok(this)
    }

    fn keep_spare(&mut self, path: String) -> Result<(), StorageError> {
        let file = self.disk.open(&path).map_err(StorageError::io("open", &path))?;
        let len = file.len().map_err(StorageError::io("look at", &path))?;
        if len == self.segment_bytes && self.spares.len() < SPARES {
            self.spares.push(path);
            return Ok(());
        }
        self.remove(&path)
    }

    fn remove(&self, path: &str) -> Result<(), StorageError> {
        self.disk.remove(path).map_err(StorageError::io("remove", path))
    }

    /// The number that distinguishes the use of file `number` from every other use of a file.
    /// Numbers are not reused once the manifest names them.
    pub(super) fn salt(&self, number: u64) -> u64 {
        mix(self.seed ^ mix(number))
    }

    /// The size that a segment needs to hold a frame of `frame` bytes.
    pub(super) fn size_for(&self, frame: usize) -> u64 {
        self.segment_bytes.max((frame as u64).next_multiple_of(ALIGN as u64))
    }

    /// Creates file `number`, durably, of this size and blank at its beginning.
    pub(super) fn prepare(&mut self, number: u64, bytes: u64) -> Result<Segment, StorageError> {
        let path = segment_path(number);
        let file = match self.spares.pop() {
            Some(spare) if bytes == self.segment_bytes => {
                let file = self.disk.open(&spare).map_err(StorageError::io("open", &spare))?;
                file.write_at(&[0; HEADER], 0).map_err(StorageError::io("write", &spare))?;
                file.sync_data().map_err(StorageError::io("sync", &spare))?;
                self.disk.rename(&spare, &path).map_err(StorageError::io("rename", &spare))?;
                file
            }
            other => {
                self.spares.extend(other);
                let file = self.disk.create(&path).map_err(StorageError::io("create", &path))?;
                let zeros = vec![0; ZEROS.min(usize::try_from(bytes).unwrap_or(ZEROS))];
                let mut offset = 0;
                while offset < bytes {
                    let part = (bytes - offset).min(ZEROS as u64);
                    let part = &zeros[..usize::try_from(part).expect("it is at most ZEROS")];
                    let write = file.write_at(part, offset);
                    write.map_err(StorageError::io("make room in", &path))?;
                    offset += part.len() as u64;
                }
                file.sync_all().map_err(StorageError::io("make room in", &path))?;
                file
            }
        };
        self.disk.sync_dir(FOLDER).map_err(StorageError::io("sync", FOLDER))?;
        Ok(Segment { path, file })
    }

    /// Takes back a file that no durable manifest names any more.
    pub(super) fn recycle(
        &mut self,
        path: &str,
        is_read: bool,
        bytes: u64,
    ) -> Result<(), StorageError> {
        // A reader may still use the file: it must not be overwritten.
        if is_read || bytes != self.segment_bytes || self.spares.len() >= SPARES {
            return self.remove(path);
        }
        let spare = format!("{FOLDER}/spare-{}", self.next_spare);
        self.next_spare += 1;
        self.disk.rename(path, &spare).map_err(StorageError::io("rename", path))?;
        self.spares.push(spare);
        Ok(())
    }
}
