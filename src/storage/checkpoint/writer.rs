//! The thread that writes to the checkpoint, behind apply.
//!
//! It collects changes for an interval, takes the oldest group, waits until the log has synced the
//! entry it is as of, and writes it as one batch. While it writes, new changes are collected, at
//! most one value per record and group. It is idle while nothing changes.

use std::sync::PoisonError;

use super::store::{self, Parked, Store};
use super::{Change, CheckpointMeta, Group, Shared, Waiting};
use crate::storage::log::SyncWatch;

/// The complete new contents, which replace those of the checkpoint.
pub(super) struct Refill {
    pub(super) meta: CheckpointMeta,
    pub(super) records: Box<dyn Iterator<Item = (Vec<u8>, Vec<u8>)> + Send>,
}

/// More changes than one batch should hold.
pub(super) struct Many {
    pub(super) meta: CheckpointMeta,
    pub(super) changes: Box<dyn Iterator<Item = Change> + Send>,
}

/// The next task of the writer.
enum Work {
    Refill(Refill),
    Many(Many),
    Changes(Group),
    /// Nothing has changed for a while.
    Park,
}

/// The state of the writer's database.
enum Held {
    Open(Store),
    Parked(Parked),
    /// A refill was interrupted: there is no database to add changes to.
    Nothing,
}

/// Writes until the checkpoint is closed or sled fails.
pub(super) fn run(shared: &Shared, log: &SyncWatch, store: Store) {
    let mut held = Held::Open(store);
    let mut failed = false;
    while !failed && let Some(work) = next(shared, matches!(held, Held::Open(_))) {
        let written = store::guarded(|| write(shared, log, &mut held, work));
        let mut waiting = shared.lock();
        waiting.writing = false;
        if let Err(reason) = written {
            tracing::error!(%reason, "the checkpoint failed; it is given up until the next start");
            waiting.clear();
            waiting.failed = Some(reason);
            failed = true;
        }
        drop(waiting);
        shared.progress.notify_all();
    }
    // Closing sled writes what it still holds, and may fail in its own ways.
    let closed = store::guarded(|| match held {
        Held::Open(store) => store.close(),
        Held::Parked(_) | Held::Nothing => Ok(()),
    });
    if failed {
        store::remove(&shared.options.folder).unwrap_or_else(|error| {
            tracing::error!(%error, "the failed checkpoint cannot be removed");
        });
    } else if let Err(reason) = closed {
        tracing::warn!(%reason, "the checkpoint did not close cleanly");
    }
}

/// Waits for a task; `None` when there is none and the checkpoint is closed.
fn next(shared: &Shared, is_open: bool) -> Option<Work> {
    let mut waiting = shared.lock();
    let idle = |waiting: &mut Waiting| !waiting.has_work() && !waiting.closing;
    if is_open {
        let waited = shared.work.wait_timeout_while(waiting, shared.options.park_after, idle);
        waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
        if idle(&mut waiting) {
            waiting.writing = true;
            return Some(Work::Park);
        }
    } else {
        let waited = shared.work.wait_while(waiting, idle);
        waiting = waited.unwrap_or_else(PoisonError::into_inner);
    }
    let gather = |waiting: &mut Waiting| {
        let whole = waiting.refill.is_some() || waiting.many.is_some();
        !waiting.hurry && !waiting.closing && !whole && waiting.groups.len() < 2
    };
    let gathered = shared.work.wait_timeout_while(waiting, shared.options.interval, gather);
    let mut waiting = gathered.unwrap_or_else(PoisonError::into_inner).0;
    waiting.hurry &= waiting.groups.len() > 1;
    waiting.writing = waiting.has_work();
    if let Some(refill) = waiting.refill.take() {
        return Some(Work::Refill(refill));
    }
    if let Some(many) = waiting.many.take() {
        return Some(Work::Many(many));
    }
    let group = waiting.groups.pop_front();
    waiting.changes -= group.as_ref().map_or(0, |group| group.changes.len());
    drop(waiting);
    shared.progress.notify_all();
    group.map(Work::Changes)
}

/// Runs one task. A task that fails half-way leaves [`Held::Nothing`].
fn write(shared: &Shared, log: &SyncWatch, held: &mut Held, work: Work) -> Result<(), String> {
    let options = &shared.options;
    match work {
        Work::Park => {
            if let Held::Open(store) = std::mem::replace(held, Held::Nothing) {
                *held = Held::Parked(store.park()?);
            }
        }
        Work::Changes(Group { meta, changes }) => {
            if let Some(mut store) = open_for(shared, log, held, &meta)? {
                store.write(&meta, changes)?;
                *held = Held::Open(store);
            }
        }
        Work::Many(Many { meta, changes }) => {
            if let Some(mut store) = open_for(shared, log, held, &meta)? {
                store.write_many(&meta, changes)?;
                *held = Held::Open(store);
            }
        }
        Work::Refill(refill) => {
            if let Held::Open(old) = std::mem::replace(held, Held::Nothing) {
                old.close()?;
            }
            let mut fresh = Store::create(options)?;
            let stop = || {
                let waiting = shared.lock();
                waiting.closing || waiting.refill.is_some()
            };
            if fresh.fill(&refill.meta, refill.records, stop)? {
                *held = Held::Open(fresh);
            }
        }
    }
    Ok(())
}

/// Takes the database to write changes to out of [`Held`], once the log has synced the entry they
/// are as of. Returns `None` if it never will, or if there is no database to add changes to.
fn open_for(
    shared: &Shared,
    log: &SyncWatch,
    held: &mut Held,
    meta: &CheckpointMeta,
) -> Result<Option<Store>, String> {
    // A checkpoint ahead of the log would be as of an entry that the log may lose.
    if !log.wait_synced(meta.applied.index) {
        return Ok(None);
    }
    match std::mem::replace(held, Held::Nothing) {
        Held::Open(store) => Ok(Some(store)),
        Held::Parked(parked) => parked.resume(&shared.options).map(Some),
        Held::Nothing => Ok(None),
    }
}
