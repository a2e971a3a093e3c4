//! A machine's disk as one process sees it: over a [`MemDisk`], which loses what was not synced.
//!
//! A process that has died changes nothing any more. The power can be cut in the middle of a
//! process's disk operations: after a given number of changes. A full disk accepts what fits into
//! files as they are, and nothing that makes them longer.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keyward::storage::disk::{DiskFile, Unsynced};
use keyward::storage::{Disk, MemDisk};

use super::chance::Dice;
use super::host::{Death, Host};

/// How long a sync takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    /// The shortest time, in milliseconds.
    pub min_ms: u64,
    /// The longest time, in milliseconds.
    pub max_ms: u64,
}

/// A machine's disk, which outlives its processes.
pub(crate) struct MachineDisk {
    pub(crate) bytes: MemDisk,
    full: AtomicBool,
    /// The number of changes left until the power is cut; `u64::MAX` if it is not.
    fuse: AtomicU64,
    pace: Mutex<(Pace, Dice)>,
}

impl MachineDisk {
    pub(crate) fn new(seed: u64, name: &str) -> Arc<Self> {
        let mut dice = Dice::new(seed, name);
        let bytes = MemDisk::new(dice.number());
        let pace = Mutex::new((Pace { min_ms: 0, max_ms: 2 }, dice));
        let (full, fuse) = (AtomicBool::new(false), AtomicU64::new(u64::MAX));
        Arc::new(Self { bytes, full, fuse, pace })
    }

    /// Starts the machine again after its power was cut.
    pub(crate) fn reboot(&self, unsynced: Unsynced) {
        self.bytes.crash(unsynced);
        self.set_fuse(u64::MAX);
    }

    pub(crate) fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::Relaxed);
    }

    pub(crate) fn set_fuse(&self, changes: u64) {
        self.fuse.store(changes, Ordering::Relaxed);
    }

    pub(crate) fn set_pace(&self, pace: Pace) {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner).0 = pace;
    }

    /// How long the next sync takes.
    pub(crate) fn sync_time(&self) -> Duration {
        let (pace, dice) = &mut *self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        Duration::from_millis(dice.within(pace.min_ms..=pace.max_ms))
    }

    fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Counts one more change; `false` if the power is cut before it.
    fn burn(&self) -> bool {
        let left = self.fuse.load(Ordering::Relaxed);
        if left == 0 {
            return false;
        }
        if left != u64::MAX {
            self.fuse.store(left - 1, Ordering::Relaxed);
        }
        true
    }
}

/// The disk of a machine, as used by one process.
#[derive(Clone)]
pub(crate) struct HostDisk {
    host: Arc<Host>,
    machine: Arc<MachineDisk>,
}

impl HostDisk {
    pub(crate) fn new(host: Arc<Host>, machine: Arc<MachineDisk>) -> Self {
        Self { host, machine }
    }

    fn alive(&self) -> io::Result<()> {
        if self.host.is_alive() { Ok(()) } else { Err(io::Error::other("the process has died")) }
    }

    fn change(&self) -> io::Result<()> {
        self.alive()?;
        if self.machine.burn() {
            return Ok(());
        }
        self.host.die(Death::PowerCut);
        Err(io::Error::other("the power is off"))
    }

    fn grow(&self) -> io::Result<()> {
        if self.machine.is_full() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn file(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(HostFile { disk: self.clone(), file })
    }
}

impl Disk for HostDisk {
    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.alive()?;
        Ok(self.file(self.machine.bytes.open(path)?))
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.change()?;
        self.grow()?;
        Ok(self.file(self.machine.bytes.create(path)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change()?;
        self.machine.bytes.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.change()?;
        self.machine.bytes.remove(path)
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.alive()?;
        self.machine.bytes.list(folder)
    }

    fn create_dir(&self, folder: &str) -> io::Result<()> {
        self.change()?;
        self.machine.bytes.create_dir(folder)
    }

    fn sync_dir(&self, folder: &str) -> io::Result<()> {
        self.change()?;
        self.machine.bytes.sync_dir(folder)
    }
}

struct HostFile {
    disk: HostDisk,
    file: Arc<dyn DiskFile>,
}

impl DiskFile for HostFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.alive()?;
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.change()?;
        if offset + bytes.len() as u64 > self.file.len()? {
            self.disk.grow()?;
        }
        self.file.write_at(bytes, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.alive()?;
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.change()?;
        if len > self.file.len()? {
            self.disk.grow()?;
        }
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.change()?;
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.disk.change()?;
        self.file.sync_all()
    }
}
