//! What the log knows without reading files: where each entry is, and the latest payloads.
//!
//! The index runs ahead of the files: an entry is in it as soon as it is appended, and gets its
//! place when the writer has written it. Until then its payload stays in the cache whatever the
//! cache's bound. 24 bytes per retained entry, and the payloads of the latest ones.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::storage::disk::DiskFile;
use crate::storage::{LogEntry, LogId};

/// The place of an entry that no file holds yet.
const UNWRITTEN: u32 = u32::MAX;

/// An open segment file.
pub(super) struct Segment {
    pub(super) path: String,
    pub(super) file: Arc<dyn DiskFile>,
}

#[derive(Clone, Copy)]
struct Slot {
    term: u64,
    segment: u32,
    offset: u32,
    len: u32,
}

/// Where an entry's bytes are.
pub(super) enum Source {
    /// In memory.
    Cached(Bytes),
    /// In a file: where its record begins, and the length of its payload.
    Stored { segment: Arc<Segment>, offset: u64, len: usize },
}

/// The log as it is seen now, written or not.
pub(super) struct Index {
    purged: Option<LogId>,
    last: Option<LogId>,
    /// The index of the first slot.
    first: u64,
    slots: VecDeque<Slot>,
    segments: BTreeMap<u32, Arc<Segment>>,
    /// Entries from here on are not written.
    unwritten: u64,
    /// For each truncation that the writer has not come to: the first index it removes. An entry
    /// at or past one of these that the writer writes now is not the one in the index.
    truncations: VecDeque<u64>,
    cache: VecDeque<Bytes>,
    /// The index of the first cached payload.
    cache_first: u64,
    cache_bytes: usize,
    cache_limit: usize,
}

impl Index {
    pub(super) fn new(cache_limit: usize) -> Self {
        Self {
            purged: None,
            last: None,
            first: 0,
            slots: VecDeque::new(),
            segments: BTreeMap::new(),
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

    /// Whether an entry of this id may come next; the reason if not.
    pub(super) fn may_follow(&self, id: LogId) -> Result<(), String> {
        if self.next().is_some_and(|next| next != id.index) {
            let last = self.last.map_or(String::from("nothing"), |last| last.to_string());
            return Err(format!("entry {id} does not follow {last}"));
        }
        if id.index == u64::MAX {
            // There would be no next one.
            return Err(format!("entry {id} is past the last there can be"));
        }
        if self.last.is_some_and(|last| last.term > id.term) {
            return Err(format!("entry {id} has a lower term than the one before it"));
        }
        Ok(())
    }

    /// Adds an entry that [`Index::may_follow`] allows, not written yet.
    pub(super) fn append(&mut self, entry: &LogEntry) {
        if self.slots.is_empty() {
            self.first = entry.id.index;
            self.unwritten = entry.id.index;
        }
        if self.cache.is_empty() {
            self.cache_first = entry.id.index;
        }
        let len = u32::try_from(entry.payload.len()).expect("the log refuses larger payloads");
        self.slots.push_back(Slot { term: entry.id.term, segment: UNWRITTEN, offset: 0, len });
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
        self.slots.push_back(Slot { term: id.term, segment, offset, len });
        self.last = Some(id);
        self.unwritten = id.index + 1;
    }

    /// Says that the log's last entry is this one although it is not in the index: it lies before
    /// the first segment.
    pub(super) fn begin_after(&mut self, last: Option<LogId>) {
        self.last = last;
    }

    /// Notes where the writer has put an entry.
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

    /// Removes the entries after `last`; the writer will say so with [`Index::truncated`].
    pub(super) fn truncate(&mut self, last: Option<LogId>) {
        self.remove_after(last);
        self.truncations.push_back(last.map_or(0, |last| last.index + 1));
    }

    /// Notes that the writer has written the oldest truncation it had not come to.
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

    /// Whether every entry between the purged and the last one has a place.
    pub(super) fn is_whole(&self) -> bool {
        let next = self.next().unwrap_or(0);
        match self.purged {
            Some(purged) if self.slots.is_empty() => next == purged.index + 1,
            Some(purged) => self.first == purged.index + 1,
            None => !self.slots.is_empty() || next == 0,
        }
    }

    pub(super) fn open_segment(&mut self, number: u32, segment: Arc<Segment>) {
        self.segments.insert(number, segment);
    }

    /// Forgets a segment that no slot refers to.
    pub(super) fn close_segment(&mut self, number: u32) -> Option<Arc<Segment>> {
        self.segments.remove(&number)
    }

    /// Where the entries from `from` up to `to`, exclusive, are; those that there are, until they
    /// exceed `max_bytes` (but at least one).
    pub(super) fn sources(&self, from: u64, to: u64, max_bytes: usize) -> Vec<(LogId, Source)> {
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
            sources.push((LogId { term: slot.term, index }, self.source(index, slot)));
        }
        sources
    }

    fn source(&self, index: u64, slot: Slot) -> Source {
        let cached = index.checked_sub(self.cache_first).and_then(|at| usize::try_from(at).ok());
        if let Some(payload) = cached.and_then(|at| self.cache.get(at)) {
            return Source::Cached(payload.clone());
        }
        let segment = self.segments.get(&slot.segment);
        Source::Stored {
            segment: segment.expect("what is not cached is in an open segment").clone(),
            offset: u64::from(slot.offset),
            len: slot.len as usize,
        }
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
