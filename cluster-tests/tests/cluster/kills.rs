//! `kill -9` under load: of the leader, of each node in turn, of all at once.

use std::time::Duration;

use cluster_tests::cluster::{BOOT, Cluster, ClusterOptions, ELECTION};
use cluster_tests::load::{Acknowledged, Load};
use cluster_tests::seed::seeded;
use rand::Rng;
use rand::rngs::StdRng;

/// Enough that records, renewals and releases are all among them.
const OPERATIONS: u64 = 200;

/// The timeout for that many, an election included.
const WORK: Duration = BOOT;

const WORKERS: usize = 6;

/// One kill in three follows an acknowledgement directly, the others up to 100 ms later.
async fn wait_a_moment(load: &Load, random: &mut StdRng) {
    load.wait_for(1, WORK).await;
    if random.random_ratio(2, 3) {
        tokio::time::sleep(Duration::from_millis(random.random_range(0..100))).await;
    }
}

async fn verify(cluster: &Cluster, told: &[Acknowledged]) {
    for id in cluster.ids() {
        for one in told {
            one.verify(&cluster.client(id)).await;
        }
    }
    for one in told {
        one.verify_tokens_grow(cluster.clients()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_the_leader_is_killed_under_load() {
    let mut random = seeded("leader killed under load");
    let mut cluster = Cluster::start(ClusterOptions::default()).await;
    let load = Load::on(&cluster, "leader", WORKERS, &mut random);
    for _ in 0..3 {
        load.wait_for(OPERATIONS, WORK).await;
        let leader = cluster.leader().await;
        wait_a_moment(&load, &mut random).await;
        cluster.kill(leader);
        load.wait_for(OPERATIONS, WORK).await;
        let next = cluster.leader_among(&cluster.others(leader)).await;
        assert_ne!(next, leader);
        cluster.start_node(leader).await;
        cluster.wait_ready(BOOT).await;
    }
    let told = load.stop().await;
    verify(&cluster, &[told]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_each_node_is_killed_in_turn() {
    let mut random = seeded("each killed in turn");
    let mut cluster = Cluster::start(ClusterOptions::default()).await;
    let load = Load::on(&cluster, "turn", WORKERS, &mut random);
    for id in cluster.ids() {
        wait_a_moment(&load, &mut random).await;
        cluster.kill(id);
        load.wait_for(OPERATIONS, WORK).await;
        cluster.start_node(id).await;
        cluster.wait_ready(BOOT).await;
        let leader = cluster.leader().await;
        cluster.wait_caught_up(id, leader, ELECTION).await;
    }
    let told = load.stop().await;
    verify(&cluster, &[told]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_all_are_killed_at_once() {
    let mut random = seeded("all killed at once");
    let mut cluster = Cluster::start(ClusterOptions::default()).await;
    let mut told = Vec::new();
    for round in 0..4 {
        let load = Load::on(&cluster, &format!("all{round}"), WORKERS, &mut random);
        load.wait_for(OPERATIONS, WORK).await;
        wait_a_moment(&load, &mut random).await;
        cluster.kill_all();
        told.push(load.stop().await);
        cluster.start_all().await;
        verify(&cluster, &told).await;
    }
}
