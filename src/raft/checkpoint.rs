//! Keeps the checkpoint up with the state: takes the changes between two entries and writes them.
//!
//! One thread does it. It delays no entry: it takes a list of keys and a clone of the state, and
//! encodes the records concurrently with apply. It paces itself by the time that writing took, so
//! that it never uses more than a small share of a core. Changes in the meantime are taken together
//! the next time: a record that changed often is written once, and one that came and went not at
//! all. When nothing changes for a while, sled is closed. The checkpoint is a copy: a failure is
//! logged once and the node goes on without it; the next start replays the log instead.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::clock::{Clock as _, SystemClock};
use crate::lock::{Changed, Counts, State};
use crate::raft::codec;
use crate::raft::state_machine::{Machine, Replica};
use crate::raft::types::{LogId, SnapshotMeta, stored_log_id};
use crate::storage::checkpoint::{BATCH, CheckpointMeta, MAX_RECORD_BYTES};
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

/// The idle time after which sled is closed. Opening it again costs some writing, so it is not
/// closed after every short pause.
const PARK_AFTER: Duration = Duration::from_secs(30);

/// A key has two names, the value of a grant two more.
const _: () = assert!(4 * MAX_NAME_BYTES + 128 <= MAX_RECORD_BYTES, "sled keeps records in pages");

/// The writing thread. It ends when this is dropped, after writing the remaining changes.
pub(crate) struct CheckpointWriter {
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

impl CheckpointWriter {
    /// Starts to write to `checkpoint`, which contains the state of generation `written`.
    pub(crate) fn start(
        replica: Arc<Replica>,
        checkpoint: Checkpoint,
        (bell, rung): (Bell, Receiver<()>),
        written: Option<u64>,
    ) -> Self {
        let (stop, stopped) = bounded(0);
        let work = move || {
            let mut writing = Writing { replica, checkpoint, generation: written, applied: None };
            if let Err(error) = writing.run(&rung, &stopped) {
                tracing::error!(%error, "the checkpoint is given up until the next start");
                writing.replica.write().state.track_changes(false);
            }
        };
        let thread = std::thread::Builder::new()
            .name("keyward-checkpoint".to_owned())
            .spawn(work)
            .expect("the system has a thread left when the node starts");
        Self { bell: bell.0, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for CheckpointWriter {
    fn drop(&mut self) {
        self.stop = None;
        let _ = self.bell.try_send(());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the thread that writes the checkpoint panicked");
        }
    }
}

struct Writing {
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

impl Writing {
    fn run(&mut self, rung: &Receiver<()>, stopped: &Receiver<()>) -> Result<(), StorageError> {
        loop {
            let mut notice = rung.recv_timeout(PARK_AFTER);
            if notice == Err(RecvTimeoutError::Timeout) {
                self.checkpoint.park()?;
                notice = rung.recv().map_err(RecvTimeoutError::from);
            }
            if notice.is_err() {
                return Ok(());
            }
            let start = SystemClock.raw();
            self.write()?;
            let rest = rest_after(SystemClock.raw().saturating_sub(start));
            if stopped.recv_timeout(rest) == Err(RecvTimeoutError::Disconnected) {
                return self.write();
            }
        }
    }

    /// Writes the changes since the last time.
    fn write(&mut self) -> Result<(), StorageError> {
        match self.take() {
            None => Ok(()),
            Some(Taken::Changes(meta, changed)) => {
                self.checkpoint.write(&meta, changed.into_records())
            }
            Some(Taken::Whole(meta, state)) => self.checkpoint.fill(&meta, state.encoded_records()),
        }
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
    changed.len() > BATCH && changed.len() as u64 > counts.records + counts.lanes + counts.tables
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
    let decoded = codec::decode_snapshot_meta(&meta.membership)
        .map_err(|error| format!("its membership does not decode: {error}"))?;
    if decoded.last_log_id.as_ref().map(stored_log_id) != Some(meta.applied) {
        return Err("it names two different last entries".to_owned());
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::lock::{
        ClusterTime, Command, FEATURE_LEVEL, LockCommand, Operation, Proposal, Stamp,
    };
    use crate::raft::member::load;
    use crate::raft::types::raft_log_id;
    use crate::storage::checkpoint::{CheckpointOptions, Opened};
    use crate::storage::log::{Drive, LogOptions};
    use crate::storage::{Log, LogEntry, MemDisk, Uuid};

    fn lock(table: &str, signature: &str) -> Command {
        Command::from(Operation::Lock(Box::new(LockCommand {
            table: table.into(),
            signature: signature.into(),
            signee: "ann".into(),
            instance: None,
            level: None,
            force: false,
            duration_ms: None,
            time_to_live: None,
            token: None,
            ..LockCommand::default()
        })))
    }

    /// A replica, its log, and the folder of its checkpoint.
    struct Node {
        log: Log,
        replica: Arc<Replica>,
        folder: tempfile::TempDir,
    }

    impl Node {
        fn new() -> Self {
            let options = LogOptions { drive: Drive::Inline, ..LogOptions::default() };
            let (log, _) = Log::open(Arc::new(MemDisk::new(1)), options).unwrap();
            let clock = Arc::new(ManualClock::default());
            let replica = Arc::new(Replica::new(Machine::default(), clock, 0, FEATURE_LEVEL));
            replica.write().state.track_changes(true);
            Self { log, replica, folder: tempfile::tempdir().unwrap() }
        }

        fn apply(&self, index: u64, commands: Vec<Command>) {
            let id = crate::storage::LogId { term: 1, index };
            let entry = LogEntry { id, payload: "x".into() };
            self.log.append(vec![entry], |result| result.unwrap());
            let mut machine = self.replica.write();
            let stamp = Stamp { term: 1, time: ClusterTime(index) };
            let locks = machine.state.counts().records + commands.len() as u64;
            machine.state.apply_quietly(1, index, &Proposal { stamp, commands });
            assert_eq!(machine.state.counts().records, locks);
            machine.applied = Some(raft_log_id(id));
        }

        fn open(&self) -> (Checkpoint, Opened<(State, SnapshotMeta)>) {
            let folder = self.folder.path().join("checkpoint");
            let options = CheckpointOptions { folder, node: Uuid(5) };
            Checkpoint::open(options, &self.log, None, |meta, records| {
                load(meta, records, FEATURE_LEVEL)
            })
            .unwrap()
        }

        fn start(&self, checkpoint: Checkpoint, written: Option<u64>) -> CheckpointWriter {
            CheckpointWriter::start(self.replica.clone(), checkpoint, bell(), written)
        }

        /// Whether the checkpoint is as of the last entry.
        fn is_written(&self) -> bool {
            let machine = self.replica.read();
            let expected = (machine.state.clone(), machine.meta());
            matches!(self.open().1, Opened::Accepted(_, found) if found == expected)
        }
    }

    #[test]
    fn all_that_was_applied_is_written_before_it_ends() {
        let node = Node::new();
        let writer = node.start(node.open().0, Some(0));
        node.apply(0, vec![lock("one", "a")]);
        node.apply(1, vec![lock("one", "b")]);
        drop(writer);
        assert!(node.is_written());
        let writer = node.start(node.open().0, Some(0));
        node.apply(2, (0..=BATCH).map(|number| lock("two", &number.to_string())).collect());
        drop(writer);
        assert!(node.is_written(), "more than a batch");
        node.replica.write().state = State::new();
        node.apply(3, vec![lock("three", "c")]);
        drop(node.start(node.open().0, None));
        assert!(node.is_written(), "a state that the checkpoint does not continue");
    }

    #[test]
    fn after_a_failure_of_sled_no_changes_are_tracked() {
        let node = Node::new();
        node.apply(0, vec![lock("one", "a")]);
        let machine = node.replica.read();
        let meta = checkpoint_meta(&machine, machine.applied.unwrap(), Vec::new());
        drop(machine);
        let mut checkpoint = node.open().0;
        let failing = std::iter::from_fn(|| panic!("sled does such things"));
        checkpoint.fill(&meta, failing).unwrap_err();
        drop(node.start(checkpoint, Some(0)));
        node.apply(1, vec![lock("one", "b")]);
        assert!(node.replica.write().state.take_changed().is_empty());
    }

    #[test]
    fn after_a_large_deletion_the_checkpoint_is_filled_anew() {
        let mut state = State::new();
        state.track_changes(true);
        let lock = |table: &str, number: usize| lock(table, &number.to_string());
        let mut apply = |commands| {
            state.apply_quietly(0, 0, &Proposal { stamp: Stamp::default(), commands });
            let changed = state.take_changed();
            is_less_to_fill(&changed, state.counts())
        };
        let many = BATCH + 1;
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
