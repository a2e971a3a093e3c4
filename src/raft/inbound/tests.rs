//! A follower that is sent entries and a snapshot, by a leader that is this test.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use futures::stream;

use super::*;
use crate::client::carrier::{Carry, SendError};
use crate::clock::ManualClock;
use crate::lock::FEATURE_LEVEL;
use crate::raft::codec;
use crate::raft::config::{Settings, Timing};
use crate::raft::member::{Home, Options, Surroundings};
use crate::raft::state_machine::snapshot_meta;
use crate::raft::types::{Entry, MemberNode, Membership, Payload, raft_log_id};
use crate::storage::log::Drive;
use crate::storage::{self, LogOptions, MemDisk, Uuid};

/// The leader's vote.
fn leader() -> Vote {
    raft_vote(storage::Vote { term: 1, node: 1, committed: true })
}

fn id(index: u64) -> crate::raft::types::LogId {
    raft_log_id(storage::LogId { term: 1, index })
}

/// A network on which nobody is reached.
struct Silence;

impl Carry for Silence {
    fn send(&self, _: reqwest::Request) -> BoxFuture<'_, Result<reqwest::Response, SendError>> {
        Box::pin(std::future::pending())
    }
}

/// A member of a cluster of three that takes part, and that leads in no time of a test.
async fn member() -> Member {
    let hours = Duration::from_secs(3_600);
    let timing = Timing { heartbeat: hours, election_min: 2 * hours, election_max: 3 * hours };
    let options = Options {
        id: 2,
        addrs: (1..=3).map(|id| (id, format!("n{id}:7421"))).collect(),
        client_addr: None,
        home: Home::Given(Surroundings {
            disk: Arc::new(MemDisk::new(1)),
            log: LogOptions { drive: Drive::Inline, ..LogOptions::default() },
            log_opened: Box::new(|_| {}),
            carrier: Box::new(|_| Arc::new(Silence)),
            observer: None,
        }),
        settings: Settings { timing, snapshot_every: 1_000, log_kept: 100 },
        rho_ppm: 0,
        level: FEATURE_LEVEL,
        clock: Arc::new(ManualClock::default()),
        observers: Vec::new(),
    };
    let member = Member::open(options).await.unwrap();
    let members = (1..=3).map(|id| (id, Uuid(u128::from(id)))).collect();
    member.identity.set_cluster(Uuid(7), members).unwrap();
    member.advance_phase(Phase::Ready);
    member
}

/// The entries of these indexes; the first of all is the membership.
fn entries(indexes: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
    let nodes: BTreeMap<u64, MemberNode> = (1..=3).map(|id| (id, MemberNode::default())).collect();
    let payload = |index| match index {
        0 => Payload::Membership(Membership::new(vec![[1, 2, 3].into()], nodes.clone()).unwrap()),
        _ => Payload::Blank,
    };
    indexes.map(|index| Entry { log_id: id(index), payload: payload(index) }).collect()
}

/// Sends entries that follow the entry before them, with what is committed.
async fn append(member: &Member, entries: Vec<Entry>, prev: Option<u64>, committed: Option<u64>) {
    let request = AppendEntriesRequest {
        vote: leader(),
        prev_log_id: prev.map(id),
        leader_commit: committed.map(id),
        entries,
    };
    let answer = member.answer(Caller::Member, Call::Append, codec::encode_append(&request)).await;
    codec::decode_appended(&answer.unwrap()).unwrap().unwrap();
}

/// Resolves when the member has applied the entry.
async fn applied(member: &Member, index: u64) {
    let reached = async {
        while member.replica.figures().applied != Some(id(index)) {
            member.replica.applied_bell.notified().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reached).await.expect("it is applied in time");
}

/// The messages of a snapshot whose last entry has this index, as a member sends it.
async fn snapshot(last: u64) -> Vec<Result<Bytes, InboundError>> {
    let member = member().await;
    append(&member, entries(0..=last), None, Some(last)).await;
    applied(&member, last).await;
    member.raft.trigger().snapshot().await.unwrap();
    let stored = loop {
        match member.snapshots.latest() {
            Some(stored) => break stored,
            None => tokio::task::yield_now().await,
        }
    };
    let header = codec::encode_snapshot_header(&leader(), &snapshot_meta(&stored.meta).unwrap());
    let bytes = member.snapshots.piece(&stored, 0, 1 << 20).unwrap();
    vec![Ok(header), Ok(bytes), Ok(Bytes::new())]
}

#[tokio::test]
async fn a_snapshot_of_entries_that_the_log_has_hides_none_that_follow_them() {
    let member = member().await;
    // The leader never hears that they have arrived, and purges its own.
    append(&member, entries(0..=5), None, None).await;
    let messages = snapshot(3).await;
    let answer = member.receive_snapshot(stream::iter(messages)).await.unwrap();
    assert_eq!(codec::decode_installed(&answer).unwrap().vote, leader());
    applied(&member, 3).await;
    assert!(member.snapshots.latest().is_none(), "nothing was installed");
    // Nothing new is written for a long time.
    append(&member, Vec::new(), Some(5), Some(5)).await;
    applied(&member, 5).await;
}

#[tokio::test]
async fn a_snapshot_of_entries_that_the_log_lacks_is_installed() {
    let member = member().await;
    append(&member, entries(0..=2), None, None).await;
    let messages = snapshot(5).await;
    let answer = member.receive_snapshot(stream::iter(messages)).await.unwrap();
    assert_eq!(codec::decode_installed(&answer).unwrap().vote, leader());
    applied(&member, 5).await;
    assert_eq!(member.snapshots.latest().and_then(|kept| kept.meta.last).unwrap().index, 5);
    append(&member, entries(6..=6), Some(5), Some(6)).await;
    applied(&member, 6).await;
}
