//! Data folders that are not what the node takes them for: lost, old, another's, in use.

use std::fs;
use std::net::TcpListener;
use std::process::ExitStatus;
use std::time::Duration;

use cluster_tests::ask;
use cluster_tests::cluster::{BOOT, Cluster, ClusterOptions, ELECTION, NodeId};
use cluster_tests::damage::copy_folder;
use cluster_tests::load::Load;
use cluster_tests::process::{Output, Process};
use cluster_tests::seed::seeded;
use rand::Rng;

/// How long a node may take to find out that it may not start: its peers must be asked.
const REFUSAL: Duration = Duration::from_secs(20);

fn assert_refused(status: ExitStatus, log: &str, words: &[&str]) {
    assert!(!status.success(), "it ended with {status}: {log}");
    assert!(!log.contains("panicked"), "a message is asked for, not a panic: {log}");
    for word in words {
        assert!(log.contains(word), "the log does not say `{word}`: {log}");
    }
}

/// The cluster has not minded: the others answer.
async fn others_go_on(cluster: &Cluster, id: NodeId) {
    let client = cluster.client(cluster.others(id)[0]);
    ask::hold(&client, "identity/others", "holder", ask::LONG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_is_refused_and_told_how_it_is_replaced() {
    let mut cluster = Cluster::start(ClusterOptions::default()).await;
    let leader = cluster.leader().await;
    let wiped = cluster.others(leader)[0];
    cluster.kill(wiped);
    cluster.wipe(wiped);
    cluster.spawn(wiped);
    let (status, log) = cluster.wait_end(wiped, REFUSAL).await;
    assert_refused(status, &log, &["uuid", "new id"]);
    others_go_on(&cluster, wiped).await;
    // Nor may it be one of two: with the leader gone, the wiped node gives nobody a majority.
    cluster.kill(leader);
    cluster.spawn(wiped);
    let rest: Vec<_> = cluster.others(leader).into_iter().filter(|&id| id != wiped).collect();
    let client = cluster.client(rest[0]);
    let bound = Duration::from_secs(4);
    let answer = ask::lock(&client, "identity/minority", "holder", ask::LONG, bound).await;
    assert!(answer.is_err(), "one node of three acknowledged {answer:?}");
    let (status, log) = cluster.wait_end(wiped, REFUSAL).await;
    assert_refused(status, &log, &["uuid", "new id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_folder_of_another_node_is_refused() {
    let mut cluster = Cluster::start(ClusterOptions::default()).await;
    let (one, two) = (1, 2);
    cluster.kill(one);
    cluster.kill(two);
    let (mine, others) = (cluster.data_dir(one), cluster.data_dir(two));
    fs::remove_dir_all(&mine).expect("it can be removed");
    copy_folder(&others, &mine).expect("it can be copied");
    cluster.spawn(one);
    let (status, log) = cluster.wait_end(one, REFUSAL).await;
    assert_refused(status, &log, &["belongs to node 2", "--data-dir"]);
    cluster.start_node(two).await;
    others_go_on(&cluster, one).await;
}

async fn the_folder_of_another_clusters_node_1(nodes: u64) {
    let mut cluster = Cluster::start(ClusterOptions::default()).await;
    let mut other = Cluster::start(ClusterOptions { nodes, ..ClusterOptions::default() }).await;
    ask::hold(&other.clients(), "identity/other", "holder", ask::LONG).await;
    other.kill(1);
    cluster.kill(1);
    cluster.wipe(1);
    copy_folder(&other.data_dir(1), &cluster.data_dir(1)).expect("it can be copied");
    cluster.spawn(1);
    let (status, log) = cluster.wait_end(1, REFUSAL).await;
    assert_refused(status, &log, &["cluster"]);
    others_go_on(&cluster, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_folder_of_another_cluster_is_refused() {
    the_folder_of_another_clusters_node_1(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_folder_of_a_cluster_of_one_is_refused_by_a_cluster_of_three() {
    the_folder_of_another_clusters_node_1(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_of_a_folder_is_refused() {
    let mut random = seeded("an old copy");
    let mut cluster = Cluster::start(ClusterOptions::default()).await;
    let leader = cluster.leader().await;
    let id = cluster.others(leader)[0];
    cluster.kill(id);
    let backup = cluster.folder().join("backup");
    copy_folder(&cluster.data_dir(id), &backup).expect("it can be copied");
    cluster.start_node(id).await;
    cluster.wait_ready(BOOT).await;
    let clients = (0..3).map(|_| cluster.clients()).collect();
    let load = Load::start("copy", clients, random.random());
    load.wait_for(100, ELECTION).await;
    let told = load.stop().await;
    let leader = cluster.leader().await;
    cluster.wait_caught_up(id, leader, ELECTION).await;
    cluster.kill(id);
    cluster.wipe(id);
    copy_folder(&backup, &cluster.data_dir(id)).expect("it can be copied");
    cluster.spawn(id);
    let (status, log) = cluster.wait_end(id, REFUSAL).await;
    assert_refused(status, &log, &["boot number", "old copy"]);
    told.verify(&cluster.client(cluster.others(id)[0])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_in_use_is_refused() {
    let cluster = Cluster::start(ClusterOptions { nodes: 1, ..ClusterOptions::default() }).await;
    let output = Output::in_folder(cluster.folder(), "second");
    let mut second = Process::spawn(&mut cluster.serve_command(1), output);
    let status = second.wait(REFUSAL).await;
    assert_refused(status, &second.output().logged(), &["in use by another process", "LOCK"]);
    assert_eq!(status.code(), Some(3), "the documented exit code");
    ask::hold(&cluster.clients(), "identity/first", "holder", ask::LONG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_named() {
    let cluster = Cluster::prepare(ClusterOptions { nodes: 1, ..ClusterOptions::default() }).await;
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it has an address").to_string();
    for listener in ["--client-listen", "--peer-listen"] {
        let output = Output::in_folder(cluster.folder(), listener);
        // The later option of the two counts, so the command's own must go.
        let own = cluster.serve_command(1);
        let mut command = std::process::Command::new(own.get_program());
        command.env_clear();
        let mut arguments = own.get_args();
        while let Some(argument) = arguments.next() {
            command.arg(argument);
            if argument == listener {
                command.arg(&address);
                arguments.next();
            }
        }
        let mut process = Process::spawn(&mut command, output);
        let status = process.wait(REFUSAL).await;
        assert_refused(status, &process.output().logged(), &[&address, "in use"]);
        assert_eq!(status.code(), Some(3), "the documented exit code");
    }
}
