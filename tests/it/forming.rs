//! The formation of a cluster, and nodes that are not admitted.

use std::fs;
use std::path::Path;
use std::time::Duration;

use keyward::types::{LockStatus, ReadOptions};
use keyward::{Error, LockService};

use crate::cluster::{Cluster, eventually};

#[tokio::test]
async fn nodes_start_in_any_order_and_wait_for_all() {
    let mut cluster = Cluster::prepare(3, |_| {});
    cluster.run(3).await;
    cluster.run(2).await;
    eventually("both say for whom they wait", async || {
        cluster.nodes.values().all(|running| {
            let waiting = running.node().not_ready().unwrap_or_default();
            waiting.contains("node 1 (") && !waiting.contains("node 3 (")
        })
    })
    .await;
    assert!(cluster.nodes.values().all(|running| running.node().status().cluster_id.is_none()));
    let stale = ReadOptions { stale: true, ..ReadOptions::default() };
    let answer = cluster.nodes[&2].service.check("a".to_owned(), stale.clone()).await;
    assert!(matches!(answer, Err(Error::Unavailable { .. })), "no cluster's state: {answer:?}");
    cluster.run(1).await;
    cluster.ready().await;
    assert!(cluster.lock(3, "a", "w1").await.ok());
    let answer = cluster.nodes[&2].service.check("never locked".to_owned(), stale).await;
    assert!(matches!(answer, Err(Error::NotFound { .. })), "{answer:?}");
    let ids: Vec<_> =
        cluster.nodes.values().map(|running| running.node().status().cluster_id).collect();
    assert!(ids[0].is_some() && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[tokio::test]
async fn a_node_that_lost_its_folder_is_not_let_in_again() {
    let mut cluster = Cluster::start(3).await;
    let lost = cluster.follower().await;
    cluster.shut_down(lost).await;
    fs::remove_dir_all(cluster.folder(lost)).unwrap();
    cluster.run(lost).await;
    let reason = stopped(&cluster, lost).await;
    assert!(reason.contains("lost its data"), "{reason}");
    assert!(reason.contains("replacing-a-node"), "it says where to read on: {reason}");
    cluster.kill(lost).await;
    let leader = cluster.leader().await;
    assert!(cluster.lock(leader, "a", "w1").await.ok());
}

#[tokio::test]
async fn a_wiped_majority_does_not_form_a_new_cluster() {
    let mut cluster = Cluster::start(3).await;
    assert!(cluster.lock(1, "a", "w1").await.ok());
    for id in 1..=3 {
        cluster.shut_down(id).await;
    }
    for id in [1, 2] {
        fs::remove_dir_all(cluster.folder(id)).unwrap();
        cluster.run(id).await;
    }
    eventually("both wait for the third", async || {
        cluster
            .nodes
            .values()
            .all(|running| running.node().not_ready().unwrap_or_default().contains("node 3 ("))
    })
    .await;
    cluster.run(3).await;
    for id in [1, 2] {
        let reason = stopped(&cluster, id).await;
        assert!(reason.contains("lost its data"), "{reason}");
    }
}

#[tokio::test]
async fn an_old_copy_of_a_folder_is_found_out_and_stays_out() {
    let mut cluster = Cluster::start(3).await;
    let copied = cluster.follower().await;
    cluster.shut_down(copied).await;
    let copy = cluster.folder(copied).with_extension("copy");
    copy_folder(&cluster.folder(copied), &copy);
    // Two starts on the real folder: the copy's next start would repeat the first of them.
    for _ in 0..2 {
        cluster.run(copied).await;
        cluster.ready().await;
        assert!(cluster.lock(copied, "a", "w1").await.ok());
        cluster.shut_down(copied).await;
    }
    fs::remove_dir_all(cluster.folder(copied)).unwrap();
    fs::rename(copy, cluster.folder(copied)).unwrap();
    cluster.run(copied).await;
    let reason = stopped(&cluster, copied).await;
    assert!(reason.contains("old copy"), "{reason}");
    cluster.kill(copied).await;
    // However often it is started.
    for _ in 0..3 {
        let error = cluster.try_run(copied).await.unwrap_err();
        assert!(error.contains("must not be used again"), "{error}");
    }
    let leader = cluster.leader().await;
    let renewed = cluster.lock(leader, "a", "w1").await;
    assert!(matches!(renewed.status, LockStatus::Renewed(_)), "{renewed:?}");
}

#[tokio::test]
async fn a_copy_made_while_its_node_ran_is_found_out() {
    let mut cluster = Cluster::start(3).await;
    let copied = cluster.follower().await;
    let copy = cluster.folder(copied).with_extension("copy");
    copy_folder(&cluster.folder(copied), &copy);
    assert!(cluster.lock(copied, "a", "w1").await.ok());
    cluster.kill(copied).await;
    fs::remove_dir_all(cluster.folder(copied)).unwrap();
    fs::rename(copy, cluster.folder(copied)).unwrap();
    let refused = match cluster.try_run(copied).await {
        Err(error) => error,
        // A file system without creation times: then the peers know.
        Ok(()) => stopped(&cluster, copied).await,
    };
    assert!(refused.contains("old copy"), "{refused}");
}

#[tokio::test]
async fn nodes_that_reckon_differently_with_clocks_do_not_form_a_cluster() {
    let mut cluster = Cluster::prepare(3, |config| {
        config.rho_ppm = if config.id == 2 { 20_000 } else { 10_000 };
    });
    for id in 1..=3 {
        cluster.run(id).await;
    }
    eventually("all wait for the same --rho", async || {
        cluster.nodes.values().all(|running| {
            running.node().not_ready().unwrap_or_default().contains("the same --rho")
        })
    })
    .await;
}

#[tokio::test]
async fn members_that_disagree_on_addresses_say_so() {
    let mut cluster = Cluster::prepare(3, |config| {
        if config.id == 2 {
            config.members.get_mut(&3).unwrap().peer_addr = "127.0.0.1:1".to_owned();
        }
    });
    for id in 1..=3 {
        cluster.run(id).await;
    }
    let differences = |id: u64| cluster.nodes[&id].node().status().differences.join("; ");
    eventually("it is shown", async || {
        differences(1).contains("127.0.0.1:1") && differences(2).contains("127.0.0.1:1")
    })
    .await;
}

#[tokio::test]
async fn a_folder_of_another_node_is_refused() {
    let mut cluster = Cluster::start(3).await;
    cluster.shut_down(2).await;
    cluster.shut_down(3).await;
    fs::remove_dir_all(cluster.folder(2)).unwrap();
    fs::rename(cluster.folder(3), cluster.folder(2)).unwrap();
    let error = cluster.try_run(2).await.unwrap_err();
    assert!(error.contains("belongs to node 3"), "{error}");
}

async fn stopped(cluster: &Cluster, id: u64) -> String {
    let stopped = cluster.nodes[&id].node().stopped();
    tokio::time::timeout(Duration::from_secs(30), stopped)
        .await
        .unwrap_or_else(|_| panic!("node {id}: {:?}", cluster.nodes[&id].node().status()))
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to.join(entry.file_name()));
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}
