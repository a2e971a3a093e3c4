//! Nodes that start: for the first time, and after they were away for longer than the log reaches
//! back.

use std::fs;
use std::time::Duration;

use cluster_tests::ask;
use cluster_tests::cluster::{BOOT, Cluster, ClusterOptions, ELECTION};
use cluster_tests::load::Load;
use cluster_tests::seed::seeded;
use cluster_tests::wait::{eventually, throughout};
use keyward::service::LockService;
use keyward::types::{
    BatchAnswer, BatchRequest, CallOptions, LockOptions, LockRequest, LockResponse,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_missed_a_snapshots_worth_of_log_is_given_the_snapshot() {
    let mut random = seeded("missed a snapshot");
    let options = ClusterOptions::default().with(&["--snapshot-every", "100"]);
    let mut cluster = Cluster::start(options).await;
    let leader = cluster.leader().await;
    let away = cluster.others(leader)[0];
    let load = Load::on(&cluster, "snapshot", 4, &mut random);
    load.wait_for(50, ELECTION).await;
    let left_at = cluster.status(away).await.expect("it runs").last_log_index;
    cluster.kill(away);
    // Until the log no longer reaches back to where the node left.
    eventually("the leader purges its log", BOOT, || async {
        let purged = cluster.status(leader).await?.purged_index;
        if purged > left_at { Ok(()) } else { Err(format!("{purged:?}, left at {left_at:?}")) }
    })
    .await;
    cluster.start_node(away).await;
    cluster.wait_ready(BOOT).await;
    let told = load.stop().await;
    cluster.wait_caught_up(away, leader, ELECTION).await;
    told.verify(&cluster.client(away)).await;
    // Its own copy, not the leader's answer.
    told.verify_copy(&cluster, away).await;
    // And it can lead with the data it received.
    for other in cluster.others(away) {
        cluster.kill(other);
    }
    cluster.start_node(leader).await;
    cluster.leader_among(&[leader, away]).await;
    told.verify(&cluster.client(away)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_start_waits_for_every_member_and_says_for_whom() {
    let mut cluster = Cluster::prepare(ClusterOptions::default()).await;
    for id in [3, 1] {
        cluster.start_node(id).await;
    }
    eventually("node 1 says that it waits for node 2", BOOT, || async {
        match cluster.readiness(1).await {
            Err(said) if said.contains("node 2") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    // A majority is not enough before all have connected once.
    throughout("nobody leads", Duration::from_secs(3), || async {
        cluster.readiness(1).await.is_err() && cluster.readiness(3).await.is_err()
    })
    .await;
    cluster.start_all().await;
    ask::hold(&cluster.client(2), "first", "holder", ask::LONG).await;
    // From now on it is.
    for id in cluster.ids() {
        cluster.kill(id);
    }
    for id in [2, 3] {
        cluster.start_node(id).await;
    }
    cluster.leader_among(&[2, 3]).await;
    ask::hold(&cluster.client(2), "second", "holder", ask::LONG).await;
}

/// As many locks with names of 950 bytes as one body of a batch can contain.
fn large_batch(round: usize) -> Vec<BatchRequest> {
    let name = |name: String| format!("{name:y<950}");
    let lock = |number| {
        let options = LockOptions {
            duration: Some(ask::LONG),
            call: CallOptions { timeout: Some(ELECTION), ..CallOptions::default() },
            ..LockOptions::default()
        };
        let signature = name(format!("large/{round}/{number}/"));
        BatchRequest::Lock(
            LockRequest { signature, signee: name("holder".to_owned()), level: None },
            options,
        )
    };
    (0..450).map(lock).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_killed_after_large_entries_applies_them_again() {
    const ROUNDS: usize = 20;
    let mut cluster = Cluster::start(ClusterOptions { nodes: 1, ..Default::default() }).await;
    let client = cluster.client(1);
    for round in 0..ROUNDS {
        for answer in client.batch(large_batch(round)).await {
            let response = answer.ok().and_then(BatchAnswer::lock).expect("an answer to a lock");
            assert!(LockResponse::ok(&response), "{response:?}");
        }
    }
    cluster.kill(1);
    // Without the copy of the state only the log can restore it, all of it.
    fs::remove_dir_all(cluster.data_dir(1).join("checkpoint")).expect("it can be removed");
    cluster.start_node(1).await;
    cluster.wait_ready(BOOT).await;
    let pages = ask::pages(&cluster.client(1), "large/").await;
    assert_eq!(pages.iter().map(|page| page.locks.len()).sum::<usize>(), ROUNDS * 450);
}
