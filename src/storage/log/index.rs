//! The log's index in memory: the place of each entry, and the latest payloads.
//!
//! The index is ahead of the files: an entry is in it as soon as it is appended, and gets its place
//! when the writer has written it. Until then its payload stays in the cache, even beyond the
//! cache's limit. It takes 32 bytes per retained entry, and the payloads of the latest ones.
//!
//! A few segments are open, however long the log is; the others are opened when one of their
//! entries is read.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};

use bytes::Bytes;

use super::frame::RECORD_HEADER;
use crate::storage::disk::{Disk, DiskFile};
use crate::storage::{LogEntry, LogId, StorageError};

/// The number of segments that stay open: the one being written, and for each of four followers the
/// one it reads.
const OPEN_SEGMENTS: usize = 5;

/// The place of an entry that no file holds yet.
const UNWRITTEN: u32 = u32::MAX;

/// An open segment file.
pub(super) struct Segment {
    pub(super) path: String,
    pub(super) file: Arc<dyn DiskFile>,
}

/// A segment file, open or not.
struct Known {
    path: String,
    /// The open file, if it is open here or used by a reader.
    open: Weak<Segment>,
}

/// A segment that holds no entry any more.
pub(super) struct Dropped {
    pub(super) path: String,
    /// Whether a reader still uses it.
    pub(super) is_read: bool,
}

#[derive(Clone, Copy)]
struct Slot {
    term: u64,
    /// The number of bytes of all entries up to this one; the count starts at an arbitrary number.
    end: u64,
    segment: u32,
    offset: u32,
    len: u32,
}

impl Slot {
    fn bytes(&self) -> u64 {
        RECORD_HEADER as u64 + u64::from(self.len)
    }
}

/// The place of an entry's bytes.
pub(super) enum Source {
    /// In memory.
    Cached(Bytes),
    /// In a file: the offset of its record, and the length of its payload.
    Stored { segment: Arc<Segment>, offset: u64, len: usize },
}

/// The log as readers see it, written or not.
pub(super) struct Index {
    purged: Option<LogId>,
    last: Option<LogId>,
    /// The index of the first slot.
    first: u64,
    slots: VecDeque<Slot>,
    disk: Arc<dyn Disk>,
    segments: BTreeMap<u32, Known>,
    /// The open segments; the last used is at the end.
    open: VecDeque<(u32, Arc<Segment>)>,
    /// Entries from here on are not written.
    unwritten: u64,
    /// For each truncation not yet written: the first index it removes. An entry at or past one of
    /// these that the writer writes now is not the one in the index.
    truncations: VecDeque<u64>,
    cache: VecDeque<Bytes>,
    /// The index of the first cached payload.
    cache_first: u64,
    cache_bytes: usize,
    cache_limit: usize,
}

impl Index {
    pub(super) fn new(disk: Arc<dyn Disk>, cache_limit: usize) -> Self {
        Self {
            purged: None,
            last: None,
            first: 0,
            slots: VecDeque::new(),
            disk,
            segments: BTreeMap::new(),
            open: VecDeque::new(),
            unwritten: 0,
            truncations: VecDeque::new(),
            cache: VecDeque::new(),
            cache_first: 0,
            cache_bytes: 0,
            cache_limit,
        }
    }

    pub(super) fn purged(&self) -> Option<LogId> {
        self.purged
    }

    pub(super) fn last(&self) -> Option<LogId> {
        self.last
    }

    /// The index after the last one; `None` if any index may come first.
    fn next(&self) -> Option<u64> {
        self.last.map(|last| last.index + 1)
    }

    /// The id of an entry the log holds, or of the last purged one.
    pub(super) fn id_at(&self, index: u64) -> Option<LogId> {
        if self.purged.is_some_and(|purged| purged.index == index) {
            return self.purged;
        }
        let slot = self.slots.get(usize::try_from(index.checked_sub(self.first)?).ok()?)?;
        Some(LogId { term: slot.term, index })
    }

    /// Checks that an entry with this id may come next; returns the reason if not.
    pub(super) fn may_follow(&self, id: LogId) -> Result<(), String> {
        if self.next().is_some_and(|next| next != id.index) {
            let last = self.last.map_or(String::from("nothing"), |last| last.to_string());
            return Err(format!("entry {id} does not follow {last}"));
        }
        if id.index == u64::MAX {
            // It would have no successor.
            return Err(format!("entry {id} is past the last there can be"));
        }
        if self.last.is_some_and(|last| last.term > id.term) {
            return Err(format!("entry {id} has a lower term than the one before it"));
        }
        Ok(())
    }

    /// Adds an entry that [`Index::may_follow`] allows and that is not written yet.
    pub(super) fn append(&mut self, entry: &LogEntry) {
        if self.slots.is_empty() {
            self.first = entry.id.index;
            self.unwritten = entry.id.index;
        }
        if self.cache.is_empty() {
            self.cache_first = entry.id.index;
        }
        let len = u32::try_from(entry.payload.len()).expect("the log refuses larger payloads");
        self.push(Slot { term: entry.id.term, end: 0, segment: UNWRITTEN, offset: 0, len });
        self.cache.push_back(entry.payload.clone());
        self.cache_bytes += entry.payload.len();
        self.last = Some(entry.id);
    }

    /// Adds an entry found in a file when the log is opened.
    pub(super) fn recover(&mut self, id: LogId, segment: u32, offset: u32, len: usize) {
        if self.slots.is_empty() {
            self.first = id.index;
        }
        let len = u32::try_from(len).expect("a frame's length has 32 bits");
        self.push(Slot { term: id.term, end: 0, segment, offset, len });
        self.last = Some(id);
        self.unwritten = id.index + 1;
    }

    fn push(&mut self, slot: Slot) {
        let before = self.slots.back().map_or(0, |last| last.end);
        self.slots.push_back(Slot { end: before + slot.bytes(), ..slot });
    }

    /// The size in bytes of the entries in the index after `after`, up to and including `through`.
    pub(super) fn bytes_between(&self, after: Option<u64>, through: u64) -> u64 {
        let from = after.map_or(0, |after| after.saturating_add(1)).max(self.first);
        let through = through.min(self.last.map_or(0, |last| last.index));
        let (Some(first), Some(last)) = (self.slot(from), self.slot(through)) else { return 0 };
        (last.end + first.bytes()).saturating_sub(first.end)
    }

    /// The last entry before those that have `max_bytes` together and end with `through`.
    pub(super) fn before_bytes(&self, through: u64, max_bytes: u64) -> Option<u64> {
        let from = self.slot(through)?.end.checked_sub(max_bytes)?;
        let at = self.slots.partition_point(|slot| slot.end - slot.bytes() < from);
        (self.first + at as u64).checked_sub(1).filter(|index| *index >= self.first)
    }

    fn slot(&self, index: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    /// Sets the log's last entry to one that is not in the index because it lies before the first
    /// segment.
    pub(super) fn begin_after(&mut self, last: Option<LogId>) {
        self.last = last;
    }

    /// Records where the writer has put an entry.
    pub(super) fn written(&mut self, index: u64, segment: u32, offset: u32) {
        if self.truncations.iter().any(|first| *first <= index) {
            return;
        }
        let Some(at) = index.checked_sub(self.first).and_then(|at| usize::try_from(at).ok()) else {
            return;
        };
        if let Some(slot) = self.slots.get_mut(at) {
            slot.segment = segment;
            slot.offset = offset;
            self.unwritten = index + 1;
            self.shrink_cache();
        }
    }

    /// Removes the entries after `last`; the writer reports the truncation later with
    /// [`Index::truncated`].
    pub(super) fn truncate(&mut self, last: Option<LogId>) {
        self.remove_after(last);
        self.truncations.push_back(last.map_or(0, |last| last.index + 1));
    }

    /// Records that the oldest pending truncation is written.
    pub(super) fn truncated(&mut self) {
        self.truncations.pop_front();
    }

    /// Removes the entries after `last`, which is in the log, purged, or `None` for all.
    pub(super) fn remove_after(&mut self, last: Option<LogId>) {
        let keep = last.map_or(0, |last| last.index + 1);
        let slots = usize::try_from(keep.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.slots.truncate(slots);
        let cached = usize::try_from(keep.saturating_sub(self.cache_first)).unwrap_or(usize::MAX);
        while self.cache.len() > cached {
            let payload = self.cache.pop_back().expect("it is longer than something");
            self.cache_bytes -= payload.len();
        }
        self.unwritten = self.unwritten.min(keep);
        self.last = last;
    }

    /// Removes the entries up to and including `through`.
    pub(super) fn purge(&mut self, through: LogId) {
        while !self.slots.is_empty() && self.first <= through.index {
            self.slots.pop_front();
            self.first += 1;
        }
        while !self.cache.is_empty() && self.cache_first <= through.index {
            self.drop_oldest_payload();
        }
        if self.last.is_none_or(|last| last.index <= through.index) {
            self.last = Some(through);
        }
        self.purged = Some(through);
    }

    /// Whether the index holds every entry between the purged and the last one.
    pub(super) fn is_whole(&self) -> bool {
        let next = self.next().unwrap_or(0);
        match self.purged {
            Some(purged) if self.slots.is_empty() => next == purged.index + 1,
            Some(purged) => self.first == purged.index + 1,
            None => !self.slots.is_empty() || next == 0,
        }
    }

    /// Adds a segment that was just opened.
    pub(super) fn add_segment(&mut self, number: u32, segment: Arc<Segment>) {
        let known = Known { path: segment.path.clone(), open: Arc::downgrade(&segment) };
        self.segments.insert(number, known);
        self.keep_open(number, segment);
    }

    /// Removes a segment that no slot refers to.
    pub(super) fn drop_segment(&mut self, number: u32) -> Option<Dropped> {
        self.open.retain(|(open, _)| *open != number);
        let Known { path, open } = self.segments.remove(&number)?;
        Some(Dropped { path, is_read: open.strong_count() > 0 })
    }

    fn keep_open(&mut self, number: u32, segment: Arc<Segment>) {
        self.open.retain(|(open, _)| *open != number);
        if self.open.len() >= OPEN_SEGMENTS {
            self.open.pop_front();
        }
        self.open.push_back((number, segment));
    }

    /// The segment, opened if it was closed. The log is locked meanwhile, so no purge can have
    /// released its file.
    fn segment(&mut self, number: u32) -> Result<Arc<Segment>, StorageError> {
        let known = self.segments.get_mut(&number).expect("an entry's segment is known");
        let segment = if let Some(segment) = known.open.upgrade() {
            segment
        } else {
            let file = self.disk.open(&known.path);
            let file = file.map_err(StorageError::io("open", &known.path))?;
            let segment = Arc::new(Segment { path: known.path.clone(), file });
            known.open = Arc::downgrade(&segment);
            segment
        };
        self.keep_open(number, segment.clone());
        Ok(segment)
    }

    /// The sources of the entries from `from` up to, but not including, `to`: those in the index,
    /// until they exceed `max_bytes` (but at least one).
    ///
    /// # Errors
    /// When a segment cannot be opened.
    pub(super) fn sources(
        &mut self,
        from: u64,
        to: u64,
        max_bytes: usize,
    ) -> Result<Vec<(LogId, Source)>, StorageError> {
        let end = self.first + self.slots.len() as u64;
        let mut sources = Vec::new();
        let mut bytes: usize = 0;
        for index in from.max(self.first)..to.min(end) {
            let at = usize::try_from(index - self.first).expect("it indexes memory");
            let slot = self.slots[at];
            bytes = bytes.saturating_add(slot.len as usize);
            if bytes > max_bytes && !sources.is_empty() {
                break;
            }
            sources.push((LogId { term: slot.term, index }, self.source(index, slot)?));
        }
        Ok(sources)
    }

    fn source(&mut self, index: u64, slot: Slot) -> Result<Source, StorageError> {
        let cached = index.checked_sub(self.cache_first).and_then(|at| usize::try_from(at).ok());
        if let Some(payload) = cached.and_then(|at| self.cache.get(at)) {
            return Ok(Source::Cached(payload.clone()));
        }
        Ok(Source::Stored {
            segment: self.segment(slot.segment)?,
            offset: u64::from(slot.offset),
            len: slot.len as usize,
        })
    }

    fn shrink_cache(&mut self) {
        while self.cache_bytes > self.cache_limit
            && !self.cache.is_empty()
            && self.cache_first < self.unwritten
        {
            self.drop_oldest_payload();
        }
    }

    fn drop_oldest_payload(&mut self) {
        if let Some(payload) = self.cache.pop_front() {
            self.cache_bytes -= payload.len();
            self.cache_first += 1;
        }
    }
}
