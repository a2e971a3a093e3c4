//! Faults of one node's folder or program.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rustix::process::Signal;

use super::{Attempt, Nemesis, Undo};
use crate::chaos::victim::Victim;
use crate::cluster::{Cluster, NodeId};
use crate::damage;
use crate::wait::Stopwatch;

/// The time for which a node without its folder is watched.
const WATCHED: Duration = Duration::from_secs(5);

impl<V: Victim> Nemesis<V> {
    /// Kills a node, moves its folder aside and starts it without one. It may not serve: a node
    /// that forgot its vote would vote twice.
    pub(super) async fn wipe(&mut self, id: NodeId) -> Attempt {
        let Some(cluster) = self.kill_for_its_folder(id).await else {
            return Attempt::Skipped(String::from("the folders of these nodes are their own"));
        };
        if let Err(error) = move_folder(&cluster.data_dir(id), &aside(cluster, id)) {
            return Attempt::Indeterminate(Undo::Start(vec![id]), error.to_string());
        }
        // A node that exits at once has refused; one that listens is watched.
        if self.victim.start(id).await.is_ok() {
            self.watch_wiped(id).await;
        }
        Attempt::Installed(Undo::Folder(id))
    }

    /// Kills a node; `None` if its folder cannot be reached.
    async fn kill_for_its_folder(&mut self, id: NodeId) -> Option<&mut Cluster> {
        self.victim.cluster()?;
        self.victim.signal(id, Signal::KILL);
        self.victim.wait_end(id).await;
        self.done.kills += 1;
        self.victim.cluster()
    }

    async fn watch_wiped(&mut self, id: NodeId) {
        let watch = Stopwatch::start();
        while watch.elapsed() < WATCHED {
            let Some(cluster) = self.victim.cluster() else { return };
            if cluster.readiness(id).await.is_ok() {
                self.find(format!("node {id} serves although it has lost its folder"));
                return;
            }
            if let Some(cluster) = self.victim.cluster()
                && cluster.take_ended(id).is_some()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Ends a node that has the wrong folder, restores its own, and starts it.
    pub(super) async fn give_back_folder(&mut self, id: NodeId) {
        if self.victim.runs(id) {
            self.victim.signal(id, Signal::KILL);
            self.victim.wait_end(id).await;
        }
        let Some(cluster) = self.victim.cluster() else { return };
        let (own, aside) = (cluster.data_dir(id), aside(cluster, id));
        // It does not exist if the node refused before it made one.
        let _ = fs::remove_dir_all(&own);
        if let Err(error) = move_folder(&aside, &own) {
            self.find(format!("the harness lost the folder of node {id}: {error}"));
        }
        self.start(&[id], "it has its folder back").await;
    }
}

impl<V: Victim> Nemesis<V> {
    /// Stops one node after the other and starts it with the other program.
    pub(super) async fn upgrade(&mut self, nodes: &[NodeId]) -> Attempt {
        let Some(program) = self.other_program.clone() else {
            return Attempt::Skipped(String::from("there is no second program"));
        };
        self.roll(nodes, Some(&program)).await;
        Attempt::Installed(Undo::Downgrade(nodes.to_vec()))
    }

    pub(super) async fn downgrade(&mut self, nodes: &[NodeId]) {
        self.roll(nodes, None).await;
    }

    async fn roll(&mut self, nodes: &[NodeId], program: Option<&PathBuf>) {
        for &id in nodes {
            if self.victim.runs(id) {
                self.victim.signal(id, Signal::TERM);
                self.victim.wait_end(id).await;
            }
            if let Some(cluster) = self.victim.cluster() {
                cluster.own(id).program = program.cloned();
            }
            self.start(&[id], "it has another program").await;
        }
    }

    /// Kills a node, copies its folder, flips a byte in one of its files, and starts it. The node
    /// must refuse, or rebuild what it lost.
    pub(super) async fn damage(&mut self, id: NodeId, random: &mut StdRng) -> Attempt {
        let Some(cluster) = self.kill_for_its_folder(id).await else {
            return Attempt::Skipped(String::from("the folders of these nodes are their own"));
        };
        let (own, aside) = (cluster.data_dir(id), aside(cluster, id));
        if let Err(error) = damage::copy_folder(&own, &aside) {
            return Attempt::Indeterminate(Undo::Start(vec![id]), error.to_string());
        }
        let Some((path, offset)) = spoil(&own, random) else {
            return Attempt::Indeterminate(Undo::Folder(id), String::from("no file has content"));
        };
        let name = path.strip_prefix(&own).unwrap_or(&path).display();
        self.recorder.event("damage", format!("node {id}: {name} at {offset}"));
        // Either answer is right; whether its state is right too is checked at the end.
        if self.victim.start(id).await.is_err() {
            return Attempt::Installed(Undo::Folder(id));
        }
        let watch = Stopwatch::start();
        while watch.elapsed() < WATCHED {
            let Some(cluster) = self.victim.cluster() else { break };
            if cluster.take_ended(id).is_some() {
                return Attempt::Installed(Undo::Folder(id));
            }
            if cluster.readiness(id).await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if let Some(cluster) = self.victim.cluster() {
            let aside = self::aside(cluster, id);
            // The next damage copies anew.
            let _ = fs::remove_dir_all(aside);
        }
        let flipped = damage::byte(&path, offset);
        Attempt::Installed(Undo::Byte { id, path, offset, flipped })
    }

    /// Flips a byte back that a node has not noticed and may still notice, unless the file has been
    /// replaced by now.
    pub(super) async fn flip_back(
        &mut self,
        id: NodeId,
        path: &Path,
        offset: u64,
        flipped: Option<u8>,
    ) {
        if self.victim.runs(id) {
            self.victim.signal(id, Signal::KILL);
            self.victim.wait_end(id).await;
            self.done.kills += 1;
        }
        if flipped.is_some() && damage::byte(path, offset) == flipped {
            damage::flip(path, offset, 1);
        }
        self.start(&[id], "its byte was flipped back").await;
    }
}

/// Flips a byte of a file: of the checkpoint, of a snapshot, or of the older half of the log. The
/// newest batch of a log cannot be told from one that was torn, so it is left alone.
fn spoil(folder: &Path, random: &mut StdRng) -> Option<(PathBuf, u64)> {
    let wanted = |path: &str| {
        ["checkpoint/", "snapshots/", "log/segment-"].iter().any(|at| path.starts_with(at))
    };
    let files: Vec<(PathBuf, u64)> = damage::files(folder, wanted)
        .into_iter()
        .map(|path| {
            let end = damage::content_end(&path);
            (path, end)
        })
        .filter(|&(_, end)| end >= 64)
        .collect();
    let (path, end) = files.choose(random)?;
    let offset = random.random_range(0..end / 2);
    damage::flip(path, offset, 1);
    Some((path.clone(), offset))
}

/// On the node's own disk, which is mounted where its folder is.
fn aside(cluster: &Cluster, id: NodeId) -> PathBuf {
    cluster.data_dir(id).with_extension("aside")
}

/// Durably: the power may be cut next.
fn move_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    fs::File::open(to.parent().unwrap_or(to))?.sync_all()
}
