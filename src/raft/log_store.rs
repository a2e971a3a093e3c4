//! openraft's log over [`storage::Log`].
//!
//! It adds no promises to those of the log: an append is reported when it is durable, and a failure
//! is passed on and never retried, after which openraft stops and the process ends.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use futures::Stream;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::oneshot;

use crate::limits::SEND_BYTES;
use crate::raft::codec::{self, APPEND_BYTES, MAX_ENTRY_BYTES};
use crate::raft::config::SEND_ENTRIES;
use crate::raft::peer::MAX_MESSAGE_BYTES;
use crate::raft::types::{
    Entry, LogId, TypeConfig, Vote, raft_log_id, raft_vote, stored_log_id, stored_vote,
};
use crate::storage::{self, FolderLock, StorageError};

/// The most entries that are read at once for applying.
const APPLY_ENTRIES: u64 = 512;

const _: () = {
    let payloads = if SEND_BYTES > MAX_ENTRY_BYTES { SEND_BYTES } else { MAX_ENTRY_BYTES };
    let others = (SEND_ENTRIES + 1) * APPEND_BYTES;
    assert!(payloads + others <= MAX_MESSAGE_BYTES, "whatever is read to be sent is one message");
};

/// The implementation of openraft's log. Clones share it.
#[derive(Clone)]
pub(crate) struct LogStore {
    log: storage::Log,
    /// The folder lock, held while openraft can write to the folder.
    _folder: Option<Arc<FolderLock>>,
}

impl LogStore {
    /// Creates the store. `folder` is the lock on the data folder; a disk in memory has none.
    pub(crate) fn new(log: storage::Log, folder: Option<Arc<FolderLock>>) -> Self {
        Self { log, _folder: folder }
    }

    /// Reads every entry that the log holds from `from` up to, but not including, `to`.
    fn read_all(&self, from: u64, to: u64) -> io::Result<Vec<Entry>> {
        let options = self.log.options();
        let entries = self.log.read_all(from, to).map_err(io::Error::other)?;
        let bytes: usize = entries.iter().map(|entry| entry.payload.len()).sum();
        (options.on_whole_read)(entries.len() as u64, bytes as u64);
        entries.iter().map(decode).collect()
    }

    /// Reads the first of these, with at most `max_bytes` together, but at least one if there is
    /// one.
    fn read_some(&self, from: u64, to: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let entries = self.log.read_some(from, to, max_bytes).map_err(io::Error::other)?;
        entries.iter().map(decode).collect()
    }
}

/// Decodes an entry. One that does not decode stops the node: it is never skipped.
fn decode(entry: &storage::LogEntry) -> io::Result<Entry> {
    let payload = codec::decode_payload(&entry.payload).map_err(|error| {
        let what = format!("log entry {} does not decode: {error}", entry.id);
        io::Error::new(io::ErrorKind::InvalidData, what)
    })?;
    Ok(Entry { log_id: raft_log_id(entry.id), payload })
}

/// Converts `range` to a half-open range of indexes.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(index) => *index,
        Bound::Excluded(index) => index.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(index) => index.saturating_add(1),
        Bound::Excluded(index) => *index,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        // openraft treats missing entries at the end as nonexistent: at a start it would refuse to
        // continue, or miss the newest membership. Its ranges have 64 entries.
        let (from, to) = bounds(&range);
        self.read_all(from, to)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let entries = self.read_some(start, end, self.log.options().send_bytes)?;
        // Entries that were purged between openraft's look and this read leave a gap: what is left
        // does not follow what the message names, and a follower's log would refuse it and stop.
        // Of none openraft makes a heartbeat, and finds out by itself that it needs a snapshot.
        let follows = entries.first().is_none_or(|first| first.log_id.index() == start);
        Ok(if follows { entries } else { Vec::new() })
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<Entry>> + Send
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (from, to) = bounds(&range);
        let log = self.clone();
        let chunks = futures::stream::unfold(from, move |next| {
            let end = to.min(next.saturating_add(APPLY_ENTRIES));
            let bytes = log.log.options().apply_bytes;
            let chunk = (next < to).then(|| log.read_some(next, end, bytes));
            async move {
                match chunk? {
                    Ok(entries) => {
                        let last = entries.last()?.log_id.index();
                        Some((entries.into_iter().map(Ok).collect(), last + 1))
                    }
                    // Nothing follows an error.
                    Err(error) => Some((vec![Err(error)], u64::MAX)),
                }
            }
        });
        futures::StreamExt::flat_map(Box::pin(chunks), futures::stream::iter)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.log.vote().map(raft_vote))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let state = self.log.state();
        Ok(LogState {
            last_purged_log_id: state.purged.map(raft_log_id),
            last_log_id: state.last.map(raft_log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        // A vote is valid only once it is durable, so this waits; earlier appends are durable then,
        // too.
        durable(|done| self.log.save_vote(stored_vote(vote), done)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.log.save_committed(committed.as_ref().map(stored_log_id));
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.log.committed().map(raft_log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries = entries
            .into_iter()
            .map(|entry| storage::LogEntry {
                id: stored_log_id(&entry.log_id),
                payload: codec::encode_payload(&entry.payload),
            })
            .collect();
        self.log.append(entries, |result| {
            callback.io_completed(result.map_err(io::Error::other));
        });
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let last = last.as_ref().map(stored_log_id);
        durable(|done| self.log.truncate_after(last, done)).await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        durable(|done| self.log.purge(stored_log_id(&log_id), done)).await
    }
}

type Done = Box<dyn FnOnce(Result<(), Arc<StorageError>>) + Send>;

/// Starts an operation and waits until it is durable.
async fn durable(start: impl FnOnce(Done)) -> io::Result<()> {
    let (sender, receiver) = oneshot::channel();
    start(Box::new(move |result| {
        // The receiver is gone only when the whole node is being torn down.
        let _ = sender.send(result);
    }));
    match receiver.await {
        Ok(result) => result.map_err(io::Error::other),
        Err(_) => Err(io::Error::other("the log was closed")),
    }
}

#[cfg(test)]
mod tests;
