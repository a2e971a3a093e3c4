//! Feeds the checkpoint: takes the changes between two entries and submits them.
//!
//! It has a thread of its own, because submitting waits while the disk is behind. It delays no
//! entry: it takes a list of keys and a clone of the state, and encodes the records concurrently
//! with apply. It paces itself by the time that writing took, so that it never uses more than a
//! small share of a core. Changes in the meantime are taken together the next time: a record that
//! changed often is written once, and one that came and went not at all. The checkpoint is a copy:
//! a failure is logged once and the node goes on without it; the next start replays the log
//! instead.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::clock::{Clock as _, SystemClock};
use crate::lock::{Changed, Counts, State};
use crate::raft::codec;
use crate::raft::state_machine::{Machine, Replica};
use crate::raft::types::{LogId, SnapshotMeta, stored_log_id};
use crate::storage::checkpoint::{CheckpointMeta, MAX_RECORD_BYTES};
use crate::storage::{Checkpoint, StorageError};
use crate::types::MAX_NAME_BYTES;

/// The shortest and the longest time for which changes are collected. Unwritten changes are
/// replayed from the log after a crash: a second of it at a low rate of changes, half a minute when
/// each of a hundred thousand locks is renewed in that time.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

/// The rest between these limits, as a multiple of the time that writing took: it uses a twentieth
/// of a core.
const REST: u32 = 20;

/// The number of changes that are written as one atomic batch. A longer list is written in several,
/// because sled's memory grows with a batch; a crash in the middle discards the checkpoint.
const AT_ONCE: usize = 1024;

/// The number of records buffered between the walk over the state and the thread that writes them.
const REFILL_WINDOW: usize = 1024;

/// A key has two names, the value of a grant two more.
const _: () = assert!(4 * MAX_NAME_BYTES + 128 <= MAX_RECORD_BYTES, "sled keeps records in pages");

/// The feeding thread. It ends when this is dropped, after submitting the remaining changes.
pub(crate) struct Feeder {
    bell: Sender<()>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Notifies the thread that there may be changes.
#[derive(Clone)]
pub(crate) struct Bell(Sender<()>);

impl Bell {
    pub(crate) fn ring(&self) {
        // Full: a notification is pending. Disconnected: the checkpoint has failed, which was
        // logged.
        let _ = self.0.try_send(());
    }
}

/// Creates a bell and its receiver.
pub(crate) fn bell() -> (Bell, Receiver<()>) {
    let (sender, receiver) = bounded(1);
    (Bell(sender), receiver)
}

impl Feeder {
    /// Starts to feed `checkpoint`, which contains the state of generation `fed`.
    pub(crate) fn start(
        replica: Arc<Replica>,
        checkpoint: Checkpoint,
        (bell, heard): (Bell, Receiver<()>),
        fed: Option<u64>,
    ) -> Self {
        let (stop, stopped) = bounded(0);
        let work = move || {
            let mut feeding = Feeding { replica, checkpoint, generation: fed, applied: None };
            if let Err(error) = feeding.run(&heard, &stopped) {
                tracing::warn!(%error, "the checkpoint is no longer written");
                feeding.replica.write().state.track_changes(false);
            }
        };
        let thread = std::thread::Builder::new()
            .name("keyward-checkpoint-feed".to_owned())
            .spawn(work)
            .expect("the system has a thread left when the node starts");
        Self { bell: bell.0, stop: Some(stop), thread: Some(thread) }
    }

    /// Submits the remaining changes and waits until they are written.
    pub(crate) fn finish(&mut self) {
        self.stop = None;
        let _ = self.bell.try_send(());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the thread that feeds the checkpoint panicked");
        }
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.finish();
    }
}

struct Feeding {
    replica: Arc<Replica>,
    checkpoint: Checkpoint,
    /// The generation of the state that the checkpoint continues; `None` if it must be filled
    /// first.
    generation: Option<u64>,
    applied: Option<LogId>,
}

enum Taken {
    Changes(CheckpointMeta, Changed),
    Whole(CheckpointMeta, State),
}

impl Feeding {
    fn run(&mut self, heard: &Receiver<()>, stopped: &Receiver<()>) -> Result<(), StorageError> {
        loop {
            if heard.recv().is_err() {
                return Ok(());
            }
            let start = SystemClock.raw();
            self.feed()?;
            let rest = rest_after(SystemClock.raw().saturating_sub(start));
            if stopped.recv_timeout(rest) == Err(RecvTimeoutError::Disconnected) {
                return self.feed();
            }
        }
    }

    /// Submits the current changes, and waits until they are written.
    fn feed(&mut self) -> Result<(), StorageError> {
        match self.take() {
            None => return Ok(()),
            Some(Taken::Changes(meta, changed)) if changed.len() <= AT_ONCE => {
                self.checkpoint.submit(meta, changed.into_records().collect())?;
            }
            Some(Taken::Changes(meta, changed)) => {
                self.checkpoint.submit_many(meta, changed.into_records())?;
            }
            Some(Taken::Whole(meta, state)) => self.checkpoint.refill(meta, records_of(state))?,
        }
        self.checkpoint.flush()
    }

    fn take(&mut self) -> Option<Taken> {
        let mut machine = self.replica.write();
        let applied = machine.applied?;
        let same = self.generation == Some(machine.generation);
        if same && self.applied == Some(applied) {
            return None;
        }
        self.generation = Some(machine.generation);
        self.applied = Some(applied);
        if same {
            let changed = machine.state.take_changed();
            let meta = checkpoint_meta(&machine, applied, changed.meta());
            if !is_less_to_fill(&changed, machine.state.counts()) {
                return Some(Taken::Changes(meta, changed));
            }
            let state = machine.state.clone();
            // It may hold the last copy of a deleted table, which takes long to drop.
            drop(machine);
            drop(changed);
            return Some(Taken::Whole(meta, state));
        }
        machine.state.track_changes(true);
        let meta = checkpoint_meta(&machine, applied, machine.state.encoded_meta());
        Some(Taken::Whole(meta, machine.state.clone()))
    }
}

/// Whether refilling the checkpoint writes less than the changes do, as when a large table was
/// deleted.
fn is_less_to_fill(changed: &Changed, counts: Counts) -> bool {
    changed.len() > AT_ONCE && changed.len() as u64 > counts.records + counts.lanes + counts.tables
}

fn rest_after(spent: Duration) -> Duration {
    spent.saturating_mul(REST).clamp(SHORTEST, LONGEST)
}

fn checkpoint_meta(machine: &Machine, applied: LogId, state: Vec<u8>) -> CheckpointMeta {
    let membership = codec::encode_snapshot_meta(&machine.meta()).to_vec();
    CheckpointMeta { applied: stored_log_id(&applied), membership, state }
}

/// The last applied entry and the membership in the checkpoint's meta data.
pub(crate) fn snapshot_meta_of(meta: &CheckpointMeta) -> Result<SnapshotMeta, String> {
    let decoded = codec::decode_snapshot_meta(meta.membership.clone().into())
        .map_err(|error| format!("its membership does not decode: {error}"))?;
    if decoded.last_log_id.as_ref().map(stored_log_id) != Some(meta.applied) {
        return Err("it names two different last entries".to_owned());
    }
    Ok(decoded)
}

/// Iterates over a state on a thread of its own: the walk borrows the state, the writer needs to
/// own its source, and a copy of all records would double the memory.
fn records_of(state: State) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + Send + 'static {
    let (sender, receiver) = bounded(REFILL_WINDOW);
    let walk = move || {
        for record in state.encoded_records() {
            if sender.send(record).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("keyward-checkpoint-walk".to_owned())
        .spawn(walk)
        .expect("the system has a thread left for a refill");
    receiver.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::{Command, LockCommand, Operation, Proposal, Stamp};

    #[test]
    fn after_a_large_deletion_the_checkpoint_is_filled_anew() {
        let mut state = State::new();
        state.track_changes(true);
        let lock = |table: &str, number: usize| {
            Command::from(Operation::Lock(Box::new(LockCommand {
                table: table.into(),
                signature: number.to_string().into(),
                signee: "ann".into(),
                instance: None,
                level: None,
                force: false,
                duration_ms: None,
                time_to_live: None,
                token: None,
            })))
        };
        let mut apply = |commands| {
            state.apply_quietly(0, 0, &Proposal { stamp: Stamp::default(), commands });
            let changed = state.take_changed();
            is_less_to_fill(&changed, state.counts())
        };
        let many = AT_ONCE + 1;
        assert!(!apply((0..many).map(|number| lock("large", number)).collect()));
        let delete = || Operation::DeleteTable { table: "large".into() };
        assert!(!apply((0..many).map(|number| lock("other", number)).collect()));
        assert!(!apply(vec![delete().into()]), "as many are left");
        assert!(!apply((0..many).map(|number| lock("large", number)).collect()));
        assert!(!apply(vec![Operation::DeleteTable { table: "other".into() }.into()]));
        assert!(apply(vec![delete().into()]), "nothing is left");
    }

    #[test]
    fn writing_rests_for_as_long_as_it_cost_and_within_bounds() {
        let ms = Duration::from_millis;
        assert_eq!(rest_after(Duration::ZERO), ms(1000));
        assert_eq!(rest_after(ms(100)), ms(2000), "a twentieth");
        assert_eq!(rest_after(ms(60_000)), ms(30_000), "what a restart replays has a bound");
    }
}
