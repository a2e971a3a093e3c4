//! The sled database: its contents, and whether they can be trusted.
//!
//! Each database has a folder of its own within the checkpoint's, with a number that is not used
//! again: a database that panicked may leave threads behind that go on writing by name, and its
//! replacement must not get in their way.
//!
//! It has one tree. Keys that begin with `r` are records; the key `m` holds the meta data: format,
//! node, the entry it is as of, the number of records and the sum over them. A batch of
//! [`Store::write`] changes records and meta data together.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use bytes::Bytes;
use sled::{Batch, Config, Db, IVec};

use super::{BATCH, Change, CheckpointMeta, CheckpointOptions, Opened};
use crate::codec::{DecodeError, Encoding, Reader, digest, put_bytes};
use crate::storage::envelope::{self, Body, Kind, NEVER_RELEASED};
use crate::storage::{LogId, StorageError, Uuid};

const KIND: Kind = Kind { magic: *b"KWCHECK\n", version: 2 };
/// The prefix of a database folder's name, before its number.
const DATABASE: &str = "sled-";
const META_KEY: &[u8] = b"m";
const RECORD_PREFIX: u8 = b'r';

/// The size of sled's cache in bytes by its own count, which leaves out most of what a cached page
/// costs: the process grows by several times as much. Uncached data comes from the page cache of
/// the system.
const CACHE_BYTES: u64 = 2 << 20;

/// The size of sled's segments; fixed when the database is created. A page larger than a quarter of
/// it would go to a file of its own, which sled syncs and recovers badly; pages of records below 7
/// KiB stay far below it.
const SEGMENT_BYTES: usize = 512 << 10;

/// The interval at which sled's own thread flushes and collects garbage. It collects garbage only
/// there, so it cannot be switched off; instead the checkpoint is closed when nothing changes.
const FLUSH_EVERY_MS: u64 = 1000;

/// The number of records in a batch when a whole list is written: sled's memory grows with the
/// batch.
const FILL_BATCH: usize = 128;

/// The number and length of the waits for the file lock of a database that was just closed: five
/// seconds together, in which any thread of this process gets its turn.
const LOCK_WAITS: u32 = 500;
const LOCK_WAIT: Duration = Duration::from_millis(10);

/// The meta data as it is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::storage) struct StoredMeta {
    pub(in crate::storage) node: Uuid,
    pub(in crate::storage) meta: CheckpointMeta,
    pub(in crate::storage) totals: Totals,
}

impl Body for StoredMeta {
    fn put(&self, out: &mut Vec<u8>) {
        let Self { node, meta, totals: Totals { count, sum } } = self;
        node.put(out);
        meta.put(out);
        count.put(out);
        sum.put(out);
    }

    fn read(version: u32, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if version < 2 {
            return Err(NEVER_RELEASED);
        }
        Ok(Self {
            node: Uuid::read(reader)?,
            meta: CheckpointMeta::read(reader)?,
            totals: Totals { count: reader.u64()?, sum: u128::read(reader)? },
        })
    }
}

/// The totals over all records.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::storage) struct Totals {
    /// The number of records.
    pub(in crate::storage) count: u64,
    /// The sum of their hashes, independent of their order.
    pub(in crate::storage) sum: u128,
}

impl Totals {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(hash(key, value));
    }

    fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.count = self.count.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(hash(key, value));
    }
}

/// The digest of the key's length, the key and the value.
fn hash(key: &[u8], value: &[u8]) -> u128 {
    let mut bytes = Vec::with_capacity(4 + key.len() + value.len());
    put_bytes(&mut bytes, key);
    bytes.extend_from_slice(value);
    digest(&bytes)
}

/// An open database.
pub(super) struct Store {
    db: Db,
    name: String,
    node: Uuid,
    totals: Totals,
    /// The meta data as last written.
    sealed: Vec<u8>,
}

/// A database that was closed because nothing changes.
pub(super) struct Parked {
    name: String,
    node: Uuid,
    totals: Totals,
    sealed: Vec<u8>,
}

impl Store {
    /// Opens the database if it may be used; otherwise deletes it and begins a new one.
    pub(super) fn open_or_discard<S>(
        options: &CheckpointOptions,
        judge: impl FnOnce(LogId) -> Result<(), String>,
        load: impl FnOnce(
            &CheckpointMeta,
            &mut dyn Iterator<Item = (Bytes, Bytes)>,
        ) -> Result<S, String>,
    ) -> Result<(Self, Opened<S>), StorageError> {
        let folder = &options.folder;
        let io = |error| StorageError::io("look at", folder.display().to_string())(error);
        let found = contents(folder).map_err(io)?;
        let opened = if found.is_empty() {
            Opened::Empty
        } else {
            match guarded(|| Self::open(options, &found, judge, load)) {
                Ok((store, meta, state)) => return Ok((store, Opened::Accepted(meta, state))),
                Err(reason) => Opened::Discarded(reason),
            }
        };
        let store = guarded(|| Self::create(options)).map_err(StorageError::Checkpoint)?;
        Ok((store, opened))
    }

    fn open<S>(
        options: &CheckpointOptions,
        found: &[String],
        judge: impl FnOnce(LogId) -> Result<(), String>,
        load: impl FnOnce(
            &CheckpointMeta,
            &mut dyn Iterator<Item = (Bytes, Bytes)>,
        ) -> Result<S, String>,
    ) -> Result<(Self, CheckpointMeta, S), String> {
        let name = only(found)?.to_owned();
        let db = open_db(options, &name)?;
        let (stored, sealed) = read_meta(&db)?;
        if stored.node != options.node {
            return Err("it is of another node".to_owned());
        }
        judge(stored.meta.applied)?;
        let state =
            verified(records_of(&db), stored.totals, |records| load(&stored.meta, records))?;
        let store = Self { db, name, node: options.node, totals: stored.totals, sealed };
        Ok((store, stored.meta, state))
    }

    /// Creates an empty database, and removes the previous one.
    pub(super) fn create(options: &CheckpointOptions) -> Result<Self, String> {
        let found = contents(&options.folder).map_err(said)?;
        remove(&options.folder).map_err(said)?;
        let numbers = found.iter().filter_map(|name| name.strip_prefix(DATABASE)?.parse().ok());
        let next = numbers.max().map_or(0, |last: u64| last.wrapping_add(1));
        let name = format!("{DATABASE}{next}");
        let db = open_db(options, &name)?;
        let (totals, sealed) = (Totals::default(), Vec::new());
        Ok(Self { db, name, node: options.node, totals, sealed })
    }

    /// Writes changed records, each once, and the meta data that go with them: atomically, if they
    /// fit in a batch. For more, the meta data are removed first and written last, so that a
    /// half-written database is not valid.
    pub(super) fn write(
        &mut self,
        meta: &CheckpointMeta,
        changes: impl Iterator<Item = Change>,
    ) -> Result<(), String> {
        let mut totals = self.totals;
        let mut changes = changes.peekable();
        let mut batch = self.batch(&mut totals, changes.by_ref().take(BATCH))?;
        if changes.peek().is_some() {
            self.db.remove(META_KEY).map_err(said)?;
        }
        while changes.peek().is_some() {
            self.db.apply_batch(batch).map_err(said)?;
            batch = self.batch(&mut totals, changes.by_ref().take(FILL_BATCH))?;
        }
        let sealed = self.seal(meta, totals);
        batch.insert(META_KEY, sealed.as_slice());
        self.db.apply_batch(batch).map_err(said)?;
        (self.totals, self.sealed) = (totals, sealed);
        Ok(())
    }

    /// Builds a batch of the changes that differ from the stored records, and updates the totals.
    fn batch(
        &self,
        totals: &mut Totals,
        changes: impl IntoIterator<Item = Change>,
    ) -> Result<Batch, String> {
        let mut batch = Batch::default();
        for (key, value) in changes {
            let stored_key = record_key(&key);
            let old = self.db.get(&stored_key).map_err(said)?;
            if old.as_deref() == value.as_deref() {
                continue;
            }
            if let Some(old) = &old {
                totals.remove(&key, old);
            }
            match value {
                Some(value) => {
                    totals.add(&key, &value);
                    batch.insert(stored_key, value);
                }
                None => batch.remove(stored_key),
            }
        }
        Ok(batch)
    }

    /// Fills an empty database. The meta data are written last, so that a half-filled database is
    /// not valid.
    pub(super) fn fill(
        &mut self,
        meta: &CheckpointMeta,
        records: impl Iterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<(), String> {
        let mut records = records.peekable();
        while records.peek().is_some() {
            let mut batch = Batch::default();
            for (key, value) in records.by_ref().take(FILL_BATCH) {
                self.totals.add(&key, &value);
                batch.insert(record_key(&key), value);
            }
            self.db.apply_batch(batch).map_err(said)?;
        }
        self.sealed = self.seal(meta, self.totals);
        self.db.insert(META_KEY, self.sealed.as_slice()).map_err(said)?;
        Ok(())
    }

    fn seal(&self, meta: &CheckpointMeta, totals: Totals) -> Vec<u8> {
        envelope::seal(KIND, &StoredMeta { node: self.node, meta: meta.clone(), totals })
    }

    /// Closes the database until something changes.
    pub(super) fn park(self) -> Result<Parked, String> {
        let Self { db, name, node, totals, sealed } = self;
        db.flush().map_err(said)?;
        drop(db);
        Ok(Parked { name, node, totals, sealed })
    }

    /// Flushes what sled still holds in memory, and ends its threads.
    pub(super) fn close(self) -> Result<(), String> {
        self.db.flush().map(drop).map_err(said)
    }
}

impl Parked {
    /// Opens the database again. It must be unchanged, because the next write relies on it.
    pub(super) fn resume(self, options: &CheckpointOptions) -> Result<Store, String> {
        let Self { name, node, totals, sealed } = self;
        let db = open_db(options, &name)?;
        let found = db.get(META_KEY).map_err(said)?;
        if found.as_deref().unwrap_or_default() != sealed {
            return Err("it has changed while it was closed".to_owned());
        }
        Ok(Store { db, name, node, totals, sealed })
    }
}

/// Reads a database that is not in use. Returns its meta data and the result of `load`, if the
/// records match their totals. Writes to it, as sled does when it opens.
pub(in crate::storage) fn look<S>(
    folder: &Path,
    load: impl FnOnce(&CheckpointMeta, &mut dyn Iterator<Item = (Bytes, Bytes)>) -> Result<S, String>,
) -> Result<(StoredMeta, S), String> {
    let options = CheckpointOptions { folder: folder.to_owned(), node: Uuid(0) };
    guarded(|| {
        let found = contents(folder).map_err(said)?;
        let db = open_db(&options, only(&found)?)?;
        let (stored, _) = read_meta(&db)?;
        let state =
            verified(records_of(&db), stored.totals, |records| load(&stored.meta, records))?;
        Ok((stored, state))
    })
}

/// Opens the database of this name in the checkpoint's folder. Its last user was this process:
/// sled's own threads may hold its file for a moment after it was closed, so this waits for them.
pub(super) fn open_db(options: &CheckpointOptions, name: &str) -> Result<Db, String> {
    let config = Config::new()
        .path(options.folder.join(name))
        .cache_capacity(CACHE_BYTES)
        .segment_size(SEGMENT_BYTES)
        .flush_every_ms(Some(FLUSH_EVERY_MS));
    let mut waits = 0;
    loop {
        match config.open() {
            // sled flattens the system's error to this text.
            Err(sled::Error::Io(error))
                if waits < LOCK_WAITS && error.to_string().contains("could not acquire lock") =>
            {
                waits += 1;
                std::thread::park_timeout(LOCK_WAIT);
            }
            result => return result.map_err(said),
        }
    }
}

fn read_meta(db: &Db) -> Result<(StoredMeta, Vec<u8>), String> {
    let bytes = db.get(META_KEY).map_err(said)?.ok_or("it does not say what it is as of")?;
    Ok((unseal(&bytes)?, bytes.to_vec()))
}

fn unseal(bytes: &[u8]) -> Result<StoredMeta, String> {
    Ok(envelope::unseal(KIND, bytes, "checkpoint", 0).map_err(said)?.0)
}

/// Passes all records to `load`, and accepts its result only if they match their totals.
fn verified<S, T: AsRef<[u8]>>(
    items: impl Iterator<Item = sled::Result<(T, T)>>,
    expected: Totals,
    load: impl FnOnce(&mut dyn Iterator<Item = (Bytes, Bytes)>) -> Result<S, String>,
) -> Result<S, String> {
    let totals = RefCell::new(Totals::default());
    let failed = RefCell::new(None);
    let mut records = items.map_while(|item| match item {
        Ok((key, value)) => {
            let (key, value) = (&key.as_ref()[1..], value.as_ref());
            totals.borrow_mut().add(key, value);
            Some((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)))
        }
        Err(error) => {
            failed.replace(Some(said(error)));
            None
        }
    });
    let state = load(&mut records)?;
    // Records that `load` did not take are counted, too.
    while records.next().is_some() {}
    drop(records);
    if let Some(reason) = failed.into_inner() {
        return Err(reason);
    }
    let totals = totals.into_inner();
    if totals != expected {
        return Err(format!(
            "its {} records do not add up to the {} it should have",
            totals.count, expected.count
        ));
    }
    Ok(state)
}

fn records_of(db: &Db) -> impl Iterator<Item = sled::Result<(IVec, IVec)>> {
    db.scan_prefix([RECORD_PREFIX])
}

fn record_key(key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + key.len());
    bytes.push(RECORD_PREFIX);
    bytes.extend_from_slice(key);
    bytes
}

/// The names in the checkpoint's folder.
fn contents(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// The one database that should be there.
fn only(found: &[String]) -> Result<&str, String> {
    match found {
        [name] if name.starts_with(DATABASE) => Ok(name),
        _ => Err(format!("its folder holds {found:?} instead of one database")),
    }
}

/// Removes the folder with all that is in it.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}

thread_local! {
    /// Whether panics of this thread are caught.
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a closure that calls sled. A panic is treated as an error: sled panics on damage.
pub(super) fn guarded<T>(run: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    quiet_panics();
    IS_GUARDED.set(true);
    // Half-finished work is discarded with the database.
    let result = panic::catch_unwind(AssertUnwindSafe(run));
    IS_GUARDED.set(false);
    result.unwrap_or_else(|panic| Err(format!("sled panicked: {}", panic_text(&*panic))))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

/// Keeps panics that are caught here from looking like a crash of the program: they are logged at
/// debug level instead of being printed. All others go to the previous hook.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if IS_GUARDED.get() {
                tracing::debug!("{info}");
            } else {
                before(info);
            }
        }));
    });
}

/// The contents of a checkpoint in memory, read as those of a database are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Values {
    /// The sealed meta data, with sums over the records that belong to it.
    pub meta: Vec<u8>,
    /// The records by key.
    pub records: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Values {
    /// Seals the meta data for these records.
    pub fn new(meta: CheckpointMeta, records: BTreeMap<Vec<u8>, Vec<u8>>) -> Self {
        let mut totals = Totals::default();
        for (key, value) in &records {
            totals.add(key, value);
        }
        let meta = envelope::seal(KIND, &StoredMeta { node: Uuid(0), meta, totals });
        Self { meta, records }
    }

    /// Reads them as a start does.
    ///
    /// # Errors
    /// If a record is not among those that the meta data was sealed for, or `load` refuses them.
    pub fn read<S>(
        &self,
        load: impl FnOnce(
            &CheckpointMeta,
            &mut dyn Iterator<Item = (Bytes, Bytes)>,
        ) -> Result<S, String>,
    ) -> Result<S, String> {
        let stored = unseal(&self.meta)?;
        let records = self.records.iter().map(|(key, value)| Ok((record_key(key), value.clone())));
        verified(records, stored.totals, |records| load(&stored.meta, records))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_meta_data_is_written_the_same_for_ever() {
        let meta = CheckpointMeta {
            applied: LogId { term: 1, index: 300 },
            membership: vec![2],
            state: vec![3, 4],
        };
        let mut totals = Totals::default();
        totals.add(b"k", b"v");
        let stored = StoredMeta { node: Uuid(5), meta, totals };
        let sum = format!("{:032x}", digest(b"\x01kv"));
        let golden = format!("{:032x}01ac0201020203040{}{sum}", 5, 1);
        envelope::assert_written(KIND, &stored, &golden);
    }
}
