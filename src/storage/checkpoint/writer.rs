//! The thread that writes behind apply.
//!
//! It gathers for an interval, takes the oldest group of changes, waits until the log has synced the
//! entry it is as of, and writes it as one batch. While it writes, changes gather again, at most one
//! value per record and group. It does nothing while nothing changes.

use std::sync::PoisonError;

use super::store::{self, Store};
use super::{CheckpointMeta, Group, Shared, Waiting};
use crate::storage::log::SyncWatch;

/// Everything there is to be, instead of what the checkpoint holds.
pub(super) struct Refill {
    pub(super) meta: CheckpointMeta,
    pub(super) records: Box<dyn Iterator<Item = (Vec<u8>, Vec<u8>)> + Send>,
}

/// What the writer takes at once.
enum Work {
    Refill(Refill),
    Changes(Group),
}

/// Writes until the checkpoint is closed or sled fails.
pub(super) fn run(shared: &Shared, log: &SyncWatch, store: Store) {
    let mut store = Some(store);
    while let Some(work) = next(shared) {
        let written = store::guarded(|| write(shared, log, &mut store, work));
        let mut waiting = shared.lock();
        waiting.writing = false;
        if let Err(reason) = written {
            tracing::error!(%reason, "the checkpoint failed; it is given up until the next start");
            waiting.failed = Some(reason);
            waiting.clear();
        }
        let failed = waiting.failed.is_some();
        drop(waiting);
        shared.progress.notify_all();
        if failed {
            break;
        }
    }
    let failed = shared.lock().failed.is_some();
    // Closing sled writes what it still holds, and may fail in its own ways.
    let closed = store::guarded(|| store.take().map_or(Ok(()), Store::close));
    if failed {
        store::remove(&shared.options.folder).unwrap_or_else(|error| {
            tracing::error!(%error, "the failed checkpoint cannot be removed");
        });
    } else if let Err(reason) = closed {
        tracing::warn!(%reason, "the checkpoint did not close cleanly");
    }
}

/// Waits for work; `None` when there is none and the checkpoint is closed.
fn next(shared: &Shared) -> Option<Work> {
    let mut waiting = shared.lock();
    while !waiting.has_work() && !waiting.closing {
        waiting = shared.work.wait(waiting).unwrap_or_else(PoisonError::into_inner);
    }
    let gather = |waiting: &mut Waiting| {
        !waiting.hurry && !waiting.closing && waiting.refill.is_none() && waiting.groups.len() < 2
    };
    let interval = shared.options.interval;
    let gathered = shared.work.wait_timeout_while(waiting, interval, gather);
    let mut waiting = gathered.unwrap_or_else(PoisonError::into_inner).0;
    waiting.hurry &= waiting.groups.len() > 1;
    waiting.writing = true;
    if let Some(refill) = waiting.refill.take() {
        return Some(Work::Refill(refill));
    }
    let group = waiting.groups.pop_front();
    waiting.changes -= group.as_ref().map_or(0, |group| group.changes.len());
    waiting.writing = group.is_some();
    drop(waiting);
    shared.progress.notify_all();
    group.map(Work::Changes)
}

fn write(
    shared: &Shared,
    log: &SyncWatch,
    store: &mut Option<Store>,
    work: Work,
) -> Result<(), String> {
    match work {
        Work::Changes(Group { meta, changes }) => {
            // A checkpoint ahead of the log would be as of an entry that the log may lose.
            if !log.wait_synced(meta.applied.index) {
                return Ok(());
            }
            // A refill that was cut short has left nothing that changes could be added to.
            store.as_mut().map_or(Ok(()), |store| store.write(&meta, changes))
        }
        Work::Refill(refill) => {
            if let Some(old) = store.take() {
                old.close()?;
            }
            let mut fresh = Store::create(&shared.options)?;
            let stop = || {
                let waiting = shared.lock();
                waiting.closing || waiting.refill.is_some()
            };
            if fresh.fill(&refill.meta, refill.records, stop)? {
                *store = Some(fresh);
            }
            Ok(())
        }
    }
}
