//! The Raft log and the vote, on which every promise of the service rests.
//!
//! The log is a sequence of segment files (`log/segment-N`) named by a manifest (`log/manifest`);
//! the vote has a file of its own (`vote`). One thread writes: it drains the queue, writes the
//! requests as one frame, syncs once, and calls back in order. Readers never wait for it.
//!
//! The log promises:
//! - Everything reported done is there after a crash, or the log does not open and says which file
//!   is damaged where. The rule that distinguishes damage from the torn tail of a crash is in
//!   [`recovery`](self), with its limit: damage to the last frame alone, without a clean shutdown.
//! - Entries are contiguous. A truncation is a record in the log, so it is as durable and as
//!   ordered as the entries; a purge is a new manifest, which records the purged id, and only then
//!   are files released.
//! - After a failed write or sync, nothing is accepted and nothing is read.
//!
//! The log does not interpret payloads, knows terms only by their order, and repairs nothing but a
//! torn tail.
//!
//! Read on in `frame` (the bytes), `recovery` (opening), `writer` (writing), `index` (reading).

mod frame;
mod index;
pub mod inspect;
mod manifest;
mod recovery;
mod segments;
#[cfg(test)]
mod tests;
mod vote;
mod writer;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};

use self::index::{Index, Segment, Source};
use self::writer::{Request, Writer};
use super::{Disk, LogEntry, LogId, StorageError, Vote};
use crate::clock::{Clock, SystemClock};
use crate::limits::{APPLY_BYTES, SEGMENT_BYTES, SEND_BYTES};

/// The largest payload of an entry. Offsets within segments have 32 bits, and a batch has to fit in
/// memory a few times over.
pub const MAX_PAYLOAD_BYTES: usize = 256 << 20;

/// The number of bytes that may wait for the writer before [`Log::append`] blocks: a backstop
/// against a disk that stalls. The consensus layer has its own limits far below it.
const MAX_WAITING_BYTES: usize = 256 << 20;

/// The number of bytes of neighbouring entries that are read from a file at once.
const READ_AHEAD_BYTES: u64 = 1 << 20;

/// Called once, in the order of the calls, when the operation is durable or has failed.
pub type Done = Box<dyn FnOnce(Result<(), Arc<StorageError>>) + Send>;

/// Called when a write or sync has failed; the program ends the process here.
pub type Fatal = Arc<dyn Fn(&StorageError) + Send + Sync>;

/// Called after each sync with the time it took.
pub type OnSync = Arc<dyn Fn(Duration) + Send + Sync>;

/// Called with the number of entries read and the number of their bytes.
pub type OnRead = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// Called when a request has been queued for the writer.
pub type OnWaiting = Arc<dyn Fn() + Send + Sync>;

/// The thread that does the log's writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Drive {
    /// A thread owned by the log.
    #[default]
    Thread,
    /// The caller, before each call returns: for tests that sweep over every write.
    Inline,
    /// The caller of [`Log::drive`]: for a simulation that decides when the disk is done.
    /// [`LogOptions::on_waiting`] notifies it of waiting requests.
    Manual,
}

/// The log's options.
#[derive(Clone)]
pub struct LogOptions {
    /// The size of a segment file in bytes; a payload may be larger. 16 MiB is filled with zeros
    /// in some 20 ms, and a log of a few tens of thousands of entries has a handful of files.
    pub segment_bytes: u64,
    /// The number of bytes of recent payloads kept in memory: enough for followers that keep up, at
    /// any load. A follower that is a second behind has them read from the disk.
    pub cache_bytes: usize,
    /// The number of bytes read at once for applying, where a part of the range suffices.
    pub apply_bytes: usize,
    /// The number of bytes sent to a follower at once.
    pub send_bytes: usize,
    /// Called with the number of entries and bytes of each read that had to return its whole range.
    pub on_whole_read: OnRead,
    /// Called when a write or sync has failed.
    pub fatal: Fatal,
    /// Called after each sync of entries or of a vote.
    pub on_sync: OnSync,
    /// Called when a request has been queued for the writer.
    pub on_waiting: OnWaiting,
    /// The clock that measures syncs.
    pub clock: Arc<dyn Clock>,
    /// The thread that writes.
    pub drive: Drive,
    /// The seed of the salts that distinguish segments; `None` draws a random one.
    pub seed: Option<u64>,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: SEGMENT_BYTES,
            cache_bytes: 4 << 20,
            apply_bytes: APPLY_BYTES,
            send_bytes: SEND_BYTES,
            on_whole_read: Arc::new(|_, _| {}),
            fatal: Arc::new(|_| {}),
            on_sync: Arc::new(|_| {}),
            on_waiting: Arc::new(|| {}),
            clock: Arc::new(SystemClock),
            drive: Drive::Thread,
            seed: None,
        }
    }
}

/// The state found when the log was opened.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recovered {
    /// The vote, if one was ever saved.
    pub vote: Option<Vote>,
    /// The last commit hint that reached the disk: an entry the log holds, or the last purged one.
    pub committed: Option<LogId>,
    /// The last entry that was purged.
    pub purged: Option<LogId>,
    /// The last entry; the last purged one, if there is none after it.
    pub last: Option<LogId>,
    /// The repairs that were made, for the program's log.
    pub warnings: Vec<String>,
}

/// The bounds of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogState {
    /// The last entry that was purged.
    pub purged: Option<LogId>,
    /// The last entry; the last purged one, if there is none after it.
    pub last: Option<LogId>,
}

/// The promises a folder has made, as two numbers that only grow, each durable with the promise
/// that raised it. A folder with smaller numbers than it once reported has lost promises.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Promises {
    /// The number of times a vote was saved.
    pub votes: u64,
    /// The end of the last frame of the log: the number of its segment in the upper 32 bits, its
    /// offset there in the lower ones. A truncation and a purge past the end raise it, too.
    pub log: u64,
}

impl Promises {
    /// Whether a folder with these promises can have made `others`.
    pub fn cover(self, others: Self) -> bool {
        self.votes >= others.votes && self.log >= others.log
    }

    /// The larger of each number.
    #[must_use]
    pub fn max_with(self, others: Self) -> Self {
        Self { votes: self.votes.max(others.votes), log: self.log.max(others.log) }
    }
}

impl fmt::Display for Promises {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.votes, self.log)
    }
}

/// Reads the current promises without blocking.
#[derive(Clone, Debug, Default)]
pub struct PromiseCounter(Arc<(AtomicU64, AtomicU64)>);

impl PromiseCounter {
    /// The promises so far: at least those reported durable before the call.
    pub fn get(&self) -> Promises {
        Promises { votes: self.0.0.load(Ordering::Acquire), log: self.0.1.load(Ordering::Acquire) }
    }

    fn set_votes(&self, votes: u64) {
        self.0.0.store(votes, Ordering::Release);
    }

    fn set_log(&self, log: u64) {
        self.0.1.store(log, Ordering::Release);
    }
}

/// Upper bounds of the histogram of syncs: from a disk with a cache of its own to one that hangs.
pub const SYNC_BOUNDS: [Duration; 14] = [
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
];

/// The cost of syncing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SyncStats {
    /// The number of syncs that took no longer than each of [`SYNC_BOUNDS`].
    pub within: [u64; SYNC_BOUNDS.len()],
    /// The number of syncs.
    pub count: u64,
    /// The total time of all syncs.
    pub total: Duration,
    /// The time of the last sync.
    pub last: Duration,
}

/// A handle on the log; clones share it. When the last one is dropped, the log finishes the waiting
/// requests and is closed.
#[derive(Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

/// Watches which entries are durable; does not keep the log open.
#[derive(Clone)]
pub struct SyncWatch {
    shared: Arc<Shared>,
}

impl SyncWatch {
    /// Blocks until the entry at `index` is durable. Returns `false` if the log was closed or
    /// failed first.
    pub fn wait_synced(&self, index: u64) -> bool {
        let mut core = self.shared.core();
        loop {
            if core.synced.is_some_and(|synced| synced.index >= index) {
                return true;
            }
            if core.failed.is_some() || core.closing {
                return false;
            }
            self.shared.progress.wait(&mut core);
        }
    }
}

struct Inner {
    shared: Arc<Shared>,
    /// The writer, unless a thread owns it.
    writer: Mutex<Option<Writer>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The state shared by handles and writer.
struct Shared {
    options: LogOptions,
    promised: PromiseCounter,
    core: Mutex<Core>,
    /// The writer waits here for work. The standard library's condition variable would make a
    /// system call for each notification, even when no thread waits.
    work: Condvar,
    /// Others wait here for the writer.
    progress: Condvar,
}

struct Core {
    index: Index,
    queue: VecDeque<Request>,
    /// Bytes that were handed to the writer and are not finished.
    waiting_bytes: usize,
    committed: Option<LogId>,
    vote: Option<Vote>,
    synced: Option<LogId>,
    failed: Option<Arc<StorageError>>,
    closing: bool,
    stats: SyncStats,
}

impl Log {
    /// Opens the log of a data folder, creating an empty one if there is none. Its contents are
    /// durable when this returns.
    ///
    /// # Errors
    /// When the log cannot be used: damage, a missing file, a disk that fails.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: LogOptions,
    ) -> Result<(Self, Recovered), StorageError> {
        let drive = options.drive;
        let (writer, recovered) = recovery::open(disk, options)?;
        let shared = writer.shared.clone();
        let (writer, thread) = match drive {
            Drive::Inline | Drive::Manual => (Some(writer), None),
            Drive::Thread => (None, Some(spawn(writer)?)),
        };
        let (writer, thread) = (Mutex::new(writer), Mutex::new(thread));
        Ok((Self { inner: Arc::new(Inner { shared, writer, thread }) }, recovered))
    }

    /// Appends entries that continue the log. They can be read when this returns; `done` is called
    /// once they are durable. If they do not continue the log, all of them are refused.
    ///
    /// Blocks only while hundreds of MiB wait for the disk.
    pub fn append(
        &self,
        entries: Vec<LogEntry>,
        done: impl FnOnce(Result<(), Arc<StorageError>>) + Send + 'static,
    ) {
        self.inner.submit(Box::new(done), |core, done| {
            let Some(first) = entries.first() else { return Ok(Request::Nothing(done)) };
            if let Err(why) = continues(&core.index, first, &entries) {
                return Err((StorageError::Misuse(why), done));
            }
            for entry in &entries {
                core.index.append(entry);
            }
            Ok(Request::Append(entries, done))
        });
    }

    /// The entries from `from` up to, but not including, `to`: every one that the log holds, in
    /// memory at once. The caller bounds their number; a caller that can proceed piece by piece
    /// uses [`Log::read_some`].
    ///
    /// # Errors
    /// When an entry cannot be read, or is not what was written.
    pub fn read_all(&self, from: u64, to: u64) -> Result<Vec<LogEntry>, StorageError> {
        self.read_some(from, to, usize::MAX)
    }

    /// The first of the entries from `from` up to, but not including, `to`: as many as have
    /// `max_bytes` of payload together, and at least one if there is one. The caller calls again
    /// for the rest.
    ///
    /// # Errors
    /// When an entry cannot be read, or is not what was written.
    pub fn read_some(
        &self,
        from: u64,
        to: u64,
        max_bytes: usize,
    ) -> Result<Vec<LogEntry>, StorageError> {
        let sources = {
            let mut core = self.inner.shared.core();
            if let Some(failed) = &core.failed {
                return Err(StorageError::Failed(failed.clone()));
            }
            core.index.sources(from, to, max_bytes)?
        };
        read_sources(&sources)
    }

    /// The size in bytes of the entries that the log holds after `after`, up to and including
    /// `through`.
    pub fn bytes_between(&self, after: Option<u64>, through: u64) -> u64 {
        self.inner.shared.core().index.bytes_between(after, through)
    }

    /// The last entry before those that end with `through` and have at most `max_bytes` together.
    /// `None` if there is none: all entries together do not exceed it.
    pub fn before_bytes(&self, through: u64, max_bytes: u64) -> Option<u64> {
        self.inner.shared.core().index.before_bytes(through, max_bytes)
    }

    /// The log's options.
    pub(crate) fn options(&self) -> &LogOptions {
        &self.inner.shared.options
    }

    /// The id of an entry that the log holds, or of the last purged one.
    pub fn id_at(&self, index: u64) -> Option<LogId> {
        self.inner.shared.core().index.id_at(index)
    }

    /// Saves the vote, after everything appended before. A vote that takes back the last one saved
    /// is refused: this node could vote twice in a term.
    pub fn save_vote(
        &self,
        vote: Vote,
        done: impl FnOnce(Result<(), Arc<StorageError>>) + Send + 'static,
    ) {
        self.inner.submit(Box::new(done), |core, done| {
            if let Some(last) = core.vote.filter(|last| takes_back(*last, vote)) {
                let why = format!("{vote:?} would take back {last:?}");
                return Err((StorageError::Misuse(why), done));
            }
            core.vote = Some(vote);
            Ok(Request::Vote(vote, done))
        });
    }

    /// The last vote saved, durable or not.
    pub fn vote(&self) -> Option<Vote> {
        self.inner.shared.core().vote
    }

    /// Records the last committed entry: it is written with the next batch and costs no write of
    /// its own.
    pub fn save_committed(&self, id: Option<LogId>) {
        self.inner.shared.core().committed = id;
    }

    /// The committed entry last recorded.
    pub fn committed(&self) -> Option<LogId> {
        self.inner.shared.core().committed
    }

    /// Removes every entry after `last`, which the log must hold or have purged; `None` removes
    /// all. Readers do not see them once this returns.
    pub fn truncate_after(
        &self,
        last: Option<LogId>,
        done: impl FnOnce(Result<(), Arc<StorageError>>) + Send + 'static,
    ) {
        self.inner.submit(Box::new(done), |core, done| {
            // Purged entries are committed, and only a purge may remove them.
            let purged = core.index.purged();
            let last = if last.map(|last| last.index) < purged.map(|purged| purged.index) {
                purged
            } else {
                last
            };
            let end = core.index.last();
            if last.is_some_and(|last| core.index.id_at(last.index).is_some_and(|id| id != last)) {
                let why = format!("the log holds another entry than {last:?} there");
                return Err((StorageError::Misuse(why), done));
            }
            if end.map(|end| end.index) <= last.map(|last| last.index) {
                return Ok(Request::Nothing(done));
            }
            core.index.truncate(last);
            Ok(Request::Truncate(last, done))
        });
    }

    /// Removes every entry up to and including `through`, which may lie past the last one (after a
    /// snapshot was installed). The caller has a durable snapshot that covers them.
    pub fn purge(
        &self,
        through: LogId,
        done: impl FnOnce(Result<(), Arc<StorageError>>) + Send + 'static,
    ) {
        self.inner.submit(Box::new(done), |core, done| {
            if core.index.purged().is_some_and(|purged| purged.index >= through.index) {
                return Ok(Request::Nothing(done));
            }
            if core.index.id_at(through.index).is_some_and(|id| id != through) {
                let why = format!("the log holds another entry than {through} there");
                return Err((StorageError::Misuse(why), done));
            }
            core.index.purge(through);
            Ok(Request::Purge(through, done))
        });
    }

    /// The bounds of the log now, durable or not.
    pub fn state(&self) -> LogState {
        let core = self.inner.shared.core();
        LogState { purged: core.index.purged(), last: core.index.last() }
    }

    /// The last entry that is durable.
    pub fn synced(&self) -> Option<LogId> {
        self.inner.shared.core().synced
    }

    /// Returns a watch of the durable entries that does not keep the log open.
    pub fn watch(&self) -> SyncWatch {
        SyncWatch { shared: self.inner.shared.clone() }
    }

    /// Blocks until the entry at `index` is durable. Returns `false` if the log was closed or
    /// failed first.
    pub fn wait_synced(&self, index: u64) -> bool {
        self.watch().wait_synced(index)
    }

    /// Returns the counter of durable promises.
    pub fn promised(&self) -> PromiseCounter {
        self.inner.shared.promised.clone()
    }

    /// The cost of syncing so far.
    pub fn sync_stats(&self) -> SyncStats {
        self.inner.shared.core().stats
    }

    /// Under [`Drive::Manual`]: processes the waiting requests. Returns whether there were any.
    pub fn drive(&self) -> bool {
        self.inner.drive()
    }

    /// Ends the log as a crash of the process would: waiting requests are not written, and are
    /// reported as failed.
    pub fn abandon(&self) {
        let mut core = self.inner.shared.core();
        core.failed.get_or_insert_with(|| Arc::new(StorageError::Closed));
        let waiting = std::mem::take(&mut core.queue);
        core.waiting_bytes = 0;
        drop(core);
        for request in waiting {
            request.done()(Err(Arc::new(StorageError::Closed)));
        }
        self.inner.close();
    }

    /// Finishes the waiting requests, then ends the writer; later requests are refused. Dropping
    /// the last handle does the same.
    pub fn close(&self) {
        self.inner.close();
    }
}

impl Inner {
    /// Runs `enter`, which checks a request and changes the index, and queues the result. Both
    /// happen under one lock, so that index and queue have the same order.
    fn submit(
        &self,
        done: Done,
        enter: impl FnOnce(&mut Core, Done) -> Result<Request, (StorageError, Done)>,
    ) {
        let mut core = self.shared.core();
        while core.waiting_bytes > MAX_WAITING_BYTES && core.failed.is_none() && !core.closing {
            self.shared.progress.wait(&mut core);
        }
        let refused = match &core.failed {
            Some(failed) => Some(StorageError::Failed(failed.clone())),
            None => core.closing.then_some(StorageError::Closed),
        };
        let entered = match refused {
            Some(error) => Err((error, done)),
            None => enter(&mut core, done),
        };
        match entered {
            Ok(request) => {
                core.waiting_bytes += request.bytes();
                core.queue.push_back(request);
                drop(core);
                self.shared.work.notify_one();
                (self.shared.options.on_waiting)();
                if self.shared.options.drive == Drive::Inline {
                    self.drive();
                }
            }
            Err((error, done)) => {
                drop(core);
                done(Err(Arc::new(error)));
            }
        }
    }

    fn drive(&self) -> bool {
        let mut worked = false;
        loop {
            // The writer is held by another thread, or by this one further up the stack (a callback
            // that calls the log): that holder finds the queued request, at the latest when it has
            // released the writer.
            match self.writer.try_lock() {
                None => return worked,
                Some(mut writer) => {
                    let Some(writer) = writer.as_mut() else { return worked };
                    while self.shared.work_off(writer) {
                        worked = true;
                    }
                }
            }
            if self.shared.core().queue.is_empty() {
                return worked;
            }
        }
    }

    fn close(&self) {
        self.drive();
        self.shared.core().closing = true;
        self.shared.work.notify_all();
        self.shared.progress.notify_all();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.thread().id() != thread::current().id()
        {
            // A panic in a callback has been reported by the panic hook already.
            drop(thread.join());
        }
        let writer = self.writer.lock().take();
        if let Some(mut writer) = writer {
            while self.shared.work_off(&mut writer) {}
            writer.close();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn new(
        options: LogOptions,
        index: Index,
        vote: Option<Vote>,
        committed: Option<LogId>,
    ) -> Self {
        let synced = index.last();
        let core = Core {
            index,
            queue: VecDeque::new(),
            waiting_bytes: 0,
            committed,
            vote,
            synced,
            failed: None,
            closing: false,
            stats: SyncStats::default(),
        };
        Self {
            options,
            promised: PromiseCounter::default(),
            core: Mutex::new(core),
            work: Condvar::new(),
            progress: Condvar::new(),
        }
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock()
    }

    /// Runs a sync and counts it.
    fn timed<T>(&self, sync: impl FnOnce() -> T) -> T {
        let clock = &self.options.clock;
        let begin = clock.raw();
        let result = sync();
        let took = clock.raw().saturating_sub(begin);
        let mut core = self.core();
        core.stats.count += 1;
        core.stats.total += took;
        core.stats.last = took;
        for (bound, count) in SYNC_BOUNDS.iter().zip(&mut core.stats.within) {
            *count += u64::from(took <= *bound);
        }
        drop(core);
        (self.options.on_sync)(took);
        result
    }

    /// Lets the writer process the queue. Returns whether there was anything in it.
    fn work_off(&self, writer: &mut Writer) -> bool {
        let requests = std::mem::take(&mut self.core().queue);
        if requests.is_empty() {
            return false;
        }
        let bytes: usize = requests.iter().map(Request::bytes).sum();
        writer.process(requests);
        let mut core = self.core();
        core.waiting_bytes = core.waiting_bytes.saturating_sub(bytes);
        drop(core);
        self.progress.notify_all();
        true
    }
}

fn spawn(mut writer: Writer) -> Result<JoinHandle<()>, StorageError> {
    let run = move || {
        let shared = writer.shared.clone();
        loop {
            let mut core = shared.core();
            while core.queue.is_empty() && !core.closing {
                shared.work.wait(&mut core);
            }
            drop(core);
            if !shared.work_off(&mut writer) {
                return writer.close();
            }
        }
    };
    thread::Builder::new()
        .name("keyward-log".to_owned())
        .spawn(run)
        .map_err(StorageError::io("start the thread that writes", manifest::FOLDER))
}

/// Whether a vote takes back an earlier one. Within a term, a vote is replaced only by one that a
/// majority has given.
fn takes_back(last: Vote, vote: Vote) -> bool {
    let other = vote.node != last.node && (last.committed || !vote.committed);
    vote.term < last.term || (vote.term == last.term && other)
}

fn continues(index: &Index, first: &LogEntry, entries: &[LogEntry]) -> Result<(), String> {
    index.may_follow(first.id)?;
    let mut before = first.id;
    for entry in &entries[1..] {
        if entry.id.index != before.index + 1 || entry.id.term < before.term {
            return Err(format!("entry {} does not follow {before}", entry.id));
        }
        before = entry.id;
    }
    match entries.iter().find(|entry| entry.payload.len() > MAX_PAYLOAD_BYTES) {
        Some(entry) => Err(format!("the payload of entry {} is too large", entry.id)),
        None => Ok(()),
    }
}

fn read_sources(sources: &[(LogId, Source)]) -> Result<Vec<LogEntry>, StorageError> {
    let mut entries = Vec::with_capacity(sources.len());
    let mut ahead = ReadAhead::default();
    for (at, (id, source)) in sources.iter().enumerate() {
        let payload = match source {
            Source::Cached(payload) => payload.clone(),
            Source::Stored { segment, offset, len } => {
                let end = offset + (frame::RECORD_HEADER + len) as u64;
                if !ahead.covers(segment, *offset, end) {
                    ahead.fill(segment, *offset, span(&sources[at..], segment, *offset))?;
                }
                ahead.payload(*id, *offset)?
            }
        };
        entries.push(LogEntry { id: *id, payload });
    }
    Ok(entries)
}

/// The end of a read that begins at `offset`, chosen so that it includes the entries next to it.
fn span(sources: &[(LogId, Source)], of: &Arc<Segment>, offset: u64) -> u64 {
    let mut end = offset;
    for (_, source) in sources {
        match source {
            Source::Stored { segment, offset: at, len } if Arc::ptr_eq(segment, of) => {
                let next = at + (frame::RECORD_HEADER + len) as u64;
                if *at < end || (end > offset && next - offset > READ_AHEAD_BYTES) {
                    break;
                }
                end = next;
            }
            Source::Stored { .. } | Source::Cached(_) => break,
        }
    }
    end
}

/// A part of a segment file in memory.
#[derive(Default)]
struct ReadAhead {
    segment: Option<Arc<Segment>>,
    offset: u64,
    bytes: Vec<u8>,
}

impl ReadAhead {
    fn covers(&self, segment: &Arc<Segment>, offset: u64, end: u64) -> bool {
        self.segment.as_ref().is_some_and(|read| Arc::ptr_eq(read, segment))
            && offset >= self.offset
            && end <= self.offset + self.bytes.len() as u64
    }

    fn fill(&mut self, segment: &Arc<Segment>, offset: u64, end: u64) -> Result<(), StorageError> {
        self.bytes.resize(usize::try_from(end - offset).expect("it fits in memory"), 0);
        let read = segment.file.read_at(&mut self.bytes, offset);
        let read = read.map_err(StorageError::io("read", &segment.path))?;
        self.bytes.truncate(read);
        self.offset = offset;
        self.segment = Some(segment.clone());
        Ok(())
    }

    fn payload(&self, id: LogId, offset: u64) -> Result<Bytes, StorageError> {
        let at = usize::try_from(offset - self.offset).expect("it was covered");
        let found = frame::Found::parse(&self.bytes, at);
        match found {
            Some(found) if found.record == frame::Record::Entry(id) => {
                Ok(Bytes::copy_from_slice(&self.bytes[found.payload]))
            }
            _ => {
                let path = self.segment.as_ref().map_or("", |segment| &segment.path);
                let what = format!("entry {id} is not there as it was written");
                Err(StorageError::damaged(path, offset, what))
            }
        }
    }
}
