//! The audit of each node: the whole of it, the same on all of them, and nothing twice.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use keyward::LockService;
use keyward::audit::{Audit, OnFailure, Target};
use keyward::node::NodeConfig;
use keyward::types::{
    CallOptions, LockOptions, LockRequest, RequestId, SessionOptions, SessionRequest, TableOptions,
};
use serde_json::Value;

use crate::cluster::{Cluster, eventually};

fn file(config: &NodeConfig) -> PathBuf {
    config.data_dir.with_extension("audit")
}

fn audited(config: &mut NodeConfig) {
    let target = Target::File { path: file(config), max_bytes: 1 << 20, kept: 1 };
    config.audit = Some(Audit::open(target, OnFailure::Refuse).unwrap());
}

/// The lines of a node, without what is its own.
fn lines(cluster: &Cluster, id: u64) -> Vec<Value> {
    let path = cluster.folder(id).with_extension("audit");
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let lines = lines.map(|mut line| {
        let fields = line.as_object_mut().unwrap();
        assert!(fields.remove("time").unwrap().as_str().unwrap().ends_with('Z'));
        assert_eq!(fields.remove("node"), Some(id.into()));
        line
    });
    lines.collect()
}

fn changes(lines: &[Value]) -> Vec<Value> {
    let of_node = |line: &&Value| line["event"] == "gap" || line["event"] == "stopped";
    lines.iter().filter(|line| !of_node(line)).cloned().collect()
}

async fn take(cluster: &Cluster, id: u64, signee: &str, options: LockOptions) {
    let request = LockRequest { signature: "s".into(), signee: signee.into(), level: None };
    cluster.service(id).lock(request, options).await.unwrap();
}

#[tokio::test]
async fn every_node_writes_each_change_once_also_over_a_restart() {
    let mut cluster = Cluster::with(3, audited).await;
    cluster.level_raised().await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    take(&cluster, leader, "ann", LockOptions::default()).await;
    let forced = LockOptions {
        force: true,
        request_id: Some(RequestId { lane: 1, seq: 1 }),
        call: CallOptions { cause: Some("she has left\n".into()), ..CallOptions::default() },
        ..LockOptions::default()
    };
    // Asked again, it is answered again and changes nothing.
    take(&cluster, follower, "bob", forced.clone()).await;
    take(&cluster, follower, "bob", forced).await;
    cluster.shut_down(follower).await;
    let open = SessionRequest { signee: "eve".into(), ttl: Duration::from_secs(3600) };
    cluster.service(leader).open_session(open, SessionOptions::default()).await.unwrap();
    let waits = LockOptions { wait: Some(Duration::from_millis(1)), ..LockOptions::default() };
    take(&cluster, leader, "cy", waits).await;
    assert!(cluster.unlock(leader, "s", "bob").await.ok());
    cluster.run(follower).await;
    cluster.ready().await;
    let none = TableOptions { table: Some("none".into()), ..TableOptions::default() };
    cluster.service(leader).delete_table(none).await.unwrap();
    take(&cluster, leader, "dan", LockOptions::default()).await;
    let ids: Vec<u64> = (1..=3).collect();
    eventually("all nodes have written as much", async || {
        ids.iter().all(|id| changes(&lines(&cluster, *id)).len() == 8)
    })
    .await;
    for id in ids.clone() {
        cluster.shut_down(id).await;
    }
    let first = changes(&lines(&cluster, 1));
    let told: Vec<_> = first
        .iter()
        .map(|line| {
            (line["event"].as_str().unwrap(), line["signee"].as_str(), line["reason"].as_str())
        })
        .collect();
    assert_eq!(
        told,
        [
            ("granted", Some("ann"), None),
            ("ended", Some("ann"), Some("forced")),
            ("granted", Some("bob"), None),
            ("session_opened", Some("eve"), None),
            ("queued", Some("cy"), None),
            ("left", Some("cy"), Some("timeout")),
            ("ended", Some("bob"), Some("released")),
            ("granted", Some("dan"), None),
        ]
    );
    assert_eq!(first[2]["cause"], "she has left\n");
    assert_eq!(first[1]["request_id"], first[2]["request_id"]);
    assert_eq!((&first[1]["n"], &first[2]["n"]), (&0.into(), &1.into()));
    for id in ids {
        let lines = lines(&cluster, id);
        assert_eq!(changes(&lines), first, "node {id}");
        assert!(lines.iter().all(|line| line["event"] != "gap"), "node {id}: {lines:?}");
        assert_eq!(lines.last().unwrap()["event"], "stopped", "node {id}");
    }
    // Another cluster in place of this one begins at its own first entry, in the same files.
    let before = lines(&cluster, 1).len();
    for id in 1..=3 {
        fs::remove_dir_all(cluster.folder(id)).unwrap();
    }
    for id in 1..=3 {
        cluster.run(id).await;
    }
    cluster.ready().await;
    let leader = cluster.leader().await;
    take(&cluster, leader, "fay", LockOptions::default()).await;
    eventually("the lock of the new cluster is written", async || {
        lines(&cluster, 1)[before..].iter().any(|line| line["signee"] == "fay")
    })
    .await;
}
