//! The contract's scripts on whole nodes: one alone, and three through the leader and a follower.

use std::sync::Arc;

use keyward::DebugLockService as _;
use keyward::conformance::{LiveBootstrap, Options, Time, run};

use crate::cluster::Cluster;

/// Runs every script through one node, which moves the leader's clock.
async fn assert_passes(cluster: &Cluster, id: u64) {
    cluster.level_raised().await;
    let service = Arc::clone(&cluster.nodes[&id].service);
    let mover = Arc::clone(&service);
    let time = Time::moving(move |by| {
        let mover = Arc::clone(&mover);
        async move { mover.advance_clock(by).await }
    });
    let report = run(LiveBootstrap::new(service, time), Options::default()).await;
    assert!(report.passed(), "through node {id}: {report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_passes_every_script() {
    let cluster = Cluster::start(1).await;
    assert_passes(&cluster, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_pass_every_script_through_the_leader_and_through_a_follower() {
    let cluster = Cluster::start(3).await;
    assert_passes(&cluster, cluster.follower().await).await;
    assert_passes(&cluster, cluster.leader().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_script_passes_while_snapshots_are_made_and_the_log_is_purged() {
    let cluster = Cluster::with(3, |config| {
        config.snapshot_every = 20;
        config.log_kept = 5;
    })
    .await;
    assert_passes(&cluster, cluster.follower().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_script_passes_with_one_node_of_three_down_and_after_a_restart() {
    let mut cluster = Cluster::start(3).await;
    // It is raised when all members say that they know it.
    cluster.level_raised().await;
    let gone = cluster.leader().await;
    cluster.kill(gone).await;
    let follower = cluster.follower().await;
    assert_passes(&cluster, follower).await;
    cluster.run(gone).await;
    cluster.ready().await;
    assert_passes(&cluster, gone).await;
}
