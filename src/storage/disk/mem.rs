//! A disk in memory that loses unsynced data, tears writes and fails on demand.
//!
//! It distinguishes what a program sees from what would be there after a power cut: sectors written
//! and not synced, names created and not synced. [`MemDisk::crash`] goes back to the second, and a
//! seed decides which of the unsynced changes survive. Equal seeds and equal calls give equal
//! disks.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile, split};
use crate::storage::mix;

/// The unit that is written whole or not at all, as the oldest disks still in use guarantee.
const SECTOR: usize = 512;

/// A disk in memory. Clones share it.
#[derive(Clone)]
pub struct MemDisk {
    state: Arc<Mutex<State>>,
}

/// The effect of a crash on bytes and names that were not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unsynced {
    /// All are lost.
    Lost,
    /// Each sector and each name is lost or kept, as the seed says.
    Torn,
    /// All are kept, as when only the process dies.
    Kept,
}

/// The calls that a [`Fault`] makes fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultyCall {
    /// Reading bytes.
    Read,
    /// Writing bytes, creating or growing a file.
    Write,
    /// Syncing a file or a folder. The data being synced never becomes durable, even if a later
    /// sync succeeds.
    Sync,
}

/// Makes calls fail from some point on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The calls that fail.
    pub call: FaultyCall,
    /// Only on paths that contain this.
    pub path: String,
    /// The number of such calls that still succeed.
    pub after: u64,
    /// The number of calls that fail after that; `u64::MAX` is for ever.
    pub times: u64,
    /// The error they fail with.
    pub kind: io::ErrorKind,
}

struct State {
    random: u64,
    /// The number of crashes; a file opened before the last one is dead.
    boot: u64,
    /// The number of calls that changed something so far.
    changes: u64,
    /// The power is cut before this change.
    power_off_at: Option<u64>,
    faults: Vec<Fault>,
    free_bytes: Option<u64>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    unsynced_names: Vec<NameChange>,
    folders: Vec<String>,
    files: BTreeMap<u64, Content>,
    next_file: u64,
}

#[derive(Clone)]
struct NameChange {
    removed: Option<String>,
    added: Option<String>,
    file: u64,
}

#[derive(Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    durable_len: usize,
    /// The contents of the unsynced sectors before they were written.
    before: BTreeMap<usize, Vec<u8>>,
    /// The durable contents of sectors whose sync failed. Their new contents are visible, but never
    /// become durable.
    doomed: BTreeMap<usize, Vec<u8>>,
}

impl MemDisk {
    /// An empty disk. The seed decides what a torn crash keeps.
    pub fn new(seed: u64) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                random: seed,
                boot: 0,
                changes: 0,
                power_off_at: None,
                faults: Vec::new(),
                free_bytes: None,
                names: BTreeMap::new(),
                durable_names: BTreeMap::new(),
                unsynced_names: Vec::new(),
                folders: Vec::new(),
                files: BTreeMap::new(),
                next_file: 1,
            })),
        }
    }

    /// The number of calls that changed something so far: the boundaries at which the power can be
    /// cut.
    pub fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// Cuts the power once `changes` calls (counted from the disk's beginning) have changed
    /// something: every later call fails until [`MemDisk::crash`].
    pub fn power_off_at(&self, changes: u64) {
        self.lock().power_off_at = Some(changes);
    }

    /// Makes calls fail.
    pub fn fail(&self, fault: Fault) {
        self.lock().faults.push(fault);
    }

    /// Makes the disk report this much free space. Writes ignore it.
    pub fn set_free_bytes(&self, free: Option<u64>) {
        self.lock().free_bytes = free;
    }

    /// Ends all faults.
    pub fn heal(&self) {
        self.lock().faults.clear();
    }

    /// Restarts the machine: unsynced data is treated as `unsynced` says, files opened before are
    /// dead, and the power is on again.
    pub fn crash(&self, unsynced: Unsynced) {
        self.lock().crash(unsynced);
    }

    /// A copy that shares nothing with this one.
    #[must_use]
    pub fn fork(&self) -> Self {
        let state = self.lock();
        let copy = State {
            faults: state.faults.clone(),
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            unsynced_names: state.unsynced_names.clone(),
            folders: state.folders.clone(),
            files: state.files.clone(),
            ..*state
        };
        Self { state: Arc::new(Mutex::new(copy)) }
    }

    /// Every file's name, sorted.
    pub fn paths(&self) -> Vec<String> {
        self.lock().names.keys().cloned().collect()
    }

    /// A file's bytes.
    pub fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.lock();
        Some(state.files[state.names.get(path)?].bytes.clone())
    }

    /// Replaces a file's bytes, or creates the file, durably and regardless of faults: damage.
    pub fn set_bytes(&self, path: &str, bytes: Vec<u8>) {
        let mut state = self.lock();
        let id = state.next_file;
        let id = *state.names.entry(path.to_owned()).or_insert(id);
        state.next_file = state.next_file.max(id + 1);
        state.durable_names.insert(path.to_owned(), id);
        let durable_len = bytes.len();
        state.files.insert(id, Content { bytes, durable_len, ..Content::default() });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere in a test must not hide behind a poisoned disk.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, path: &str, id: u64, boot: u64) -> Arc<dyn DiskFile> {
        Arc::new(MemFile { disk: self.clone(), path: path.to_owned(), id, boot })
    }
}

impl State {
    fn next_random(&mut self) -> u64 {
        // SplitMix64: the same for ever, so that a seed replays a run.
        let random = mix(self.random);
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        random
    }

    fn survives(&mut self, unsynced: Unsynced) -> bool {
        match unsynced {
            Unsynced::Lost => false,
            Unsynced::Kept => true,
            Unsynced::Torn => self.next_random() & 1 == 0,
        }
    }

    fn powered(&self) -> io::Result<()> {
        match self.power_off_at {
            Some(at) if self.changes >= at => Err(io::Error::other("the power is off")),
            _ => Ok(()),
        }
    }

    /// Counts a call that changes something, unless the power is off.
    fn change(&mut self) -> io::Result<()> {
        self.powered()?;
        self.changes += 1;
        Ok(())
    }

    fn fault(&mut self, call: FaultyCall, path: &str) -> io::Result<()> {
        for fault in &mut self.faults {
            if fault.call != call || !path.contains(&fault.path) {
                continue;
            }
            if fault.after > 0 {
                fault.after -= 1;
            } else if fault.times > 0 {
                fault.times -= 1;
                return Err(io::Error::from(fault.kind));
            }
        }
        Ok(())
    }

    fn find(&self, path: &str) -> io::Result<u64> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn change_name(&mut self, removed: Option<&str>, added: Option<&str>, file: u64) {
        let change = NameChange {
            removed: removed.map(str::to_owned),
            added: added.map(str::to_owned),
            file,
        };
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }

    fn crash(&mut self, unsynced: Unsynced) {
        let mut names = self.durable_names.clone();
        for change in std::mem::take(&mut self.unsynced_names) {
            if self.survives(unsynced) {
                change.apply(&mut names);
            }
        }
        for id in self.files.keys().copied().collect::<Vec<_>>() {
            self.crash_file(id, unsynced);
        }
        self.files.retain(|id, _| names.values().any(|kept| kept == id));
        self.durable_names.clone_from(&names);
        self.names = names;
        self.boot += 1;
        self.power_off_at = None;
    }

    fn crash_file(&mut self, id: u64, unsynced: Unsynced) {
        let mut file = self.files.remove(&id).expect("its id was just listed");
        if !self.survives(unsynced) {
            // The new length was lost, and with it every byte beyond the old one.
            file.bytes.resize(file.durable_len, 0);
        }
        for (sector, old) in std::mem::take(&mut file.before) {
            if !self.survives(unsynced) {
                file.restore(sector, &old);
            }
        }
        if unsynced != Unsynced::Kept {
            for (sector, old) in std::mem::take(&mut file.doomed) {
                file.restore(sector, &old);
            }
        }
        file.durable_len = file.bytes.len();
        self.files.insert(id, file);
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        if let Some(removed) = &self.removed
            && names.get(removed) == Some(&self.file)
        {
            names.remove(removed);
        }
        if let Some(added) = &self.added {
            names.insert(added.clone(), self.file);
        }
    }

    fn touches(&self, folder: &str) -> bool {
        [&self.removed, &self.added].into_iter().flatten().any(|path| split(path).0 == folder)
    }
}

impl Content {
    fn remember(&mut self, from: usize, to: usize) {
        for sector in from / SECTOR..to.div_ceil(SECTOR) {
            let start = (sector * SECTOR).min(self.bytes.len());
            let end = (start + SECTOR).min(self.bytes.len());
            let visible = &self.bytes[start..end];
            let doomed = &self.doomed;
            let old = || doomed.get(&sector).cloned().unwrap_or_else(|| visible.to_vec());
            self.before.entry(sector).or_insert_with(old);
        }
    }

    fn restore(&mut self, sector: usize, old: &[u8]) {
        let start = (sector * SECTOR).min(self.bytes.len());
        let end = (start + SECTOR).min(self.bytes.len());
        let kept = old.len().min(end - start);
        self.bytes[start..start + kept].copy_from_slice(&old[..kept]);
        self.bytes[start + kept..end].fill(0);
    }
}

impl Disk for MemDisk {
    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.lock();
        state.powered()?;
        Ok(self.handle(path, state.find(path)?, state.boot))
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        state.fault(FaultyCall::Write, path)?;
        state.change()?;
        if let Some(&id) = state.names.get(path) {
            let file = state.files.get_mut(&id).expect("a name has a file");
            file.remember(0, file.bytes.len());
            file.bytes.clear();
            return Ok(self.handle(path, id, state.boot));
        }
        let id = state.next_file;
        state.next_file += 1;
        state.files.insert(id, Content::default());
        state.change_name(None, Some(path), id);
        Ok(self.handle(path, id, state.boot))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.fault(FaultyCall::Write, to)?;
        state.change()?;
        let id = state.find(from)?;
        state.change_name(Some(from), Some(to), id);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.change()?;
        let id = state.find(path)?;
        state.change_name(Some(path), None, id);
        Ok(())
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let state = self.lock();
        state.powered()?;
        let files = state.names.keys().chain(&state.folders);
        let inside = files.filter(|path| split(path).0 == folder && !path.is_empty());
        let mut names: Vec<String> = inside.map(|path| split(path).1.to_owned()).collect();
        names.sort();
        Ok(names)
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        Ok(self.lock().free_bytes)
    }

    fn create_dir(&self, folder: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.powered()?;
        if !state.folders.iter().any(|found| found == folder) {
            state.change()?;
            state.folders.push(folder.to_owned());
        }
        Ok(())
    }

    fn sync_dir(&self, folder: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.change()?;
        let changes = std::mem::take(&mut state.unsynced_names);
        let (now, later): (Vec<_>, Vec<_>) =
            changes.into_iter().partition(|change| change.touches(folder));
        state.unsynced_names = later;
        state.fault(FaultyCall::Sync, folder)?;
        for change in now {
            change.apply(&mut state.durable_names);
        }
        Ok(())
    }
}

struct MemFile {
    disk: MemDisk,
    path: String,
    id: u64,
    boot: u64,
}

impl MemFile {
    fn with<T>(
        &self,
        call: impl FnOnce(&mut State) -> io::Result<()>,
        act: impl FnOnce(&mut Content) -> T,
    ) -> io::Result<T> {
        let mut state = self.disk.lock();
        if state.boot != self.boot {
            return Err(io::Error::other("opened before the machine was restarted"));
        }
        call(&mut state)?;
        let file = state.files.get_mut(&self.id).expect("a file lives until the next restart");
        Ok(act(file))
    }
}

impl DiskFile for MemFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        self.with(
            |state| state.powered().and_then(|()| state.fault(FaultyCall::Read, &self.path)),
            |file| {
                let start = offset.min(file.bytes.len());
                let read = buffer.len().min(file.bytes.len() - start);
                buffer[..read].copy_from_slice(&file.bytes[start..start + read]);
                read
            },
        )
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        self.with(
            |state| state.fault(FaultyCall::Write, &self.path).and_then(|()| state.change()),
            |file| {
                let end = offset + bytes.len();
                file.remember(offset.min(file.bytes.len()), end);
                if file.bytes.len() < end {
                    file.bytes.resize(end, 0);
                }
                file.bytes[offset..end].copy_from_slice(bytes);
            },
        )
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|state| state.powered(), |file| file.bytes.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.with(
            |state| state.fault(FaultyCall::Write, &self.path).and_then(|()| state.change()),
            |file| {
                let (low, high) = (len.min(file.bytes.len()), len.max(file.bytes.len()));
                file.remember(low, high);
                file.bytes.resize(len, 0);
            },
        )
    }

    fn sync_data(&self) -> io::Result<()> {
        let failed = Cell::new(None);
        self.with(
            |state| {
                state.change()?;
                failed.set(state.fault(FaultyCall::Sync, &self.path).err());
                Ok(())
            },
            |file| {
                let written = std::mem::take(&mut file.before);
                if let Some(error) = failed.take() {
                    file.doomed.extend(written);
                    return Err(error);
                }
                file.doomed.retain(|sector, _| !written.contains_key(sector));
                file.durable_len = file.bytes.len();
                Ok(())
            },
        )?
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }
}
