//! Data folders that do not belong to the node: lost, old, another node's, in use.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use cluster_tests::ask;
use cluster_tests::cluster::{BOOT, Cluster, ClusterOptions, ELECTION, NodeId};
use cluster_tests::damage::{copy_folder, files, overwrite};
use cluster_tests::load::{Acknowledged, Load};
use cluster_tests::process::{Output, Process};
use cluster_tests::seed::seeded;
use rustix::process::Signal;

/// The timeout for a node to find out that it may not start: it must query its peers.
const REFUSAL: Duration = Duration::from_secs(20);

fn assert_refused(status: ExitStatus, log: &str, words: &[&str]) {
    assert!(!status.success(), "it ended with {status}: {log}");
    assert!(!log.contains("panicked"), "a message is asked for, not a panic: {log}");
    for word in words {
        assert!(log.contains(word), "the log does not say `{word}`: {log}");
    }
}

/// The cluster is not affected: the others answer.
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
    assert_refused(status, &log, &["uuid", "replacing-a-node"]);
    others_go_on(&cluster, wiped).await;
    // Nor may it be one of two: with the leader gone, the wiped node completes no majority.
    cluster.kill(leader);
    cluster.spawn(wiped);
    let rest: Vec<_> = cluster.others(leader).into_iter().filter(|&id| id != wiped).collect();
    let client = cluster.client(rest[0]);
    let bound = Duration::from_secs(4);
    let answer = ask::lock(&client, "identity/minority", "holder", ask::LONG, bound).await;
    assert!(answer.is_err(), "one node of three acknowledged {answer:?}");
    let (status, log) = cluster.wait_end(wiped, REFUSAL).await;
    assert_refused(status, &log, &["uuid", "replacing-a-node"]);
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
    // Gracefully, or the copy would be refused because it may be incomplete.
    other.signal(1, Signal::TERM);
    other.wait_end(1, REFUSAL).await;
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
    // Gracefully: such a copy is complete, and only its peers know that it was not the last.
    cluster.signal(id, Signal::TERM);
    cluster.wait_end(id, REFUSAL).await;
    let backup = cluster.folder().join("backup");
    copy_folder(&cluster.data_dir(id), &backup).expect("it can be copied");
    cluster.start_node(id).await;
    cluster.wait_ready(BOOT).await;
    let load = Load::on(&cluster, "copy", 3, &mut random);
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

/// Copies a follower's folder while its node acknowledges, lets it acknowledge more, and replaces
/// the folder by the copy. Returns the follower, the leader, and what was acknowledged.
async fn put_back_a_copy_of_a_running_folder(
    cluster: &mut Cluster,
    name: &str,
) -> (NodeId, NodeId, Acknowledged) {
    let leader = cluster.leader().await;
    let id = cluster.others(leader)[0];
    let load = Load::on(cluster, name, 3, &mut seeded(name));
    load.wait_for(50, ELECTION).await;
    let backup = cluster.folder().join("backup");
    let copied = Command::new("cp").arg("-a").arg(cluster.data_dir(id)).arg(&backup).status();
    // A file may have been removed meanwhile.
    copied.expect("it can be copied");
    load.wait_for(100, ELECTION).await;
    let told = load.stop().await;
    cluster.wait_caught_up(id, leader, ELECTION).await;
    cluster.kill(id);
    cluster.wipe(id);
    fs::rename(&backup, cluster.data_dir(id)).expect("it can be moved");
    (id, leader, told)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_made_while_the_node_ran_is_refused() {
    let mut cluster = Cluster::start(ClusterOptions::default()).await;
    let (id, leader, told) = put_back_a_copy_of_a_running_folder(&mut cluster, "running").await;
    cluster.spawn(id);
    let (status, log) = cluster.wait_end(id, REFUSAL).await;
    assert_refused(status, &log, &["old copy", "replacing-a-node"]);
    told.verify(&cluster.client(leader)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_made_while_the_node_ran_is_refused_without_the_leader_that_knows() {
    let mut cluster = Cluster::start(ClusterOptions::default()).await;
    let (id, leader, told) = put_back_a_copy_of_a_running_folder(&mut cluster, "no leader").await;
    cluster.kill(leader);
    cluster.spawn(id);
    let (status, log) = cluster.wait_end(id, REFUSAL).await;
    assert_refused(status, &log, &["old copy", "replacing-a-node"]);
    cluster.start_node(leader).await;
    let rest = cluster.others(id);
    let leader = cluster.leader_among(&rest).await;
    told.verify(&cluster.client(leader)).await;
}

/// A data folder as a snapshot of its volume keeps it: the same files, with their creation times.
/// Only files that are written in place are copied; those that are replaced at each change are kept
/// by another name.
struct VolumeSnapshot {
    kept: PathBuf,
}

impl VolumeSnapshot {
    fn is_written_in_place(path: &str) -> bool {
        path == "vote" || path.starts_with("log/segment-")
    }

    /// Takes the snapshot. Nothing may be acknowledged meanwhile.
    fn take(folder: &Path, kept: PathBuf) -> Self {
        for file in files(folder, |path| !path.starts_with("checkpoint") && path != "LOCK") {
            let name = file.strip_prefix(folder).expect("below");
            let to = kept.join(name);
            fs::create_dir_all(to.parent().expect("it has one")).expect("a folder");
            if Self::is_written_in_place(&name.to_string_lossy()) {
                fs::copy(&file, &to).expect("it can be copied");
            } else {
                fs::hard_link(&file, &to).expect("it can be linked");
            }
        }
        Self { kept }
    }

    fn put_back(self, folder: &Path) {
        let of_today = |path: &str| !self.kept.join(path).exists() && path != "LOCK";
        for file in files(folder, of_today) {
            fs::remove_file(file).expect("it can be removed");
        }
        for file in files(&self.kept, |_| true) {
            let name = file.strip_prefix(&self.kept).expect("below");
            let to = folder.join(name);
            fs::create_dir_all(to.parent().expect("it has one")).expect("a folder");
            if Self::is_written_in_place(&name.to_string_lossy()) && to.exists() {
                let bytes = fs::read(&file).expect("it can be read");
                overwrite(&to, 0, &bytes);
            } else {
                fs::rename(&file, &to).expect("it can be moved");
            }
        }
    }
}

/// Puts back a snapshot of the volume instead of a copy: nothing in the folder reveals it. Then its
/// peers know.
async fn put_back_a_snapshot_of_the_volume(
    cluster: &mut Cluster,
    name: &str,
) -> (NodeId, NodeId, Acknowledged) {
    let leader = cluster.leader().await;
    let id = cluster.others(leader)[0];
    let snapshot = VolumeSnapshot::take(&cluster.data_dir(id), cluster.folder().join("volume"));
    let load = Load::on(cluster, name, 3, &mut seeded(name));
    load.wait_for(100, ELECTION).await;
    let told = load.stop().await;
    cluster.wait_caught_up(id, leader, ELECTION).await;
    // The leader informs the other follower with its heartbeats.
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.kill(id);
    snapshot.put_back(&cluster.data_dir(id));
    (id, leader, told)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_on_an_older_snapshot_of_its_volume_is_refused_by_the_leader() {
    let mut cluster = Cluster::start(ClusterOptions::default()).await;
    let (id, leader, told) = put_back_a_snapshot_of_the_volume(&mut cluster, "volume").await;
    let other = cluster.others(id).into_iter().find(|&other| other != leader).expect("a third");
    cluster.kill(other);
    cluster.spawn(id);
    let (status, log) = cluster.wait_end(id, REFUSAL).await;
    assert_refused(status, &log, &["old copy", "promises"]);
    cluster.start_node(other).await;
    let leader = cluster.leader_among(&cluster.others(id)).await;
    told.verify(&cluster.client(leader)).await;
    cluster.spawn(id);
    let (status, log) = cluster.wait_end(id, REFUSAL).await;
    assert_refused(status, &log, &["must not be used again"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_on_an_older_snapshot_of_its_volume_is_refused_without_the_leader() {
    let mut cluster = Cluster::start(ClusterOptions::default()).await;
    let (id, leader, told) = put_back_a_snapshot_of_the_volume(&mut cluster, "volume 2").await;
    cluster.kill(leader);
    cluster.spawn(id);
    let (status, log) = cluster.wait_end(id, REFUSAL).await;
    assert_refused(status, &log, &["old copy", "promises"]);
    cluster.start_node(leader).await;
    let leader = cluster.leader_among(&cluster.others(id)).await;
    told.verify(&cluster.client(leader)).await;
}

/// The command of a node of `own` whose configuration names node 1 of `cluster` as node 1.
fn serve_beside(cluster: &Cluster, own: &Cluster, id: NodeId) -> Command {
    let from = own.serve_command(id);
    let mut command = Command::new(from.get_program());
    command.env_clear();
    let mut arguments = from.get_args();
    while let Some(argument) = arguments.next() {
        command.arg(argument);
        if argument == "--members" {
            let members = arguments.next().expect("it has a value").to_string_lossy();
            let (_, others) = members.split_once(',').expect("there are three");
            command.arg(format!("1={},{others}", cluster.link(3, 1).address()));
        }
    }
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_node_does_not_change_where_clients_are_sent() {
    let cluster = Cluster::start(ClusterOptions::default()).await;
    let own = Cluster::prepare(ClusterOptions::default()).await;
    let told = async || {
        let status = cluster.status(1).await.expect("it answers");
        let members = status.members.into_iter();
        (status.leader_address, members.map(|m| m.client_address).collect::<Vec<_>>())
    };
    let before = told().await;
    let output = Output::in_folder(own.folder(), "foreign");
    let mut foreign = Process::spawn(&mut serve_beside(&cluster, &own, 2), output);
    let status = foreign.wait(REFUSAL).await;
    assert_refused(status, &foreign.output().logged(), &["belongs to cluster"]);
    assert_eq!(told().await, before);
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
        // The later of two options counts, so the command's own must be removed.
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
