//! Damaged files of one node. It stops with a message that names the file, or it rebuilds what it
//! has lost and serves right answers; it never serves wrong ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cluster_tests::ask;
use cluster_tests::cluster::{BOOT, Cluster, ClusterOptions, ELECTION, NodeId};
use cluster_tests::damage::{content_end, files, flip, overwrite, truncate, zero_from};
use cluster_tests::load::{Acknowledged, Load};
use cluster_tests::seed::seeded;
use cluster_tests::wait::{eventually, throughout};

/// The timeout for a node to find out that it cannot start.
const REFUSAL: Duration = Duration::from_secs(20);

/// Batches of the log begin at multiples of this.
const SECTOR: u64 = 512;

/// The offsets at which the batches of a segment begin.
fn batches(segment: &Path) -> Vec<usize> {
    let content = fs::read(segment).expect("it can be read");
    let sector = usize::try_from(SECTOR).expect("it is small");
    let begins = |offset: &usize| content[*offset..].starts_with(b"KWB1");
    (0..content.len()).step_by(sector).filter(begins).collect()
}

/// A cluster with work done and one follower down, whose files may be damaged.
struct Scene {
    cluster: Cluster,
    told: Acknowledged,
    spoiled: NodeId,
}

impl Scene {
    async fn set(name: &str, arguments: &[&str], operations: u64) -> Self {
        let mut random = seeded(name);
        let mut cluster = Cluster::start(ClusterOptions::default().with(arguments)).await;
        let load = Load::on(&cluster, "damage", 4, &mut random);
        load.wait_for(operations, BOOT).await;
        let leader = cluster.leader().await;
        let spoiled = cluster.others(leader)[0];
        let told = load.stop().await;
        cluster.wait_caught_up(spoiled, leader, ELECTION).await;
        cluster.kill(spoiled);
        Self { cluster, told, spoiled }
    }

    /// The node's files below a part of its data folder.
    fn files(&self, below: &str) -> Vec<PathBuf> {
        let found = files(&self.cluster.data_dir(self.spoiled), |path| path.starts_with(below));
        assert!(!found.is_empty(), "node {} has no files below {below}", self.spoiled);
        found
    }

    /// The last segment of the log, and the end of its content.
    fn last_segment(&self) -> (PathBuf, u64) {
        let mut with_content = self.files("log/segment-").into_iter().map(|path| {
            let end = content_end(&path);
            (path, end)
        });
        with_content.rfind(|&(_, end)| end > 0).expect("a segment has entries")
    }

    /// The node starts, catches up and has everything in its own copy; returns its log.
    async fn serves_right_answers(mut self) -> String {
        let (cluster, spoiled) = (&mut self.cluster, self.spoiled);
        cluster.start_node(spoiled).await;
        cluster.wait_ready(BOOT).await;
        let leader = cluster.leader().await;
        // Written after the damage: the node participates again.
        let client = self.told.client(cluster.client(spoiled), "after");
        ask::hold(&client, "damage/after", "holder", ask::LONG).await;
        cluster.wait_caught_up(spoiled, leader, ELECTION).await;
        self.told.verify(&cluster.client(spoiled)).await;
        self.told.verify_copy(cluster, spoiled).await;
        cluster.logged(spoiled)
    }

    /// The node ends by itself and names the file; the others go on.
    async fn stops_and_names(mut self, file: &str) {
        let (cluster, spoiled) = (&mut self.cluster, self.spoiled);
        cluster.spawn(spoiled);
        let (status, log) = cluster.wait_end(spoiled, REFUSAL).await;
        assert!(!status.success(), "it ended with {status}: {log}");
        assert!(log.contains(file), "the log does not name {file}: {log}");
        assert!(!log.contains("panicked"), "a message is asked for, not a panic: {log}");
        let client = cluster.client(cluster.others(spoiled)[0]);
        ask::hold(&client, "damage/without", "holder", ask::LONG).await;
        self.told.verify(&client).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spoiled_checkpoint_is_thrown_away_and_rebuilt() {
    let scene = Scene::set("spoiled checkpoint", &[], 400).await;
    for path in scene.files("checkpoint/") {
        let end = content_end(&path);
        if end > 0 {
            flip(&path, end / 2, 1);
        }
    }
    scene.serves_right_answers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_checkpoint_is_thrown_away_and_rebuilt() {
    // sled opens a truncated file successfully, and it is empty.
    let scene = Scene::set("cut checkpoint", &["--snapshot-every", "100"], 400).await;
    for path in scene.files("checkpoint/") {
        let length = fs::metadata(&path).expect("it is there").len();
        truncate(&path, length / 2);
    }
    scene.serves_right_answers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_checkpoint_is_rebuilt() {
    let scene = Scene::set("lost checkpoint", &[], 200).await;
    let folder = scene.cluster.data_dir(scene.spoiled).join("checkpoint");
    fs::remove_dir_all(folder).expect("it can be removed");
    scene.serves_right_answers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_of_the_log_is_cut_and_said() {
    let scene = Scene::set("torn tail", &[], 200).await;
    let (segment, end) = scene.last_segment();
    // The remains of a batch that was being written when the machine died: its beginning alone. It
    // looks like that of the last whole one.
    let content = fs::read(&segment).expect("it can be read");
    let last = *batches(&segment).last().expect("a batch");
    overwrite(&segment, end.next_multiple_of(SECTOR), &content[last..last + 40]);
    let name = segment.file_name().expect("a name").to_string_lossy().into_owned();
    let log = scene.serves_right_answers().await;
    assert!(log.contains(&name), "the warning does not name {name}: {log}");
}

/// A disk that loses data it reported as synced cannot be told from a torn tail. The others must
/// not suffer from it: whatever happens to the node, they go on, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_lost_synced_entries_harms_nobody_else() {
    let mut scene = Scene::set("lost synced entries", &[], 200).await;
    let (segment, end) = scene.last_segment();
    zero_from(&segment, end - 5);
    let (cluster, spoiled) = (&mut scene.cluster, scene.spoiled);
    cluster.spawn(spoiled);
    let others = cluster.others(spoiled);
    throughout("the others answer", Duration::from_secs(4), || async {
        let mut answer = true;
        for &id in &others {
            answer &= cluster.status(id).await.is_ok();
        }
        answer
    })
    .await;
    let client = cluster.client(others[0]);
    ask::hold(&client, "damage/synced", "holder", ask::LONG).await;
    scene.told.verify(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_the_middle_of_the_log_stops_the_node() {
    let scene = Scene::set("damage in the log", &[], 200).await;
    let (segment, _) = scene.last_segment();
    let batches = batches(&segment);
    // After the header, in the payload.
    flip(&segment, batches[batches.len() / 3] as u64 + 70, 1);
    let name = segment.file_name().expect("a name").to_string_lossy().into_owned();
    scene.stops_and_names(&name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_segment_stops_the_node() {
    let scene = Scene::set("lost segment", &[], 200).await;
    let (segment, _) = scene.last_segment();
    fs::remove_file(&segment).expect("it can be removed");
    let name = segment.file_name().expect("a name").to_string_lossy().into_owned();
    scene.stops_and_names(&name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoiled_vote_stops_the_node() {
    let scene = Scene::set("spoiled vote", &[], 100).await;
    for vote in scene.files("vote") {
        let length = fs::metadata(&vote).expect("it is there").len();
        flip(&vote, 0, usize::try_from(length).expect("a small file"));
    }
    scene.stops_and_names("vote").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoiled_snapshot_stops_the_node() {
    let scene = Scene::set("spoiled snapshot", &["--snapshot-every", "100"], 400).await;
    let snapshot = scene.files("snapshots/").pop().expect("there is one");
    flip(&snapshot, content_end(&snapshot) / 2, 1);
    let name = snapshot.file_name().expect("a name").to_string_lossy().into_owned();
    scene.stops_and_names(&name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_half_received_is_no_snapshot() {
    let scene = Scene::set("half a snapshot", &["--snapshot-every", "100"], 400).await;
    let snapshot = scene.files("snapshots/").pop().expect("there is one");
    let temporary = snapshot.with_file_name("0000000099.tmp");
    fs::copy(&snapshot, &temporary).expect("it can be copied");
    truncate(&temporary, content_end(&snapshot) / 2);
    scene.serves_right_answers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inspector_reads_a_stopped_nodes_folder() {
    use cluster_tests::binary;
    use cluster_tests::process::{Output, Process};
    use std::process::Command;

    let scene = Scene::set("inspected", &[], 100).await;
    let output = Output::in_folder(scene.cluster.folder(), "inspect");
    let mut command = Command::new(binary::keyward());
    command.env_clear().arg("inspect").arg(scene.cluster.data_dir(scene.spoiled));
    let mut inspector = Process::spawn(&mut command, output);
    let status = inspector.wait(REFUSAL).await;
    let printed = inspector.output().printed();
    assert!(status.success(), "{status}: {printed}{}", inspector.output().logged());
    assert!(printed.contains("load/damage/"), "it shows the locks: {printed}");
    // It has only inspected the files.
    scene.serves_right_answers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_spoiled_checkpoints_are_rebuilt_at_once() {
    let mut scene = Scene::set("all checkpoints", &[], 300).await;
    let client_of_all = scene.cluster.clients();
    for id in scene.cluster.others(scene.spoiled) {
        scene.cluster.kill(id);
    }
    for id in scene.cluster.ids() {
        let folder = scene.cluster.data_dir(id).join("checkpoint");
        fs::remove_dir_all(folder).expect("it can be removed");
    }
    scene.cluster.start_all().await;
    eventually("a leader", ELECTION, || async {
        ask::lock(&client_of_all, "damage/all", "holder", ask::LONG, ELECTION).await
    })
    .await;
    scene.told.verify(&client_of_all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_folder_is_removed_or_replaced_stops_and_says_so() {
    let mut cluster = Cluster::start(ClusterOptions::default()).await;
    let client = cluster.clients();
    ask::hold(&client, "kept", "ann", ask::LONG).await;
    let leader = cluster.leader().await;
    let other = cluster.others(leader)[0];
    // Nobody writes anything meanwhile.
    let folder = cluster.data_dir(other);
    let aside = folder.with_extension("aside");
    fs::rename(&folder, &aside).expect("it can be moved");
    let (status, log) = cluster.wait_end(other, REFUSAL).await;
    assert_eq!(status.code(), Some(70), "{log}");
    assert!(log.contains("it was removed or replaced while the node ran"), "{log}");
    // What was only moved can be put back.
    fs::rename(&aside, &folder).expect("it can be moved");
    cluster.start_node(other).await;
    cluster.wait_ready(BOOT).await;

    // Another folder in its place is not it, also under the leader.
    let folder = cluster.data_dir(leader);
    fs::rename(&folder, folder.with_extension("aside")).expect("it can be moved");
    fs::create_dir(&folder).expect("its place is free");
    fs::write(folder.join("LOCK"), "").expect("it is writable");
    let (status, log) = cluster.wait_end(leader, REFUSAL).await;
    assert_eq!(status.code(), Some(70), "{log}");
    ask::hold(&client, "after", "ann", ask::LONG).await;
}
