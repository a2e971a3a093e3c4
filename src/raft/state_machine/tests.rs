//! openraft's own tests of a storage, run on ours.

use std::sync::Arc;

use openraft::StorageError as RaftStorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use super::*;
use crate::clock::ManualClock;
use crate::lock::{Command, FEATURE_LEVEL, LockCommand, Operation, Proposal, Stamp};
use crate::raft::checkpoint;
use crate::raft::log_store::LogStore;
use crate::storage::disk::{Fault, FaultyCall};
use crate::storage::{Disk, Log, LogOptions, MemDisk};
use crate::types::{LockOptions, LockRequest};

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine> for Builder {
    async fn build(&self) -> Result<((), LogStore, StateMachine), RaftStorageError<TypeConfig>> {
        let disk: Arc<dyn Disk> = Arc::new(MemDisk::new(1));
        let identity = Identity::open(disk.clone(), 1).unwrap();
        let (log, recovered) = Log::open(disk.clone(), LogOptions::default()).unwrap();
        let snapshots = Snapshots::open(disk, recovered.purged).unwrap();
        let clock = Arc::new(ManualClock::default());
        let replica = Arc::new(Replica::new(Machine::default(), clock, 0, FEATURE_LEVEL));
        // The notifications have no receiver: these tests are about log and state machine.
        let (bell, _) = checkpoint::bell();
        let machine = StateMachine::new(replica, snapshots, identity, bell);
        Ok(((), LogStore::new(log, None), machine))
    }
}

#[tokio::test]
async fn the_storage_passes_openrafts_own_tests() {
    Suite::test_all(Builder).await.unwrap();
}

/// A state machine on a disk of its own.
struct Alone {
    disk: MemDisk,
    snapshots: Snapshots,
    replica: Arc<Replica>,
    machine: StateMachine,
}

impl Alone {
    fn new() -> Self {
        let disk = MemDisk::new(1);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let identity = Identity::open(shared.clone(), 1).unwrap();
        let snapshots = Snapshots::open(shared, None).unwrap();
        let clock = Arc::new(ManualClock::default());
        let replica = Arc::new(Replica::new(Machine::default(), clock, 0, FEATURE_LEVEL));
        let (bell, _) = checkpoint::bell();
        let machine = StateMachine::new(replica.clone(), snapshots.clone(), identity, bell);
        Self { disk, snapshots, replica, machine }
    }

    /// Applies an entry that acquires a lock.
    async fn apply(&mut self, index: u64) {
        let (signature, signee) = (format!("lock/{index}"), "owner".to_owned());
        let request = LockRequest { signature, signee, level: None };
        let commands = vec![Command::lock(request, LockOptions::default()).unwrap()];
        let stamp = Stamp { term: 1, time: ClusterTime(index) };
        let payload = EntryPayload::Normal(codec::data_of(&Proposal { stamp, commands }));
        let log_id = raft_log_id(crate::storage::LogId { term: 1, index });
        let entries = futures::stream::iter([Ok((Entry { log_id, payload }, None))]);
        self.machine.apply(entries).await.unwrap();
    }

    async fn build(&mut self) -> SnapshotOf<TypeConfig, SnapshotData> {
        self.machine.get_snapshot_builder().await.build_snapshot().await.unwrap()
    }

    fn fail(&self, call: FaultyCall, times: u64) {
        let path = "snapshots/".to_owned();
        self.disk.fail(Fault { call, path, after: 0, times, kind: io::ErrorKind::StorageFull });
    }

    fn files(&self) -> usize {
        self.disk.paths().iter().filter(|path| path.starts_with("snapshots/")).count()
    }
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_written_is_put_off_and_ends_nothing() {
    let mut node = Alone::new();
    node.apply(1).await;
    node.fail(FaultyCall::Write, 1);
    let told = node.build().await;
    assert_eq!(told.meta, SnapshotMeta::default(), "there is none");
    assert!(node.replica.compaction.is_postponed());
    assert_eq!((node.snapshots.latest(), node.files()), (None, 0));
    let first = node.build().await.meta;
    assert_eq!(first, node.replica.read().meta());
    assert!(!node.replica.compaction.is_postponed());
    for call in [FaultyCall::Write, FaultyCall::Sync] {
        node.apply(2).await;
        node.fail(call, 1);
        assert_eq!(node.build().await.meta, first, "the earlier one still counts");
        assert_eq!(node.files(), 1);
    }
    assert_eq!(node.build().await.meta, node.replica.read().meta());
}

#[tokio::test]
async fn what_came_from_the_leader_is_installed_without_a_look_at_the_disk() {
    let (mut leader, mut node) = (Alone::new(), Alone::new());
    for index in 1..=3 {
        leader.apply(index).await;
    }
    let Snapshot { meta, snapshot } = leader.build().await;
    let SnapshotData::Stored(folder, stored) = snapshot else { panic!("it is on the disk") };
    let come = || copied(&folder, &stored, &node.snapshots).unwrap();
    let refused = ReceivedSnapshot::prepare(come(), None, FEATURE_LEVEL).unwrap();
    assert_eq!(refused.meta().unwrap(), meta);
    drop(refused);
    assert_eq!(node.files(), 0);
    let mut cut = node.snapshots.receive().unwrap();
    cut.write(&folder.piece(&stored, 0, 100).unwrap()).unwrap();
    assert!(ReceivedSnapshot::prepare(cut, None, FEATURE_LEVEL).is_err());
    let received = ReceivedSnapshot::prepare(come(), None, FEATURE_LEVEL).unwrap();
    node.fail(FaultyCall::Read, u64::MAX);
    node.machine.install_snapshot(&meta, SnapshotData::Received(Box::new(received))).await.unwrap();
    let machine = node.replica.read();
    assert_eq!(machine.state.encode(), leader.replica.read().state.encode());
    assert_eq!((machine.meta(), machine.generation), (meta, 1));
    assert_eq!(node.snapshots.latest().unwrap().meta, stored.meta);
    assert_eq!(node.files(), 1);
}

fn replica() -> Replica {
    Replica::new(Machine::default(), Arc::new(ManualClock::default()), 0, FEATURE_LEVEL)
}

/// An entry of term 2 whose proposal was stamped in term `stamped`.
fn entry(index: u64, stamped: u64, operations: Vec<Operation>) -> Entry {
    let stamp = Stamp { term: stamped, time: ClusterTime(index * 1000) };
    let commands = operations.into_iter().map(Command::from).collect();
    let data = codec::data_of(&Proposal { stamp, commands });
    Entry {
        log_id: raft_log_id(crate::storage::LogId { term: 2, index }),
        payload: EntryPayload::Normal(data),
    }
}

fn lock(signee: &str) -> Operation {
    Operation::Lock(Box::new(LockCommand {
        table: "default".into(),
        signature: "s".into(),
        signee: signee.into(),
        instance: None,
        level: None,
        force: true,
        duration_ms: Some(1000),
        time_to_live: None,
        token: None,
        ..LockCommand::default()
    }))
}

#[test]
fn an_entry_that_needs_a_newer_program_has_no_effect_at_all() {
    let replica = replica();
    replica.apply(&entry(1, 2, vec![lock("ann")]), true).unwrap();
    let seen = || {
        let machine = replica.read();
        (machine.state.encode(), machine.applied)
    };
    let before = seen();
    let level = replica.read().state.feature_level();
    let raise = || Operation::RaiseFeatureLevel(FEATURE_LEVEL + 1);
    for wanted in [true, false] {
        let newer = entry(2, 2, vec![lock("bob"), raise(), lock("cy")]);
        let error = replica.apply(&newer, wanted).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert_eq!(seen(), before, "what the checkpoint takes is as of the entry before");
    }
    // A proposal stamped in another term raises nothing, and does not stop the node.
    replica.apply(&entry(2, 1, vec![lock("bob"), raise()]), true).unwrap();
    assert_eq!(replica.read().state.feature_level(), level);
}

#[test]
fn decisions_are_made_where_they_are_wanted_and_the_state_is_the_same() {
    let (told, quiet) = (replica(), replica());
    let entry = entry(1, 2, vec![lock("ann"), lock("bob")]);
    assert_eq!(told.apply(&entry, true).unwrap().0.len(), 2);
    quiet.apply(&entry, false).unwrap();
    assert_eq!(told.read().state, quiet.read().state);
    assert_eq!(quiet.figures().counts, told.read().state.counts());
    assert_eq!(quiet.figures().applied, Some(entry.log_id));
    assert_eq!(quiet.figures().next_deadline, told.read().state.next_deadline());
}

#[tokio::test]
#[allow(clippy::await_holding_lock, reason = "the guard stands for an entry that is being applied")]
async fn figures_wait_for_no_entry_and_a_read_waits_as_a_task() {
    let replica = Arc::new(replica());
    replica.apply(&entry(1, 2, vec![lock("ann")]), true).unwrap();
    let applying = replica.write();
    assert_eq!(replica.figures().counts.records, 1);
    let reader = Arc::clone(&replica);
    let read = tokio::spawn(async move { reader.look(|machine| machine.state.counts()).await });
    // This thread, the only one of the runtime, goes on while an entry is applied.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!read.is_finished());
    drop(applying);
    assert_eq!(read.await.unwrap().records, 1);
}
