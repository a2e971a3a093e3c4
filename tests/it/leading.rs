//! The promises of a cluster during leader changes.

use std::time::Duration;

use keyward::clock::Deadline;
use keyward::types::{
    CallOptions, LockOptions, LockRequest, LockStatus, ReadOptions, RequestId, TransferReason,
    UnlockStatus,
};
use keyward::{DebugLockService, Error, LockService};

use crate::cluster::{Cluster, Running, eventually};

fn stale() -> ReadOptions {
    ReadOptions { stale: true, ..ReadOptions::default() }
}

fn within(timeout: Duration) -> CallOptions {
    CallOptions { timeout: Some(timeout), ..CallOptions::default() }
}

#[tokio::test]
async fn three_nodes_lock_and_unlock_through_any_node() {
    let cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    let first = cluster.lock(follower, "a", "w1").await;
    assert!(matches!(first.status, LockStatus::Ok(_)), "{first:?}");
    let leader = cluster.leader().await;
    assert!(!cluster.lock(leader, "a", "w2").await.ok());
    let record = cluster.service(follower).check("a".to_owned(), ReadOptions::default()).await;
    assert_eq!(record.unwrap().record.holders[0].signee, "w1");
    assert_eq!(cluster.unlock(follower, "a", "w1").await.status, UnlockStatus::Ok);
    assert!(cluster.lock(leader, "a", "w2").await.ok());
}

#[tokio::test]
async fn one_node_is_a_cluster_and_keeps_its_locks() {
    let mut cluster = Cluster::start(1).await;
    let token = cluster.lock(1, "a", "w1").await.grant().unwrap().token;
    cluster.kill(1).await;
    cluster.run(1).await;
    cluster.ready().await;
    assert!(!cluster.lock(1, "a", "w2").await.ok());
    let renewed = cluster.lock(1, "a", "w1").await;
    assert_eq!(renewed.grant().unwrap().token, token);
}

#[tokio::test]
async fn a_leader_that_shuts_down_hands_over_and_comes_back() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let term = cluster.nodes[&leader].node().status().term;
    assert!(cluster.lock(leader, "a", "w1").await.ok());
    cluster.shut_down(leader).await;
    let next = cluster.leader().await;
    assert_ne!(next, leader);
    assert_eq!(cluster.nodes[&next].node().status().term, term + 1, "one election, no contest");
    assert!(!cluster.lock(next, "a", "w2").await.ok());
    cluster.run(leader).await;
    cluster.ready().await;
    assert!(!cluster.lock(leader, "a", "w2").await.ok());
}

/// Far longer than an election takes, on a busy machine too.
const LONG_LEASE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_leader_that_is_killed_is_replaced_without_waiting_for_its_lease() {
    let mut cluster = Cluster::with(3, |config| config.lease = Some(LONG_LEASE)).await;
    let leader = cluster.leader().await;
    let term = cluster.nodes[&leader].node().status().term;
    assert!(cluster.lock(leader, "a", "w1").await.ok());
    let lease = Deadline::after(LONG_LEASE);
    cluster.kill(leader).await;
    let next = cluster.leader().await;
    assert!(!lease.remaining().is_zero(), "the lease was waited out");
    assert_eq!(cluster.nodes[&next].node().status().term, term + 1, "one election, no contest");
    assert!(!cluster.lock(next, "a", "w2").await.ok());
    assert!(cluster.lock(next, "b", "w2").await.ok());
}

#[tokio::test]
async fn what_was_acknowledged_survives_every_node_being_killed() {
    let mut cluster = Cluster::start(3).await;
    let mut granted = Vec::new();
    for n in 0..20 {
        let response = cluster.lock(n % 3 + 1, &format!("lock-{n}"), "w1").await;
        granted.push(response.grant().unwrap().token);
    }
    for id in 1..=3 {
        cluster.kill(id).await;
    }
    for id in [3, 1, 2] {
        cluster.run(id).await;
    }
    cluster.ready().await;
    for (n, token) in granted.into_iter().enumerate() {
        let renewed = cluster.lock(1, &format!("lock-{n}"), "w1").await;
        assert!(matches!(renewed.status, LockStatus::Renewed(_)), "{renewed:?}");
        assert_eq!(renewed.grant().unwrap().token, token);
    }
    let fresh = cluster.lock(2, "fresh", "w1").await.grant().unwrap().token;
    assert!(fresh.0 > 20, "tokens grow across restarts: {fresh}");
}

#[tokio::test]
async fn a_lock_expires_after_its_duration_across_leaders_and_never_before() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let duration = Duration::from_secs(100);
    assert!(cluster.lock_for(leader, "a", "w1", duration).await.ok());
    cluster.service(leader).advance_clock(Duration::from_secs(60)).await.unwrap();
    // A follower's clock that is wrong by an hour has no effect, now or when it leads.
    for id in cluster.nodes.keys().filter(|id| **id != leader) {
        cluster.clock(*id).advance(Duration::from_secs(3600));
    }
    cluster.kill(leader).await;
    let next = cluster.leader().await;
    assert!(!cluster.lock(next, "a", "w2").await.ok(), "40 of 100 seconds are left");
    cluster.service(next).advance_clock(Duration::from_secs(20)).await.unwrap();
    assert!(!cluster.lock(next, "a", "w2").await.ok(), "20 of 100 seconds are left");
    cluster.service(next).advance_clock(Duration::from_secs(20)).await.unwrap();
    let taken = cluster.lock(next, "a", "w2").await;
    let LockStatus::Transferred { reason, .. } = taken.status else { panic!("{taken:?}") };
    assert_eq!(reason, TransferReason::Expired);
}

#[tokio::test]
async fn a_jump_of_the_leaders_raw_clock_ends_no_lock_and_moves_the_leadership() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    assert!(cluster.lock_for(leader, "a", "w1", Duration::from_secs(100)).await.ok());
    cluster.clock(leader).advance_raw(Duration::from_secs(3600));
    eventually("another node leads", async || {
        let status = cluster.nodes[&leader].node().status();
        status.leader.is_some_and(|now| now != leader)
    })
    .await;
    let next = cluster.leader().await;
    let refused = cluster.lock(next, "a", "w2").await;
    let LockStatus::Failed(forbidden) = refused.status else { panic!("{refused:?}") };
    assert!(forbidden.holders[0].expires_in > Duration::from_secs(60), "{forbidden:?}");
}

#[tokio::test]
async fn a_node_alone_goes_on_after_a_jump_of_its_raw_clock() {
    let cluster = Cluster::start(1).await;
    assert!(cluster.lock_for(1, "a", "w1", Duration::from_secs(100)).await.ok());
    cluster.clock(1).advance_raw(Duration::from_secs(3600));
    assert!(!cluster.lock(1, "a", "w2").await.ok(), "the grant is not over");
    cluster.clock(1).advance(Duration::from_secs(110));
    assert!(cluster.lock(1, "a", "w2").await.ok(), "its clock goes on");
}

#[tokio::test]
async fn time_passes_by_itself_while_a_grant_is_unexpired() {
    let cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    assert!(cluster.lock_for(follower, "a", "w1", Duration::from_millis(200)).await.ok());
    eventually("the lock is expired on every node, without any request", async || {
        let mut expired = true;
        for running in cluster.nodes.values() {
            let record = running.service.check("a".to_owned(), stale()).await;
            expired &= record.is_ok_and(|answer| answer.record.holders[0].expired);
        }
        expired
    })
    .await;
}

#[tokio::test]
async fn a_repeated_request_gets_the_same_answer_from_another_node_and_leader() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let request = LockRequest { signature: "a".into(), signee: "w1".into(), level: None };
    let options = LockOptions {
        duration: Some(Duration::from_secs(3600)),
        request_id: Some(RequestId { lane: 7, seq: 1 }),
        ..LockOptions::default()
    };
    let first = cluster.service(leader).lock(request.clone(), options.clone()).await.unwrap();
    cluster.kill(leader).await;
    let next = cluster.leader().await;
    let again = cluster.service(next).lock(request, options).await.unwrap();
    assert_eq!(again.grant().unwrap().token, first.grant().unwrap().token);
    assert_eq!(again.decided_at, first.decided_at);
    assert!(matches!(again.status, LockStatus::Ok(_)), "{again:?}");
}

#[tokio::test]
async fn an_isolated_leader_refuses_quickly_and_acknowledges_nothing() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let others: Vec<u64> = cluster.nodes.keys().copied().filter(|id| *id != leader).collect();
    for id in others {
        cluster.kill(id).await;
    }
    let lock = async |timeout| {
        let request = LockRequest { signature: "a".into(), signee: "w1".into(), level: None };
        let options = LockOptions { call: within(timeout), ..LockOptions::default() };
        cluster.service(leader).lock(request, options).await
    };
    let first = lock(Duration::from_millis(300)).await;
    assert!(matches!(first, Err(Error::Unknown { .. } | Error::Unavailable { .. })), "{first:?}");
    eventually("it knows that it has lost its majority", async || {
        matches!(lock(Duration::from_secs(60)).await, Err(Error::Unavailable { .. }))
    })
    .await;
    let bound = Deadline::after(Duration::from_secs(5));
    let write = lock(Duration::from_secs(60)).await;
    assert!(matches!(write, Err(Error::Unavailable { .. })), "{write:?}");
    let options = ReadOptions { call: within(Duration::from_secs(60)), ..ReadOptions::default() };
    let read = cluster.service(leader).check("a".to_owned(), options).await;
    assert!(matches!(read, Err(Error::Unavailable { .. })), "{read:?}");
    assert!(!bound.remaining().is_zero(), "neither waited for its time-out");
    let read = cluster.service(leader).check("a".to_owned(), stale()).await;
    assert!(matches!(read, Err(Error::NotFound { .. })), "{read:?}");
}

/// The lone leader and the lone follower: neither is ready, even if no lock is requested for long.
#[tokio::test]
async fn a_node_without_a_majority_is_not_ready_until_it_has_one_again() {
    for leads in [true, false] {
        let mut cluster = Cluster::start(3).await;
        let leader = cluster.leader().await;
        let follower = *cluster.nodes.keys().find(|id| **id != leader).unwrap();
        let alone = if leads { leader } else { follower };
        let others: Vec<u64> = cluster.nodes.keys().copied().filter(|id| *id != alone).collect();
        assert_eq!(cluster.nodes[&alone].node().not_ready(), None);
        for id in &others {
            cluster.kill(*id).await;
        }
        eventually("it says that it has no majority", async || {
            let reason = cluster.nodes[&alone].node().not_ready();
            reason.is_some_and(|reason| reason.contains("majority") || reason.contains("leader"))
        })
        .await;
        assert!(!cluster.nodes[&alone].node().figures().ready);
        cluster.run(others[0]).await;
        eventually("two of three are ready", async || {
            cluster.nodes.values().all(|running| running.node().is_ready())
        })
        .await;
    }
}

#[tokio::test]
async fn a_node_that_missed_the_log_gets_a_snapshot() {
    let mut cluster = Cluster::with(3, |config| {
        config.snapshot_every = 20;
        config.log_kept = 0;
    })
    .await;
    let away = cluster.follower().await;
    let before = cluster.nodes[&away].node().status().applied_index.unwrap();
    cluster.kill(away).await;
    let leader = cluster.leader().await;
    for n in 0..100 {
        assert!(cluster.lock(leader, &format!("lock-{n}"), "w1").await.ok());
    }
    eventually("the log that it needs is gone", async || {
        cluster.nodes.values().all(|running| {
            running.node().status().purged_index.is_some_and(|purged| purged > before + 20)
        })
    })
    .await;
    cluster.run(away).await;
    cluster.ready().await;
    let last = cluster.nodes[&leader].node().status().applied_index;
    eventually("it has caught up", async || {
        cluster.nodes[&away].node().status().applied_index >= last
    })
    .await;
    for n in 0..100 {
        let record = cluster.service(away).check(format!("lock-{n}"), stale()).await.unwrap();
        assert_eq!(record.record.holders[0].signee, "w1");
    }
    // The data it received is its own now: it is still there after a restart.
    cluster.kill(away).await;
    cluster.run(away).await;
    cluster.ready().await;
    let record = cluster.service(away).check("lock-7".to_owned(), stale()).await.unwrap();
    assert_eq!(record.record.holders[0].signee, "w1");
}

#[tokio::test]
async fn a_node_whose_snapshot_cannot_be_written_goes_on_and_writes_it_later() {
    let cluster = Cluster::with(1, |config| {
        config.snapshot_every = 20;
        config.log_kept = 0;
    })
    .await;
    let node = cluster.nodes[&1].node();
    let (folder, aside) = (cluster.folder(1).join("snapshots"), cluster.folder(1).join("aside"));
    std::fs::rename(&folder, &aside).unwrap();
    for n in 0..30 {
        assert!(cluster.lock(1, &format!("before-{n}"), "w1").await.ok());
    }
    eventually("it is told", async || node.figures().snapshot_postponed).await;
    for n in 0..30 {
        assert!(cluster.lock(1, &format!("after-{n}"), "w1").await.ok());
    }
    assert_eq!((node.not_ready(), node.status().snapshot_index), (None, None));
    std::fs::rename(&aside, &folder).unwrap();
    eventually("it is written", async || node.status().snapshot_index.is_some()).await;
    assert!(!node.figures().snapshot_postponed);
}

#[tokio::test]
async fn an_idle_cluster_without_locks_writes_nothing() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    assert!(cluster.lock(leader, "a", "w1").await.ok());
    assert!(cluster.unlock(leader, "a", "w1").await.ok());
    let synced = || -> Vec<_> {
        let nodes = cluster.nodes.values().map(Running::node);
        nodes
            .map(|node| {
                let figures = node.figures();
                (figures.applied_index, figures.fsync_seconds.map(|syncs| syncs.count))
            })
            .collect()
    };
    // The followers learn what is committed with the next heartbeats.
    let mut settled = synced();
    eventually("nothing has been written for twenty heartbeats", async || {
        let before = settled.clone();
        tokio::time::sleep(Duration::from_secs(1)).await;
        settled = synced();
        settled == before
    })
    .await;
}
