//! A data folder that was changed: log, vote, snapshot and identity, on a disk in memory.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::state::{example_proposal, example_state};
use keyward::raft::codec;
use keyward::storage::disk::{Disk, MemDisk};
use keyward::storage::log::Drive;
use keyward::storage::snapshots::SnapshotMeta;
use keyward::storage::{
    Identity, Log, LogEntry, LogId, LogOptions, Recovered, Snapshots, StorageError, Uuid, Vote,
};

/// The most changes to a folder: more find nothing new.
const MOST_EDITS: usize = 16;

/// The id of the node whose folder it is.
const NODE: u64 = 1;

/// The sector of [`MemDisk`], in which frames begin.
const SECTOR: usize = 512;

const VOTE: Vote = Vote { term: 2, node: NODE, committed: true };

/// Opens a data folder after changing it as the bytes say: the first byte chooses how the node
/// ended and whether checksums are recomputed, then every four bytes are one change.
///
/// With wrong checksums it is damage: the node does not start, or it has all that was written
/// except what a crash may have torn. With recomputed checksums in the segments it is a forgery
/// with any content: then it opens as a consistent log that accepts entries, or not at all.
pub fn log(bytes: &[u8]) {
    let Some((how, rest)) = bytes.split_first() else { return };
    let folder = if how & 2 == 0 { Folder::crashed() } else { Folder::closed() };
    let edits: Vec<Edit> = rest.chunks_exact(4).take(MOST_EDITS).map(Edit::new).collect();
    let disk = folder.disk.fork();
    let touched: BTreeSet<String> = edits.iter().filter_map(|edit| edit.apply(&disk)).collect();
    if disk.paths().is_empty() {
        // An empty folder is that of a new node; nothing in it can show otherwise.
        return;
    }
    if how & 1 == 0 {
        assert_damage_is_found(&disk, folder, &edits);
    } else {
        for path in &touched {
            seal_again(&disk, path);
        }
        assert_forgery_is_whole(&disk);
    }
}

/// A data folder, and the state that was acknowledged.
struct Folder {
    disk: MemDisk,
    entries: Vec<LogEntry>,
    purged: LogId,
    state: Vec<u8>,
    /// The number of entries that a crash could have torn: those of the last frame.
    unsure: usize,
}

impl Folder {
    fn crashed() -> &'static Self {
        static FOLDER: OnceLock<Folder> = OnceLock::new();
        FOLDER.get_or_init(|| Self::make(false).expect("the disk is whole"))
    }

    /// A folder after a clean end. Its last frame fills its segment, and the mark is in one of its
    /// own.
    fn closed() -> &'static Self {
        static FOLDER: OnceLock<Folder> = OnceLock::new();
        FOLDER.get_or_init(|| Self::make(true).expect("the disk is whole"))
    }

    /// Makes a folder with several segments, one of them with a truncation; a purge; a vote; a
    /// snapshot.
    fn make(closed: bool) -> Result<Self, StorageError> {
        let disk = MemDisk::new(1);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let identity = Identity::open(shared.clone(), NODE)?;
        identity.set_cluster(Uuid(1), [(NODE, identity.facts().uuid)].into())?;
        let (log, _) = Log::open(shared.clone(), options())?;
        let entry = |term, index| LogEntry { id: LogId { term, index }, payload: payload() };
        let mut entries: Vec<LogEntry> = (0..8).map(|index| entry(1, index)).collect();
        for entry in &entries {
            append(&log, entry.clone());
        }
        log.truncate_after(Some(LogId { term: 1, index: 6 }), |done| done.expect("it is whole"));
        entries.truncate(7);
        identity.set_joined()?;
        log.save_vote(VOTE, |done| done.expect("it is whole"));
        for index in 7..10 {
            entries.push(entry(2, index));
            append(&log, entry(2, index));
        }
        let purged = LogId { term: 1, index: 2 };
        let state = example_state().encode();
        let snapshot = SnapshotMeta {
            cluster: Some(Uuid(1)),
            last: Some(purged),
            membership: vec![1, 2],
            membership_log: None,
            feature_level: 1,
            body_bytes: 0,
        };
        Snapshots::open(shared, None)?.save(snapshot, &state)?;
        log.purge(purged, |done| done.expect("it is whole"));
        entries.drain(..3);
        if closed {
            log.close();
        } else {
            log.abandon();
        }
        Ok(Self { disk, entries, purged, state, unsure: usize::from(!closed) })
    }
}

fn options() -> LogOptions {
    LogOptions { segment_bytes: 2048, drive: Drive::Inline, seed: Some(7), ..LogOptions::default() }
}

fn payload() -> Bytes {
    codec::data_of(&example_proposal()).payload().clone()
}

fn append(log: &Log, entry: LogEntry) {
    log.append(vec![entry], |done| done.expect("it continues the log, and the disk is whole"));
}

/// One change of one file.
struct Edit {
    kind: u8,
    file: usize,
    at: usize,
    value: u8,
}

impl Edit {
    fn new(bytes: &[u8]) -> Self {
        let at = usize::from(u16::from_le_bytes([bytes[1], bytes[2]]));
        Self { kind: bytes[0] % 8, file: usize::from(bytes[0] / 8), at, value: bytes[3] }
    }

    /// Whether it changes one byte, and no length.
    fn is_small(&self) -> bool {
        self.kind < 5
    }

    /// Changes a file, if there is one left; returns its path.
    fn apply(&self, disk: &MemDisk) -> Option<String> {
        let paths = disk.paths();
        let path = paths.get(self.file % paths.len().max(1))?.clone();
        let mut bytes = disk.bytes(&path).unwrap_or_default();
        let at = self.at % bytes.len().max(1);
        match (self.kind, bytes.get_mut(at)) {
            (0..=3, Some(byte)) => *byte ^= self.value,
            (4, Some(byte)) => *byte = self.value,
            (5, _) => bytes.truncate(at),
            (6, _) => copy_sector(&mut bytes, usize::from(self.value), at / SECTOR),
            _ => {
                disk.remove(&path).expect("it is there");
                return Some(path);
            }
        }
        disk.set_bytes(&path, bytes);
        Some(path)
    }
}

/// Copies a sector over another one, as a disk with a misdirected write does.
fn copy_sector(bytes: &mut [u8], from: usize, to: usize) {
    let sectors = (bytes.len() / SECTOR).max(1);
    let place = |sector: usize| (sector % sectors) * SECTOR;
    let end = (place(from) + SECTOR).min(bytes.len());
    let sector = bytes[place(from)..end].to_vec();
    bytes[place(to)..][..sector.len()].copy_from_slice(&sector);
}

/// The content of a folder, as a start reads it.
struct Found {
    log: Log,
    recovered: Recovered,
    entries: Vec<LogEntry>,
    state: Option<Vec<u8>>,
}

/// Opens everything, in the order of a start.
fn open(disk: &MemDisk) -> Result<Found, StorageError> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    Identity::open(shared.clone(), NODE)?;
    let (log, recovered) = Log::open(shared.clone(), options())?;
    let entries = log.read_all(0, u64::MAX)?;
    let snapshots = Snapshots::open(shared, recovered.purged)?;
    let state = snapshots.latest().map(|latest| snapshots.body(&latest)).transpose()?;
    Ok(Found { log, recovered, entries, state })
}

fn assert_damage_is_found(disk: &MemDisk, folder: &Folder, edits: &[Edit]) {
    let Ok(found) = open(disk) else { return };
    assert!(folder.entries.starts_with(&found.entries), "nobody wrote {:?}", found.entries);
    assert_eq!(found.recovered.purged, Some(folder.purged));
    assert_eq!(found.recovered.vote, Some(VOTE), "the vote is another");
    assert_eq!(found.state.as_ref(), Some(&folder.state), "the snapshot is what nobody wrote");
    if let [edit] = edits
        && edit.is_small()
    {
        let kept = folder.entries.len() - folder.unsure;
        assert!(found.entries.len() >= kept, "entries are lost that no crash could tear");
    }
    assert_goes_on(disk, found);
}

fn assert_forgery_is_whole(disk: &MemDisk) {
    let Ok(found) = open(disk) else { return };
    let ids: Vec<LogId> = found.entries.iter().map(|entry| entry.id).collect();
    let first = found.recovered.purged.map_or(0, |purged| purged.index + 1);
    assert!(ids.iter().map(|id| id.index).eq((first..).take(ids.len())), "a hole: {ids:?}");
    assert!(ids.is_sorted_by_key(|id| id.term), "terms go back: {ids:?}");
    assert_eq!(found.recovered.last, ids.last().copied().or(found.recovered.purged));
    assert_goes_on(disk, found);
}

/// Asserts that an appended entry is there after the next start, behind all earlier ones.
fn assert_goes_on(disk: &MemDisk, found: Found) {
    let last = found.recovered.last.unwrap_or_default();
    let next = if found.recovered.last.is_some() { last.index.checked_add(1) } else { Some(0) };
    let Some(index) = next.filter(|index| *index < u64::MAX) else { return };
    let entry = LogEntry { id: LogId { term: last.term, index }, payload: payload() };
    append(&found.log, entry.clone());
    found.log.abandon();
    let expected: Vec<LogEntry> = found.entries.into_iter().chain([entry]).collect();
    match open(disk) {
        Ok(again) => {
            assert_eq!(again.entries, expected);
            again.log.abandon();
        }
        Err(error) => panic!("it opened once, and not again: {error}"),
    }
}

/// Recomputes the checksums of a segment, as a forger who knows the format would.
fn seal_again(disk: &MemDisk, path: &str) {
    if path.starts_with("log/segment-")
        && let Some(mut bytes) = disk.bytes(path)
    {
        seal_segment(&mut bytes);
        disk.set_bytes(path, bytes);
    }
}

fn number(bytes: &[u8], at: usize) -> usize {
    let four = bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
    u32::from_le_bytes(four.unwrap_or_default()) as usize
}

fn write(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
}

/// Recomputes the checksums of a segment, as in `storage/log/frame.rs`: of every frame at a valid
/// offset, of its records, and of the chain from the previous frame.
fn seal_segment(bytes: &mut [u8]) {
    const HEADER: usize = 64;
    const RECORD: usize = 28;
    let mut at = 0;
    let mut chain = None;
    while bytes[at.min(bytes.len())..].starts_with(b"KWB1") {
        let body = at + HEADER..at + HEADER + number(bytes, at + 32);
        if bytes.len() < body.end {
            return;
        }
        let mut record = body.start;
        while record + RECORD <= body.end {
            let end = record + RECORD + number(bytes, record + 8);
            if end <= body.end {
                let sum = crc32fast::hash(&bytes[record + 4..end]);
                write(bytes, record, sum);
            }
            record = end;
        }
        let sum = crc32fast::hash(&bytes[body.clone()]);
        write(bytes, at + 36, sum);
        if let Some(chain) = chain {
            write(bytes, at + 24, chain);
        }
        let sum = crc32fast::hash(&bytes[at..at + 60]);
        write(bytes, at + 60, sum);
        chain = Some(sum);
        at = body.end.next_multiple_of(SECTOR);
    }
}
