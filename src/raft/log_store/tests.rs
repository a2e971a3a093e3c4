//! Recovery by openraft, over logs with large entries.

use std::collections::BTreeMap;

use futures::StreamExt;
use openraft::StorageHelper;

use super::*;
use crate::clock::ManualClock;
use crate::lock::{Command, FEATURE_LEVEL, Operation, Proposal};
use crate::raft::checkpoint;
use crate::raft::state_machine::{Machine, Replica, StateMachine};
use crate::raft::types::{MemberNode, Membership, Payload};
use crate::storage::{Identity, Log, LogOptions, MemDisk, Snapshots};

/// The number of entries that openraft reads at once when it starts.
const CHUNK: u64 = 64;

/// An entry of 256 KiB: a chunk of them has 16 MiB.
fn large() -> Payload {
    let table = "t".repeat(256 << 10).into();
    let commands = vec![Command::from(Operation::DeleteTable { table })];
    Payload::Normal(codec::data_of(&Proposal { commands, ..Proposal::default() }))
}

fn membership() -> Payload {
    let nodes = BTreeMap::from([(1, MemberNode::default())]);
    Payload::Membership(Membership::new(vec![[1].into()], nodes).unwrap())
}

/// A log that holds these entries, the first `committed` of them committed, and a machine that has
/// applied none.
fn storage(payloads: &[Payload], committed: u64) -> (LogStore, StateMachine, Arc<Replica>) {
    let disk: Arc<dyn storage::Disk> = Arc::new(MemDisk::new(1));
    let identity = Identity::open(disk.clone(), 1).unwrap();
    let (log, recovered) = Log::open(disk.clone(), LogOptions::default()).unwrap();
    let id = |index| storage::LogId { term: 1, index };
    let entries = payloads.iter().zip(0..).map(|(payload, index)| storage::LogEntry {
        id: id(index),
        payload: codec::encode_payload(payload),
    });
    log.append(entries.collect(), |result| result.unwrap());
    log.save_committed(committed.checked_sub(1).map(id));
    let snapshots = Snapshots::open(disk, recovered.purged).unwrap();
    let clock = Arc::new(ManualClock::default());
    let replica = Arc::new(Replica::new(Machine::default(), clock, 0, FEATURE_LEVEL));
    let (bell, _) = checkpoint::bell();
    let machine = StateMachine::new(replica.clone(), snapshots, identity, bell);
    (LogStore::new(log, None), machine, replica)
}

#[tokio::test]
async fn a_start_applies_committed_entries_of_any_size_again() {
    let entries = vec![large(); 150];
    let (mut log, mut machine, replica) = storage(&entries, 150);
    let mut helper = StorageHelper::new(&mut log, &mut machine).with_id(1);
    helper.get_initial_state().await.unwrap();
    assert_eq!(replica.read().applied.map(|id| id.index()), Some(149));
}

#[tokio::test]
async fn a_start_finds_the_membership_behind_large_entries() {
    let mut entries = vec![membership()];
    entries.extend(vec![large(); 100]);
    entries.push(membership());
    let (mut log, mut machine, _) = storage(&entries, 1);
    let mut helper = StorageHelper::new(&mut log, &mut machine).with_id(1);
    let state = helper.get_initial_state().await.unwrap();
    let effective = state.membership_state.effective().log_id().map(|id| id.index());
    assert_eq!(effective, Some(101), "the newest in the log, committed or not");
}

#[tokio::test]
async fn whoever_wants_all_gets_all_and_a_follower_gets_a_messageful() {
    let entries = vec![large(); 100];
    let (mut log, ..) = storage(&entries, 0);
    assert_eq!(log.try_get_log_entries(0..CHUNK).await.unwrap().len(), 64);
    assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 100);
    let streamed: Vec<_> = log.entries_stream(0..100).await.collect().await;
    let streamed = streamed.into_iter().map(|entry| entry.unwrap().log_id.index());
    assert_eq!(streamed.collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
    // Three entries of a little more than 256 KiB are below 1 MiB, four are not.
    assert_eq!(log.limited_get_log_entries(0, 100).await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_message_that_would_have_a_gap_has_no_entries() {
    let (mut log, ..) = storage(&vec![large(); 20], 20);
    log.purge(raft_log_id(storage::LogId { term: 1, index: 9 })).await.unwrap();
    assert_eq!(log.limited_get_log_entries(5, 20).await.unwrap(), []);
    let entries = log.limited_get_log_entries(10, 20).await.unwrap();
    assert_eq!(entries.first().map(|first| first.log_id.index()), Some(10));
}
