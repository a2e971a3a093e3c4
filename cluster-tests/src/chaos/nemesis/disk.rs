//! Faults of disks.

use std::collections::BTreeMap;
use std::io;

use rand::Rng;
use rand::rngs::StdRng;
use rustix::process::Signal;
use tempfile::TempDir;

use super::{Attempt, Nemesis, Undo, any, millis};
use crate::chaos::fault::Fault;
use crate::chaos::victim::Victim;
use crate::cluster::{Cluster, NodeId};
use crate::powercut::{Disk, Kept, Refuses, Trouble};
use crate::wait::Stopwatch;

/// The disks that lose unsynced data, one for each node. Without them, the nodes' folders are on
/// the machine's disk.
#[derive(Debug, Default)]
pub struct Disks {
    mounted: BTreeMap<NodeId, Disk>,
    /// The folder they are mounted in; removed after them.
    folder: Option<TempDir>,
}

impl Disks {
    /// Mounts one for each node of a cluster that was not started yet, and moves its folder there.
    ///
    /// # Errors
    /// If one cannot be mounted.
    pub fn mount(cluster: &mut Cluster) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("keyward-disks-").tempdir()?;
        let mut mounted = BTreeMap::new();
        for id in cluster.ids() {
            let disk = Disk::mount(&folder.path().join(format!("node{id}")))?;
            cluster.own(id).data_dir = Some(disk.folder().join("data"));
            mounted.insert(id, disk);
        }
        Ok(Self { mounted, folder: Some(folder) })
    }

    /// The disk of a node.
    pub fn of(&self, id: NodeId) -> Option<&Disk> {
        self.mounted.get(&id)
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        self.mounted.clear();
        self.folder.take();
    }
}

pub(super) const NO_DISK: &str = "the folders of these nodes are not on disks of the harness";

impl<V: Victim> Nemesis<V> {
    /// Cuts the power: first acknowledgements stop, then the nodes are ended, then the disks lose
    /// the unsynced data.
    pub(super) async fn cut_power(&mut self, nodes: &[NodeId], kept: Kept) -> Attempt {
        if nodes.iter().any(|&id| self.disks.of(id).is_none()) {
            return Attempt::Skipped(String::from(NO_DISK));
        }
        for disk in nodes.iter().filter_map(|&id| self.disks.of(id)) {
            disk.power_off();
        }
        for &id in nodes {
            self.victim.signal(id, Signal::KILL);
        }
        for &id in nodes {
            self.victim.wait_end(id).await;
            self.done.power_cuts += 1;
        }
        for disk in nodes.iter().filter_map(|&id| self.disks.of(id)) {
            disk.power_on(kept);
        }
        Attempt::Installed(Undo::Start(nodes.to_vec()))
    }

    /// Makes a disk fail. The node may end by itself: it must not go on as if nothing had happened.
    pub(super) fn spoil_disk(&mut self, id: NodeId, fault: Fault, random: &mut StdRng) -> Attempt {
        let Some(disk) = self.disks.of(id) else {
            return Attempt::Skipped(String::from(NO_DISK));
        };
        let refusing = |refuses| Trouble { refuses, ..Trouble::default() };
        let trouble = if fault == Fault::SlowDisk {
            let range = if random.random_ratio(1, 4) { 500..5000 } else { 50..500 };
            Trouble { slow: millis(random, range), ..Trouble::default() }
        } else if fault == Fault::DiskFull {
            refusing(Refuses::Space)
        } else {
            refusing(any(random, &[Refuses::Writes, Refuses::Syncs]))
        };
        disk.set(trouble);
        if trouble.refuses != Refuses::Nothing {
            self.excused.insert(id, None);
        }
        Attempt::Installed(Undo::Disk(id))
    }

    pub(super) async fn mend_disk(&mut self, id: NodeId) {
        if let Some(disk) = self.disks.of(id) {
            disk.set(Trouble::default());
        }
        self.note_ended().await;
        // A node that has not ended by now may still be about to, after a failure of a moment ago.
        if let Some(mended) = self.excused.get_mut(&id) {
            *mended = Some(Stopwatch::start());
        }
        self.start(&[id], "its disk is well again").await;
    }
}
