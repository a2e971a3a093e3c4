//! The writer: it drains the queue, writes the requests as one frame, syncs once, and reports in
//! order.
//!
//! After a failed write or sync it never writes again: the kernel may have dropped the pages it
//! could not write, so a later sync that succeeds would prove nothing.

use std::collections::VecDeque;
use std::sync::Arc;

use super::frame::{Batch, HEADER, Place};
use super::index::{Dropped, Segment};
use super::manifest::{Manifest, SegmentMeta};
use super::recovery::number;
use super::segments::Segments;
use super::vote::VoteFile;
use super::{Done, Shared};
use crate::storage::disk::Disk;
use crate::storage::{LogEntry, LogId, StorageError, Vote};

/// The approximate limit of a frame: beyond it, one write more costs nothing compared with the
/// bytes.
const BATCH_BYTES: usize = 1 << 20;

/// A request to the writer.
pub(super) enum Request {
    Append(Vec<LogEntry>, Done),
    Truncate(Option<LogId>, Done),
    Purge(LogId, Done),
    Vote(Vote, Done),
    /// Nothing to write; it is only reported after the requests before it.
    Nothing(Done),
}

/// The change of the index when a record of the batch is written.
enum Change {
    Entry { index: u64, at: usize },
    Truncated,
}

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
    files: Segments,
    vote: VoteFile,
    manifest: Manifest,
    tail: Tail,
    batch: Pending,
    failed: Option<Arc<StorageError>>,
}

/// The place where the log continues.
pub(super) struct Tail {
    /// The largest entry index in each segment of the manifest, truncated ones included.
    pub(super) largest: Vec<Option<u64>>,
    /// The segment being written; `None` before the first entry.
    pub(super) segment: Option<Arc<Segment>>,
    /// The offset of the next frame in it.
    pub(super) offset: u64,
    pub(super) place: Place,
    /// The last entry added to a batch.
    pub(super) last: Option<LogId>,
    /// Whether the last frame is the mark of a clean end.
    pub(super) marked: bool,
}

/// The batch under construction.
#[derive(Default)]
struct Pending {
    frame: Batch,
    changes: Vec<Change>,
    waiting: Vec<Done>,
    /// The log's last entry before the batch.
    before: Option<LogId>,
}

impl Writer {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        shared: Arc<Shared>,
        files: Segments,
        vote: VoteFile,
        manifest: Manifest,
        tail: Tail,
    ) -> Self {
        let batch = Pending::default();
        let this = Self { shared, disk, files, vote, manifest, tail, batch, failed: None };
        this.shared.promised.set_votes(this.vote.count());
        this.count_log();
        this
    }

    /// Processes all requests, in order.
    pub(super) fn process(&mut self, requests: VecDeque<Request>) {
        let mut requests = requests.into_iter();
        while self.failed.is_none() {
            let Some(request) = requests.next() else { break };
            if let Err(error) = self.take(request) {
                self.fail(error);
            }
        }
        if self.failed.is_none()
            && let Err(error) = self.flush()
        {
            self.fail(error);
        }
        if let Some(error) = &self.failed {
            let waiting = std::mem::take(&mut self.batch.waiting);
            for done in waiting.into_iter().chain(requests.map(Request::done)) {
                done(Err(error.clone()));
            }
        }
    }

    fn take(&mut self, request: Request) -> Result<(), StorageError> {
        match request {
            Request::Nothing(done) => self.batch.waiting.push(done),
            Request::Append(entries, done) => {
                // If the previous batch fails, these entries fail with it.
                let mut result = Ok(());
                for entry in &entries {
                    result = result.and_then(|()| self.add_entry(entry));
                }
                self.batch.waiting.push(done);
                return result;
            }
            Request::Truncate(after, done) => {
                self.begin_batch();
                self.batch.frame.truncate(after);
                self.batch.changes.push(Change::Truncated);
                self.batch.waiting.push(done);
                self.tail.last = after;
            }
            Request::Purge(through, done) => {
                let result = self.flush().and_then(|()| self.purge(through));
                self.batch.waiting.push(done);
                return result.and_then(|()| self.flush());
            }
            Request::Vote(vote, done) => {
                let result = self.flush().and_then(|()| self.save_vote(vote));
                self.batch.waiting.push(done);
                return result.and_then(|()| self.flush());
            }
        }
        Ok(())
    }

    fn add_entry(&mut self, entry: &LogEntry) -> Result<(), StorageError> {
        if !self.batch.frame.is_empty()
            && self.batch.frame.len_with(entry.payload.len()) > BATCH_BYTES
        {
            self.write_batch()?;
        }
        self.begin_batch();
        let at = self.batch.frame.entry(entry);
        self.batch.changes.push(Change::Entry { index: entry.id.index, at });
        self.tail.last = Some(entry.id);
        Ok(())
    }

    fn begin_batch(&mut self) {
        if self.batch.frame.is_empty() {
            self.batch.before = self.tail.last;
        }
    }

    /// Makes everything added so far durable, and reports it.
    fn flush(&mut self) -> Result<(), StorageError> {
        if !self.batch.frame.is_empty() {
            self.write_batch()?;
        }
        self.report();
        Ok(())
    }

    fn report(&mut self) {
        for done in self.batch.waiting.drain(..) {
            done(Ok(()));
        }
    }

    fn write_batch(&mut self) -> Result<(), StorageError> {
        self.make_room(self.batch.frame.len())?;
        let segment = self.tail.segment.clone().expect("room was just made");
        let room = self.active().bytes - self.tail.offset;
        let committed = self.shared.core().committed;
        let (bytes, checksum) = self.batch.frame.seal(self.tail.place, committed);
        let len = bytes.len();
        // The bytes after the frame are blanked with it, so that an end can be distinguished from a
        // torn frame.
        bytes.resize(len + HEADER, 0);
        let written = &bytes[..bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
        let write = segment.file.write_at(written, self.tail.offset);
        write.map_err(StorageError::io("write", &segment.path))?;
        self.shared
            .timed(|| segment.file.sync_data())
            .map_err(StorageError::io("sync", &segment.path))?;
        let start = self.tail.offset;
        self.tail.offset += len as u64;
        self.tail.place.sequence += 1;
        self.tail.place.chain = checksum;
        self.tail.marked = false;
        self.publish(start);
        // Callers that wait only for entries of this batch need not wait for the next one.
        self.report();
        Ok(())
    }

    /// Publishes where the batch's entries are, and that they are durable.
    fn publish(&mut self, start: u64) {
        let segment = number(self.active());
        let start = usize::try_from(start).expect("a segment fits in memory");
        let largest = self.tail.largest.last_mut().expect("there is an active segment");
        let mut core = self.shared.core();
        for change in self.batch.changes.drain(..) {
            match change {
                Change::Truncated => core.index.truncated(),
                Change::Entry { index, at } => {
                    *largest = (*largest).max(Some(index));
                    let at = u32::try_from(start + at).expect("a segment is shorter than 4 GiB");
                    core.index.written(index, segment, at);
                }
            }
        }
        core.synced = self.tail.last;
        drop(core);
        self.count_log();
        self.shared.progress.notify_all();
    }

    /// Publishes how far the log is durable. File numbers are never reused, so the position after a
    /// jump that leaves no segment is past all earlier ones.
    fn count_log(&self) {
        let (file, place) = match &self.tail.segment {
            Some(_) => (self.active().file, self.tail.offset),
            None => (self.manifest.next_file, 0),
        };
        self.shared.promised.set_log((file << 32) | place);
    }

    fn active(&self) -> &SegmentMeta {
        self.manifest.segments.last().expect("there is an active segment")
    }

    /// Begins a new segment unless the active one has room for a frame.
    fn make_room(&mut self, frame: usize) -> Result<(), StorageError> {
        if self.tail.segment.is_some() && self.tail.offset + frame as u64 <= self.active().bytes {
            return Ok(());
        }
        let file = self.manifest.next_file;
        let bytes = self.files.size_for(frame);
        let segment = Arc::new(self.files.prepare(file, bytes)?);
        let salt = self.files.salt(file);
        let Place { sequence: first_sequence, chain, .. } = self.tail.place;
        let before = self.batch.before;
        let meta = SegmentMeta { file, bytes, salt, first_sequence, chain, before };
        let mut manifest = self.manifest.clone();
        manifest.next_file += 1;
        manifest.segments.push(meta);
        self.replace_manifest(manifest)?;
        self.shared.core().index.add_segment(number(&meta), segment.clone());
        self.tail.largest.push(None);
        self.tail.segment = Some(segment);
        self.tail.offset = 0;
        self.tail.place.salt = salt;
        Ok(())
    }

    fn replace_manifest(&mut self, mut manifest: Manifest) -> Result<(), StorageError> {
        manifest.committed = self.shared.core().committed;
        manifest.store(&*self.disk)?;
        self.manifest = manifest;
        Ok(())
    }

    /// Removes the entries up to `through`, which a durable snapshot covers, and the segments that
    /// hold nothing else.
    fn purge(&mut self, through: LogId) -> Result<(), StorageError> {
        let all = self.manifest.segments.len();
        let jump = self.tail.last.is_none_or(|last| last.index < through.index);
        let dropped = if jump {
            // The next entry does not continue the last one, so it begins a new segment.
            all
        } else {
            let largest = self.tail.largest.iter().take(all.saturating_sub(1));
            largest.take_while(|largest| **largest <= Some(through.index)).count()
        };
        let mut manifest = self.manifest.clone();
        manifest.purged = Some(through);
        let dropped: Vec<SegmentMeta> = manifest.segments.drain(..dropped).collect();
        self.replace_manifest(manifest)?;
        self.tail.largest.drain(..dropped.len());
        if jump {
            self.tail.segment = None;
            self.tail.offset = 0;
            self.tail.last = Some(through);
            self.shared.core().synced = Some(through);
            self.shared.progress.notify_all();
        }
        self.count_log();
        for meta in dropped {
            let dropped = self.shared.core().index.drop_segment(number(&meta));
            if let Some(Dropped { path, is_read }) = dropped {
                self.files.recycle(&path, is_read, meta.bytes)?;
            }
        }
        Ok(())
    }

    fn save_vote(&mut self, vote: Vote) -> Result<(), StorageError> {
        let shared = self.shared.clone();
        shared.timed(|| self.vote.save(vote))?;
        shared.promised.set_votes(self.vote.count());
        Ok(())
    }

    /// Ends the log cleanly with one more frame, so that damage to the last batch is distinguished
    /// from a torn tail when the log is opened again.
    pub(super) fn close(&mut self) {
        let failed = self.failed.is_some() || self.shared.core().failed.is_some();
        if failed || self.tail.marked || self.tail.segment.is_none() {
            return;
        }
        // If the segment is full, the mark is the first frame of the next one.
        self.begin_batch();
        self.batch.frame.mark();
        match self.write_batch() {
            Ok(()) => self.tail.marked = true,
            Err(error) => self.fail(error),
        }
    }

    fn fail(&mut self, error: StorageError) {
        let error = Arc::new(error);
        self.failed = Some(error.clone());
        self.shared.core().failed = Some(error.clone());
        self.shared.progress.notify_all();
        (self.shared.options.fatal)(&error);
    }
}

impl Request {
    /// The number of payload bytes that wait with it.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Append(entries, _) => entries.iter().map(|entry| entry.payload.len()).sum(),
            Self::Truncate(..) | Self::Purge(..) | Self::Vote(..) | Self::Nothing(_) => 0,
        }
    }

    pub(super) fn done(self) -> Done {
        match self {
            Self::Append(_, done)
            | Self::Truncate(_, done)
            | Self::Purge(_, done)
            | Self::Vote(_, done)
            | Self::Nothing(done) => done,
        }
    }
}
