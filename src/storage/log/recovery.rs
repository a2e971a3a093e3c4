//! Reading the segment files when the log is opened.
//!
//! A frame is written only after the frame before it was synced. So:
//! - A place where no frame can be read, *with a valid frame of this segment anywhere after it*,
//!   was durable once: this is damage, and the log does not open.
//! - In a segment that is not the last one, the manifest says how many frames there are: fewer are
//!   damage, too.
//! - With nothing valid after it, it is the tail that the last crash tore: it was never reported
//!   durable, and is cut with a warning. The limit of this rule: damage to only the very last frame
//!   looks the same. A clean shutdown writes a mark as the last frame, so that even this damage is
//!   recognised after it.

use std::sync::Arc;

use super::frame::{ALIGN, Found, HEADER, Header, Place, RECORD_HEADER, Record, VERSION};
use super::index::{Index, Segment};
use super::manifest::{self, Manifest, SegmentMeta};
use super::segments::Segments;
use super::vote::{self, VoteFile};
use super::writer::{Tail, Writer};
use super::{LogOptions, Recovered, Shared};
use crate::random;
use crate::storage::disk::Disk;
use crate::storage::error::REPLACE_NODE;
use crate::storage::{LogId, StorageError};

/// The contents of the segments.
pub(super) struct Replayed {
    pub(super) index: Index,
    /// The last commit hint.
    pub(super) committed: Option<LogId>,
    /// The last entry, purged or not.
    last: Option<LogId>,
    /// The last segment.
    active: Option<Arc<Segment>>,
    /// The largest entry index in each segment, truncated ones included.
    pub(super) largest: Vec<Option<u64>>,
    /// The place of the next frame in the last segment, and the frame it continues.
    pub(super) end: u64,
    pub(super) sequence: u64,
    pub(super) chain: u32,
    /// Whether the last frame is the mark of a clean end.
    pub(super) marked: bool,
    pub(super) warnings: Vec<String>,
}

/// A frame read from a segment.
pub(super) struct Frame {
    /// Its offset in the segment.
    pub(super) offset: usize,
    pub(super) header: Header,
    pub(super) records: Vec<Found>,
}

/// Reads a segment's frames one by one.
pub(super) struct Scan<'a> {
    path: String,
    bytes: &'a [u8],
    salt: u64,
    /// The expected offset, sequence and chain of the next frame.
    pub(super) offset: usize,
    pub(super) sequence: u64,
    pub(super) chain: u32,
}

impl<'a> Scan<'a> {
    pub(super) fn new(meta: &SegmentMeta, bytes: &'a [u8]) -> Self {
        Self {
            path: meta.path(),
            bytes,
            salt: meta.salt,
            offset: 0,
            sequence: meta.first_sequence,
            chain: meta.chain,
        }
    }

    /// Reads the next frame; `None` where none can be read.
    ///
    /// # Errors
    /// When there is a frame that cannot be what was written here.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, StorageError> {
        let offset = self.offset;
        let rest = self.bytes.get(offset..).unwrap_or_default();
        let Some(header) = Header::parse(rest, self.salt) else { return Ok(None) };
        if header.version > VERSION {
            return Err(StorageError::Version {
                file: self.path.clone(),
                found: header.version.into(),
                known: VERSION.into(),
            });
        }
        if header.sequence != self.sequence || header.chain != self.chain {
            let what = format!(
                "its frame has number {}, but {} belongs here",
                header.sequence, self.sequence
            );
            return Err(StorageError::damaged(&self.path, offset as u64, what));
        }
        if header.body(rest).is_none() {
            return Ok(None);
        }
        let records = self.records(&header)?;
        self.offset += header.frame_len();
        self.sequence += 1;
        self.chain = header.checksum;
        Ok(Some(Frame { offset, header, records }))
    }

    fn records(&self, header: &Header) -> Result<Vec<Found>, StorageError> {
        let end = self.offset + HEADER + header.body_len as usize;
        let mut at = self.offset + HEADER;
        // The header's own record count must not allocate more memory than its bytes could fill.
        let most = header.body_len as usize / RECORD_HEADER;
        let mut records = Vec::with_capacity(most.min(header.records as usize));
        while at < end {
            let found = Found::parse(&self.bytes[..end], at).ok_or_else(|| {
                StorageError::damaged(&self.path, at as u64, "its record does not decode")
            })?;
            at = found.payload.end;
            records.push(found);
        }
        if records.len() != header.records as usize {
            let what = "its frame does not have as many records as it says";
            return Err(StorageError::damaged(&self.path, self.offset as u64, what));
        }
        Ok(records)
    }

    /// The offset of the first valid frame after the unreadable place.
    pub(super) fn later_frame(&self) -> Option<usize> {
        let places = (self.offset + ALIGN..self.bytes.len()).step_by(ALIGN);
        places.into_iter().find(|place| {
            Header::parse(&self.bytes[*place..], self.salt)
                .is_some_and(|header| header.sequence >= self.sequence)
        })
    }

    /// Whether the place of the next frame is blank, as the writer leaves it.
    pub(super) fn ends_blank(&self) -> bool {
        let end = self.bytes.len().min(self.offset + HEADER);
        self.bytes[self.offset.min(end)..end].iter().all(|byte| *byte == 0)
    }
}

/// Reads a whole segment file.
pub(super) fn load(
    disk: &dyn Disk,
    meta: &SegmentMeta,
) -> Result<(Segment, Vec<u8>), StorageError> {
    let path = meta.path();
    if !disk.exists(&path).map_err(StorageError::io("look for", &path))? {
        let because = "the manifest of the log names it";
        return Err(StorageError::Missing { file: path, because, advice: REPLACE_NODE });
    }
    let file = disk.open(&path).map_err(StorageError::io("open", &path))?;
    let mut bytes = vec![0; usize::try_from(meta.bytes).expect("a segment fits in memory")];
    let read = file.read_at(&mut bytes, 0).map_err(StorageError::io("read", &path))?;
    if read < bytes.len() {
        let what = format!("it ends there, but it was made with {} bytes", bytes.len());
        return Err(StorageError::damaged(&path, read as u64, what));
    }
    Ok((Segment { path, file }, bytes))
}

/// Reads all segments, checks them, and repairs the tail.
pub(super) fn replay(
    disk: &Arc<dyn Disk>,
    manifest: &Manifest,
    cache_bytes: usize,
) -> Result<Replayed, StorageError> {
    let mut replayed = Replayed {
        index: Index::new(disk.clone(), cache_bytes),
        committed: manifest.committed,
        last: manifest.purged,
        active: None,
        largest: Vec::new(),
        end: 0,
        sequence: 1,
        chain: 0,
        marked: false,
        warnings: Vec::new(),
    };
    let segments = &manifest.segments;
    for (number, meta) in segments.iter().enumerate() {
        if number == 0 {
            replayed.last = meta.before;
            replayed.index.begin_after(meta.before);
        } else if replayed.last != meta.before {
            let what = format!("{} does not continue the segment before it", meta.path());
            return Err(StorageError::damaged(manifest::FILE, 0, what));
        }
        replayed.segment(&**disk, meta, segments.get(number + 1))?;
    }
    replayed.finish(manifest)?;
    Ok(replayed)
}

impl Replayed {
    fn segment(
        &mut self,
        disk: &dyn Disk,
        meta: &SegmentMeta,
        next: Option<&SegmentMeta>,
    ) -> Result<(), StorageError> {
        let (segment, bytes) = load(disk, meta)?;
        let mut scan = Scan::new(meta, &bytes);
        let mut largest = None;
        let mut tail = 0;
        while let Some(frame) = scan.next()? {
            tail = frame.offset;
            self.committed = frame.header.committed.or(self.committed);
            self.marked = frame.records.iter().all(|found| found.record == Record::Mark);
            for found in &frame.records {
                self.record(meta, found, &mut largest)?;
            }
        }
        (self.sequence, self.chain, self.end) = (scan.sequence, scan.chain, scan.offset as u64);
        match next {
            Some(next) => check_sealed(&scan, next)?,
            None => self.repair_tail(&scan, &segment, tail)?,
        }
        self.largest.push(largest);
        let segment = Arc::new(segment);
        self.index.add_segment(number(meta), segment.clone());
        self.active = Some(segment);
        Ok(())
    }

    fn record(
        &mut self,
        meta: &SegmentMeta,
        found: &Found,
        largest: &mut Option<u64>,
    ) -> Result<(), StorageError> {
        let at = found.payload.start - RECORD_HEADER;
        match found.record {
            Record::Mark => {}
            Record::Truncate(after) => {
                self.may_end_with(after)
                    .map_err(|why| StorageError::damaged(&meta.path(), at as u64, why))?;
                self.index.remove_after(after);
                self.last = after;
            }
            Record::Entry(id) => {
                self.index
                    .may_follow(id)
                    .map_err(|why| StorageError::damaged(&meta.path(), at as u64, why))?;
                let offset = u32::try_from(at).expect("a segment is shorter than 4 GiB");
                self.index.recover(id, number(meta), offset, found.payload.len());
                self.last = Some(id);
                *largest = (*largest).max(Some(id.index));
            }
        }
        Ok(())
    }

    /// Checks that everything after an entry can have been removed: the log held that entry, or had
    /// purged it. Returns the reason if not.
    fn may_end_with(&self, after: Option<LogId>) -> Result<(), String> {
        let Some(after) = after else { return Ok(()) };
        let is_behind = self.last.is_none_or(|last| last.index < after.index);
        if is_behind || self.index.id_at(after.index).is_some_and(|found| found != after) {
            return Err(format!("it ends the log with entry {after}, which the log does not have"));
        }
        Ok(())
    }

    /// Decides between a torn tail and damage, and makes the frames read durable.
    fn repair_tail(
        &mut self,
        scan: &Scan<'_>,
        segment: &Segment,
        tail: usize,
    ) -> Result<(), StorageError> {
        if let Some(later) = scan.later_frame() {
            let what = format!(
                "there is no valid frame, but a later one at byte {later}, so what was here was \
                 acknowledged"
            );
            return Err(StorageError::damaged(&segment.path, scan.offset as u64, what));
        }
        if !scan.ends_blank() {
            self.warnings.push(format!(
                "{}: cut an incomplete batch at byte {}; it was never acknowledged",
                segment.path, scan.offset
            ));
        }
        // The last frame may be in the page cache and not on the disk, even after a sync that
        // failed in the previous process. It is written again, and the place after it is blanked.
        let mut bytes = scan.bytes[tail..scan.offset].to_vec();
        bytes.resize((bytes.len() + HEADER).min(scan.bytes.len() - tail), 0);
        let io = |action| StorageError::io(action, &segment.path);
        segment.file.write_at(&bytes, tail as u64).map_err(io("write"))?;
        segment.file.sync_data().map_err(io("sync"))
    }

    fn finish(&mut self, manifest: &Manifest) -> Result<(), StorageError> {
        let Some(last_segment) = manifest.segments.last() else {
            self.index.begin_after(manifest.purged);
            if let Some(purged) = manifest.purged {
                self.index.purge(purged);
            }
            return Ok(());
        };
        let (path, end) = (last_segment.path(), self.end);
        let lacks = |what: String| StorageError::damaged(&path, end, what);
        if let Some(purged) = manifest.purged {
            if self.last.is_none_or(|last| last.index < purged.index) {
                return Err(lacks(format!("entries up to {purged} were acknowledged")));
            }
            self.index.purge(purged);
        }
        if !self.index.is_whole() {
            return Err(lacks("the entries are not without a hole".to_owned()));
        }
        Ok(())
    }

    /// The commit hint, as far as the log confirms it.
    fn committed(&self) -> Option<LogId> {
        let held = self.committed.filter(|id| self.index.id_at(id.index) == Some(*id));
        held.max(self.index.purged())
    }

    fn tail(&self, manifest: &Manifest) -> Tail {
        let salt = manifest.segments.last().map_or(0, |segment| segment.salt);
        Tail {
            largest: self.largest.clone(),
            segment: self.active.clone(),
            offset: self.end,
            place: Place { salt, sequence: self.sequence, chain: self.chain },
            last: self.index.last(),
            marked: self.marked,
        }
    }
}

fn check_sealed(scan: &Scan<'_>, next: &SegmentMeta) -> Result<(), StorageError> {
    if scan.sequence == next.first_sequence && scan.chain == next.chain {
        return Ok(());
    }
    let what = format!("there is no valid frame, but acknowledged ones follow in {}", next.path());
    Err(StorageError::damaged(&scan.path, scan.offset as u64, what))
}

/// The number under which the index knows a segment.
pub(super) fn number(meta: &SegmentMeta) -> u32 {
    u32::try_from(meta.file).expect("nobody fills four thousand million segments")
}

/// Opens or creates all files. Returns the writer, ready to continue.
pub(super) fn open(
    disk: Arc<dyn Disk>,
    options: LogOptions,
) -> Result<(Writer, Recovered), StorageError> {
    let folder = manifest::FOLDER;
    disk.create_dir(folder).map_err(StorageError::io("create", folder))?;
    // Names created by a process that was killed before the sync are used from now on, so they must
    // be durable.
    disk.sync_dir(folder).map_err(StorageError::io("sync", folder))?;
    let read = vote::read(&*disk)?;
    let manifest = match Manifest::load(&*disk)? {
        Some(_) if read.is_none() => return Err(missing(vote::FILE, "there is a log")),
        Some(manifest) => manifest,
        None => create(&*disk, read.as_ref())?,
    };
    let replayed = replay(&disk, &manifest, options.cache_bytes)?;
    let mut recovered = Recovered {
        vote: read.as_ref().and_then(vote::Read::vote),
        committed: replayed.committed(),
        purged: manifest.purged,
        last: replayed.index.last(),
        warnings: replayed.warnings.clone(),
    };
    if let Some(slot) = read.as_ref().and_then(|read| read.bad) {
        let warning = format!("{}: rewrote slot {slot} from the other one", vote::FILE);
        recovered.warnings.push(warning);
    }
    let vote = VoteFile::open(&*disk)?;
    let seed = options.seed.unwrap_or_else(random::number);
    let segment_bytes = segment_bytes(&options);
    let files = Segments::open(disk.clone(), &manifest, segment_bytes, seed)?;
    let tail = replayed.tail(&manifest);
    let shared = Shared::new(options, replayed.index, recovered.vote, recovered.committed);
    let shared = Arc::new(shared);
    Ok((Writer::new(disk, shared, files, vote, manifest, tail), recovered))
}

/// Creates an empty log, unless that would hide existing data.
fn create(disk: &dyn Disk, vote: Option<&vote::Read>) -> Result<Manifest, StorageError> {
    let folder = manifest::FOLDER;
    let names = disk.list(folder).map_err(StorageError::io("list", folder))?;
    if names.iter().any(|name| name.starts_with("segment-") || name.starts_with("spare-")) {
        return Err(missing(manifest::FILE, "there are files of a log beside it"));
    }
    match vote {
        Some(read) if read.vote().is_some() => {
            return Err(missing(manifest::FILE, "the node has voted"));
        }
        // A crash came between creating the two.
        Some(_) => {}
        // The vote file comes first: where there is a manifest, there is a vote file.
        None => vote::create(disk)?,
    }
    let manifest = Manifest::default();
    manifest.store(disk)?;
    Ok(manifest)
}

fn missing(file: &str, because: &'static str) -> StorageError {
    StorageError::Missing { file: file.to_owned(), because, advice: REPLACE_NODE }
}

/// The size of segments: limited because offsets have 32 bits, and at least a few frames.
fn segment_bytes(options: &LogOptions) -> u64 {
    options.segment_bytes.clamp(4 * ALIGN as u64, 1 << 30).next_multiple_of(ALIGN as u64)
}
