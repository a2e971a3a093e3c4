//! Ports that refuse connections: the leader's, because its process has ended, and although it has
//! not.

use std::time::Duration;

use cluster_tests::ask;
use cluster_tests::cluster::{BOOT, Cluster, ClusterOptions, ELECTION, NodeId};
use cluster_tests::load::Load;
use cluster_tests::proxy::Fault;
use cluster_tests::seed::seeded;
use cluster_tests::wait::{eventually, throughout};
use rand::Rng;

/// Longer than a follower takes to notice that its leader is gone, and than lease and timeout
/// together.
const A_WHILE: Duration = Duration::from_secs(2);

/// The log message of a node that finds its leader gone.
const GONE: &str = "the leader's process has ended";

/// Closes the ports of a node to these others.
fn close(cluster: &Cluster, id: NodeId, others: &[NodeId]) {
    for &other in others {
        cluster.link(other, id).fault(Fault::Closed);
    }
}

/// Ends the connections that a node has opened to another, which may open new ones at once.
async fn cut_once(cluster: &Cluster, from: NodeId, to: NodeId) {
    cluster.link(from, to).fault(Fault::Refused);
    tokio::time::sleep(Duration::from_millis(5)).await;
    cluster.link(from, to).fault(Fault::None);
}

async fn leads_in_one_term(cluster: &Cluster, leader: NodeId, term: u64) {
    throughout("the leader keeps its term", A_WHILE, || async {
        let status = cluster.status(leader).await;
        status.is_ok_and(|status| status.leader == Some(leader) && status.term == term)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_process_has_ended_is_found_gone_by_its_closed_port() {
    let mut random = seeded("the leader's port is closed");
    let mut cluster = Cluster::start(ClusterOptions::default()).await;
    let load = Load::on(&cluster, "gone", 3, &mut random);
    for _ in 0..3 {
        load.wait_for(50, ELECTION).await;
        let leader = cluster.leader().await;
        let term = cluster.status(leader).await.expect("it leads").term;
        let others = cluster.others(leader);
        cluster.kill(leader);
        close(&cluster, leader, &others);
        let next = cluster.leader_among(&others).await;
        let status = cluster.status(next).await.expect("it leads");
        assert_eq!(status.term, term + 1, "one election, no split vote");
        eventually("it was found gone", ELECTION, || {
            let found = cluster.logged(next).contains(GONE);
            async move { if found { Ok(()) } else { Err("nobody says so") } }
        })
        .await;
        load.wait_for(50, ELECTION).await;
        cluster.heal();
        cluster.start_node(leader).await;
        cluster.wait_ready(BOOT).await;
    }
    let told = load.stop().await;
    told.verify(&cluster.clients()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_refuses_everybody_does_not_depose_a_leader_that_is_heard() {
    let cluster = Cluster::start(ClusterOptions::default()).await;
    let leader = cluster.leader().await;
    let term = cluster.status(leader).await.expect("it leads").term;
    let others = cluster.others(leader);
    close(&cluster, leader, &others);
    let client = cluster.client(leader);
    ask::hold(&client, "closed/during", "holder", ask::LONG).await;
    leads_in_one_term(&cluster, leader, term).await;
    ask::hold(&client, "closed/after", "holder", ask::LONG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_follower_behind_a_firewall_that_rejects_deposes_nobody() {
    let cluster = Cluster::start(ClusterOptions::default()).await;
    let leader = cluster.leader().await;
    let term = cluster.status(leader).await.expect("it leads").term;
    let away = cluster.others(leader)[0];
    let client = cluster.client(leader);
    ask::hold(&client, "firewall/before", "holder", ask::LONG).await;
    // An open connection would still be answered.
    cut_once(&cluster, away, leader).await;
    close(&cluster, leader, &[away]);
    // The open connections, and for a while every new one, so that it receives nothing.
    cluster.link(leader, away).fault(Fault::Refused);
    eventually("the follower finds the leader gone", ELECTION, || {
        let found = cluster.logged(away).contains(GONE);
        async move { if found { Ok(()) } else { Err("it does not say so") } }
    })
    .await;
    leads_in_one_term(&cluster, leader, term).await;
    cluster.link(leader, away).fault(Fault::None);
    // It receives from the leader again, and its port still refuses.
    ask::hold(&client, "firewall/during", "holder", ask::LONG).await;
    for _ in 0..5 {
        cut_once(&cluster, leader, away).await;
        ask::hold(&client, "firewall/cut", "holder", ask::LONG).await;
    }
    leads_in_one_term(&cluster, leader, term).await;
    cluster.heal();
    ask::hold(&cluster.client(away), "firewall/after", "holder", ask::LONG).await;
    assert_eq!(cluster.status(leader).await.expect("it leads").term, term);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_started_again_at_once_loses_nothing() {
    let mut random = seeded("the leader started again at once");
    let mut cluster = Cluster::start(ClusterOptions::default()).await;
    let load = Load::on(&cluster, "at-once", 3, &mut random);
    for _ in 0..3 {
        load.wait_for(50, ELECTION).await;
        let leader = cluster.leader().await;
        let others = cluster.others(leader);
        cluster.kill(leader);
        close(&cluster, leader, &others);
        cluster.spawn(leader);
        tokio::time::sleep(Duration::from_millis(random.random_range(0..150))).await;
        cluster.heal();
        cluster.wait_listening(leader).await;
        load.wait_for(50, ELECTION).await;
        cluster.wait_ready(BOOT).await;
    }
    let told = load.stop().await;
    told.verify(&cluster.clients()).await;
}
